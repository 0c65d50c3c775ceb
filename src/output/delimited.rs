//! Tables of text: CSV and TSV, with a header and a flat column for each member of an answer.
//!
//! Owns the columns that every such table has. The columns that depend on the answers are found in
//! [`ColumnSurvey`](crate::domain::ColumnSurvey). Both dialects quote fields with separators, quotes or line ends, which
//! so come back as they were.

use std::io::{self, Write};

use crate::domain::{FoundColumns, LineSection, ParsedAnswer, plain_text};

/// Bytes that are passed on at a time.
const BUFFER_BYTES: usize = 64 << 10;

/// Columns of every table: the name, and the member with its section.
const FIXED_COLUMNS: [(&str, LineSection, &str); 23] = {
    use LineSection::{Answer, Error, Served, Usage};
    [
        ("id", Answer, "id"),
        ("index", Answer, "index"),
        (PROMPT, Answer, PROMPT),
        ("response", Answer, "response"),
        ("success", Answer, "success"),
        ("error", Error, "message"),
        ("finish_reason", Answer, "finish_reason"),
        ("prompt_tokens", Usage, "prompt_tokens"),
        ("completion_tokens", Usage, "completion_tokens"),
        ("model", Answer, "model"),
        ("responses", Answer, "responses"),
        ("reasoning", Answer, "reasoning"),
        ("error_kind", Error, "kind"),
        ("error_status", Error, "status"),
        ("usage_estimated", Usage, "estimated"),
        ("params", Answer, "params"),
        ("served_endpoint", Served, "endpoint"),
        ("served_api", Served, "api"),
        ("served_host", Served, "host"),
        ("served_rank", Served, "rank"),
        ("served_latency_s", Served, "latency_s"),
        ("served_attempts", Served, "attempts"),
        ("served_row", Served, "row"),
    ]
};
/// Column of the prompt: its text, or the messages of a conversation as JSON.
const PROMPT: &str = "prompt";

/// Writer of a table.
pub(super) struct DelimitedWriter<W: Write> {
    writer: csv::Writer<W>,
    columns: Vec<FlatColumn>,
}

struct FlatColumn {
    section: LineSection,
    member: String,
    position: usize,
}

impl<W: Write> DelimitedWriter<W> {
    /// Begins a table with its header.
    ///
    /// # Errors
    /// An error of the output stream.
    pub(super) fn try_new(to: W, delimiter: u8, found: &FoundColumns) -> io::Result<Self> {
        let mut builder = csv::WriterBuilder::new();
        let mut writer = builder.delimiter(delimiter).buffer_capacity(BUFFER_BYTES).from_writer(to);
        let whole_row = ("row", LineSection::Answer, "row");
        let fixed = FIXED_COLUMNS.iter().chain(found.keeps_rows_whole.then_some(&whole_row));
        let (mut names, mut columns) = (Vec::new(), Vec::new());
        for &(name, section, member) in fixed {
            names.push(name);
            columns.push(FlatColumn { section, member: member.to_owned(), position: 0 });
        }
        for column in &found.columns {
            names.push(&column.name);
            let (section, member, position) =
                (column.section, column.member.clone(), column.position);
            columns.push(FlatColumn { section, member, position });
        }
        writer.write_record(names)?;
        Ok(Self { writer, columns })
    }

    /// Writes the next answer, given as its line of JSON.
    ///
    /// # Errors
    /// A line that is not an answer, or an error of the output stream.
    pub(super) fn write_answer(&mut self, line: &[u8]) -> io::Result<()> {
        let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidData, error);
        let answer = ParsedAnswer::parse_line(line).map_err(invalid)?;
        if let Some(missing) = answer.missing_member() {
            return Err(invalid(format!("an answer without `{missing}`")));
        }
        for FlatColumn { section, member, position } in &self.columns {
            let value = answer.value(*section, member, *position);
            let value = match value {
                None if member == PROMPT && *section == LineSection::Answer => {
                    answer.value(*section, "messages", *position)
                }
                value => value,
            };
            let text = value.map(plain_text).unwrap_or_default();
            self.writer.write_field(text.as_bytes())?;
        }
        Ok(self.writer.write_record(None::<&[u8]>)?)
    }

    /// Finishes the table and returns the output stream.
    ///
    /// # Errors
    /// An error of the output stream.
    pub(super) fn finish(self) -> io::Result<W> {
        self.writer.into_inner().map_err(csv::IntoInnerError::into_error)
    }
}

