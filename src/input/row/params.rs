//! A row's own request parameters.
//!
//! Owns their values and rejects those that no server accepts. Which fields are parameters is decided in `fields.rs`;
//! the run's own parameters are in `settings`.

use std::borrow::Cow;

use super::fields::{FieldPlace, FieldSink};
use crate::domain::raw_json::{JsonMembers, check_escapes, compact_json, decode_string, json_kind};
use crate::domain::{MAX_SEQUENCES, RequestParams};

/// The options of a row: everything it specifies besides its prompt.
#[derive(Default)]
pub(crate) struct RowOptions<'a> {
    pub params: RequestParams,
    pub priority: i64,
    /// The model that the row names.
    pub model: Option<Cow<'a, str>>,
    /// Whether the row asks for a streamed answer.
    pub streams: bool,
}

impl<'a> RowOptions<'a> {
    /// Sets a field; a later one of the same name wins.
    pub(crate) fn put_field(&mut self, name: &str, json: &'a str) -> Result<(), String> {
        // Files written from data frames have every column in every row.
        if json == "null" {
            return Ok(());
        }
        match name {
            "model" if json.starts_with('"') => self.model = Some(decode_string(json)?),
            "model" => return Err(format!("`model` must be a string, found {}", json_kind(json))),
            "stream" => self.streams = json == "true",
            // It configures streaming, and servers reject it without `stream`.
            "stream_options" => {}
            "priority" => self.priority = parse_integer(name, json)?,
            _ => self.set_param(name, json)?,
        }
        Ok(())
    }

    /// Sets the fields of the object `params`.
    pub(crate) fn put_params(
        &mut self,
        json: &'a str,
        sink: &mut impl FieldSink,
    ) -> Result<(), String> {
        match json_kind(json) {
            "null" => return Ok(()),
            "an object" => {}
            other => return Err(format!("`params` must be an object, found {other}")),
        }
        let members = JsonMembers::parse(json).map_err(|reason| format!("`params`: {reason}"))?;
        for (name, json) in members.iter() {
            if matches!(name, "prompt" | "messages") {
                return Err(format!("`params` contains `{name}`, which is not a parameter"));
            }
            sink.note_sent(FieldPlace::Params, name, json, None);
            self.put_field(name, json)?;
        }
        Ok(())
    }

    /// Returns the options without borrowing from the row.
    pub(crate) fn into_owned(self) -> RowOptions<'static> {
        let Self { params, priority, model, streams } = self;
        RowOptions {
            params,
            priority,
            model: model.map(|model| Cow::Owned(model.into_owned())),
            streams,
        }
    }

    /// Whether the row asks to continue the assistant's message at the end of its conversation.
    pub(crate) fn continues_answer(&self) -> bool {
        let is = |name: &str, json: &str| self.params.get(name) == Some(json);
        is("continue_final_message", "true") || is("add_generation_prompt", "false")
    }

    /// Rejects parameters that contradict each other.
    pub(crate) fn check_consistency(&self) -> Result<(), String> {
        let number = |name: &str| self.params.get(name).and_then(|json| json.parse::<f64>().ok());
        if number("n").is_some_and(|n| n > 1.0) && number("temperature") == Some(0.0) {
            return Err(
                "`n` is greater than 1 and `temperature` is 0: all answers would be the same"
                    .into(),
            );
        }
        Ok(())
    }

    fn set_param(&mut self, name: &str, json: &str) -> Result<(), String> {
        if name.is_empty() || name.chars().any(char::is_control) {
            return Err(format!("{name:?} is not a valid parameter name"));
        }
        // The value is sent as raw JSON, so escapes that only a decoder would reject are checked here.
        check_escapes(json).map_err(|reason| format!("`{name}`: {reason}"))?;
        match validate_param(name, json)? {
            Some(number) => self.params.set(name, number.to_string()),
            None => self.params.set(name, compact_json(json)),
        }
        Ok(())
    }
}

