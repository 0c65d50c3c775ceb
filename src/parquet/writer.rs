//! The Parquet writer: answers as a table with the columns of an answer, named and nested as in its line of JSON.
//!
//! Owns the schema. Values without a fixed shape (`params`, `messages`, a kept `row`) are columns of JSON text, and an
//! id is its text. Memory is one row group under construction, whatever the number of answers.

use std::{
    borrow::Cow,
    io::{self, Write},
    sync::Arc,
};

use arrow_json::{ReaderBuilder, reader::Decoder};
use arrow_schema::{DataType, Field, Fields, Schema};
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
    schema::types::ColumnPath,
};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

/// Rows per batch that is passed to the Parquet writer; a batch also ends at [`BATCH_BYTES`].
const BATCH_ROWS: usize = 1024;
const BATCH_BYTES: usize = 4 << 20;
/// Approximate size of a row group in bytes: the memory until it is written, and the unit in which readers read.
const ROW_GROUP_BYTES: usize = 32 << 20;

/// Writer of a table of answers.
pub(crate) struct ParquetWriter<W: Write + Send> {
    decoder: Decoder,
    bytes: usize,
    writer: ArrowWriter<W>,
}

impl<W: Write + Send> ParquetWriter<W> {
    /// Starts a table.
    ///
    /// # Errors
    /// An error of the output stream.
    pub(crate) fn try_new(to: W) -> io::Result<Self> {
        let schema = Arc::new(answer_schema());
        let decoder = ReaderBuilder::new(schema.clone()).build_decoder().map_err(to_io_error)?;
        let writer =
            ArrowWriter::try_new(to, schema, Some(writer_properties()?)).map_err(to_io_error)?;
        Ok(Self { decoder, bytes: 0, writer })
    }

    /// Writes the next answer, given as its line of JSON.
    ///
    /// # Errors
    /// A line that is not an answer, or an error of the output stream.
    pub(crate) fn write_answer(&mut self, line: &[u8]) -> io::Result<()> {
        let answer: ParquetAnswer<'_> = serde_json::from_slice(line)?;
        self.decoder.serialize(&[answer]).map_err(to_io_error)?;
        self.bytes += line.len();
        if self.decoder.len() >= BATCH_ROWS || self.bytes >= BATCH_BYTES {
            self.flush_batch()
        } else {
            Ok(())
        }
    }

    fn flush_batch(&mut self) -> io::Result<()> {
        self.bytes = 0;
        let Some(batch) = self.decoder.flush().map_err(to_io_error)? else { return Ok(()) };
        self.writer.write(&batch).map_err(to_io_error)?;
        // By memory and not by encoded size, which may be much smaller.
        if self.writer.memory_size() > ROW_GROUP_BYTES {
            self.writer.flush().map_err(to_io_error)
        } else {
            Ok(())
        }
    }

    /// Finishes the table and returns the output stream.
    ///
    /// # Errors
    /// An error of the output stream.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.flush_batch()?;
        self.writer.into_inner().map_err(to_io_error)
    }
}

impl<W: Write + Send> std::fmt::Debug for ParquetWriter<W> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Answers")
            .field("rows", &self.writer.in_progress_rows())
            .finish_non_exhaustive()
    }
}

fn to_io_error(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

fn writer_properties() -> io::Result<WriterProperties> {
    let level = ZstdLevel::try_new(1).map_err(to_io_error)?;
    let builder = WriterProperties::builder()
        .set_created_by(concat!("aurora-swarm ", env!("CARGO_PKG_VERSION")).to_owned())
        .set_compression(Compression::ZSTD(level))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES));
    // Dictionary encoding brings nothing for columns of almost distinct values.
    let distinct = ["id", "index", "prompt", "messages", "response", "reasoning", "row"];
    let builder = distinct.iter().fold(builder, |builder, name| {
        builder.set_column_dictionary_enabled(ColumnPath::from(*name), false)
    });
    Ok(builder.build())
}

fn answer_schema() -> Schema {
    use DataType::{Boolean, Float64, Int32, Int64, Utf8};
    let required = |name: &str, kind: DataType| Field::new(name, kind, false);
    let optional = |name: &str, kind: DataType| Field::new(name, kind, true);
    let structure = |fields: Vec<Field>| DataType::Struct(Fields::from(fields));
    Schema::new(vec![
        required("id", Utf8),
        required("index", Int64),
        optional("prompt", Utf8),
        optional("messages", Utf8),
        optional("response", Utf8),
        optional("responses", DataType::new_list(Utf8, true)),
        optional("reasoning", Utf8),
        optional("model", Utf8),
        required("success", Boolean),
        optional(
            "error",
            structure(vec![
                optional("kind", Utf8),
                optional("message", Utf8),
                optional("status", Int32),
            ]),
        ),
        optional("finish_reason", Utf8),
        optional(
            "usage",
            structure(vec![
                optional("prompt_tokens", Int64),
                optional("completion_tokens", Int64),
                optional("estimated", Boolean),
            ]),
        ),
        optional("params", Utf8),
        optional(
            "served",
            structure(vec![
                optional("endpoint", Utf8),
                optional("api", Utf8),
                optional("host", Utf8),
                optional("rank", Int32),
                optional("latency_s", Float64),
                optional("attempts", Int64),
                optional("row", Utf8),
            ]),
        ),
        optional("row", Utf8),
    ])
}

