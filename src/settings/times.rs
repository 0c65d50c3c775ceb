//! Types of settings for the end of a job: walltime and deadline.
//!
//! Each parses from text and displays as text that parses again. The remaining time of a batch job is read in `site`.

use std::{fmt, str::FromStr, time::SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::HumanDuration;

/// Length of a job from its start: as the batch system reports it, or a fixed time, also as `12:00:00`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Walltime {
    /// As the batch system reports it, if there is one.
    #[default]
    Auto,
    /// A fixed length.
    Fixed(HumanDuration),
}

/// Point in time: seconds since 1970, or `2026-01-31T18:00:00Z`; UTC also without the `Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct UtcTimestamp(SystemTime);

impl UtcTimestamp {
    /// Converts to the type of the standard library.
    #[must_use]
    pub(crate) const fn to_system_time(self) -> SystemTime {
        self.0
    }
}

impl FromStr for Walltime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let wrong = || "expected auto or a time like 90m or 12:00:00, at most 10 years".to_owned();
        let period = match parse_clock_time(text) {
            Some(seconds) => HumanDuration::checked(std::time::Duration::from_secs(seconds)),
            None => text.parse().ok(),
        };
        period.map(Self::Fixed).ok_or_else(wrong)
    }
}

/// Parses `12:00:00` or `90:00` to seconds.
fn parse_clock_time(text: &str) -> Option<u64> {
    let parts: Vec<u64> = text.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    match parts[..] {
        [hours, minutes, seconds] => {
            hours.checked_mul(3600)?.checked_add(minutes.checked_mul(60)?)?.checked_add(seconds)
        }
        [minutes, seconds] => minutes.checked_mul(60)?.checked_add(seconds),
        _ => None,
    }
}

impl FromStr for UtcTimestamp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let wrong = || "expected seconds since 1970 or a time like 2026-01-31T18:00:00Z".to_owned();
        if let Ok(seconds) = text.parse::<u64>() {
            let since = std::time::Duration::from_secs(seconds);
            return SystemTime::UNIX_EPOCH.checked_add(since).map(Self).ok_or_else(wrong);
        }
        humantime::parse_rfc3339_weak(text).map(Self).map_err(|_| wrong())
    }
}

impl fmt::Display for Walltime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(period) => period.fmt(f),
        }
    }
}

impl fmt::Display for UtcTimestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_rfc3339_seconds(self.0).fmt(f)
    }
}

impl Serialize for Walltime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for UtcTimestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a time")]
enum TimeInput {
    Number(u64),
    Text(String),
}

impl TimeInput {
    fn parse_input<'de, T: FromStr<Err = String>, D: Deserializer<'de>>(
        from: D,
    ) -> Result<T, D::Error> {
        let text = match Self::deserialize(from)? {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text,
        };
        text.parse().map_err(de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Walltime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        TimeInput::parse_input(deserializer)
    }
}

impl<'de> Deserialize<'de> for UtcTimestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        TimeInput::parse_input(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_parse_as_people_and_batch_systems_write_them() {
        let walltime = |text: &str| text.parse::<Walltime>();
        let lasts = |seconds| Ok(Walltime::Fixed(HumanDuration::from_secs(seconds)));
        assert_eq!(walltime("auto"), Ok(Walltime::Auto));
        assert_eq!((walltime("12:00:30"), walltime("90:00")), (lasts(43_230), lasts(5400)));
        assert_eq!((walltime("90m"), walltime("20")), (lasts(5400), lasts(20)));
        assert!(walltime("soon").is_err() && walltime("1:2:3:4").is_err());
        assert!(walltime("99999999999999999:00:00").is_err());
        let moment = |text: &str| text.parse::<UtcTimestamp>();
        assert_eq!(moment("1893456000"), moment("2030-01-01T00:00:00Z"));
        assert_eq!(moment("1893456000"), moment("2030-01-01 00:00:00"));
        assert!(moment("18:00").is_err());
        assert_eq!(
            moment("1893456000").map(|it| it.to_string()).as_deref(),
            Ok("2030-01-01T00:00:00Z")
        );
    }
}
