//! Types of settings: durations, counts and choices, parsed once at the edge so that invalid values cannot exist
//! inside.
//!
//! Each type parses from text, the only form on the command line and in the environment, and displays as text that
//! parses again. Rules between several settings are in `consistency.rs`.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Value, value::RawValue};

use super::is_secret_name;
use crate::domain::RequestParams;

/// A duration: `90s`, `5m`, `1h 30m`, `250ms`, or a number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HumanDuration(Duration);

/// Longest accepted duration. Later points in time cannot be computed on every system.
const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

impl HumanDuration {
    /// Returns the duration, or `None` if it exceeds ten years.
    pub(super) fn checked(period: Duration) -> Option<Self> {
        (period <= MAX_DURATION).then_some(Self(period))
    }

    /// Creates a duration from seconds.
    #[must_use]
    pub(crate) const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Creates a duration from milliseconds.
    #[must_use]
    pub(crate) const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// Converts to the type of the standard library.
    #[must_use]
    pub(crate) const fn to_duration(self) -> Duration {
        self.0
    }
}

impl FromStr for HumanDuration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let period = match text.parse::<f64>() {
            Ok(seconds) => {
                Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())?
            }
            Err(_) => humantime::parse_duration(text)
                .map_err(|error| format!("expected a duration like 90s or 1h 30m ({error})"))?,
        };
        Self::checked(period).ok_or_else(|| "a duration must not exceed 10 years".into())
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
        #[serde(untagged, expecting = "a duration like \"90s\", or a number of seconds")]
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

/// `auto`, or a fixed number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AutoOrCount {
    /// Chosen and adapted by the program.
    Auto,
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
                .map_err(|_| "expected auto or a whole number".to_owned()),
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
        enum AutoOrCountInput {
            Number(usize),
            Text(String),
        }
        match AutoOrCountInput::deserialize(deserializer)? {
            AutoOrCountInput::Number(number) => Ok(Self::Count(number)),
            AutoOrCountInput::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

/// The limit of answers in tokens: a number, `none` (the server decides), or `auto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenLimit {
    /// The default limit, except for OpenAI batch rows, which state all that their request has.
    Auto,
    /// No limit is sent.
    None,
    Tokens(u64),
}

impl TokenLimit {
    /// The limit of `auto`, in tokens.
    pub(crate) const DEFAULT_TOKENS: u64 = 512;

    /// Returns the limit of rows without their own, other than OpenAI batch rows.
    #[must_use]
    pub(crate) fn of_rows(self) -> Option<u64> {
        match self {
            Self::Auto => Some(Self::DEFAULT_TOKENS),
            Self::None => None,
            Self::Tokens(tokens) => Some(tokens),
        }
    }

    /// Returns the limit of OpenAI batch rows without their own.
    #[must_use]
    pub(crate) fn of_batch_rows(self) -> Option<u64> {
        self.of_rows().filter(|_| self != Self::Auto)
    }
}

impl FromStr for TokenLimit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.trim() {
            "auto" => Ok(Self::Auto),
            "none" => Ok(Self::None),
            number => number
                .parse()
                .map(Self::Tokens)
                .map_err(|_| "expected a whole number, none or auto".to_owned()),
        }
    }
}

impl fmt::Display for TokenLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::None => f.write_str("none"),
            Self::Tokens(tokens) => write!(f, "{tokens}"),
        }
    }
}

impl Serialize for TokenLimit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Tokens(tokens) => serializer.serialize_u64(*tokens),
            word => serializer.collect_str(word),
        }
    }
}

impl<'de> Deserialize<'de> for TokenLimit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a whole number, \"none\" or \"auto\"")]
        enum TokenLimitInput {
            Number(u64),
            Text(String),
        }
        match TokenLimitInput::deserialize(deserializer)? {
            TokenLimitInput::Number(tokens) => Ok(Self::Tokens(tokens)),
            TokenLimitInput::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

/// Replaces the escapes `\n`, `\t` and `\\`, which shells pass on unchanged. Other backslashes stay.
pub(super) fn decode_escapes(text: &str) -> String {
    let mut letters = text.chars();
    let mut plain = String::new();
    while let Some(letter) = letters.next() {
        plain.push(match (letter, letters.clone().next()) {
            ('\\', Some(escape @ ('n' | 't' | '\\'))) => {
                letters.next();
                match escape {
                    'n' => '\n',
                    't' => '\t',
                    other => other,
                }
            }
            _ => letter,
        });
    }
    plain
}

/// Treatment of the hostfile's servers on hosts without a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum RemoteEndpointPolicy {
    /// An error, since a misspelt host would otherwise be ignored silently.
    Refuse,
    /// Assigned to the ranks in turn and reached over the network.
    Deal,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogFormat {
    /// Text for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// An absolute count or a percentage of all: `3` or `10%`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum CountOrPercent {
    Count(u64),
    /// A percentage from 0 to 100.
    Percent(f64),
}

impl CountOrPercent {
    /// Returns the count out of `all`, rounded up.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share of a count, from 0 to 100 %"
    )]
    pub(crate) fn count_of(self, all: u64) -> u64 {
        match self {
            Self::Count(count) => count,
            Self::Percent(percent) => (all as f64 * percent / 100.0).ceil() as u64,
        }
    }
}

