//! The scanned input as all ranks must see it, and the checks that a rank does.
//!
//! Owns the files' sizes and times. Fingerprints are computed in `fingerprint.rs`, row offsets are in
//! `scan/row_table.rs`, rows are parsed in `row/`.

use std::{
    fs::{File, Metadata},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{InputError, PartitionColumn, fingerprint::hash_ends, format::RowLayout};

/// The scanned input, as it is broadcast to all ranks and kept in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InputSource {
    /// The files, in the order of their rows.
    pub files: Vec<SourceFile>,
    /// Number of rows of all files.
    pub rows: u64,
    /// Hash of the contents of all files, in hex.
    pub fingerprint: String,
    /// Whether any row has messages.
    pub any_messages: bool,
    /// Whether any row has a text prompt.
    pub any_text: bool,
    /// Whether any row has token ids.
    #[serde(default)]
    pub any_token_ids: bool,
    /// Whether every valid row is an OpenAI batch row.
    pub openai_batch: bool,
    /// Size of the longest row in bytes.
    pub longest_row: u64,
    /// The models that rows name, in the order of their first rows; none if they are ignored.
    pub models: Vec<String>,
    /// Whether a row names no model, or the models of rows are ignored.
    pub any_unnamed: bool,
}

impl InputSource {
    /// Returns an input of which only the row count and the fingerprint are known, because its files are gone.
    #[must_use]
    pub(crate) fn without_files(rows: u64, fingerprint: &str) -> Self {
        let fingerprint = fingerprint.to_owned();
        let [any_messages, any_text, any_token_ids, openai_batch] = [false; 4];
        Self {
            files: Vec::new(),
            rows,
            fingerprint,
            any_messages,
            any_text,
            any_token_ids,
            openai_batch,
            longest_row: 0,
            models: Vec::new(),
            any_unnamed: false,
        }
    }
}

/// A scanned file of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceFile {
    /// Path of the file that is read.
    pub path: PathBuf,
    /// Folder of the original file, to which paths in its rows are relative.
    #[serde(default)]
    pub folder: PathBuf,
    /// Size of the file in bytes.
    pub size: u64,
    /// Modification time in nanoseconds since 1970.
    pub mtime: i64,
    /// Layout of the rows in the file.
    pub layout: RowLayout,
    /// Columns that its folders add to each row.
    pub partition: Vec<PartitionColumn>,
    /// Hash of the file's contents, in hex.
    pub fingerprint: String,
    /// Hash of the first and last 64 KiB, in hex.
    pub ends_hash: String,
    /// Number of rows in the file.
    pub rows: u64,
    /// Index of the file's first row.
    pub first: u64,
    /// Column names of a table.
    pub columns: Vec<String>,
    /// Whether the file is an OpenAI batch file, in which other rows are invalid.
    #[serde(default)]
    pub batch: bool,
}

/// A range of consecutive rows of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RowRange {
    /// Number of the file, from 0.
    pub file: u32,
    /// Index of the range's first row.
    pub first: u64,
    /// Number of rows in the range.
    pub rows: u64,
    /// Offset at which the first row begins.
    pub offset: u64,
    /// Bytes up to the row after the range, or to the file's end.
    pub bytes: u64,
}

/// Whether this process sees the same files: sizes, modification times and both ends of each file are compared.
#[must_use]
pub(crate) fn is_source_visible(source: &InputSource) -> bool {
    let is_same = |file: &SourceFile| {
        let opened = file.open().ok()?;
        Some(hash_ends(&opened, file.size).ok()? == file.ends_hash)
    };
    source.files.iter().all(|file| is_same(file).unwrap_or(false))
}

impl SourceFile {
    /// Opens the file if its size and modification time are those of the scan.
    pub(super) fn open(&self) -> Result<File, InputError> {
        open_unchanged(&self.path, self.size, self.mtime)
    }
}

/// Opens a file if its size and modification time are the expected ones.
pub(super) fn open_unchanged(path: &Path, size: u64, time: i64) -> Result<File, InputError> {
    let (file, metadata) = open_with_metadata(path)?;
    if (metadata.len(), mtime_nanos(&metadata)) == (size, time) {
        Ok(file)
    } else {
        Err(InputError::Changed { path: path.to_path_buf() })
    }
}

pub(super) fn open_with_metadata(path: &Path) -> Result<(File, Metadata), InputError> {
    let io = |source| InputError::Io { action: "cannot open", path: path.to_path_buf(), source };
    let file = File::open(path).map_err(io)?;
    let metadata = file.metadata().map_err(io)?;
    Ok((file, metadata))
}

pub(super) fn mtime_nanos(metadata: &Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}
