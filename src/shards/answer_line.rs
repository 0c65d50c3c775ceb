//! The JSON line of an answer: the contract with every tool that reads answers.
//!
//! Owns the field names and their order; fields that pass through from the server are in `passed_fields.rs`. Other output
//! formats (CSV, the batch format) are written in `output/` from these lines.

use serde::Serialize;
use serde_json::value::RawValue;

use super::passed_fields::{ChoiceList, PassedFields, UsageLine};
use crate::domain::{Outcome, PromptFailure, PromptInput, PromptResult, Route, RowHash};

/// Fields of an answer line that are the same for all answers of a rank, and whether it repeats the prompt.
#[derive(Clone, Debug)]
pub(crate) struct AnswerLineStyle {
    /// Whether the line repeats the prompt.
    pub echo_prompt: bool,
    /// Name of the model that answers.
    pub model: String,
    /// Route of texts whose row names none.
    pub text_route: Route,
    /// Rank that writes the line.
    pub rank: usize,
    /// Host name of that rank.
    pub host: String,
}

#[derive(Serialize)]
struct AnswerLine<'a> {
    id: &'a RawValue,
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<PromptText<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    images: Vec<&'a str>,
    response: Option<&'a str>,
    /// Text of the last answer of a prompt that failed because none was valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_response: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    responses: Option<Vec<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    choices: Option<ChoiceList<'a>>,
    model: &'a str,
    success: bool,
    error: Option<&'a PromptFailure>,
    finish_reason: Option<&'a str>,
    #[serde(flatten)]
    fields: PassedFields<'a>,
    usage: Option<UsageLine<'a>>,
    params: &'a RawValue,
    served: AnswerServed<'a>,
    /// The server's reply as it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<&'a RawValue>,
}

/// A prompt as its line repeats it.
#[derive(Serialize)]
#[serde(untagged)]
enum PromptText<'a> {
    Text(&'a str),
    TokenIds(&'a RawValue),
}

#[derive(Serialize)]
struct AnswerServed<'a> {
    endpoint: Option<&'a str>,
    api: &'a str,
    host: &'a str,
    rank: usize,
    latency_s: f64,
    attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    invalid: Option<AnswerLineInvalid<'a>>,
    /// Hash of the row, by which the answer finds its row after the input has changed.
    #[serde(skip_serializing_if = "RowHash::is_unknown")]
    row: RowHash,
}

/// Answers of the prompt that were not valid.
#[derive(Serialize)]
struct AnswerLineInvalid<'a> {
    answers: u32,
    completion_tokens: u64,
    /// Why the first was not valid.
    reason: &'a str,
}

