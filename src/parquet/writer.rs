//! The Parquet writer: answers as a table with the columns of an answer, named and nested as in its line of JSON.
//!
//! Owns the schema. Values without a fixed shape (`params`, `messages`) are columns of JSON text, and an id is its text.
//! The columns that depend on the answers are found in [`ColumnSurvey`](crate::domain::ColumnSurvey). Memory is one row
//! group under construction, whatever the number of answers.

use std::{
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
use serde::{
    Serialize, Serializer,
    ser::{Error as _, SerializeMap as _},
};

use crate::domain::{
    ColumnType, FoundColumns, LineSection, ParsedAnswer, plain_text, raw_json::list_elements,
};

/// Rows per batch that is passed to the Parquet writer; a batch also ends at [`BATCH_BYTES`].
const BATCH_ROWS: usize = 1024;
const BATCH_BYTES: usize = 4 << 20;
/// Approximate size of a row group in bytes: the memory until it is written, and the unit in which readers read.
const ROW_GROUP_BYTES: usize = 32 << 20;

/// Writer of a table of answers.
pub(crate) struct ParquetWriter<W: Write + Send> {
    columns: Vec<TableColumn>,
    decoder: Decoder,
    bytes: usize,
    writer: ArrowWriter<W>,
}

impl<W: Write + Send> ParquetWriter<W> {
    /// Starts a table.
    ///
    /// # Errors
    /// An error of the output stream.
    pub(crate) fn try_new(to: W, found: &FoundColumns) -> io::Result<Self> {
        let columns = table_columns(found);
        let fields: Vec<Field> = columns.iter().map(|column| column.field.clone()).collect();
        let schema = Arc::new(Schema::new(fields));
        let decoder = ReaderBuilder::new(schema.clone()).build_decoder().map_err(to_io_error)?;
        let writer =
            ArrowWriter::try_new(to, schema, Some(writer_properties()?)).map_err(to_io_error)?;
        Ok(Self { columns, decoder, bytes: 0, writer })
    }

    /// Writes the next answer, given as its line of JSON.
    ///
    /// # Errors
    /// A line that is not an answer, or an error of the output stream.
    pub(crate) fn write_answer(&mut self, line: &[u8]) -> io::Result<()> {
        let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
        let answer = ParsedAnswer::parse_line(line).map_err(invalid)?;
        if let Some(missing) = answer.missing_member() {
            return Err(invalid(format!("an answer without `{missing}`")));
        }
        // A value that does not fit its column is an error of the line and not of the file.
        let row = ParquetRow { columns: &self.columns, answer: &answer };
        self.decoder.serialize(&[row]).map_err(|error| invalid(error.to_string()))?;
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

/// A column, and the member of an answer's line that it shows.
struct TableColumn {
    field: Field,
    section: LineSection,
    member: String,
    position: usize,
    /// Columns of a structure.
    children: Vec<Self>,
}

impl TableColumn {
    fn new(section: LineSection, field: Field) -> Self {
        let member = field.name().clone();
        Self { field, section, member, position: 0, children: Vec::new() }
    }

    /// Creates the column of a section: a structure of these fields and of those found.
    fn with_children(
        name: &str,
        section: LineSection,
        fields: Vec<Field>,
        found: &FoundColumns,
    ) -> Self {
        let mut children: Vec<Self> =
            fields.into_iter().map(|field| Self::new(section, field)).collect();
        for column in found.columns.iter().filter(|column| column.section == section) {
            let field = Field::new(&column.member, data_type(column.column_type), true);
            children.push(Self { position: column.position, ..Self::new(section, field) });
        }
        let fields: Vec<Field> = children.iter().map(|child| child.field.clone()).collect();
        let field = Field::new(name, DataType::Struct(Fields::from(fields)), true);
        Self { children, ..Self::new(LineSection::Answer, field) }
    }
}

fn data_type(column_type: ColumnType) -> DataType {
    match column_type {
        ColumnType::Boolean => DataType::Boolean,
        ColumnType::Integer => DataType::Int64,
        ColumnType::Float => DataType::Float64,
        ColumnType::Text => DataType::Utf8,
    }
}

/// Returns all columns of a table in their order.
fn table_columns(found: &FoundColumns) -> Vec<TableColumn> {
    use DataType::{Boolean, Float64, Int32, Int64, Utf8};
    let optional = |name: &str, kind: DataType| Field::new(name, kind, true);
    let plain = |name: &str, kind: DataType, is_optional: bool| {
        TableColumn::new(LineSection::Answer, Field::new(name, kind, is_optional))
    };
    let error = vec![optional("kind", Utf8), optional("message", Utf8), optional("status", Int32)];
    let usage = vec![
        optional("prompt_tokens", Int64),
        optional("completion_tokens", Int64),
        optional("estimated", Boolean),
    ];
    let served = vec![
        optional("endpoint", Utf8),
        optional("api", Utf8),
        optional("host", Utf8),
        optional("rank", Int32),
        optional("latency_s", Float64),
        optional("attempts", Int64),
        optional("row", Utf8),
    ];
    let mut columns = vec![
        plain("id", Utf8, false),
        plain("index", Int64, false),
        plain("prompt", Utf8, true),
        plain("messages", Utf8, true),
        plain("response", Utf8, true),
        plain("responses", DataType::new_list(Utf8, true), true),
        plain("reasoning", Utf8, true),
        plain("model", Utf8, true),
        plain("success", Boolean, false),
        TableColumn::with_children("error", LineSection::Error, error, found),
        plain("finish_reason", Utf8, true),
        TableColumn::with_children("usage", LineSection::Usage, usage, found),
        plain("params", Utf8, true),
        TableColumn::with_children("served", LineSection::Served, served, found),
    ];
    // Kept rows with too many different fields; otherwise each field has its column, and this one is null.
    let mut row = plain("row", Utf8, true);
    if !found.keeps_rows_whole {
        row.member = String::new();
    }
    columns.push(row);
    let sections = [LineSection::Answer, LineSection::Row];
    for column in found.columns.iter().filter(|column| sections.contains(&column.section)) {
        columns.push(TableColumn {
            member: column.member.clone(),
            position: column.position,
            ..TableColumn::new(
                column.section,
                optional(&column.name, data_type(column.column_type)),
            )
        });
    }
    columns
}

/// An answer as it is serialised to columns.
struct ParquetRow<'r> {
    columns: &'r [TableColumn],
    answer: &'r ParsedAnswer<'r>,
}

impl Serialize for ParquetRow<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut row = to.serialize_map(Some(self.columns.len()))?;
        for column in self.columns {
            let value = ParquetValue { column, answer: self.answer };
            row.serialize_entry(column.field.name(), &value)?;
        }
        row.end()
    }
}

