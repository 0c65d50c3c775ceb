//! File formats: the format of an input file by its extension, and the layout of its rows.
//!
//! Owns the known extensions. Which files are read is decided in `discover.rs`; what the first bytes of a file tell about
//! it is in `sniff.rs`, decompression in `decompress.rs`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::PartitionColumn;
use crate::compression::Compression;

/// Format of the rows of an input file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum InputFormat {
    /// JSON Lines: a JSON object or string per line.
    Jsonl,
    /// Plain text: a prompt per line.
    Text,
    /// Comma-separated columns with a header.
    Csv,
    /// Tab-separated columns with a header. Quotes are letters unless a field is properly quoted.
    Tsv,
    /// Columns of a Parquet file. The spooled copy has a JSON object per line, in which null columns are left out.
    Parquet,
}

impl InputFormat {
    /// Whether the rows are records of a delimited text, below a header or not.
    #[must_use]
    pub(crate) fn is_table(self) -> bool {
        matches!(self, Self::Csv | Self::Tsv)
    }
}

/// Format of a whole input file, by its extension or `--input-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FileFormat {
    /// JSON Lines.
    Jsonl,
    /// A JSON list of rows, or rows one after the other. They are spooled as JSON Lines.
    Json,
    /// Plain text.
    Text,
    /// Comma-separated columns.
    Csv,
    /// Tab-separated columns.
    Tsv,
    /// Parquet.
    Parquet,
}

impl FileFormat {
    /// Returns the format of the rows, once the file is spooled if it needs to be.
    #[must_use]
    pub(crate) fn row_format(self) -> InputFormat {
        match self {
            Self::Jsonl | Self::Json => InputFormat::Jsonl,
            Self::Text => InputFormat::Text,
            Self::Csv => InputFormat::Csv,
            Self::Tsv => InputFormat::Tsv,
            Self::Parquet => InputFormat::Parquet,
        }
    }

    /// Returns the most usual extension of such files.
    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::Jsonl => ".jsonl",
            Self::Json => ".json",
            Self::Text => ".txt",
            Self::Csv => ".csv",
            Self::Tsv => ".tsv",
            Self::Parquet => ".parquet",
        }
    }
}

/// Layout of the rows of a file: their format, and how a table separates and names its columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RowLayout {
    pub format: InputFormat,
    /// Byte between the fields of a table.
    pub delimiter: u8,
    /// Whether a table's first record names its columns; otherwise their names are `1`, `2` and so on.
    pub has_header: bool,
}

impl RowLayout {
    /// Returns the usual layout of a format.
    #[must_use]
    pub(crate) fn of_format(format: InputFormat) -> Self {
        let delimiter = if format == InputFormat::Tsv { b'\t' } else { b',' };
        Self { format, delimiter, has_header: true }
    }

    /// Returns the text by which a layout takes part in hashes: the format's name alone for a usual layout.
    pub(super) fn hashed_name(self) -> String {
        let Self { format, delimiter, has_header } = self;
        match self == Self::of_format(format) {
            true => format!("{format:?}"),
            false => format!("{format:?} {delimiter} {has_header}"),
        }
    }
}

/// What a message numbers in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RowUnit {
    /// Lines.
    #[default]
    Line,
    /// Rows of a Parquet file.
    Row,
    /// Elements of a JSON list.
    Element,
}

/// An uncompressed file of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputFile {
    /// Path of the file that is read.
    pub path: PathBuf,
    /// Layout of the rows in the file.
    pub layout: RowLayout,
    /// Path shown in messages: for a spooled copy, the original.
    pub name: PathBuf,
    /// What a line of the file is in the file of that name.
    pub unit: RowUnit,
    /// Columns that its folders add to each row.
    pub partition: Vec<PartitionColumn>,
}

impl InputFile {
    /// Returns an input file that is no spooled copy: its name is its path.
    #[must_use]
    pub(crate) fn new(path: PathBuf, layout: RowLayout) -> Self {
        Self { name: path.clone(), path, layout, unit: RowUnit::Line, partition: Vec::new() }
    }
}

/// Name of standard input in messages.
pub(crate) const STDIN_NAME: &str = "stdin";

/// Extensions of the known formats, for messages.
pub(super) const KNOWN_EXTENSIONS: &str = ".jsonl .ndjson .json .txt .csv .tsv .parquet";

/// Returns the format that a file's extension names, looking through `.gz` and `.zst`.
#[must_use]
pub(crate) fn format_of(path: &Path) -> Option<FileFormat> {
    let (_, unpacked) = Compression::split_path(path);
    match file_extension(&unpacked).as_deref() {
        Some("jsonl" | "ndjson" | "jl" | "jsonlines") => Some(FileFormat::Jsonl),
        Some("json") => Some(FileFormat::Json),
        Some("txt") => Some(FileFormat::Text),
        Some("csv") => Some(FileFormat::Csv),
        Some("tsv") => Some(FileFormat::Tsv),
        // Column pages of Parquet are compressed themselves.
        Some("parquet") if unpacked == path => Some(FileFormat::Parquet),
        _ => None,
    }
}

fn file_extension(path: &Path) -> Option<String> {
    path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_found_below_a_compression_extension() {
        let format = |name: &str| format_of(Path::new(name));
        assert_eq!(format("x.jsonl.zst"), Some(FileFormat::Jsonl));
        assert_eq!(format("x.tsv.GZ"), Some(FileFormat::Tsv));
        assert_eq!(format("x.Parquet"), Some(FileFormat::Parquet));
        assert_eq!((format("x.gz"), format("x.parquet.gz")), (None, None));
        assert_eq!(format("jsonl"), None);
    }

    #[test]
    fn json_lines_have_several_extensions_and_a_json_document_its_own() {
        let format = |name: &str| format_of(Path::new(name));
        for name in ["x.jsonl", "x.ndjson", "x.JL", "x.jsonlines.gz"] {
            assert_eq!(format(name), Some(FileFormat::Jsonl), "{name}");
        }
        assert_eq!(format("x.json.gz"), Some(FileFormat::Json));
        assert_eq!(FileFormat::Json.row_format(), InputFormat::Jsonl);
    }
}
