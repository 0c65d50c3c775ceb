//! Formats of the gathered file: JSON lines, OpenAI batch, CSV and Parquet, each converted from the answers' lines. Pure.
//!
//! The columns of Parquet are in [`parquet`](crate::parquet).

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::parquet::{BUILT_IN, NOT_BUILT_IN};

/// Format of the gathered file (`--output-format`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AnswerFormat {
    /// JSON lines, as in the shard files.
    #[default]
    Jsonl,
    /// JSON lines in the form of OpenAI's batch API.
    OpenaiBatch,
    /// CSV with a header line.
    Csv,
    /// Parquet, compressed with zstd.
    Parquet,
}

const CSV_COLUMNS: [&str; 10] = [
    "id",
    "index",
    "prompt",
    "response",
    "success",
    "error",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "model",
];

impl std::fmt::Display for AnswerFormat {
    /// Writes the name that `--output-format` takes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Jsonl => "jsonl",
            Self::OpenaiBatch => "openai-batch",
            Self::Csv => "csv",
            Self::Parquet => "parquet",
        })
    }
}

impl AnswerFormat {
    /// Infers the format from the file's ending, else returns this one. `.jsonl` does not override the batch format, whose
    /// files have the same ending.
    #[must_use]
    pub(crate) fn infer_from_path(self, file: &Path) -> Self {
        let ending = file.extension().and_then(|it| it.to_str()).map(str::to_ascii_lowercase);
        match ending.as_deref() {
            Some("csv") => Self::Csv,
            Some("parquet") => Self::Parquet,
            Some("jsonl") if self != Self::OpenaiBatch => Self::Jsonl,
            _ => self,
        }
    }

    /// Returns why this build cannot write the format, `None` if it can.
    #[must_use]
    pub(crate) fn unsupported_reason(self) -> Option<&'static str> {
        (self == Self::Parquet && !BUILT_IN).then_some(NOT_BUILT_IN)
    }

    /// Returns the bytes before the first answer.
    #[must_use]
    pub(crate) fn file_header(self) -> Vec<u8> {
        match self {
            Self::Jsonl | Self::OpenaiBatch | Self::Parquet => Vec::new(),
            Self::Csv => encode_csv_record(CSV_COLUMNS.map(str::to_owned)),
        }
    }

    /// Converts an answer's line to this format; `None` if the line stays unchanged.
    #[must_use]
    pub(crate) fn convert_line(self, line: &[u8]) -> Option<Vec<u8>> {
        let answer = || serde_json::from_slice::<Value>(line).unwrap_or_default();
        match self {
            Self::Jsonl | Self::Parquet => None,
            Self::Csv => Some(csv_row(&answer())),
            Self::OpenaiBatch => {
                let mut bytes =
                    serde_json::to_vec(&openai_batch_line(&answer())).unwrap_or_default();
                bytes.push(b'\n');
                Some(bytes)
            }
        }
    }
}

fn csv_row(answer: &Value) -> Vec<u8> {
    let text = |value: &Value| match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let prompt = if answer["prompt"].is_null() { &answer["messages"] } else { &answer["prompt"] };
    encode_csv_record([
        text(&answer["id"]),
        text(&answer["index"]),
        text(prompt),
        text(&answer["response"]),
        text(&answer["success"]),
        text(&answer["error"]["message"]),
        text(&answer["finish_reason"]),
        text(&answer["usage"]["prompt_tokens"]),
        text(&answer["usage"]["completion_tokens"]),
        text(&answer["model"]),
    ])
}

fn encode_csv_record(fields: [String; CSV_COLUMNS.len()]) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    // Writing to memory cannot fail.
    let _ = writer.write_record(fields);
    writer.into_inner().unwrap_or_default()
}

