//! The input's files before the scan, and their partition into chunks that can be scanned independently.
//!
//! Owns the chunk boundaries. Line-based files can be cut at any byte, because a line end is a row end; a table cannot,
//! because a quote may be open there. Which rank scans which chunk is decided in `job/setup/scan.rs`.

use std::{fs::File, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    InputError, PartitionColumn,
    fingerprint::BLOCK_BYTES,
    format::{InputFile, InputFormat, RowLayout, RowUnit},
    records::RecordReader,
    row::object::is_batch_record,
    source::{mtime_nanos, open_unchanged, open_with_metadata},
};

/// Size of a chunk in bytes. Larger chunks would take more memory in transit and balance the readers of a small input
/// worse; smaller ones bring no gain.
const CHUNK_BYTES: u64 = 4 * BLOCK_BYTES;

/// The files to scan, with their sizes and modification times when they were listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InputListing {
    pub(crate) files: Vec<ListedFile>,
    /// Bytes per fingerprint block. Chunks begin at multiples of it.
    pub(crate) block: u64,
}

/// A file of the listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListedFile {
    pub path: PathBuf,
    /// Path that messages show, the original one of a spooled copy.
    pub name: PathBuf,
    pub layout: RowLayout,
    /// What messages number in the file.
    pub unit: RowUnit,
    /// Columns that its folders add to each row.
    pub partition: Vec<PartitionColumn>,
    pub size: u64,
    pub mtime: i64,
    /// Whether the file is an OpenAI batch file, by most of its first rows.
    pub batch: bool,
}

/// A byte range of a file. Its rows are those that begin inside the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InputChunk {
    /// Number of the file in the listing, from 0.
    pub(crate) file: u32,
    /// Offset of the first byte.
    pub(crate) from: u64,
    /// Offset after the last byte.
    pub(crate) to: u64,
}

impl InputListing {
    /// Lists uncompressed files, which will be scanned in this order.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub(crate) fn new(files: &[InputFile]) -> Result<Self, InputError> {
        let files = files.iter().map(ListedFile::new);
        Ok(Self { files: files.collect::<Result<_, _>>()?, block: BLOCK_BYTES })
    }

    /// Returns the total size of the files in bytes.
    #[must_use]
    pub(crate) fn total_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Whether this process sees the same files, by size and modification time.
    #[must_use]
    pub(crate) fn is_visible(&self) -> bool {
        self.files.iter().all(|file| file.open().is_ok())
    }

    /// Returns all chunks, in input order.
    #[must_use]
    pub(crate) fn split_chunks(&self) -> Vec<InputChunk> {
        self.split_chunks_of(CHUNK_BYTES)
    }

    /// Returns all chunks of about `bytes` bytes, in input order.
    pub(crate) fn split_chunks_of(&self, bytes: u64) -> Vec<InputChunk> {
        let step = bytes.max(1).next_multiple_of(self.block);
        let chunks_of = |(number, file): (u32, &ListedFile)| {
            let size = file.size;
            let step = if file.layout.format.is_table() { size.max(1) } else { step };
            // An empty file is a chunk too, so that it is recorded with zero rows.
            let count = size.div_ceil(step).max(1);
            (0..count).map(move |chunk| {
                let from = chunk * step;
                InputChunk { file: number, from, to: size.min(from + step) }
            })
        };
        (0..).zip(&self.files).flat_map(chunks_of).collect()
    }
}

/// Rows, and bytes, from which a file's form is judged. A stray row must not change it.
const SAMPLE_ROWS: usize = 16;
const SAMPLE_BYTES: u64 = 1 << 20;

/// Whether at least half of a file's first objects are OpenAI batch rows. Errors are found again by the scan.
fn has_batch_rows(file: File, layout: RowLayout) -> bool {
    let mut records = RecordReader::new(file, 0, layout, 64 << 10);
    let (mut batch_rows, mut other_rows) = (0, 0);
    while let Ok(Some(record)) = records.next_record() {
        match is_batch_record(record.bytes) {
            Some(true) => batch_rows += 1,
            Some(false) => other_rows += 1,
            None => {}
        }
        if batch_rows + other_rows == SAMPLE_ROWS || record.offset >= SAMPLE_BYTES {
            break;
        }
    }
    batch_rows > 0 && batch_rows >= other_rows
}

impl ListedFile {
    fn new(file: &InputFile) -> Result<Self, InputError> {
        let InputFile { path, layout, name, unit, partition } = file.clone();
        let (opened, metadata) = open_with_metadata(&path)?;
        let batch = layout.format == InputFormat::Jsonl && has_batch_rows(opened, layout);
        let (size, mtime) = (metadata.len(), mtime_nanos(&metadata));
        Ok(Self { path, name, layout, unit, partition, size, mtime, batch })
    }

    /// Opens the file if its size and modification time are unchanged.
    pub(crate) fn open(&self) -> Result<File, InputError> {
        open_unchanged(&self.path, self.size, self.mtime)
    }
}
