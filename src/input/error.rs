//! What can be wrong with the input, as sentences: which file, which line, what to do.
//!
//! Owns the wording of everything that stops a job because of its input. Does not decide what is wrong: the rules of a
//! row are in `row`, and exit codes are the command line's.

use std::{fmt, io, path::PathBuf};

use super::discover::{InputFormat, KNOWN_EXTENSIONS, format_of};

/// How many bad rows are named; the rest is counted.
pub(super) const MAX_LISTED: usize = 20;

/// The input cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// No file at all.
    #[error("no input files found in {}\nhint: input files end in {KNOWN_EXTENSIONS}; text formats may be compressed (.gz, .zst)", .inputs.join(" "))]
    NoFiles {
        /// What was asked for.
        inputs: Vec<String>,
    },
    /// A path that is neither there nor a pattern that matches.
    #[error("{input}: no such file or folder, and no file matches the pattern")]
    Missing {
        /// What was asked for.
        input: String,
    },
    /// A pattern that is none.
    #[error("{input}: invalid pattern: {what}")]
    InvalidPattern {
        /// What was asked for.
        input: String,
        /// What is wrong with it.
        what: String,
    },
    /// A file name by which the format cannot be told.
    #[error("{}: unknown file extension\nhint: input files end in {KNOWN_EXTENSIONS}; text formats may be compressed (.gz, .zst)", .path.display())]
    UnknownExtension {
        /// The file.
        path: PathBuf,
    },
    /// A path that cannot be told to other ranks.
    #[error("{}: the path is not UTF-8\nhint: rename the file, or create a link to it", .path.display())]
    PathNotUtf8 {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{}: {doing}: {source}", .path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A packed file where a plain one is needed.
    #[error("{}: a compressed file must be spooled before it is scanned", .path.display())]
    Compressed {
        /// The file.
        path: PathBuf,
    },
    /// A file that is not what it was when it was scanned.
    #[error("{} has changed since the scan\nhint: start again when nothing writes to it any more", .path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A row so long that it is a mistake.
    #[error("{place}: the row is longer than 64 MiB\nhint: {hint}")]
    RowTooLong {
        /// Where it begins.
        place: InputLocation,
        /// What it may be.
        hint: &'static str,
    },
    /// A table whose first line is not what is needed.
    #[error("{}: {what}", .path.display())]
    InvalidHeader {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// A template that cannot be read.
    #[error("invalid template: {0}")]
    InvalidTemplate(String),
    /// A placeholder for a column that no row has.
    #[error("the template: no row has a column {name:?}{hint}")]
    UnknownPlaceholder {
        /// The placeholder.
        name: String,
        /// The nearest column, or all.
        hint: String,
    },
    /// Rows that are no prompts.
    #[error("{}", describe_bad_rows(.first, *.count))]
    BadRows {
        /// The first of them.
        first: Vec<BadRowLocation>,
        /// How many there are.
        count: u64,
    },
    /// Ids that stand twice.
    #[error("{}", describe_duplicate_ids(.first, *.count))]
    DuplicateIds {
        /// The first of them.
        first: Vec<DuplicateId>,
        /// How many there are.
        count: u64,
    },
    /// A row for another model than the job's.
    #[error("{place}: the row names the model {named:?}, but the run uses {model:?}{}\nhint: remove these rows, choose their model with --model, or pass --ignore-row-model", and_more_rows(*.count))]
    ModelMismatch {
        /// The first such row.
        place: InputLocation,
        /// The model it names.
        named: String,
        /// The job's.
        model: String,
        /// How many there are.
        count: u64,
    },
    /// Rows for two models.
    #[error(
        "{first} names the model {model:?} and {second} names {other:?}, but a run has one model\nhint: split the input, or pass --ignore-row-model"
    )]
    MixedModels {
        /// The first row that names a model.
        first: InputLocation,
        /// Its model.
        model: String,
        /// The first row that names another.
        second: InputLocation,
        /// That one.
        other: String,
    },
}

/// A line of a file, or a row where it has no lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputLocation {
    /// The file.
    pub file: PathBuf,
    /// Which, from 1, as an editor counts.
    pub line: u64,
}

impl fmt::Display for InputLocation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A table of columns has no lines; copied out, each of its rows is one.
        let what = if format_of(&self.file) == Some(InputFormat::Parquet) { "row" } else { "line" };
        write!(out, "{} {what} {}", self.file.display(), self.line)
    }
}

/// A row that is no prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRowLocation {
    /// Where.
    pub place: InputLocation,
    /// What is wrong.
    pub reason: String,
}

/// An id that stands twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DuplicateId {
    /// The id.
    pub id: String,
    /// Where first.
    pub first: InputLocation,
    /// Where again.
    pub duplicate: InputLocation,
}

fn describe_bad_rows(first: &[BadRowLocation], count: u64) -> String {
    let named = first.iter().map(|bad| format!("{}: {}", bad.place, bad.reason));
    let advice = "mend them, or let them fail alone with --bad-rows fail";
    format_list(&format!("{} no prompt", rows_have(count)), named, count, advice)
}

fn describe_duplicate_ids(first: &[DuplicateId], count: u64) -> String {
    let named = first.iter().map(|twice| {
        format!("{}: id {:?} is already used in {}", twice.duplicate, twice.id, twice.first)
    });
    let advice = "hint: a row without an id has its index, from 0, as id; pass --duplicate-ids keep to allow duplicates";
    format_list(&format!("{} an id that another row has", rows_have(count)), named, count, advice)
}

fn rows_have(count: u64) -> String {
    if count == 1 { "1 row has".into() } else { format!("{count} rows have") }
}

fn format_list(
    head: &str,
    named: impl ExactSizeIterator<Item = String>,
    count: u64,
    advice: &str,
) -> String {
    let rest = count.saturating_sub(named.len() as u64);
    let mut lines = vec![format!("{head}:")];
    lines.extend(named.map(|line| format!("  {line}")));
    if rest > 0 {
        lines.push(format!("  and {rest} more"));
    }
    lines.push(advice.to_owned());
    lines.join("\n")
}

fn and_more_rows(count: u64) -> String {
    match count.saturating_sub(1) {
        0 => String::new(),
        rest => format!(" (and {rest} more such rows)"),
    }
}