/// Appends the line, including its newline.
///
/// # Errors
/// Fails if the prompt's id, messages or row are not valid JSON, which the input reader has already excluded.
pub(crate) fn write_answer_line(
    into: &mut Vec<u8>,
    result: &PromptResult,
    style: &AnswerLineStyle,
) -> serde_json::Result<()> {
    let prompt = &result.prompt;
    let (text, messages) = match &prompt.input {
        PromptInput::Text(text) => (Some(PromptText::Text(text)), None),
        PromptInput::TokenIds(ids) => (Some(PromptText::TokenIds(raw_json(ids)?)), None),
        PromptInput::Messages(messages) => (None, Some(raw_json(messages)?)),
    };
    let (answer, error) = match &result.outcome {
        Outcome::Answered(answer) => (Some(answer), None),
        // The raw text of a prompt without a valid answer is kept, with all that came with it.
        Outcome::Failed(failure) => {
            (result.invalid.as_ref().and_then(|invalid| invalid.last.as_ref()), Some(failure))
        }
    };
    let choices = answer.map_or(&[][..], |answer| answer.choices.as_slice());
    let replied_model = answer.and_then(|answer| answer.model.as_deref());
    let api = match (&prompt.input, prompt.route.unwrap_or(style.text_route)) {
        (PromptInput::TokenIds(_), _) => "completions",
        _ if !prompt.images.is_empty() => "chat",
        (PromptInput::Messages(_), _) | (_, Route::Chat) => "chat",
        (_, Route::Completions) => "completions",
    };
    let echoed_images = if style.echo_prompt { &prompt.images[..] } else { &[] };
    let first = choices.first();
    let first_text = first.map(|choice| choice.text.as_str());
    let success = error.is_none();
    let params = prompt.params.to_json();
    let line = AnswerLine {
        id: raw_json(prompt.id.as_json())?,
        index: prompt.index,
        prompt: text.filter(|_| style.echo_prompt),
        messages: messages.filter(|_| style.echo_prompt),
        images: echoed_images.iter().map(|image| image.label.as_str()).collect(),
        response: first_text.filter(|_| success),
        raw_response: first_text.filter(|_| !success),
        responses: (success && choices.len() > 1)
            .then(|| choices.iter().map(|choice| choice.text.as_str()).collect()),
        reasoning: first.and_then(|choice| choice.reasoning.as_deref()),
        choices: (choices.len() > 1).then_some(ChoiceList(choices)),
        model: replied_model.or(prompt.model.as_deref()).unwrap_or(&style.model),
        success,
        error,
        finish_reason: first.and_then(|choice| choice.finish_reason.as_deref()),
        fields: PassedFields::of_answer(answer),
        usage: answer.and_then(UsageLine::of_answer),
        params: raw_json(&params)?,
        served: AnswerServed {
            endpoint: result.endpoint.as_deref(),
            api,
            host: &style.host,
            rank: style.rank,
            latency_s: (result.latency * 1000.0).round() / 1000.0,
            attempts: result.attempts,
            invalid: result.invalid.as_ref().map(|invalid| AnswerLineInvalid {
                answers: invalid.count,
                completion_tokens: invalid.completion_tokens,
                reason: &invalid.first_reason,
            }),
            row: prompt.row_hash,
        },
        body: answer.and_then(|answer| answer.body.as_deref()),
        row: prompt.row.as_deref().map(raw_json).transpose()?,
    };
    serde_json::to_writer(&mut *into, &line)?;
    into.push(b'\n');
    Ok(())
}

