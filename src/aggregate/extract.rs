//! Extraction of JSON, texts and numbers from an answer, also from a Markdown code fence.
//!
//! Pure functions on one answer's text; counting and reporting failures is up to the aggregates.

use serde_json::{Value, value::RawValue};

use super::exact_sum::MIN_MAGNITUDE;

/// Numbers of this magnitude or more are rejected, since their squares could overflow.
pub(super) const MAX_MAGNITUDE: f64 = 1e100;

/// Returns the JSON value of an answer: the whole text, or else the content of its first code fence.
///
/// # Errors
/// If neither is JSON; the message is about the fence's content if there is a fence.
pub(super) fn parse_json(text: &str) -> Result<&RawValue, String> {
    let whole = serde_json::from_str::<&RawValue>(text);
    match (whole, code_fence_content(text)) {
        (Ok(whole), _) => Ok(whole),
        (Err(error), None) => Err(error.to_string()),
        (Err(_), Some(inner)) => serde_json::from_str(inner).map_err(|error| error.to_string()),
    }
}

/// Returns the text between the first fence line, with any language tag, and the next fence.
fn code_fence_content(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("```")?;
    let (_, rest) = rest.split_once('\n')?;
    Some(rest.split_once("```").map_or(rest, |(inner, _)| inner))
}

/// Returns the whole answer, or the value at a JSON pointer in it; strings lose their quotes.
pub(super) fn text_at_pointer(text: &str, at: Option<&str>) -> Result<String, String> {
    let Some(at) = at else { return Ok(text.into()) };
    Ok(match value_at_pointer(text, at)? {
        Value::String(text) => text.trim().into(),
        other => other.to_string(),
    })
}

/// Parses the whole answer, or the value at a JSON pointer in it, as a number.
pub(super) fn number_at_pointer(text: &str, at: Option<&str>) -> Result<f64, String> {
    let Some(at) = at else { return parse_number(text) };
    match value_at_pointer(text, at)? {
        Value::String(text) => parse_number(&text),
        other => match other.as_f64() {
            Some(number) => check_magnitude(number),
            None => Err(format!("the value at {at} is not a number")),
        },
    }
}

fn value_at_pointer(text: &str, at: &str) -> Result<Value, String> {
    let value: Value =
        serde_json::from_str(parse_json(text)?.get()).map_err(|it| it.to_string())?;
    value.pointer(at).cloned().ok_or_else(|| format!("no value at {at}"))
}

/// Parses a plain number without any text around it, such as `42`, `-1.5`, `+3e8` or `.5`.
fn parse_number(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(number) => check_magnitude(number),
        Err(_) => Err(format!("{:?} is not a number", text.chars().take(40).collect::<String>())),
    }
}

fn check_magnitude(number: f64) -> Result<f64, String> {
    if number.is_nan() || number.abs() >= MAX_MAGNITUDE {
        return Err(format!("{number} is out of range"));
    }
    Ok(if number.abs() < MIN_MAGNITUDE { 0.0 } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_alone_and_are_finite() {
        for (text, number) in [
            ("42", 42.0),
            (" -1.5\n", -1.5),
            ("+3e8", 3e8),
            (".5", 0.5),
            ("1e-200", 0.0),
            ("-0", 0.0),
        ] {
            assert_eq!(number_at_pointer(text, None), Ok(number), "{text}");
        }
        for text in ["", "nan", "inf", "1e100", "-1e400", "42%", "4 2", "1,5", "about 3", "0x10"] {
            assert!(number_at_pointer(text, None).is_err(), "{text}");
        }
    }

    #[test]
    fn json_is_found_inside_a_code_fence() {
        for text in [
            "[1, 2]",
            " [1, 2]\n",
            "```json\n[1, 2]\n```",
            "Here you are:\n```\n[1, 2]```\nbye",
            "```\n[1, 2]",
        ] {
            assert_eq!(parse_json(text.trim()).map(|it| it.get().trim()), Ok("[1, 2]"), "{text}");
        }
        for text in ["[1, 2", "yes", "```json", "```\nyes\n```", "{} {}"] {
            assert!(parse_json(text).is_err(), "{text}");
        }
        // A fence inside a JSON string belongs to the string.
        assert!(parse_json("\"```\\n1\\n```\"").is_ok_and(|it| it.get().starts_with('"')));
    }

    #[test]
    fn pointers_find_numbers_and_texts() {
        let text =
            "```json\n{\"score\": 7.5, \"as\": \"8\", \"in\": [{\"x\": 1}], \"no\": null}\n```";
        assert_eq!(number_at_pointer(text, Some("/score")), Ok(7.5));
        assert_eq!(number_at_pointer(text, Some("/as")), Ok(8.0));
        assert_eq!(number_at_pointer(text, Some("/in/0/x")), Ok(1.0));
        assert!(
            number_at_pointer(text, Some("/no")).is_err()
                && number_at_pointer(text, Some("/there")).is_err()
        );
        assert_eq!(text_at_pointer(text, Some("/as")).as_deref(), Ok("8"));
        assert_eq!(text_at_pointer(text, Some("/in")).as_deref(), Ok("[{\"x\":1}]"));
        assert!(text_at_pointer("plain", Some("/as")).is_err());
    }
}
