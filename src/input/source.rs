//! The scanned input as all ranks must see it, and the checks that a rank does.
//!
//! Owns the files' sizes, times and fingerprints. Row offsets are in `scan/row_table.rs`, row parsing in `row/`.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    ops::Range,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::{FileCompression, InputError, InputFormat};

/// Bytes per block of a fingerprint, which is a hash over block hashes, so that blocks can be hashed independently.
pub(super) const BLOCK_BYTES: u64 = 16 << 20;

/// Bytes at either end of a file that every rank compares. Small, because all ranks read them at once at start-up.
const END_BYTES: u64 = 64 << 10;

/// The scanned input, as it is broadcast to all ranks and kept in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputSource {
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
    /// Whether every row is an OpenAI batch row.
    pub openai_batch: bool,
    /// Size of the longest row in bytes.
    pub longest_row: u64,
}

impl InputSource {
    /// Returns an input of which only the row count and the fingerprint are known, because its files are gone.
    #[must_use]
    pub fn without_files(rows: u64, fingerprint: &str) -> Self {
        let fingerprint = fingerprint.to_owned();
        let [any_messages, any_text, openai_batch] = [false; 3];
        Self {
            files: Vec::new(),
            rows,
            fingerprint,
            any_messages,
            any_text,
            openai_batch,
            longest_row: 0,
        }
    }
}

/// A scanned file of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Path of the file that is read.
    pub path: PathBuf,
    /// Size of the file in bytes.
    pub size: u64,
    /// Modification time in nanoseconds since 1970.
    pub mtime: i64,
    /// Format of the rows in the file.
    pub format: InputFormat,
    /// Compression of the file. Scanned files are plain.
    pub packing: FileCompression,
    /// Hash of the file's contents, in hex.
    pub fingerprint: String,
    /// Hash of the first and last 64 KiB, in hex.
    pub ends_hash: String,
    /// Number of rows in the file.
    pub rows: u64,
    /// Index of the file's first row.
    pub first: u64,
    /// Column names of a table's header.
    pub columns: Vec<String>,
}

/// A range of consecutive rows of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowRange {
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
pub fn is_source_visible(source: &InputSource) -> bool {
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

pub(super) fn hash_ends(file: &File, size: u64) -> io::Result<String> {
    let read = |from: u64| {
        // At most `END_BYTES`, so the cast cannot truncate.
        let mut end = vec![0; (size - from).min(END_BYTES) as usize];
        file.read_exact_at(&mut end, from).map(|()| end)
    };
    let ends = [read(0)?, read(size.saturating_sub(END_BYTES))?].concat();
    Ok(hash_to_hex(xxh3_128(&ends)))
}

pub(super) fn hash_to_hex(hash: u128) -> String {
    format!("{hash:032x}")
}

/// Returns the fingerprint of all files. It includes the formats, since the same bytes read as other rows are another
/// input.
pub(super) fn combined_fingerprint(files: &[SourceFile]) -> String {
    let each = files.iter().map(|file| format!("{:?} {}\n", file.format, file.fingerprint));
    hash_to_hex(xxh3_128(each.collect::<String>().as_bytes()))
}

/// Computes the fingerprint of a file from its block hashes.
#[derive(Default)]
pub(super) struct FingerprintHasher(Box<Xxh3>);

impl FingerprintHasher {
    pub(super) fn add_blocks(&mut self, blocks: &[u128]) {
        blocks.iter().for_each(|block| self.0.update(&block.to_le_bytes()));
    }

    pub(super) fn finish(self) -> String {
        hash_to_hex(self.0.digest128())
    }
}

/// Reads a file and hashes a byte range of it, block by block, as it is read.
pub(super) struct HashingReader {
    file: File,
    position: u64,
    hashed: Range<u64>,
    block: u64,
    hash: Box<Xxh3>,
    blocks: Vec<u128>,
}

/// Bytes per read after the hashed range: the end of a row that reaches into the next chunk.
const TAIL_READ_BYTES: usize = 64 << 10;

impl HashingReader {
    /// Wraps a file whose position is the byte `at`. The range `hashed` begins at a block boundary, at or after `at`.
    pub(super) fn new(file: File, at: u64, hashed: Range<u64>, block: u64) -> Self {
        Self { file, position: at, hashed, block, hash: Box::default(), blocks: Vec::new() }
    }

    /// Returns the file, the number of hashed bytes, and the block hashes.
    pub(super) fn finish(mut self) -> (File, u64, Vec<u128>) {
        let read = self.hashed_bytes();
        if !read.is_multiple_of(self.block) {
            self.finish_block();
        }
        (self.file, read, self.blocks)
    }

    fn hashed_bytes(&self) -> u64 {
        self.position.min(self.hashed.end).saturating_sub(self.hashed.start)
    }

    /// Hashes bytes that all lie in the hashed range.
    fn hash_bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let left = self.block - self.hashed_bytes() % self.block;
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(left.min(bytes.len()));
            self.hash.update(now);
            self.position += now.len() as u64;
            if self.hashed_bytes().is_multiple_of(self.block) {
                self.finish_block();
            }
            bytes = later;
        }
    }

    fn finish_block(&mut self) {
        self.blocks.push(self.hash.digest128());
        self.hash.reset();
    }
}

impl Read for HashingReader {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let Range { start, end } = self.hashed;
        let (is_hashed, most) = match self.position {
            at if at < start => (false, start - at),
            at if at < end => (true, end - at),
            _ => (false, TAIL_READ_BYTES as u64),
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(to.len());
        let read = self.file.read(&mut to[..most])?;
        if is_hashed {
            self.hash_bytes(&to[..read]);
        } else {
            self.position += read as u64;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Seek as _;

    #[test]
    fn a_fingerprint_does_not_depend_on_how_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let text: Vec<u8> = (0..9_000_000_u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&path, &text).unwrap();
        let of = |chunk: usize, cuts: &[u64]| {
            let mut fingerprint = FingerprintHasher::default();
            for cut in cuts.windows(2) {
                let mut file = File::open(&path).unwrap();
                let before = cut[0].saturating_sub(1);
                file.seek(io::SeekFrom::Start(before)).unwrap();
                let mut hashed = HashingReader::new(file, before, cut[0]..cut[1], BLOCK_BYTES);
                let mut to = vec![0; chunk];
                while hashed.read(&mut to).unwrap() > 0 {}
                let (_, read, blocks) = hashed.finish();
                assert_eq!(read, cut[1] - cut[0]);
                fingerprint.add_blocks(&blocks);
            }
            fingerprint.finish()
        };
        let all = text.len() as u64;
        let fingerprint = of(1 << 20, &[0, all]);
        assert_eq!(fingerprint, of(777_777, &[0, all]));
        assert_eq!(fingerprint, of(777_777, &[0, BLOCK_BYTES, 2 * BLOCK_BYTES, all]));
        let blocks: Vec<u8> =
            text.chunks(16 << 20).flat_map(|block| xxh3_128(block).to_le_bytes()).collect();
        assert_eq!(fingerprint, hash_to_hex(xxh3_128(&blocks)));
    }
}