impl FromStr for CountOrPercent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected a count like 3 or a percentage like 10%".to_owned();
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
        #[serde(untagged, expecting = "a count like 3 or a percentage like \"10%\"")]
        enum CountOrPercentInput {
            Count(u64),
            Text(String),
        }
        match CountOrPercentInput::deserialize(deserializer)? {
            CountOrPercentInput::Count(count) => Ok(Self::Count(count)),
            CountOrPercentInput::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

/// Character between the fields of CSV: `auto`, or one ASCII character, a tab also as `tab` or `\t`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CsvDelimiter {
    /// Recognised by the first rows.
    Auto,
    Byte(u8),
}

impl FromStr for CsvDelimiter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.as_bytes()) {
            ("auto", _) => Ok(Self::Auto),
            ("tab" | "\\t", _) => Ok(Self::Byte(b'\t')),
            (_, &[byte]) if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r' | 0) => {
                Ok(Self::Byte(byte))
            }
            _ => Err("expected auto, tab, or one ASCII character that is no quote".to_owned()),
        }
    }
}

impl fmt::Display for CsvDelimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Byte(b'\t') => f.write_str("tab"),
            Self::Byte(byte) => write!(f, "{}", char::from(*byte)),
        }
    }
}

impl Serialize for CsvDelimiter {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CsvDelimiter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Additional request parameters as a JSON object: `{"repetition_penalty": 1.1}`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ExtraBody(pub RequestParams);

impl ExtraBody {
    /// Returns the name of a field, at any depth, whose text looks like a secret by its name.
    pub(super) fn secret_field(&self) -> Option<String> {
        fn find_in(name: &str, value: &Value) -> Option<String> {
            match value {
                Value::String(text) if !text.is_empty() => {
                    is_secret_name(name).then(|| name.to_owned())
                }
                Value::Array(items) => items.iter().find_map(|item| find_in(name, item)),
                Value::Object(fields) => {
                    fields.iter().find_map(|(name, value)| find_in(name, value))
                }
                _ => None,
            }
        }
        self.0.iter().find_map(|(name, json)| find_in(name, &serde_json::from_str(json).ok()?))
    }
}

impl Serialize for ExtraBody {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_json())
    }
}

impl<'de> Deserialize<'de> for ExtraBody {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let fields: BTreeMap<String, Box<RawValue>> = serde_json::from_str(&text)
            .map_err(|error| de::Error::custom(format!("expected a JSON object ({error})")))?;
        let mut params = RequestParams::default();
        for (name, json) in fields {
            if matches!(name.as_str(), "model" | "prompt" | "messages" | "stream") {
                return Err(de::Error::custom(format!("{name} cannot be set here")));
            }
            params.set(&name, json.get());
        }
        Ok(Self(params))
    }
}

/// Defines an enum of choices that are typed in kebab-case.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$word_doc:meta])* $word:ident),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub(crate) enum $name { $($(#[$word_doc])* $word),+ }
    };
}

words! {
    /// Format of the gathered file.
    OutputFormat {
        /// One JSON answer per line.
        Jsonl,
        /// Lines of OpenAI's batch API.
        OpenaiBatch,
        /// A table of comma-separated values.
        Csv,
        /// A table of tab-separated values.
        Tsv,
        Parquet,
    }
}

words! {
    /// Treatment of an existing run folder.
    ResumePolicy {
        /// Resume it.
        Auto,
        /// Refuse to start.
        Never,
        /// Refuse to start without one.
        Require,
    }
}

words! {
    /// Treatment of shard files at the end.
    GatherMode {
        /// Gather all answers into one file, through rank 0.
        Root,
        /// Leave the shard files for a later merge.
        None,
    }
}

words! {
    /// Route of the requests.
    ApiMode {
        /// Chat completions for conversations and, if the model has a chat template, for texts; else completions.
        Auto,
        /// Completions of plain texts.
        Completions,
        /// Chat completions.
        Chat,
    }
}

words! {
    /// Format of inputs whose extension does not tell it.
    SourceFormat {
        /// JSON lines.
        Jsonl,
        /// One JSON list.
        Json,
        /// A prompt per line.
        Txt,
        Csv,
        Tsv,
        Parquet,
    }
}

words! {
    /// Whether tables begin with a line of column names.
    HeaderMode {
        /// They do, like `yes`; a first line that looks like data is mentioned in errors.
        Auto,
        Yes,
        /// They begin with a row.
        No,
    }
}

