//! The JSON line of an answer: the contract with every tool that reads answers.
//!
//! Owns the field names and their order. Other output formats (CSV, the batch format) are written in `output/` from
//! these lines.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::domain::{
    Outcome, PromptFailure, PromptInput, PromptResult, Route, RowHash, TokenUsage,
};

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
    prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<&'a RawValue>,
    response: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    responses: Option<Vec<&'a str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning: Option<&'a str>,
    model: &'a str,
    success: bool,
    error: Option<&'a PromptFailure>,
    finish_reason: Option<&'a str>,
    usage: Option<TokenUsage>,
    params: &'a RawValue,
    served: AnswerServed<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct AnswerServed<'a> {
    endpoint: Option<&'a str>,
    api: &'a str,
    host: &'a str,
    rank: usize,
    latency_s: f64,
    attempts: u32,
    /// Hash of the row, by which the answer finds its row after the input has changed.
    #[serde(skip_serializing_if = "RowHash::is_unknown")]
    row: RowHash,
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
        PromptInput::Text(text) => (Some(text.as_str()), None),
        PromptInput::Messages(messages) => (None, Some(raw_json(messages)?)),
    };
    let (choices, error, usage) = match &result.outcome {
        Outcome::Answered(answer) => (answer.choices.as_slice(), None, answer.usage),
        Outcome::Failed(failure) => (&[][..], Some(failure), None),
    };
    let api = match (&prompt.input, prompt.route.unwrap_or(style.text_route)) {
        (PromptInput::Messages(_), _) | (_, Route::Chat) => "chat",
        (_, Route::Completions) => "completions",
    };
    let first = choices.first();
    let params = prompt.params.to_json();
    let line = AnswerLine {
        id: raw_json(prompt.id.as_json())?,
        index: prompt.index,
        prompt: text.filter(|_| style.echo_prompt),
        messages: messages.filter(|_| style.echo_prompt),
        response: first.map(|choice| choice.text.as_str()),
        responses: (choices.len() > 1)
            .then(|| choices.iter().map(|choice| choice.text.as_str()).collect()),
        reasoning: first.and_then(|choice| choice.reasoning.as_deref()),
        model: &style.model,
        success: error.is_none(),
        error,
        finish_reason: first.and_then(|choice| choice.finish_reason.as_deref()),
        usage,
        params: raw_json(&params)?,
        served: AnswerServed {
            endpoint: result.endpoint.as_deref(),
            api,
            host: &style.host,
            rank: style.rank,
            latency_s: (result.latency * 1000.0).round() / 1000.0,
            attempts: result.attempts,
            row: prompt.row_hash,
        },
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
    use super::*;
    use crate::domain::{AnswerChoice, FailureKind, Prompt, PromptAnswer, PromptId, RequestParams};

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
                    reasoning: None,
                    finish_reason: Some("stop".into()),
                }],
                usage: Some(TokenUsage { prompt_tokens: 2, completion_tokens: 3, estimated: true }),
            }),
            Err(kind) => {
                Outcome::Failed(PromptFailure { kind, message: "no".into(), status: Some(400) })
            }
        };
        let prompt = Prompt {
            index,
            id: PromptId::from_index(index),
            input: PromptInput::Text("say \"hi\"\n".into()),
            params: RequestParams::default(),
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
}
