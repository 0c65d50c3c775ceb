//! Input errors: sentences that name the file, the line and what to do.
//!
//! Owns the wording of everything that stops a job because of its input. The rules for a row, with the reasons why it
//! is invalid, are in `row/`; exit codes are in `cli/exit.rs`.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    format::{KNOWN_EXTENSIONS, RowUnit, STDIN_NAME},
    row::{NOT_JSON, NOT_UTF8},
};
use crate::domain::PromptId;

/// Number of invalid rows that are listed; the rest is counted.
pub(super) const MAX_LISTED: usize = 20;

/// Reason why the input cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The arguments name no input file.
    #[error("no input files found in {}\nhint: input files end in {KNOWN_EXTENSIONS}; text formats may be compressed (.gz, .zst)", .inputs.join(" "))]
    NoFiles {
        /// The argument as the user typed it.
        inputs: Vec<String>,
    },
    /// An argument that is neither an existing path nor a pattern with a match.
    #[error("{input}: no such file or folder, and no file matches the pattern")]
    Missing {
        /// The argument as the user typed it.
        input: String,
    },
    /// An argument that is not a valid glob pattern.
    #[error("{input}: invalid pattern: {what}")]
    InvalidPattern {
        /// The argument as the user typed it.
        input: String,
        /// Description of the problem, as the rest of a sentence.
        what: String,
    },
    /// A file whose extension names no known format.
    #[error("{}: unknown file extension\nhint: input files end in {KNOWN_EXTENSIONS}; text formats may be compressed (.gz, .zst); for others pass --input-format", .path.display())]
    UnknownExtension {
        /// Path of the file, as messages show it.
        path: PathBuf,
    },
    /// A path that cannot be sent to other ranks as text.
    #[error("{}: the path is not UTF-8\nhint: rename the file, or create a link to it", .path.display())]
    PathNotUtf8 {
        /// Path of the file, as messages show it.
        path: PathBuf,
    },
    /// A device, a socket, or a file that the kernel makes while it is read.
    #[error(
        "{}: this is a device or a file of the kernel\nhint: pass a plain file, a pipe, or - for standard input", .path.display()
    )]
    NotAFile {
        /// Path of the file, as messages show it.
        path: PathBuf,
    },
    /// An operation on a file failed with an error of the system.
    #[error("{}: {action}: {source}", .path.display())]
    Io {
        /// Description of the failed action, as in "cannot open".
        action: &'static str,
        /// Path of the file concerned.
        path: PathBuf,
        /// Error that the system reported.
        source: io::Error,
    },
    /// A compressed file that cannot be decoded.
    #[error("{} is damaged or truncated: {source}", .path.display())]
    Damaged {
        /// Path of the file, as messages show it.
        path: PathBuf,
        /// Error that the decoder reported.
        source: io::Error,
    },
    /// A text that is not valid in its encoding.
    #[error("{}: not {encoding} at byte {byte}\nhint: name the encoding of the file, as in --encoding windows-1252", .path.display())]
    NotInEncoding {
        /// Path of the file, as messages show it.
        path: PathBuf,
        /// Name of the encoding.
        encoding: &'static str,
        /// Number of the first byte that is not valid, from 1.
        byte: u64,
    },
    /// A file that cannot be read as text of its format.
    #[error("{}: {what}", .path.display())]
    InvalidText {
        /// Path of the file, as messages show it.
        path: PathBuf,
        /// Description of the problem, as the rest of a sentence.
        what: String,
    },
    /// A JSON document whose rows cannot be told apart.
    #[error("{}: {what}", .path.display())]
    InvalidDocument {
        /// Path of the file, as messages show it.
        path: PathBuf,
        /// Description of the problem, as the rest of a sentence.
        what: String,
    },
    /// A folder with data files of several formats.
    #[error("{}: the folder has data files of several formats: {kinds}\nhint: choose by a pattern, such as '{pattern}'", .path.display())]
    MixedFolder {
        /// Path of the folder, as the user typed it.
        path: PathBuf,
        /// The formats with the numbers of files.
        kinds: String,
        /// Pattern for the files of the most frequent format.
        pattern: String,
    },
    /// A file with Parquet's extension that is not one.
    #[error("{} is not a Parquet file", .path.display())]
    NotParquet {
        /// Path of the file, as messages show it.
        path: PathBuf,
    },
    /// A file that changed after the scan.
    #[error("{} has changed since the scan\nhint: start again when nothing writes to it any more", .path.display())]
    Changed {
        /// Path of the file, as messages show it.
        path: PathBuf,
    },
    /// A table whose header is invalid.
    #[error("{}: {what}", .path.display())]
    InvalidHeader {
        /// Path of the file, as messages show it.
        path: PathBuf,
        /// Description of the problem, as the rest of a sentence.
        what: String,
    },
    /// A prompt template that cannot be parsed.
    #[error("invalid template: {0}")]
    InvalidTemplate(String),
    /// A placeholder of the template that no row has a column for.
    #[error("the template uses {{{{{name}}}}}, but no row has that column{hint}")]
    UnknownPlaceholder {
        /// Name of the placeholder in the template.
        name: String,
        /// The existing columns, with the most similar one.
        hint: String,
    },
    /// An image column that no row has.
    #[error("--image-column {name}: no row has that column{hint}")]
    UnknownImageColumn {
        /// Name of the column.
        name: String,
        /// The existing columns, with the most similar one.
        hint: String,
    },
    /// Invalid rows, which stop the run with [`BadRowAction::Stop`](super::BadRowAction::Stop).
    #[error("{}", describe_bad_rows(.first, *.count, .missing_prompt.as_ref()))]
    BadRows {
        /// The first row without a prompt.
        missing_prompt: Option<MissingPrompt>,
        /// The first ones, in input order.
        first: Vec<BadRowLocation>,
        /// Number of all such rows.
        count: u64,
    },
    /// Fields that look like request parameters, with
    /// [`UnknownFieldAction::Refuse`](super::UnknownFieldAction::Refuse).
    #[error("{}", describe_doubtful_fields(.fields))]
    DoubtfulFields {
        /// A sentence for each field.
        fields: Vec<String>,
    },
    /// Ids that several rows have.
    #[error("{}", describe_duplicate_ids(.first, *.count))]
    DuplicateIds {
        /// The first ones, in input order.
        first: Vec<DuplicateId>,
        /// Number of all such rows.
        count: u64,
    },
    /// Rows that name too many models.
    #[error(
        "{location}: the model {model:?} is one too many: rows may name at most {limit} models\nhint: if `model` is data, pass --ignore-row-model; else split the input"
    )]
    TooManyModels {
        /// Location of the first row that names a model beyond the limit.
        location: InputLocation,
        /// Model that the row names.
        model: String,
        /// Largest number of models.
        limit: usize,
    },
}

