//! Table headers: the first record of a CSV or TSV file, which names or counts the columns.
//!
//! Owns the requirements on a header and the names of columns without one. Rows are parsed in `row/mod.rs`.

use std::collections::HashSet;

use super::{
    rules::{InputRules, leads_through},
    suggest::describe_missing_prompt,
};
use crate::input::{
    RowLayout,
    records::{InputRecord, split_fields},
};

/// Largest number of columns of a table. Each row is looked through for each column that is used.
const MAX_COLUMNS: usize = 100_000;

/// Length in characters from which on a column name is more likely a value.
const LONG_NAME: usize = 60;

/// Parses the column names of a table.
pub(crate) fn parse_header(
    record: &InputRecord<'_>,
    layout: RowLayout,
    rules: &InputRules,
) -> Result<Vec<String>, String> {
    let first = if layout.has_header { "the header" } else { "the first row" };
    if let Some(fault) = record.fault {
        return Err(format!("{first} is invalid: {fault}"));
    }
    let text = std::str::from_utf8(record.bytes).map_err(|error| {
        let at = error.valid_up_to() + 1;
        format!("{first} is not UTF-8 at byte {at}{ENCODING_HINT}")
    })?;
    let fields = split_fields(text, layout, 0);
    if fields.len() > MAX_COLUMNS {
        return Err(format!(
            "{first} has {} columns, and at most {MAX_COLUMNS} are read\nhint: choose another delimiter with \
             --csv-delimiter, or keep only the columns that prompts are made of",
            fields.len()
        ));
    }
    if !layout.has_header {
        let columns: Vec<String> = (1..=fields.len()).map(|number| number.to_string()).collect();
        return check_prompt_columns(&columns, rules).map(|()| columns);
    }
    let columns: Vec<String> = fields.iter().map(|name| name.trim().to_owned()).collect();
    let repeated = repeated_name(&columns);
    let no_header = no_header_hint(&columns);
    if let Some(name) = repeated {
        return Err(format!("the header has two columns named `{name}`{no_header}"));
    }
    check_prompt_columns(&columns, rules).map_err(|reason| reason + no_header)?;
    Ok(columns)
}

/// Returns the first name that an earlier column has too.
pub(crate) fn repeated_name(columns: &[String]) -> Option<&String> {
    let mut names = HashSet::with_capacity(columns.len());
    columns.iter().find(|name| !names.insert(name.as_str()))
}

/// Hint for bytes that are not UTF-8.
pub(crate) const ENCODING_HINT: &str =
    "\nhint: if the file has another encoding, name it, as in --encoding windows-1252";

/// Returns a hint on its own line if the first row looks like data.
fn no_header_hint(columns: &[String]) -> &'static str {
    let is_value = |name: &String| {
        name.is_empty() || name.parse::<f64>().is_ok() || name.chars().count() > LONG_NAME
    };
    match columns.iter().any(is_value) {
        true => {
            "\nhint: if the file has no header line, pass --csv-header no; its columns are 1, 2, …"
        }
        false => "",
    }
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