/// An answer as it is deserialised from its line and serialised to columns.
#[derive(Deserialize, Serialize)]
struct ParquetAnswer<'a> {
    #[serde(borrow, serialize_with = "serialize_id")]
    id: &'a RawValue,
    index: u64,
    #[serde(borrow, serialize_with = "serialize_prompt")]
    prompt: Option<&'a RawValue>,
    #[serde(borrow, serialize_with = "serialize_json")]
    messages: Option<&'a RawValue>,
    response: Option<Cow<'a, str>>,
    responses: Option<Vec<Cow<'a, str>>>,
    reasoning: Option<Cow<'a, str>>,
    model: Option<Cow<'a, str>>,
    success: bool,
    error: Option<ParquetFailure<'a>>,
    finish_reason: Option<Cow<'a, str>>,
    usage: Option<ParquetUsage>,
    #[serde(borrow, serialize_with = "serialize_json")]
    params: Option<&'a RawValue>,
    served: Option<ParquetServed<'a>>,
    #[serde(borrow, serialize_with = "serialize_json")]
    row: Option<&'a RawValue>,
}

#[derive(Deserialize, Serialize)]
struct ParquetFailure<'a> {
    kind: Option<Cow<'a, str>>,
    message: Option<Cow<'a, str>>,
    status: Option<u16>,
}

#[derive(Deserialize, Serialize)]
struct ParquetUsage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
    estimated: Option<bool>,
}

#[derive(Deserialize, Serialize)]
struct ParquetServed<'a> {
    endpoint: Option<Cow<'a, str>>,
    api: Option<Cow<'a, str>>,
    host: Option<Cow<'a, str>>,
    rank: Option<u32>,
    latency_s: Option<f64>,
    attempts: Option<u32>,
    row: Option<Cow<'a, str>>,
}

/// Serialises an id as its text: ids are compared by it, so that the number 7 and the string "7" are the same.
fn serialize_id<S: Serializer>(id: &&RawValue, to: S) -> Result<S::Ok, S::Error> {
    match serde_json::from_str::<String>(id.get()) {
        Ok(text) => to.serialize_str(&text),
        Err(_) => to.serialize_str(id.get()),
    }
}

/// Serialises a text, or token ids as JSON.
fn serialize_prompt<S: Serializer>(prompt: &Option<&RawValue>, to: S) -> Result<S::Ok, S::Error> {
    match prompt {
        Some(prompt) => serialize_id(prompt, to),
        None => to.serialize_none(),
    }
}

fn serialize_json<S: Serializer>(json: &Option<&RawValue>, to: S) -> Result<S::Ok, S::Error> {
    match json {
        Some(json) => to.serialize_some(json.get()),
        None => to.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use serde_json::{Value, json};

    use super::*;
    use crate::parquet::ParquetReader;

    const GOOD: &str = r#"{"id":"a","index":0,"prompt":"x\ny","response":"hé","responses":["hé","ho"],"reasoning":"hm","model":"m","success":true,"error":null,"finish_reason":"stop","usage":{"prompt_tokens":2,"completion_tokens":3,"estimated":false},"params":{"seed":1},"served":{"endpoint":"http://e","api":"chat","host":"n","rank":3,"latency_s":1.844,"attempts":1,"row":"0ad4"},"row":{"k":[1,null]}}"#;
    const BAD: &str = r#"{"id":7,"index":1,"messages":[{"content":"x","role":"user"}],"response":null,"model":"m","success":false,"error":{"kind":"too_long","message":"no","status":400},"finish_reason":null,"usage":null,"params":{},"served":{"endpoint":null,"api":"chat","host":"n","rank":0,"latency_s":0.0,"attempts":0}}"#;

    fn write_and_read(lines: &[&str]) -> Vec<Value> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut answers = ParquetWriter::try_new(file.reopen().expect("open")).expect("begun");
        lines.iter().for_each(|line| answers.write_answer(line.as_bytes()).expect("an answer"));
        answers.finish().expect("finished");
        let mut text = String::new();
        let mut rows = ParquetReader::open(file.path(), |_| true).expect("rows");
        rows.read_to_string(&mut text).expect("text");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// The row expected for a line: without nulls, with JSON text for values without a fixed shape.
    fn expected_row(line: &str) -> Value {
        let mut answer: Value = serde_json::from_str(line).expect("JSON");
        fn without_nulls(value: &mut Value) {
            if let Value::Object(members) = value {
                members.retain(|_, member| !member.is_null());
                members.values_mut().for_each(without_nulls);
            }
        }
        for name in ["params", "messages", "row"] {
            if !answer[name].is_null() {
                answer[name] = json!(answer[name].to_string());
            }
        }
        without_nulls(&mut answer);
        if answer["id"].is_number() {
            answer["id"] = json!(answer["id"].to_string());
        }
        answer
    }

    #[test]
    fn every_field_of_an_answer_is_in_the_table() {
        assert_eq!(write_and_read(&[GOOD, BAD]), [expected_row(GOOD), expected_row(BAD)]);
        assert!(write_and_read(&[]).is_empty());
    }

    #[test]
    fn long_answers_make_several_row_groups_and_keep_their_order() {
        let long = "0123456789abcdef".repeat(8 << 10);
        let line = |index: u64| {
            let mut answer: Value = serde_json::from_str(GOOD).expect("JSON");
            (answer["index"], answer["response"]) = (index.into(), format!("{long}{index}").into());
            answer.to_string()
        };
        let lines: Vec<String> = (0..600).map(line).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let rows = write_and_read(&lines);
        assert!(rows.iter().zip(&lines).all(|(row, line)| *row == expected_row(line)));
        assert_eq!(rows.len(), lines.len());
    }

    #[test]
    fn a_line_that_is_not_an_answer_is_an_error() {
        let mut answers = ParquetWriter::try_new(Vec::new()).expect("begun");
        assert!(answers.write_answer(b"{\"id\":1}").is_err());
        assert!(answers.write_answer(b"no").is_err());
    }
}
