//! The types of settings: parsed once at the edge, so that inside an impossible value cannot be written down.
//!
//! Each type reads from a text (flags and the environment have nothing else) and writes itself so that it reads again.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;

use crate::domain::RequestParams;

/// A length of time: `90s`, `5m`, `1h 30m`, `250ms`, or a bare number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HumanDuration(Duration);

impl HumanDuration {
    /// So many seconds.
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// So many milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// As std's type.
    #[must_use]
    pub const fn to_duration(self) -> Duration {
        self.0
    }
}

impl FromStr for HumanDuration {
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

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a length of time like \"90s\", or a number of seconds")]
        enum DurationInput {
            Seconds(f64),
            Text(String),
        }
        match DurationInput::deserialize(deserializer)? {
            DurationInput::Seconds(seconds) => seconds.to_string().parse(),
            DurationInput::Text(text) => text.parse(),
        }
        .map_err(de::Error::custom)
    }
}

/// `auto`, or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoOrCount {
    /// What does best.
    Auto,
    /// This and no other.
    Count(usize),
}

impl FromStr for AutoOrCount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "auto" => Ok(Self::Auto),
            number => number
                .parse()
                .map(Self::Count)
                .map_err(|_| format!("{text:?} is neither auto nor a number")),
        }
    }
}

impl fmt::Display for AutoOrCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Count(number) => write!(f, "{number}"),
        }
    }
}

impl Serialize for AutoOrCount {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AutoOrCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "\"auto\" or a number")]
        enum Written {
            Number(usize),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(number) => Ok(Self::Count(number)),
            Written::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

/// What becomes of a hostfile's servers on hosts without a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RemoteEndpointPolicy {
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

/// How many, or what share of all: `3` or `10%`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum CountOrPercent {
    /// So many.
    Count(u64),
    /// So many of a hundred.
    Percent(f64),
}

impl CountOrPercent {
    /// Of `all`, rounded up.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count, from 0 to 100 %"
    )]
    pub fn of(self, all: u64) -> u64 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => (all as f64 * percent / 100.0).ceil() as u64,
        }
    }
}

impl FromStr for CountOrPercent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is neither a count like 3 nor a share like 10%");
        match text.trim().strip_suffix('%') {
            Some(number) => {
                let percent =
                    number.trim().parse::<f64>().ok().filter(|it| (0.0..=100.0).contains(it));
                percent.map(Self::Percent).ok_or_else(wrong)
            }
            None => text.trim().parse().map(Self::Count).map_err(|_| wrong()),
        }
    }
}

impl fmt::Display for CountOrPercent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl Serialize for CountOrPercent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CountOrPercent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a count like 3 or a share like \"10%\"")]
        enum Written {
            Count(u64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Count(count) => Ok(Self::Count(count)),
            Written::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

/// More request parameters, as a JSON object: `{"repetition_penalty": 1.1}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtraBody(pub RequestParams);

impl Serialize for ExtraBody {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.json())
    }
}

impl<'de> Deserialize<'de> for ExtraBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&text)
            .map_err(|error| de::Error::custom(format!("it is no JSON object ({error})")))?;
        let mut params = RequestParams::default();
        for (name, json) in fields {
            if matches!(name.as_str(), "model" | "prompt" | "messages" | "stream") {
                return Err(de::Error::custom(format!("{name} is not a request's to choose here")));
            }
            params.set(&name, json.get());
        }
        Ok(Self(params))
    }
}

/// A choice among words, each as it is typed.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum $name { $($(#[$word_doc])* $word),+ }
    };
}

words! {
    /// The format of the gathered file.
    OutputFormat {
        /// One answer a line.
        Jsonl,
        /// As OpenAI's batch API answers.
        OpenaiBatch,
        /// A table.
        Csv,
        /// A table of columns.
        Parquet,
    }
}

words! {
    /// What to do where the run folder is there already.
    ResumePolicy {
        /// Go on where it stopped.
        Auto,
        /// Refuse.
        Never,
        /// Refuse where there is nothing to go on with.
        Require,
    }
}

words! {
    /// Where answers go at the end.
    GatherMode {
        /// Into one file, through rank 0.
        Root,
        /// They stay in the shard files.
        None,
    }
}

words! {
    /// Which of the servers' routes is asked.
    ApiMode {
        /// Conversations by chat; texts as one user message where the model has a chat template, else raw.
        Auto,
        /// Raw texts.
        Completions,
        /// Conversations.
        Chat,
    }
}

words! {
    /// What a row that cannot be read does.
    BadRowPolicy {
        /// No work starts.
        Stop,
        /// It becomes a failed outcome.
        Fail,
    }
}

words! {
    /// What two rows with one id do.
    DuplicateIdPolicy {
        /// No work starts.
        Refuse,
        /// Both are asked.
        Keep,
    }
}

words! {
    /// Token counts in answers.
    UsageMode {
        /// A list's sum, shared by length.
        Share,
        /// By the token ids, which the server is asked for.
        Exact,
        /// None.
        Off,
    }
}

words! {
    /// How progress is shown.
    ProgressStyle {
        /// A bar alone on a terminal, else lines.
        Auto,
        /// A bar.
        Bar,
        /// A line every so often.
        Lines,
        /// Not at all.
        None,
    }
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
                text.parse::<HumanDuration>().map(|it| it.to_duration().as_secs_f64()),
                Ok(seconds),
                "{text}"
            );
        }
        assert!("soon".parse::<HumanDuration>().is_err());
        assert!("-1".parse::<HumanDuration>().is_err());
    }

    #[test]
    fn amounts_are_auto_or_a_number() {
        assert_eq!("auto".parse(), Ok(AutoOrCount::Auto));
        assert_eq!("12".parse(), Ok(AutoOrCount::Count(12)));
        assert!("-1".parse::<AutoOrCount>().is_err() && "many".parse::<AutoOrCount>().is_err());
        for amount in [AutoOrCount::Auto, AutoOrCount::Count(7)] {
            let json = serde_json::to_value(amount).expect("JSON");
            assert_eq!(serde_json::from_value::<AutoOrCount>(json).expect("an amount"), amount);
        }
        assert_eq!(
            serde_json::from_value::<AutoOrCount>(9.into()).expect("a number"),
            AutoOrCount::Count(9)
        );
    }

    #[test]
    fn quotas_are_counts_or_shares() {
        assert_eq!("3".parse::<CountOrPercent>().map(|it| it.of(100)), Ok(3));
        assert_eq!("2.5%".parse::<CountOrPercent>().map(|it| it.of(101)), Ok(3));
        for bad in ["-1", "101%", "x", "%"] {
            assert!(bad.parse::<CountOrPercent>().is_err(), "{bad}");
        }
    }

    #[test]
    fn extra_body_is_an_object_without_reserved_fields() {
        let read = |text: &str| serde_json::from_value::<ExtraBody>(text.into());
        assert_eq!(read(r#"{"a": [1, 2]}"#).expect("an object").0.get("a"), Some("[1, 2]"));
        assert!(read("[1]").is_err() && read(r#"{"model":"x"}"#).is_err());
    }
}
