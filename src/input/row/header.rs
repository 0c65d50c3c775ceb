//! Table headers: the first line of a CSV or TSV file, with the column names.
//!
//! Owns the requirements on a header. Rows are parsed in `row/mod.rs`.

use super::suggest::describe_missing_prompt;
use crate::input::{
    InputFormat,
    records::{InputRecord, split_fields},
};

/// Parses the column names of a table.
pub(crate) fn parse_header(
    record: &InputRecord<'_>,
    format: InputFormat,
    template: bool,
) -> Result<Vec<String>, String> {
    let text = std::str::from_utf8(record.bytes).map_err(|_| "the header is not UTF-8")?;
    if !record.quotes_closed {
        return Err("the header has a quote that is never closed".into());
    }
    let columns: Vec<String> =
        split_fields(text, format).iter().map(|name| name.trim().to_owned()).collect();
    let repeated = columns.iter().enumerate().find(|(at, name)| columns[..*at].contains(name));
    if let Some((_, name)) = repeated {
        return Err(format!("the header has two columns named `{name}`"));
    }
    if !template && !columns.iter().any(|name| name == "prompt") {
        return Err(describe_missing_prompt("`prompt`", &columns));
    }
    Ok(columns)
}
