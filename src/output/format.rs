//! Formats of the gathered file: JSON lines, OpenAI batch, CSV and Parquet, each converted from the answers' lines. Pure.
//!
//! The columns of Parquet are in [`parquet`](crate::parquet), the lines of the batch API in `openai_batch.rs`.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::openai_batch::{RunIdentity, to_batch_line};
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

    /// Converts an answer's line of this run to this format; `None` if the line stays unchanged.
    ///
    /// # Errors
    /// Fails if the line is not an answer.
    pub(crate) fn convert_line(
        self,
        line: &[u8],
        run: &RunIdentity,
    ) -> Result<Option<Vec<u8>>, String> {
        let answer = || serde_json::from_slice::<Value>(line).unwrap_or_default();
        match self {
            Self::Jsonl | Self::Parquet => Ok(None),
            Self::Csv => Ok(Some(csv_row(&answer()))),
            Self::OpenaiBatch => to_batch_line(line, run).map(|line| Some(line.into_bytes())),
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

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWERED_LINE: &[u8] = br#"{"id":"a,b","index":3,"prompt":"x\ny","response":"ho","model":"m","success":true,"error":null,"finish_reason":"stop","usage":{"prompt_tokens":2,"completion_tokens":3,"estimated":false},"params":{},"served":{"api":"chat"}}"#;
    const FAILED_LINE: &[u8] = br#"{"id":7,"index":4,"prompt":"x","response":null,"model":"m","success":false,"error":{"kind":"too_long","message":"no","status":400},"finish_reason":null,"usage":null,"params":{},"served":{"api":"chat"}}"#;

    fn csv_line(line: &[u8]) -> Vec<u8> {
        let line = AnswerFormat::Csv.convert_line(line, &RunIdentity::default());
        line.expect("an answer").expect("a row")
    }

    #[test]
    fn csv_keeps_commas_and_newlines_of_fields() {
        let mut text = AnswerFormat::Csv.file_header();
        text.extend(csv_line(ANSWERED_LINE));
        text.extend(csv_line(FAILED_LINE));
        let mut reader = csv::Reader::from_reader(text.as_slice());
        assert_eq!(reader.headers().expect("a header").len(), CSV_COLUMNS.len());
        let rows: Vec<csv::StringRecord> =
            reader.records().map(|row| row.expect("a row")).collect();
        assert_eq!(&rows[0][0], "a,b");
        assert_eq!(&rows[0][2], "x\ny");
        assert_eq!((&rows[1][3], &rows[1][4], &rows[1][5]), ("", "false", "no"));
    }
}
