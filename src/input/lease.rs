//! Leases: the rows that a rank is assigned, as ranges of the input or with their text.
//!
//! Owns reading the bytes of row ranges. Which rank gets which rows is decided by the coordinator in `job/dispatch`.

use std::{
    fs::File,
    io::{BufReader, Cursor, Read, Seek, SeekFrom, Take},
    os::unix::fs::FileExt,
};

use serde::{Deserialize, Serialize};

use super::{InputError, InputSource, RowRange, SourceFile};

/// Rows assigned to a rank, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RowLease {
    /// The ranges of the input that hold the rows.
    pub ranges: Vec<RowRange>,
    /// The bytes of all ranges, concatenated, for a rank that cannot open the input.
    pub text: Option<Vec<u8>>,
}

impl RowLease {
    /// Reads the text of the rows into the lease, so that a rank without access to the input can process it.
    ///
    /// # Errors
    /// A file that cannot be read, or that changed since the scan.
    pub(crate) fn with_text(mut self, source: &InputSource) -> Result<Self, InputError> {
        let mut text = Vec::new();
        for range in &self.ranges {
            let file = source_file(source, range.file)?;
            let from = text.len();
            text.resize(from + usize::try_from(range.bytes).unwrap_or(usize::MAX), 0);
            file.open()?.read_exact_at(&mut text[from..], range.offset).map_err(|source| {
                InputError::Io { action: "cannot read rows", path: file.path.clone(), source }
            })?;
        }
        self.text = Some(text);
        Ok(self)
    }
}

pub(super) fn source_file(source: &InputSource, number: u32) -> Result<&SourceFile, InputError> {
    source
        .files
        .get(number as usize)
        .ok_or_else(|| InputError::NoFiles { inputs: vec![format!("file number {number}")] })
}

/// Bytes per read of the input: rows that lie near each other are read together.
const READ_BLOCK_BYTES: usize = 64 << 10;

/// Source of the bytes of a row range.
pub(super) enum ByteSource {
    /// A file, with the offset that is read next.
    File(BufReader<File>, u64),
    Text(Cursor<Vec<u8>>),
}

impl ByteSource {
    pub(super) fn from_file(file: File) -> Self {
        Self::File(BufReader::with_capacity(READ_BLOCK_BYTES, file), 0)
    }

    /// Returns a reader of `bytes` bytes: from `offset` on for a file, from the current position for text.
    pub(super) fn take_range(mut self, offset: u64, bytes: u64) -> std::io::Result<Take<Self>> {
        if let Self::File(file, at) = &mut self {
            // A relative seek keeps the buffer if the next range lies within it.
            match (i64::try_from(offset), i64::try_from(*at)) {
                (Ok(to), Ok(from)) => file.seek_relative(to - from)?,
                _ => drop(file.seek(SeekFrom::Start(offset))?),
            }
            *at = offset;
        }
        Ok(self.take(bytes))
    }
}

impl Read for ByteSource {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Self::File(file, at) => {
                let read = file.read(to)?;
                *at += read as u64;
                Ok(read)
            }
            Self::Text(text) => text.read(to),
        }
    }
}
