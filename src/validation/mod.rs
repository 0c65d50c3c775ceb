//! Validation of answers: against a JSON schema (`--schema`) and a regular expression (`--check`). Pure.
//!
//! Owns the compiled rules, and the reasons for which an answer is invalid. Reasons are sent to the model and written
//! into failed answers, so they are short and bounded. A schema is whole in its file: a reference to another document
//! is an error, and nothing is ever fetched. What follows from an invalid answer is decided in
//! `engine/scheduler/invalid_answer.rs`.

use jsonschema::{PatternOptions, ValidationError, Validator};
use regex::Regex;
use serde_json::Value;

/// The rules that answers have to meet.
#[derive(Debug)]
pub(crate) struct AnswerCheck {
    schema: Option<Validator>,
    pattern: Option<Regex>,
}

/// Rules that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CheckError {
    /// The text of `--schema` is no usable JSON schema.
    #[error("not a usable JSON schema: {0}")]
    Schema(String),
    /// The value of `--check` is no regular expression.
    #[error("not a usable regular expression: {0}")]
    Pattern(String),
}

/// The reason for which an answer is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InvalidText {
    /// A clause of at most [`MAX_REASON_CHARS`] characters.
    pub(crate) reason: String,
    /// Whether an answer that begins like this one and goes on might be valid.
    pub(crate) is_incomplete: bool,
}

/// Errors of one answer that are told: more would not help the model.
const MAX_REPORTED_ERRORS: usize = 3;
/// The longest reason, in characters.
const MAX_REASON_CHARS: usize = 400;
/// The longest value that a reason repeats, in characters.
const MAX_VALUE_CHARS: usize = 60;
/// Steps of a schema's `pattern` with look-around, beyond which the answer counts as invalid: some expressions would
/// take for ever.
const MAX_BACKTRACKS: usize = 100_000;

impl AnswerCheck {
    /// Compiles the rules; at least one is to be given.
    ///
    /// # Errors
    /// The schema is not JSON, not a valid schema or refers to another document, or the pattern is no regular
    /// expression.
    pub(crate) fn compile(schema: Option<&str>, pattern: Option<&str>) -> Result<Self, CheckError> {
        let schema = schema.map(compile_schema).transpose().map_err(CheckError::Schema)?;
        let pattern = pattern.map(compile_pattern).transpose().map_err(CheckError::Pattern)?;
        Ok(Self { schema, pattern })
    }

    /// Checks the text of an answer; white space around it does not matter.
    ///
    /// # Errors
    /// The reason for which the answer is not valid.
    pub(crate) fn validate(&self, text: &str) -> Result<(), InvalidText> {
        let text = text.trim();
        if let Some(schema) = &self.schema {
            check_schema(schema, text)?;
        }
        match &self.pattern {
            Some(pattern) if !pattern.is_match(text) => Err(InvalidText::new(
                &format!("it does not match the regular expression {pattern}"),
                true,
            )),
            _ => Ok(()),
        }
    }
}

impl InvalidText {
    fn new(reason: &str, is_incomplete: bool) -> Self {
        Self { reason: shorten(reason, MAX_REASON_CHARS), is_incomplete }
    }
}

fn compile_schema(text: &str) -> Result<Validator, String> {
    let schema: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if !schema.is_object() {
        return Err("a schema is a JSON object".into());
    }
    let patterns = PatternOptions::fancy_regex().backtrack_limit(MAX_BACKTRACKS);
    let options = jsonschema::options().offline().with_pattern_options(patterns);
    options.build(&schema).map_err(|error| shorten(&describe_error(&error), MAX_REASON_CHARS))
}

fn compile_pattern(text: &str) -> Result<Regex, String> {
    Regex::new(text).map_err(|error| {
        // The first lines repeat the expression and point at the place; the last one says what is wrong.
        let message = error.to_string();
        let last = message.lines().last().unwrap_or_default();
        shorten(last.trim_start_matches("error: "), MAX_REASON_CHARS)
    })
}