impl<W: Write> std::fmt::Debug for DelimitedWriter<W> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("DelimitedWriter").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ColumnSurvey;

    const ANSWERED_LINE: &str = r#"{"id":"a,b","index":3,"prompt":"x\ny","response":"ho","reasoning":"hm","model":"m","success":true,"error":null,"finish_reason":"stop","usage":{"prompt_tokens":2,"completion_tokens":3,"estimated":false,"cached_tokens":1},"params":{"n":1},"tool_calls":[{"a":"b"}],"served":{"endpoint":"http://e","api":"chat","host":"n","rank":0,"latency_s":0.25,"attempts":1,"row":"0ad4"},"row":{"label":"a \"b\"\t\r\n\u0000c","score":1.50,"model":null,"tags":[1, "x"]}}"#;
    const FAILED_LINE: &str = r#"{"id":7,"index":4,"messages":[{"role":"user","content":"x"}],"response":null,"model":"m","success":false,"error":{"kind":"too_long","message":"no","status":400},"finish_reason":null,"usage":null,"params":{},"served":{"endpoint":null,"api":"chat","host":"n","rank":0,"latency_s":0.0,"attempts":0},"row":{"label":"half \ud83d","model":true}}"#;

    fn read_back(delimiter: u8, lines: &[&str]) -> Vec<Vec<(String, String)>> {
        let mut survey = ColumnSurvey::default();
        (0..).zip(lines).for_each(|(index, line)| survey.add_line(index, line.as_bytes()));
        let mut table =
            DelimitedWriter::try_new(Vec::new(), delimiter, &survey.into_columns()).expect("begun");
        lines.iter().for_each(|line| table.write_answer(line.as_bytes()).expect("a row"));
        let bytes = table.finish().expect("finished");
        let mut reader =
            csv::ReaderBuilder::new().delimiter(delimiter).from_reader(bytes.as_slice());
        let header = reader.headers().expect("a header").clone();
        let row = |row: csv::StringRecord| {
            header.iter().zip(&row).map(|(name, it)| (name.to_owned(), it.to_owned())).collect()
        };
        reader.records().map(|it| row(it.expect("a row"))).collect()
    }

    #[test]
    fn fields_come_back_as_they_were() {
        for delimiter in [b',', b'\t'] {
            let rows = read_back(delimiter, &[ANSWERED_LINE, FAILED_LINE]);
            let value = |row: usize, name: &str| {
                let found = rows[row].iter().find(|(known, _)| known == name);
                found.unwrap_or_else(|| panic!("no column {name}")).1.clone()
            };
            for (name, answered, failed) in [
                ("id", "a,b", "7"),
                ("prompt", "x\ny", r#"[{"role":"user","content":"x"}]"#),
                ("response", "ho", ""),
                ("success", "true", "false"),
                ("error", "", "no"),
                ("error_kind", "", "too_long"),
                ("error_status", "", "400"),
                ("finish_reason", "stop", ""),
                ("completion_tokens", "3", ""),
                ("usage_cached_tokens", "1", ""),
                ("reasoning", "hm", ""),
                ("params", r#"{"n":1}"#, "{}"),
                ("served_latency_s", "0.25", "0.0"),
                ("tool_calls", r#"[{"a":"b"}]"#, ""),
                ("label", "a \"b\"\t\r\n\0c", r#""half \ud83d""#),
                ("score", "1.50", ""),
                ("row_model", "", "true"),
                ("tags", r#"[1, "x"]"#, ""),
            ] {
                assert_eq!((&*value(0, name), &*value(1, name)), (answered, failed), "{name}");
            }
        }
    }

    #[test]
    fn new_columns_come_after_those_of_old() {
        let rows = read_back(b',', &[ANSWERED_LINE]);
        let names: Vec<&str> = rows[0].iter().map(|(name, _)| name.as_str()).collect();
        let first = [
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
            "responses",
        ];
        assert_eq!(names[..first.len()], first);
        let last = ["tool_calls", "usage_cached_tokens", "label", "score", "row_model", "tags"];
        assert_eq!(names[FIXED_COLUMNS.len()..], last);
    }

    #[test]
    fn a_line_that_is_not_an_answer_is_an_error() {
        let mut table =
            DelimitedWriter::try_new(Vec::new(), b',', &FoundColumns::default()).expect("begun");
        assert!(table.write_answer(b"no").is_err());
    }
}