words! {
    BadRowPolicy {
        /// Stop before anything is sent.
        Stop,
        /// Write the row as a failed answer.
        Fail,
    }
}

words! {
    /// Treatment of rows with the same id.
    DuplicateIdPolicy {
        /// Stop before anything is sent.
        Refuse,
        /// Send all of them.
        Keep,
    }
}

words! {
    /// Treatment of fields that look like request parameters and would have no effect.
    UnknownFieldPolicy {
        /// Name them and go on.
        Warn,
        /// Stop before anything is sent.
        Refuse,
        /// Say nothing.
        Ignore,
    }
}

words! {
    /// Treatment of thinking that the server leaves at the start of an answer.
    ThinkTagPolicy {
        /// It goes to `reasoning`.
        Auto,
        /// It stays in the answer.
        Off,
    }
}

words! {
    /// Token counts in answers.
    UsageMode {
        /// The batch total, divided by answer length.
        Share,
        /// The number of token ids, which are requested from the server.
        Exact,
        /// No counts.
        Off,
    }
}

words! {
    /// Display of progress.
    ProgressStyle {
        /// A bar if one rank runs on a terminal, else lines.
        Auto,
        /// A progress bar.
        Bar,
        /// A line at intervals.
        Lines,
        /// No progress output.
        None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_parse_as_people_write_them() {
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
        for too_long in ["18446744073709551615s", "1e12", "11y"] {
            let error = too_long.parse::<HumanDuration>().expect_err("too long");
            assert!(error.contains("10 years"), "{too_long}: {error}");
        }
    }

    #[test]
    fn auto_or_count_parses_auto_and_numbers() {
        assert_eq!("auto".parse(), Ok(AutoOrCount::Auto));
        assert_eq!("12".parse(), Ok(AutoOrCount::Count(12)));
        assert!("-1".parse::<AutoOrCount>().is_err() && "many".parse::<AutoOrCount>().is_err());
        for value in [AutoOrCount::Auto, AutoOrCount::Count(7)] {
            let json = serde_json::to_value(value).expect("JSON");
            assert_eq!(
                serde_json::from_value::<AutoOrCount>(json).expect("auto or a count"),
                value
            );
        }
        assert_eq!(
            serde_json::from_value::<AutoOrCount>(9.into()).expect("a number"),
            AutoOrCount::Count(9)
        );
    }

    #[test]
    fn a_token_limit_is_a_number_none_or_auto() {
        for (text, rows, batch_rows) in
            [("auto", Some(512), None), ("none", None, None), ("512", Some(512), Some(512))]
        {
            let limit: TokenLimit = text.parse().expect(text);
            assert_eq!((limit.of_rows(), limit.of_batch_rows()), (rows, batch_rows), "{text}");
            assert_eq!(limit.to_string(), text);
            let json = serde_json::to_value(limit).expect("JSON");
            assert_eq!(serde_json::from_value::<TokenLimit>(json).expect("a limit"), limit);
        }
        assert!("-1".parse::<TokenLimit>().is_err() && "all".parse::<TokenLimit>().is_err());
    }

    #[test]
    fn escapes_of_line_breaks_tabs_and_backslashes_are_decoded_and_others_stay() {
        assert_eq!(decode_escapes(r"a\n\tb\\n\d\"), "a\n\tb\\n\\d\\");
    }

    #[test]
    fn count_or_percent_parses_both() {
        assert_eq!("3".parse::<CountOrPercent>().map(|it| it.count_of(100)), Ok(3));
        assert_eq!("2.5%".parse::<CountOrPercent>().map(|it| it.count_of(101)), Ok(3));
        for bad in ["-1", "101%", "x", "%"] {
            assert!(bad.parse::<CountOrPercent>().is_err(), "{bad}");
        }
    }

    #[test]
    fn fields_of_extra_body_that_name_a_secret_are_found() {
        let secret = |text: &str| {
            serde_json::from_value::<ExtraBody>(text.into()).expect("an object").secret_field()
        };
        assert_eq!(secret(r#"{"api_key":"sk-1"}"#).as_deref(), Some("api_key"));
        assert_eq!(secret(r#"{"vllm_xargs":[{"hf_token":"x"}]}"#).as_deref(), Some("hf_token"));
        for plain in [r#"{"stop_token_ids":[1],"logit_bias":{"5":1}}"#, r#"{"cache_key":7}"#, "{}"]
        {
            assert_eq!(secret(plain), None, "{plain}");
        }
    }

    #[test]
    fn extra_body_is_an_object_without_reserved_fields() {
        let read = |text: &str| serde_json::from_value::<ExtraBody>(text.into());
        assert_eq!(read(r#"{"a": [1, 2]}"#).expect("an object").0.get("a"), Some("[1, 2]"));
        assert!(read("[1]").is_err() && read(r#"{"model":"x"}"#).is_err());
    }
}