/// Converts an answer to the form that OpenAI's batch API and `vllm run-batch` write.
fn openai_batch_line(answer: &Value) -> Value {
    let index = &answer["index"];
    let base = |response: Value, error: Value| json!({"id": format!("batch_req_{index}"), "custom_id": answer["id"], "response": response, "error": error});
    if answer["success"] != true {
        let error = &answer["error"];
        // OpenAI's format has a status on every line; failures without an HTTP reply count as a server error.
        let status = if error["status"].is_null() { json!(500) } else { error["status"].clone() };
        let body = json!({"error": {"message": error["message"], "type": error["kind"], "param": null, "code": status}});
        let response =
            json!({"status_code": status, "request_id": format!("req_{index}"), "body": body});
        return base(response, json!({"code": error["kind"], "message": error["message"]}));
    }
    let chat = answer["served"]["api"] == "chat";
    let texts: Vec<&Value> = match answer["responses"].as_array() {
        Some(texts) => texts.iter().collect(),
        None => vec![&answer["response"]],
    };
    let choice = |(number, text): (usize, &&Value)| {
        let mut choice =
            json!({"index": number, "logprobs": null, "finish_reason": answer["finish_reason"]});
        if chat {
            choice["message"] = json!({"role": "assistant", "content": text});
            if number == 0 && !answer["reasoning"].is_null() {
                choice["message"]["reasoning"] = answer["reasoning"].clone();
            }
        } else {
            choice["text"] = (*text).clone();
        }
        choice
    };
    let choices: Vec<Value> = texts.iter().enumerate().map(choice).collect();
    let (prompt, completion) =
        (answer["usage"]["prompt_tokens"].as_u64(), answer["usage"]["completion_tokens"].as_u64());
    let usage = match (prompt, completion) {
        (Some(prompt), Some(completion)) => json!({
            "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion
        }),
        _ => Value::Null,
    };
    let (object, id) =
        if chat { ("chat.completion", "chatcmpl") } else { ("text_completion", "cmpl") };
    let body = json!({
        "id": format!("{id}-{index}"), "object": object, "model": answer["model"], "choices": choices, "usage": usage
    });
    base(
        json!({"status_code": 200, "request_id": format!("req_{index}"), "body": body}),
        Value::Null,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWERED_LINE: &[u8] = br#"{"id":"a,b","index":3,"prompt":"x\ny","response":"ho","model":"m","success":true,"error":null,"finish_reason":"stop","usage":{"prompt_tokens":2,"completion_tokens":3,"estimated":false},"params":{},"served":{"api":"chat"}}"#;
    const FAILED_LINE: &[u8] = br#"{"id":7,"index":4,"prompt":"x","response":null,"model":"m","success":false,"error":{"kind":"too_long","message":"no","status":400},"finish_reason":null,"usage":null,"params":{},"served":{"api":"chat"}}"#;

    #[test]
    fn csv_keeps_commas_and_newlines_of_fields() {
        let mut text = AnswerFormat::Csv.file_header();
        text.extend(AnswerFormat::Csv.convert_line(ANSWERED_LINE).expect("a row"));
        text.extend(AnswerFormat::Csv.convert_line(FAILED_LINE).expect("a row"));
        let mut reader = csv::Reader::from_reader(text.as_slice());
        assert_eq!(reader.headers().expect("a header").len(), CSV_COLUMNS.len());
        let rows: Vec<csv::StringRecord> =
            reader.records().map(|row| row.expect("a row")).collect();
        assert_eq!(&rows[0][0], "a,b");
        assert_eq!(&rows[0][2], "x\ny");
        assert_eq!((&rows[1][3], &rows[1][4], &rows[1][5]), ("", "false", "no"));
    }

    #[test]
    fn batch_lines_have_the_form_of_the_openai_batch_api() {
        let good: Value = serde_json::from_slice(
            &AnswerFormat::OpenaiBatch.convert_line(ANSWERED_LINE).expect("a line"),
        )
        .expect("JSON");
        assert_eq!(good["custom_id"], "a,b");
        assert_eq!(good["response"]["status_code"], 200);
        assert_eq!(good["response"]["body"]["choices"][0]["message"]["content"], "ho");
        assert_eq!(good["response"]["body"]["usage"]["total_tokens"], 5);
        assert_eq!(good["error"], Value::Null);
        let bad: Value = serde_json::from_slice(
            &AnswerFormat::OpenaiBatch.convert_line(FAILED_LINE).expect("a line"),
        )
        .expect("JSON");
        assert_eq!(bad["response"]["status_code"], 400);
        assert_eq!(bad["error"]["code"], "too_long");
    }
}
