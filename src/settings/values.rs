//! The types of settings: parsed once at the edge, so that inside an impossible value cannot be written down.
//!
//! Each type reads from a text (flags and the environment have nothing else) and writes itself so that it reads again.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time: `90s`, `5m`, `1h 30m`, `250ms`, or a bare number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(Duration);

impl Period {
    /// So many seconds.
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// As std's type.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Period {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Ok(seconds) = text.parse::<f64>() {
            let period = Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?;
            return Ok(Self(period));
        }
        humantime::parse_duration(text)
            .map(Self)
            .map_err(|error| format!("{text:?} is no length of time like 90s or 1h 30m ({error})"))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a length of time like \"90s\", or a number of seconds")]
        enum Written {
            Seconds(f64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Seconds(seconds) => seconds.to_string().parse(),
            Written::Text(text) => text.parse(),
        }
        .map_err(de::Error::custom)
    }
}

/// What becomes of a hostfile's servers on hosts without a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemoteEndpoints {
    /// They are an error: a line with a typing mistake would otherwise be lost without a word.
    Refuse,
    /// They are dealt to the ranks in turn, and asked over the network.
    Deal,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_read_as_people_write_them() {
        for (text, seconds) in
            [("90s", 90.0), ("5m", 300.0), ("1h 30m", 5400.0), ("0", 0.0), ("2.5", 2.5)]
        {
            assert_eq!(
                text.parse::<Period>().map(|it| it.get().as_secs_f64()),
                Ok(seconds),
                "{text}"
            );
        }
        assert!("soon".parse::<Period>().is_err());
        assert!("-1".parse::<Period>().is_err());
    }
}
