//! The fields of an answer line that are read when shard files are scanned; all others are skipped while parsing.
//!
//! Texts are looked at where they lie in the line and not copied, since a scan reads all answers of a run.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::line_grade::LineGrade;
use crate::domain::{AnswerFlaws, FailureKind};

#[derive(Deserialize)]
pub(super) struct LineKey<'a> {
    /// An answer without an id belongs to no row.
    #[serde(borrow)]
    id: &'a RawValue,
    pub(super) index: u64,
    success: bool,
    #[serde(default)]
    error: Option<LineFailure>,
    #[serde(default)]
    response: VisibleText,
    #[serde(default, borrow)]
    finish_reason: Option<&'a RawValue>,
    #[serde(default)]
    tool_calls: HasContent,
    #[serde(default)]
    function_call: HasContent,
    #[serde(default)]
    refusal: HasContent,
    /// All sequences, if there are several.
    #[serde(default, borrow)]
    choices: Vec<ChoiceKey<'a>>,
}

#[derive(Deserialize)]
struct ChoiceKey<'a> {
    #[serde(default)]
    response: VisibleText,
    #[serde(default, borrow)]
    finish_reason: Option<&'a RawValue>,
    #[serde(default)]
    tool_calls: HasContent,
    #[serde(default)]
    function_call: HasContent,
    #[serde(default)]
    refusal: HasContent,
}

#[derive(Deserialize)]
struct LineFailure {
    kind: FailureKind,
}

/// Whether a JSON value is a text with a visible character.
#[derive(Default)]
struct VisibleText(bool);

/// Whether a JSON value is neither null nor empty.
#[derive(Default)]
struct HasContent(bool);

impl<'a> LineKey<'a> {
    /// Parses a line; `None` if it is no outcome: not UTF-8, not JSON, or without an id or another field that every
    /// outcome has.
    pub(super) fn parse_line(line: &'a [u8]) -> Option<Self> {
        let key: Self = serde_json::from_str(std::str::from_utf8(line).ok()?).ok()?;
        let is_id =
            key.id.get().starts_with(['"', '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9']);
        is_id.then_some(key)
    }

    pub(super) fn grade(&self) -> LineGrade {
        if self.success { LineGrade::answered(self.flaws()) } else { LineGrade::FAILED }
    }

    pub(super) fn is_retryable(&self) -> bool {
        self.error.as_ref().is_some_and(|error| error.kind.is_retryable())
    }

    fn flaws(&self) -> AnswerFlaws {
        let is_empty = !(self.response.0 || self.tool_calls.0 || self.function_call.0);
        let first =
            AnswerFlaws::of_sequence(finish_reason(self.finish_reason), is_empty, self.refusal.0);
        self.choices.iter().fold(first, |flaws, choice| flaws.union(choice.flaws()))
    }
}

impl ChoiceKey<'_> {
    fn flaws(&self) -> AnswerFlaws {
        let is_empty = !(self.response.0 || self.tool_calls.0 || self.function_call.0);
        AnswerFlaws::of_sequence(finish_reason(self.finish_reason), is_empty, self.refusal.0)
    }
}

/// Returns the finish reason without its quotes. None of those that matter has an escape.
fn finish_reason(json: Option<&RawValue>) -> Option<&str> {
    json.map(|json| json.get().trim_matches('"'))
}

impl<'de> Deserialize<'de> for VisibleText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let json = <&RawValue>::deserialize(from)?.get();
        Ok(Self(match json.as_bytes() {
            // Most texts begin with a visible character, which decides without a look at the rest.
            [b'"', first, ..] if first.is_ascii_graphic() && !matches!(first, b'"' | b'\\') => true,
            [b'"', ..] => {
                serde_json::from_str::<String>(json).is_ok_and(|text| !text.trim().is_empty())
            }
            _ => false,
        }))
    }
}

impl<'de> Deserialize<'de> for HasContent {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let json = <&RawValue>::deserialize(from)?.get();
        Ok(Self(AnswerFlaws::is_json_content(json)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::FlawCounts;

    fn flaws_of(fields: &str) -> Vec<&'static str> {
        let line = format!(r#"{{"id":1,"index":1,"success":true,{fields}}}"#);
        let key: LineKey<'_> = serde_json::from_str(&line).expect("a line");
        let mut counts = FlawCounts::default();
        counts.add(key.grade().flaws().expect("an answer"), 1);
        counts.named_counts().map(|(_, name)| name).collect()
    }

    #[test]
    fn flaws_are_read_from_the_line() {
        let none: [&str; 0] = [];
        assert_eq!(flaws_of(r#""response":"a","finish_reason":"stop""#), none);
        assert_eq!(flaws_of(r#""response":"\u000a é","finish_reason":null"#), none);
        assert_eq!(flaws_of(r#""response":"a","finish_reason":"length""#), ["cut"]);
        assert_eq!(flaws_of(r#""response":"","finish_reason":"length""#), ["cut", "blank"]);
        for blank in [r#""""#, r#"" \n\t""#, r#""\u00a0""#, "null"] {
            assert_eq!(
                flaws_of(&format!(r#""response":{blank},"finish_reason":"stop""#)),
                ["blank"]
            );
        }
        assert_eq!(flaws_of(r#""response":"","tool_calls":[{"id":"x"}]"#), none);
        assert_eq!(flaws_of(r#""response":"","tool_calls":[]"#), ["blank"]);
        assert_eq!(flaws_of(r#""response":"","refusal":"I cannot""#), ["refused"]);
        assert_eq!(flaws_of(r#""response":"a","refusal":null"#), none);
        assert_eq!(flaws_of(r#""response":"a","finish_reason":"content_filter""#), ["refused"]);
        let choices = |second: &str| {
            flaws_of(&format!(r#""response":"a","choices":[{{"response":"a"}},{{{second}}}]"#))
        };
        assert_eq!(choices(r#""response":"b","finish_reason":"length""#), ["cut"]);
        assert_eq!(choices(r#""response":" ""#), ["blank"]);
        assert_eq!(choices(r#""response":"","tool_calls":[{}]"#), none);
    }

    #[test]
    fn failures_have_no_flaws() {
        let line =
            r#"{"id":1,"index":1,"success":false,"response":null,"error":{"kind":"exhausted"}}"#;
        let key: LineKey<'_> = serde_json::from_str(line).expect("a line");
        assert_eq!((key.grade(), key.is_retryable()), (LineGrade::FAILED, true));
    }

    #[test]
    fn lines_without_an_id_or_valid_utf8_are_no_outcomes() {
        for id in ["1", "1e400", "\"a\"", "-7"] {
            let line = format!(r#"{{"id":{id},"index":1,"success":true}}"#);
            assert!(LineKey::parse_line(line.as_bytes()).is_some(), "{line}");
        }
        for line in [
            br#"{"index":1,"success":true}"#.as_slice(),
            br#"{"id":null,"index":1,"success":true}"#,
            br#"{"id":1,"success":true}"#,
            br#"{"id":1,"index":1}"#,
            b"{\"id\":1,\"index\":1,\"success\":true,\"response\":\"bad \xff\xfe\"}",
        ] {
            assert!(LineKey::parse_line(line).is_none(), "{}", line.escape_ascii());
        }
    }
}