/// Rejects values that every server rejects, and returns whole numbers in their canonical form.
fn validate_param(name: &str, json: &str) -> Result<Option<i64>, String> {
    match name {
        "max_tokens" | "max_completion_tokens" | "min_tokens" => {
            parse_at_least(0, name, json).map(Some)
        }
        "n" => match parse_at_least(1, name, json)? {
            n if n > MAX_SEQUENCES => {
                Err(format!("`n` must be at most {MAX_SEQUENCES}, found {json}"))
            }
            n => Ok(Some(n)),
        },
        "temperature" => match json.parse::<f64>() {
            Ok(number) if number >= 0.0 => Ok(None),
            Ok(_) => Err(format!("`{name}` must not be negative, found {json}")),
            Err(_) => Err(format!("`{name}` must be a number, found {}", json_kind(json))),
        },
        "top_p" => match json.parse::<f64>() {
            Ok(number) if (0.0..=1.0).contains(&number) => Ok(None),
            Ok(_) => Err(format!("`{name}` must be between 0 and 1, found {json}")),
            Err(_) => Err(format!("`{name}` must be a number, found {}", json_kind(json))),
        },
        _ => Ok(None),
    }
}

fn parse_at_least(minimum: i64, name: &str, json: &str) -> Result<i64, String> {
    match parse_integer(name, json)? {
        number if number < minimum => {
            Err(format!("`{name}` must be at least {minimum}, found {json}"))
        }
        number => Ok(number),
    }
}

/// Parses a whole number. `512.0` is one, because a data frame's column with a gap cannot hold 512 in another way.
fn parse_integer(name: &str, json: &str) -> Result<i64, String> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if let Ok(number) = json.parse() {
        return Ok(number);
    }
    match json.parse::<f64>() {
        #[expect(clippy::cast_possible_truncation, reason = "it has no fraction and is below 2^53")]
        Ok(number) if number.fract() == 0.0 && number.abs() < EXACT => Ok(number as i64),
        Ok(_) => Err(format!("`{name}` must be a whole number, found {json}")),
        Err(_) => Err(format!("`{name}` must be a whole number, found {}", json_kind(json))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_options(json: &str) -> Result<RowOptions<'_>, String> {
        let mut options = RowOptions::default();
        options.put_params(json, &mut ())?;
        options.check_consistency()?;
        Ok(options)
    }

    #[test]
    fn parameters_pass_unchanged_and_nulls_count_as_absent() {
        let json = r#"{"seed": 18446744073709551615, "stop": [ "a b" ], "top_k": null, "max_tokens": 512.0,
            "priority": -3, "stream": true, "stream_options": {"x": 1}, "model": "m", "new_one": {"z": 1, "a": 2}}"#;
        let options = parse_options(json).unwrap();
        let expected = r#"{"max_tokens":512,"new_one":{"z":1,"a":2},"seed":18446744073709551615,"stop":["a b"]}"#;
        assert_eq!(options.params.to_json(), expected);
        assert_eq!(
            (options.priority, options.streams, options.model.as_deref()),
            (-3, true, Some("m"))
        );
    }

    #[test]
    fn values_that_every_server_rejects_are_rejected_with_the_reason() {
        for (json, reason) in [
            (r#"{"max_tokens": -1}"#, "`max_tokens` must be at least 0, found -1"),
            (r#"{"max_tokens": "7"}"#, "`max_tokens` must be a whole number, found a string"),
            (r#"{"max_tokens": 7.5}"#, "`max_tokens` must be a whole number, found 7.5"),
            (r#"{"temperature": "hot"}"#, "`temperature` must be a number, found a string"),
            (r#"{"temperature": -0.1}"#, "`temperature` must not be negative, found -0.1"),
            (r#"{"top_p": 2}"#, "`top_p` must be between 0 and 1, found 2"),
            (r#"{"n": 1000000000}"#, "`n` must be at most 65536, found 1000000000"),
            (r#"{"n": 0}"#, "`n` must be at least 1, found 0"),
            (r#"{"n": 2, "temperature": 0.0}"#, "`n` is greater than 1 and `temperature` is 0"),
            (r#"{"priority": 1.5}"#, "`priority` must be a whole number, found 1.5"),
            (r#"{"model": 3}"#, "`model` must be a string, found a number"),
            (r#"{"messages": []}"#, "`params` contains `messages`, which is not a parameter"),
            (r#"{"a\nb": 1}"#, "is not a valid parameter name"),
            ("[1]", "`params` must be an object, found a list"),
            (r#"{"a": }"#, "`params`: not valid JSON"),
        ] {
            let error = parse_options(json).err().unwrap_or_default();
            assert!(error.contains(reason), "{json}: {error}");
        }
    }
}