/// A line of a file, or a row of a file without lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputLocation {
    /// Path of the file, as messages show it.
    pub file: PathBuf,
    /// Number of the line, from 1.
    pub line: u64,
    /// What is numbered: lines, or what else the file consists of.
    pub unit: RowUnit,
}

impl fmt::Display for InputLocation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {} {}", self.file.display(), self.unit_name(), self.line)
    }
}

impl InputLocation {
    fn unit_name(&self) -> &'static str {
        match self.unit {
            RowUnit::Line => "line",
            RowUnit::Row => "row",
            RowUnit::Element => "element",
        }
    }
}

/// An invalid row, found by the scan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BadRow {
    /// Index of the row in the whole input, from 0.
    pub index: u64,
    /// The row's own id, if it could be parsed.
    pub id: Option<PromptId>,
    /// Number of the file in the source.
    pub file: u32,
    /// Line in the file, from 1.
    pub line: u64,
    /// Reason why the row is invalid.
    pub reason: String,
}

/// An invalid row, located for a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRowLocation {
    /// Location of the row in the input.
    pub location: InputLocation,
    /// Reason why the row is invalid.
    pub reason: String,
}

/// A row without a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPrompt {
    /// A clause about the row's fields.
    pub fields: String,
    /// How to use the fields, if no row of the input has a prompt.
    pub advice: Option<String>,
}

/// An id that two rows have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicateId {
    /// The id as text, by which ids are compared.
    pub id: String,
    /// Location of its first row.
    pub first: InputLocation,
    /// Location of the row that repeats it.
    pub duplicate: InputLocation,
}