struct ParquetValue<'r> {
    column: &'r TableColumn,
    answer: &'r ParsedAnswer<'r>,
}

impl Serialize for ParquetValue<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let TableColumn { field, section, member, position, children } = self.column;
        let Some(json) = self.answer.value(*section, member, *position) else {
            return to.serialize_none();
        };
        let not_of_type = || S::Error::custom(format!("`{member}` is {json}"));
        match field.data_type() {
            DataType::Boolean => to.serialize_bool(json.parse().map_err(|_| not_of_type())?),
            DataType::Int32 | DataType::Int64 => {
                to.serialize_i64(json.parse().map_err(|_| not_of_type())?)
            }
            DataType::Float64 => to.serialize_f64(json.parse().map_err(|_| not_of_type())?),
            DataType::List(_) => {
                let elements = list_elements(json).map_err(S::Error::custom)?;
                to.collect_seq(elements.into_iter().map(plain_text))
            }
            DataType::Struct(_) => {
                ParquetRow { columns: children, answer: self.answer }.serialize(to)
            }
            _ => to.serialize_str(&plain_text(json)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use serde_json::{Value, json};

    use super::*;
    use crate::{domain::ColumnSurvey, parquet::ParquetReader};

    const GOOD: &str = r#"{"id":"a","index":0,"prompt":"x\ny","response":"hé","responses":["hé","ho"],"reasoning":"hm","model":"m","success":true,"error":null,"finish_reason":"stop","usage":{"prompt_tokens":2,"completion_tokens":3,"estimated":false},"params":{"seed":1},"served":{"endpoint":"http://e","api":"chat","host":"n","rank":3,"latency_s":1.844,"attempts":1,"row":"0ad4"},"row":{"k":[1,null]}}"#;
    const BAD: &str = r#"{"id":7,"index":1,"messages":[{"content":"x","role":"user"}],"response":null,"model":"m","success":false,"error":{"kind":"too_long","message":"no","status":400},"finish_reason":null,"usage":null,"params":{},"served":{"endpoint":null,"api":"chat","host":"n","rank":0,"latency_s":0.0,"attempts":0}}"#;

    fn write_and_read(lines: &[&str]) -> Vec<Value> {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut survey = ColumnSurvey::default();
        (0..).zip(lines).for_each(|(index, line)| survey.add_line(index, line.as_bytes()));
        let columns = survey.into_columns();
        let mut answers =
            ParquetWriter::try_new(file.reopen().expect("open"), &columns).expect("begun");
        lines.iter().for_each(|line| answers.write_answer(line.as_bytes()).expect("an answer"));
        answers.finish().expect("finished");
        let mut text = String::new();
        let mut rows = ParquetReader::open(file.path(), |_| true, &[]).expect("rows");
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
        for name in ["params", "messages"] {
            if !answer[name].is_null() {
                answer[name] = json!(answer[name].to_string());
            }
        }
        // Fields of a kept row are columns.
        if let Some(Value::Object(fields)) = answer.as_object_mut().and_then(|it| it.remove("row"))
        {
            for (name, value) in fields {
                answer[name] = if value.is_array() { json!(value.to_string()) } else { value };
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
    fn columns_that_depend_on_the_answers_have_the_type_of_their_values() {
        let line = |index: u64, more: &str, usage: &str, row: &str| {
            format!(
                r#"{{"id":"{index}","index":{index},"response":"r","success":true,"usage":{{"prompt_tokens":1{usage}}}{more},"row":{row}}}"#
            )
        };
        let lines = [
            line(
                0,
                r#","tool_calls":[{"id":"c"}],"refusal":null"#,
                "",
                r#"{"n":1,"x":1,"b":true,"id":9,"m":"a","l":[1]}"#,
            ),
            line(
                1,
                r#","stop_reason":7"#,
                r#","cached_tokens":5"#,
                r#"{"n":-2,"x":0.5,"m":2,"model":"\ud83d"}"#,
            ),
        ];
        let rows = write_and_read(&lines.each_ref().map(String::as_str));
        let one = json!({"id": "0", "index": 0, "response": "r", "success": true, "usage": {"prompt_tokens": 1},
            "tool_calls": "[{\"id\":\"c\"}]", "n": 1, "x": 1.0, "b": true, "row_id": 9, "m": "a", "l": "[1]"});
        let two = json!({"id": "1", "index": 1, "response": "r", "success": true,
            "usage": {"prompt_tokens": 1, "cached_tokens": 5}, "stop_reason": "7", "n": -2, "x": 0.5, "m": "2",
            "row_model": "\"\\ud83d\""});
        assert_eq!(rows, [one, two]);
    }

    #[test]
    fn rows_with_too_many_fields_are_one_column_of_json() {
        let fields: Vec<String> = (0..1001).map(|at| format!("\"f{at}\":1")).collect();
        let row = format!("{{{}}}", fields.join(","));
        let line = format!(r#"{{"id":"0","index":0,"success":true,"row":{row}}}"#);
        assert_eq!(
            write_and_read(&[&line]),
            [json!({"id": "0", "index": 0, "success": true, "row": row})]
        );
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
        let mut answers =
            ParquetWriter::try_new(Vec::new(), &FoundColumns::default()).expect("begun");
        assert!(answers.write_answer(b"{\"id\":1}").is_err());
        assert!(answers.write_answer(b"no").is_err());
    }
}
