//! Table headers: the first line of a CSV or TSV file, with the column names.
//!
//! Owns the requirements on a header. Rows are parsed in `row/mod.rs`.

use super::{
    rules::{InputRules, leads_through},
    suggest::describe_missing_prompt,
};
use crate::input::{
    InputFormat,
    records::{InputRecord, split_fields},
};

/// Parses the column names of a table.
pub(crate) fn parse_header(
    record: &InputRecord<'_>,
    format: InputFormat,
    rules: &InputRules,
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
    check_prompt_columns(&columns, rules)?;
    Ok(columns)
}

/// Checks that a table has a column for the prompt, if no template makes it.
pub(crate) fn check_prompt_columns(columns: &[String], rules: &InputRules) -> Result<(), String> {
    let inputs = rules.input_columns();
    let has = |path: &&str| columns.iter().any(|name| name == path || leads_through(path, name));
    if rules.template.is_some() || [inputs.prompt, inputs.messages].iter().flatten().any(has) {
        return Ok(());
    }
    Err(describe_missing_prompt(&inputs.either(), columns))
}
