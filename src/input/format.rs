//! File formats: the format and compression of an input file, by its extension.
//!
//! Owns the known extensions. Which files are read is decided in `discover.rs`; decompression is in `decompress.rs`.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

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
    /// Tab-separated columns with a header. Quotes work as in CSV, which is how spreadsheets and pandas write them.
    Tsv,
    /// Columns of a Parquet file. The spooled copy has a JSON object per line, in which null columns are left out.
    Parquet,
}

/// An uncompressed file of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InputFile {
    /// Path of the file that is read.
    pub path: PathBuf,
    /// Format of the rows in the file.
    pub format: InputFormat,
    /// Path shown in messages: for a spooled copy, the original.
    pub name: PathBuf,
}

impl InputFile {
    /// Returns an input file that is no spooled copy: its name is its path.
    #[must_use]
    pub(crate) fn new(path: PathBuf, format: InputFormat) -> Self {
        Self { name: path.clone(), path, format }
    }
}

/// Compression of an input file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FileCompression {
    /// Not compressed; rows have offsets in it.
    Plain,
    /// gzip, possibly of several members.
    Gzip,
    /// zstd, possibly of several frames.
    Zstd,
    /// Parquet, whose column pages are decoded to rows.
    Parquet,
}

/// Name of standard input in messages.
pub(crate) const STDIN_NAME: &str = "stdin";

pub(super) const KNOWN_EXTENSIONS: &str = ".jsonl .txt .csv .tsv .parquet";

/// Returns the format that a file's extension names, looking through `.gz` and `.zst`.
#[must_use]
pub(crate) fn format_of(path: &Path) -> Option<InputFormat> {
    let unpacked = match compression_of(path) {
        FileCompression::Plain => path.to_path_buf(),
        FileCompression::Parquet => return Some(InputFormat::Parquet),
        FileCompression::Gzip | FileCompression::Zstd => path.with_extension(""),
    };
    match file_extension(&unpacked).as_deref() {
        Some("jsonl") => Some(InputFormat::Jsonl),
        Some("txt") => Some(InputFormat::Text),
        Some("csv") => Some(InputFormat::Csv),
        Some("tsv") => Some(InputFormat::Tsv),
        _ => None,
    }
}

/// Returns the compression that a file's extension names.
#[must_use]
pub(crate) fn compression_of(path: &Path) -> FileCompression {
    match file_extension(path).as_deref() {
        Some("gz") => FileCompression::Gzip,
        Some("zst") => FileCompression::Zstd,
        Some("parquet") => FileCompression::Parquet,
        _ => FileCompression::Plain,
    }
}

/// Whether a file must be decompressed before its rows have offsets, by its extension.
#[must_use]
pub(crate) fn is_compressed(path: &Path) -> bool {
    compression_of(path) != FileCompression::Plain
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
        assert_eq!(format("x.jsonl.zst"), Some(InputFormat::Jsonl));
        assert_eq!(format("x.tsv.GZ"), Some(InputFormat::Tsv));
        assert_eq!(format("x.Parquet"), Some(InputFormat::Parquet));
        assert_eq!((format("x.gz"), format("x.parquet.gz")), (None, None));
        assert_eq!(format("jsonl"), None);
        assert!(["x.gz", "x.parquet"].map(Path::new).into_iter().all(is_compressed));
        assert!(!is_compressed(Path::new("x.txt")));
    }
}