fn raw_json(json: &str) -> serde_json::Result<&RawValue> {
    serde_json::from_str(json)
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use serde::de::IgnoredAny;

    use super::*;
    use crate::domain::{
        AnswerChoice, FailureKind, InvalidAnswers, LINE_NAMES, Prompt, PromptAnswer, PromptId,
        ReplyFields, RequestParams, TokenUsage,
    };

    pub(in crate::shards) fn line_style() -> AnswerLineStyle {
        AnswerLineStyle {
            echo_prompt: true,
            model: "m".into(),
            text_route: Route::Completions,
            rank: 3,
            host: "n1".into(),
        }
    }

    pub(in crate::shards) fn prompt_result(
        index: u64,
        answer: Result<&str, FailureKind>,
    ) -> PromptResult {
        let outcome = match answer {
            Ok(text) => Outcome::Answered(PromptAnswer {
                choices: vec![AnswerChoice {
                    text: text.into(),
                    finish_reason: Some("stop".into()),
                    ..AnswerChoice::default()
                }],
                usage: Some(TokenUsage {
                    prompt_tokens: 2,
                    completion_tokens: 3,
                    estimated: true,
                    ..TokenUsage::default()
                }),
                ..PromptAnswer::default()
            }),
            Err(kind) => {
                Outcome::Failed(PromptFailure { kind, message: "no".into(), status: Some(400) })
            }
        };
        let prompt = Prompt {
            index,
            id: PromptId::from_index(index),
            input: PromptInput::Text("say \"hi\"\n".into()),
            images: Vec::new(),
            params: RequestParams::default(),
            model: None,
            route: None,
            priority: 0,
            row: None,
            row_hash: RowHash::new(0xab2 + 2 * index, false),
        };
        PromptResult {
            prompt,
            outcome,
            endpoint: Some("http://e".into()),
            latency: 1.84449,
            attempts: 1,
            invalid: None,
        }
    }

    fn line_text(result: &PromptResult, style: &AnswerLineStyle) -> String {
        let mut bytes = Vec::new();
        write_answer_line(&mut bytes, result, style).expect("JSON");
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn an_answer_is_one_line_with_the_documented_fields() {
        assert_eq!(
            line_text(&prompt_result(17, Ok("ho\n")), &line_style()),
            concat!(
                r#"{"id":"17","index":17,"prompt":"say \"hi\"\n","response":"ho\n","model":"m","success":true,"error":null,"#,
                r#""finish_reason":"stop","usage":{"prompt_tokens":2,"completion_tokens":3,"estimated":true},"params":{},"#,
                r#""served":{"endpoint":"http://e","api":"completions","host":"n1","rank":3,"latency_s":1.844,"attempts":1,"row":"0000000000000ad4"}}"#,
                "\n"
            )
        );
    }

    #[test]
    fn a_failure_has_a_null_response_and_its_kind() {
        let text = line_text(
            &prompt_result(1, Err(FailureKind::TooLong)),
            &AnswerLineStyle { echo_prompt: false, ..line_style() },
        );
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(value["response"], serde_json::Value::Null);
        assert_eq!(value["success"], false);
        assert_eq!(value["error"]["kind"], "too_long");
        assert_eq!(value["error"]["status"], 400);
        assert!(value.get("prompt").is_none());
    }

    #[test]
    fn an_invalid_answer_keeps_its_raw_text_beside_the_reason() {
        let mut result = prompt_result(2, Err(FailureKind::Invalid));
        let Outcome::Answered(raw) = prompt_result(2, Ok("{\"n\": ")).outcome else {
            unreachable!()
        };
        result.invalid = Some(Box::new(InvalidAnswers {
            count: 3,
            completion_tokens: 9,
            first_reason: "it is not JSON".into(),
            last: Some(raw),
        }));
        let value: serde_json::Value =
            serde_json::from_str(&line_text(&result, &line_style())).expect("JSON");
        assert_eq!(value["success"], false);
        assert_eq!(value["response"], serde_json::Value::Null);
        assert_eq!(value["raw_response"], "{\"n\": ");
        assert_eq!(value["error"]["kind"], "invalid");
        assert_eq!(value["finish_reason"], "stop");
        assert_eq!(value["usage"]["completion_tokens"], 3);
        assert_eq!(
            value["served"]["invalid"],
            serde_json::json!({"answers": 3, "completion_tokens": 9, "reason": "it is not JSON"})
        );
    }

    #[test]
    fn all_sequences_are_written_and_conversations_are_repeated_verbatim() {
        let mut several = prompt_result(0, Ok("a"));
        let Outcome::Answered(answer) = &mut several.outcome else { unreachable!() };
        answer.choices.push(AnswerChoice { text: "b".into(), ..AnswerChoice::default() });
        several.prompt.input = PromptInput::Messages(r#"[{"role":"user","content":"x"}]"#.into());
        several.prompt.row = Some(r#"{"k":1}"#.into());
        let value: serde_json::Value =
            serde_json::from_str(&line_text(&several, &line_style())).expect("JSON");
        assert_eq!(value["response"], "a");
        assert_eq!(value["responses"], serde_json::json!(["a", "b"]));
        assert_eq!(value["messages"][0]["content"], "x");
        assert_eq!(value["row"]["k"], 1);
        assert_eq!(value["served"]["api"], "chat");
    }

    fn reply_fields(fields: &[(&str, &str)]) -> ReplyFields {
        let mut all = ReplyFields::default();
        for (name, json) in fields {
            all.push(name, serde_json::from_str(json).expect("JSON"));
        }
        all
    }

    #[test]
    fn fields_of_the_server_stand_at_the_top_level_under_names_of_their_own() {
        let mut whole = prompt_result(0, Ok("a"));
        let Outcome::Answered(answer) = &mut whole.outcome else { unreachable!() };
        answer.choices[0].fields = reply_fields(&[
            ("tool_calls", r#"[{"id":"c"}]"#),
            ("logprobs", "1.50"),
            ("id", "7"),
            ("reply_id", "8"),
            ("row", "9"),
        ]);
        answer.fields = reply_fields(&[("logprobs", "2"), ("kv", "{}")]);
        answer.usage_fields = reply_fields(&[("cost", "0.5"), ("estimated", "3")]);
        answer.usage = answer.usage.map(|usage| TokenUsage { cached_tokens: Some(1), ..usage });
        answer.model = Some("other".into());
        answer.body = Some(RawValue::from_string(r#"{"x":[1]}"#.into()).expect("JSON"));
        let text = line_text(&whole, &line_style());
        assert!(
            text.contains(concat!(
                r#""model":"other","success":true,"error":null,"finish_reason":"stop","tool_calls":[{"id":"c"}],"#,
                r#""logprobs":1.50,"reply_id":7,"reply_reply_id":8,"reply_row":9,"reply_logprobs":2,"kv":{},"#,
                r#""usage":{"prompt_tokens":2,"completion_tokens":3,"estimated":true,"cached_tokens":1,"cost":0.5,"#,
                r#""reply_estimated":3},"params":{}"#
            )),
            "{text}"
        );
        assert!(text.contains(r#","body":{"x":[1]}"#), "{text}");
    }

    #[test]
    fn several_sequences_are_written_whole() {
        let mut several = prompt_result(0, Ok("a"));
        several.prompt.row = Some("{}".into());
        let Outcome::Answered(answer) = &mut several.outcome else { unreachable!() };
        answer.choices[0].fields = reply_fields(&[("stop_reason", "7"), ("response", "1")]);
        answer.choices.push(AnswerChoice {
            text: "b".into(),
            reasoning: Some("hm".into()),
            finish_reason: Some("length".into()),
            ..AnswerChoice::default()
        });
        answer.fields = reply_fields(&[("prompt_logprobs", "[null]")]);
        let value: serde_json::Value =
            serde_json::from_str(&line_text(&several, &line_style())).expect("JSON");
        assert_eq!(
            value["choices"],
            serde_json::json!([
                {"response": "a", "finish_reason": "stop", "stop_reason": 7, "reply_response": 1},
                {"response": "b", "reasoning": "hm", "finish_reason": "length"},
            ])
        );
        assert_eq!((&value["response"], &value["finish_reason"]), (&"a".into(), &"stop".into()));
        assert_eq!(value["prompt_logprobs"], serde_json::json!([null]));
        assert!(value.get("stop_reason").is_none());
    }

    #[test]
    fn every_name_of_the_line_is_reserved() {
        let mut full = prompt_result(0, Ok("a"));
        full.prompt.row = Some("{}".into());
        let Outcome::Answered(answer) = &mut full.outcome else { unreachable!() };
        answer.choices.push(AnswerChoice { reasoning: Some("r".into()), ..Default::default() });
        answer.choices[0].reasoning = Some("r".into());
        answer.body = Some(RawValue::NULL.to_owned());
        let names_of = |result: &PromptResult| {
            let line = line_text(result, &line_style());
            serde_json::from_str::<BTreeMap<String, IgnoredAny>>(&line).expect("an object")
        };
        let mut names = names_of(&full);
        full.prompt.input = PromptInput::Messages("[]".into());
        names.append(&mut names_of(&full));
        let mut invalid = prompt_result(0, Err(FailureKind::Invalid));
        let Outcome::Answered(last) = full.outcome else { unreachable!() };
        let last = Some(last);
        invalid.invalid = Some(Box::new(InvalidAnswers { last, ..InvalidAnswers::default() }));
        names.append(&mut names_of(&invalid));
        let names: Vec<&str> = names.keys().map(String::as_str).collect();
        assert_eq!(names, LINE_NAMES);
    }
}
