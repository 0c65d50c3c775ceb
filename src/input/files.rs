//! The input's files before they are scanned, and the pieces in which they can be scanned apart from each other.
//!
//! Owns the cuts. Files of lines can be cut anywhere, since a line's end is a row's end; a table cannot, because a quote
//! may be open there. Does not know who scans which piece.

use std::{fs::File, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    FileCompression, InputError, InputFile, InputFormat,
    discover::compression_of,
    source::{BLOCK_BYTES, mtime_nanos, open, open_unchanged},
};

/// Bytes of a piece. Larger ones would take more memory on their way and keep the readers of a smaller input less equally
/// busy; smaller ones bring nothing.
const CHUNK_BYTES: u64 = 4 * BLOCK_BYTES;

/// The files to scan, as they were when they were listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputListing {
    pub(crate) files: Vec<ListedFile>,
    /// Bytes of a fingerprint's block. Pieces begin at multiples of it.
    pub(crate) block: u64,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ListedFile {
    pub path: PathBuf,
    /// What the user knows it by.
    pub name: PathBuf,
    pub format: InputFormat,
    pub size: u64,
    pub mtime: i64,
}

/// Bytes of a file; its rows are those that begin there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputChunk {
    /// Which file, from 0.
    pub(crate) file: u32,
    /// The first byte.
    pub(crate) from: u64,
    /// The byte after the last.
    pub(crate) to: u64,
}

impl InputListing {
    /// Looks at plain files, which will be scanned in this order.
    ///
    /// # Errors
    /// A file that cannot be opened, or that is packed.
    pub fn new(files: &[InputFile]) -> Result<Self, InputError> {
        let files = files.iter().map(ListedFile::new);
        Ok(Self { files: files.collect::<Result<_, _>>()?, block: BLOCK_BYTES })
    }

    /// How many bytes they have.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Does this process see the same files? Times and sizes are compared.
    #[must_use]
    pub fn is_visible(&self) -> bool {
        self.files.iter().all(|file| file.open().is_ok())
    }

    /// All pieces in their order.
    #[must_use]
    pub fn split_chunks(&self) -> Vec<InputChunk> {
        self.split_chunks_of(CHUNK_BYTES)
    }

    /// In pieces of about so many bytes.
    pub(crate) fn split_chunks_of(&self, bytes: u64) -> Vec<InputChunk> {
        let step = bytes.max(1).next_multiple_of(self.block);
        let pieces = |(number, file): (u32, &ListedFile)| {
            let size = file.size;
            let step = match file.format {
                InputFormat::Jsonl | InputFormat::Text | InputFormat::Parquet => step,
                InputFormat::Csv | InputFormat::Tsv => size.max(1),
            };
            // An empty file is a piece too: somebody has to say that it has no rows.
            let count = size.div_ceil(step).max(1);
            (0..count).map(move |at| {
                let from = at * step;
                InputChunk { file: number, from, to: size.min(from + step) }
            })
        };
        (0..).zip(&self.files).flat_map(pieces).collect()
    }
}

impl ListedFile {
    fn new(file: &InputFile) -> Result<Self, InputError> {
        let InputFile { path, format, name } = file.clone();
        if compression_of(&path) != FileCompression::Plain {
            return Err(InputError::Compressed { path });
        }
        let (_, facts) = open(&path)?;
        Ok(Self { path, name, format, size: facts.len(), mtime: mtime_nanos(&facts) })
    }

    /// Opens it, if it still is what was listed.
    pub(crate) fn open(&self) -> Result<File, InputError> {
        open_unchanged(&self.path, self.size, self.mtime)
    }
}