fn check_schema(schema: &Validator, text: &str) -> Result<(), InvalidText> {
    if text.is_empty() {
        return Err(InvalidText::new("it is empty", true));
    }
    let value: Value =
        serde_json::from_str(text).map_err(|error| match text.starts_with("```") {
            true => InvalidText::new("the JSON is inside a code fence (```)", false),
            false => InvalidText::new(&format!("it is not JSON ({error})"), error.is_eof()),
        })?;
    if schema.is_valid(&value) {
        return Ok(());
    }
    let errors = schema.iter_errors(&value).take(MAX_REPORTED_ERRORS);
    let reasons: Vec<String> = errors.map(|error| describe_error(&error)).collect();
    Err(InvalidText::new(&reasons.join("; "), false))
}

/// Returns the place and the fault, as in `at /items/3/score: 12 is greater than the maximum of 10`.
fn describe_error(error: &ValidationError<'_>) -> String {
    let value = error.instance();
    let is_short =
        !value.is_object() && !value.is_array() && value.to_string().len() <= MAX_VALUE_CHARS;
    let fault = if is_short { error.to_string() } else { error.masked_with("it").to_string() };
    match error.instance_path().as_str() {
        "" => fault,
        place => format!("at {place}: {fault}"),
    }
}

/// Cuts a text and replaces its control characters: reasons hold parts of answers, and are printed.
fn shorten(text: &str, max_chars: usize) -> String {
    let clean = |letter: char| if letter.is_control() { ' ' } else { letter };
    let mut short: String = text.chars().map(clean).take(max_chars).collect();
    if text.chars().nth(max_chars).is_some() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r#"{"type": "object", "required": ["name", "score"], "additionalProperties": false,
        "properties": {"name": {"type": "string", "minLength": 1}, "score": {"type": "integer", "maximum": 10},
                       "tags": {"type": "array", "items": {"enum": ["a", "b"]}}}}"#;

    fn schema_check(schema: &str) -> AnswerCheck {
        AnswerCheck::compile(Some(schema), None).expect("a schema")
    }

    fn reason(check: &AnswerCheck, text: &str) -> String {
        check.validate(text).expect_err("not valid").reason
    }

    #[test]
    fn an_answer_is_valid_json_of_the_schema_or_the_reason_names_the_place() {
        let check = schema_check(SCHEMA);
        assert_eq!(check.validate(r#"{"name": "x", "score": 3, "tags": ["b"]}"#), Ok(()));
        assert_eq!(
            check.validate("\n {\"name\": \"x\", \"score\": 3}\n"),
            Ok(()),
            "space around it"
        );
        for (text, words) in [
            ("", "it is empty"),
            ("  \n", "it is empty"),
            ("Sure! {\"name\": \"x\"}", "it is not JSON"),
            (r#"{"name": "x", "sco"#, "it is not JSON"),
            ("{\"name\": \"x\", \"score\": 3} Done.", "it is not JSON"),
            ("```json\n{\"name\": \"x\", \"score\": 3}\n```", "code fence"),
            (r#"{"name": "x"}"#, r#""score" is a required property"#),
            (r#"{"name": "x", "score": 12}"#, "at /score: 12 is greater than the maximum of 10"),
            (r#"{"name": "x", "score": 3, "tags": ["a", "c"]}"#, "at /tags/1: "),
            (r#"{"name": "x", "score": 3, "more": 1}"#, "'more' was unexpected"),
            (r#"[1, 2]"#, r#"it is not of type "object""#),
        ] {
            assert!(reason(&check, text).contains(words), "{text}: {}", reason(&check, text));
        }
    }

    #[test]
    fn a_text_that_might_go_on_is_told_from_one_that_is_wrong() {
        let check = schema_check(SCHEMA);
        let is_incomplete = |text| check.validate(text).expect_err("not valid").is_incomplete;
        for text in ["", "{", r#"{"name": "x", "sco"#, r#"{"name": "x", "score": 3"#] {
            assert!(is_incomplete(text), "{text}");
        }
        for text in ["Sure", "```json\n{", r#"{"name": 5}"#, r#"{"name": "x"} and"#] {
            assert!(!is_incomplete(text), "{text}");
        }
    }

    #[test]
    fn reasons_are_bounded_whatever_the_answer() {
        let check = schema_check(SCHEMA);
        let long = "é".repeat(10_000);
        for text in [
            format!(r#"{{"name": 5, "score": "{long}"}}"#),
            format!(r#"{{"name": "x", "score": 3, "{long}": 1}}"#),
            r#"{"name": "x", "score": 3, "\u001b[31m": 1}"#.to_owned(),
            "[".repeat(100_000),
        ] {
            let reason = reason(&check, &text);
            assert!(reason.chars().count() <= MAX_REASON_CHARS + 1, "{}", reason.chars().count());
            assert!(!reason.contains(char::is_control), "{reason:?}");
        }
        let pattern = AnswerCheck::compile(None, Some(&"a".repeat(5_000))).expect("a pattern");
        assert!(reason(&pattern, "b").chars().count() <= MAX_REASON_CHARS + 1);
    }

    #[test]
    fn a_pattern_is_searched_for_unless_it_is_anchored() {
        let check = |pattern| AnswerCheck::compile(None, Some(pattern)).expect("a pattern");
        assert_eq!(check("[0-9]+").validate("about 12 of them"), Ok(()));
        assert_eq!(check("^(yes|no)$").validate(" yes\n"), Ok(()), "space around it");
        let reason = reason(&check("^(yes|no)$"), "yes, I think");
        assert_eq!(reason, "it does not match the regular expression ^(yes|no)$");
        let both = AnswerCheck::compile(Some(r#"{"type": "integer"}"#), Some("^1")).expect("rules");
        assert!(
            both.validate("12").is_ok()
                && both.validate("2").is_err()
                && both.validate("1x").is_err()
        );
    }

    #[test]
    fn a_pattern_that_never_ends_is_a_reason_and_not_a_hang() {
        let check = schema_check(r#"{"type": "string", "pattern": "^(?=(a+)+$)b"}"#);
        let text = format!("\"{}!\"", "a".repeat(40));
        assert!(check.validate(&text).is_err());
    }

    #[test]
    fn rules_that_cannot_be_used_are_refused_with_the_reason() {
        for (schema, words) in [
            ("{", "EOF"),
            ("[]", "a JSON object"),
            ("true", "a JSON object"),
            (r#"{"type": "intger"}"#, "at /type: "),
            (r#"{"properties": {"n": {"minimum": "3"}}}"#, "at /properties/n/minimum: "),
            (r#"{"$ref": "http://example.com/other.json"}"#, "example.com/other.json"),
            (r#"{"$ref": "other.json#/x"}"#, "other.json"),
            (r##"{"$ref": "#/$defs/missing"}"##, "missing"),
            (r#"{"pattern": "("}"#, "/pattern"),
        ] {
            match AnswerCheck::compile(Some(schema), None) {
                Err(CheckError::Schema(reason)) => {
                    assert!(reason.contains(words), "{schema}: {reason}")
                }
                other => panic!("{schema}: {other:?}"),
            }
        }
        for (pattern, words) in [("(", "unclosed group"), ("(?=a)", "look-around")] {
            match AnswerCheck::compile(None, Some(pattern)) {
                Err(CheckError::Pattern(reason)) => {
                    assert!(reason.contains(words), "{pattern}: {reason}")
                }
                other => panic!("{pattern}: {other:?}"),
            }
        }
    }

    #[test]
    fn references_within_the_schema_are_followed() {
        let check = schema_check(
            r##"{"$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}}, "$ref": "#/$defs/node"}"##,
        );
        assert!(check.validate(r#"{"next": {"next": {}}}"#).is_ok());
        assert!(reason(&check, r#"{"next": {"next": 1}}"#).contains("at /next/next: "));
    }
}