fn describe_bad_rows(
    first: &[BadRowLocation],
    count: u64,
    missing_prompt: Option<&MissingPrompt>,
) -> String {
    let is_text_on_stdin = |bad: &BadRowLocation| {
        bad.location.file == Path::new(STDIN_NAME) && bad.reason.starts_with(NOT_JSON)
    };
    let (row, fix) = match count {
        1 => ("row", "fix the row, or pass --bad-rows fail to write it as a failed answer"),
        _ => ("rows", "fix the rows, or pass --bad-rows fail to write them as failed answers"),
    };
    let fix = match first.first() {
        Some(bad) if is_text_on_stdin(bad) => {
            "standard input takes JSON lines; for another format pass --input-format, such as --input-format txt"
        }
        _ if first.iter().all(|bad| bad.reason.starts_with(NOT_UTF8)) => {
            "if the file has another encoding, name it, as in --encoding windows-1252; or pass --bad-rows fail"
        }
        _ => fix,
    };
    let mut lines = vec![format!("{count} invalid {row} (nothing was sent):")];
    lines.extend(fold_reasons(first).into_iter().map(|line| format!("  {line}")));
    let rest = count.saturating_sub(first.len() as u64);
    if rest > 0 {
        lines.push(format!("  and {rest} more"));
    }
    lines.push(match missing_prompt {
        Some(MissingPrompt { fields, advice }) => {
            format!("hint: {fields}; {}", advice.as_deref().unwrap_or(fix))
        }
        None => format!("hint: {fix}"),
    });
    lines.join("\n")
}

/// Returns a line for each reason, in the order of the first rows, with the lines of all rows that are invalid for it.
fn fold_reasons(first: &[BadRowLocation]) -> Vec<String> {
    let mut folded: Vec<(&BadRowLocation, Vec<u64>)> = Vec::new();
    for bad in first {
        let is_same = |(known, _): &&mut (&BadRowLocation, Vec<u64>)| {
            known.reason == bad.reason && known.location.file == bad.location.file
        };
        match folded.iter_mut().find(is_same) {
            Some((_, lines)) => lines.push(bad.location.line),
            None => folded.push((bad, vec![bad.location.line])),
        }
    }
    let describe = |(bad, lines): (&BadRowLocation, Vec<u64>)| {
        let further: String = lines[1..].iter().map(|line| format!(", {line}")).collect();
        let plural = if lines.len() > 1 { "s" } else { "" };
        let InputLocation { file, line, .. } = &bad.location;
        let unit = bad.location.unit_name();
        format!("{} {unit}{plural} {line}{further}: {}", file.display(), bad.reason)
    };
    folded.into_iter().map(describe).collect()
}

fn describe_doubtful_fields(fields: &[String]) -> String {
    let count = fields.len() as u64;
    let noun = if count == 1 { "field looks" } else { "fields look" };
    let head =
        format!("{count} {noun} like request parameters without an effect (nothing was sent)");
    let listed = fields.iter().take(MAX_LISTED).cloned();
    format_list(&head, listed, count, "hint: fix the rows, or pass --unknown-fields warn")
}

/// Returns a number of rows in words.
pub(super) fn count_rows(count: u64) -> String {
    format!("{count} {}", if count == 1 { "row" } else { "rows" })
}

fn describe_duplicate_ids(first: &[DuplicateId], count: u64) -> String {
    let listed = first
        .iter()
        .map(|row| format!("{}: id {:?} is already used in {}", row.duplicate, row.id, row.first));
    let have = if count == 1 { "row has" } else { "rows have" };
    let hint = "hint: a row without an id has its index, from 0, as id; pass --duplicate-ids keep to allow duplicates";
    format_list(&format!("{count} {have} a duplicate id"), listed, count, hint)
}

fn format_list(
    head: &str,
    listed: impl ExactSizeIterator<Item = String>,
    count: u64,
    hint: &str,
) -> String {
    let rest = count.saturating_sub(listed.len() as u64);
    let mut lines = vec![format!("{head}:")];
    lines.extend(listed.map(|line| format!("  {line}")));
    if rest > 0 {
        lines.push(format!("  and {rest} more"));
    }
    lines.push(hint.to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_on_standard_input_gets_its_own_hint() {
        let location = InputLocation { file: STDIN_NAME.into(), line: 1, unit: RowUnit::Line };
        let bad_row = BadRowLocation { location, reason: "not JSON: \"hello\"".into() };
        let error = InputError::BadRows { missing_prompt: None, first: vec![bad_row], count: 1 };
        assert_eq!(
            error.to_string(),
            "1 invalid row (nothing was sent):\n  stdin line 1: not JSON: \"hello\"\n\
             hint: standard input takes JSON lines; for another format pass --input-format, such as --input-format txt"
        );
    }
}
