//! The input as all ranks have to see it, and the means to tell whether one does.
//!
//! Owns the files' facts and fingerprints. Does not know the rows: where they lie is `table`'s, what they say is `row`'s.

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

/// A fingerprint is taken over the hashes of blocks of this many bytes, so that blocks can be hashed apart from each other.
pub(super) const BLOCK_BYTES: u64 = 16 << 20;

/// How much of either end of a file every rank compares. Small, because all ranks read it at once before they begin.
const END_BYTES: u64 = 64 << 10;

/// The input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputSource {
    /// The files in the order of their rows.
    pub files: Vec<SourceFile>,
    /// How many rows they have.
    pub rows: u64,
    /// What they say, as a hash in hex.
    pub fingerprint: String,
    /// Does any row have messages?
    pub any_messages: bool,
    /// Does any row have a text?
    pub any_text: bool,
    /// Is every row an OpenAI batch row?
    pub openai_batch: bool,
    /// The bytes of the longest row.
    pub longest_row: u64,
}

impl InputSource {
    /// An input that was there once: what is known of it without its files.
    #[must_use]
    pub fn gone(rows: u64, fingerprint: &str) -> Self {
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

/// One file of the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its bytes.
    pub size: u64,
    /// When it was written, in nanoseconds since 1970.
    pub mtime: i64,
    /// What its rows are.
    pub format: InputFormat,
    /// How it is compressed. Scanned files are plain.
    pub packing: FileCompression,
    /// What it says, as a hash in hex.
    pub fingerprint: String,
    /// What both its ends say, as a hash in hex.
    pub ends_hash: String,
    /// How many rows it has.
    pub rows: u64,
    /// The index of its first row.
    pub first: u64,
    /// The names in a table's header.
    pub columns: Vec<String>,
}

/// Consecutive rows of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowRange {
    /// Which file, from 0.
    pub file: u32,
    /// The index of the first row.
    pub first: u64,
    /// How many rows.
    pub rows: u64,
    /// Where the first begins.
    pub offset: u64,
    /// How many bytes up to the next row, or the file's end.
    pub bytes: u64,
}

/// Does this process see the same files? Times, sizes and both ends of each are compared.
#[must_use]
pub fn is_source_visible(source: &InputSource) -> bool {
    let same = |file: &SourceFile| {
        let opened = file.open().ok()?;
        Some(hash_ends(&opened, file.size).ok()? == file.ends_hash)
    };
    source.files.iter().all(|file| same(file).unwrap_or(false))
}

impl SourceFile {
    /// Opens it, if it still is the file that was scanned.
    pub(super) fn open(&self) -> Result<File, InputError> {
        open_unchanged(&self.path, self.size, self.mtime)
    }
}

/// Opens a file that should still have this size and time.
pub(super) fn open_unchanged(path: &Path, size: u64, time: i64) -> Result<File, InputError> {
    let (file, facts) = open(path)?;
    if (facts.len(), mtime_nanos(&facts)) == (size, time) {
        Ok(file)
    } else {
        Err(InputError::Changed { path: path.to_path_buf() })
    }
}

pub(super) fn open(path: &Path) -> Result<(File, Metadata), InputError> {
    let io = |source| InputError::Io { doing: "cannot open it", path: path.to_path_buf(), source };
    let file = File::open(path).map_err(io)?;
    let facts = file.metadata().map_err(io)?;
    Ok((file, facts))
}

pub(super) fn mtime_nanos(facts: &Metadata) -> i64 {
    facts.mtime().saturating_mul(1_000_000_000).saturating_add(facts.mtime_nsec())
}

pub(super) fn hash_ends(file: &File, size: u64) -> io::Result<String> {
    let read = |from: u64| {
        // At most END, so that it fits in any usize.
        let mut end = vec![0; (size - from).min(END_BYTES) as usize];
        file.read_exact_at(&mut end, from).map(|()| end)
    };
    let both = [read(0)?, read(size.saturating_sub(END_BYTES))?].concat();
    Ok(hash_to_hex(xxh3_128(&both)))
}

pub(super) fn hash_to_hex(hash: u128) -> String {
    format!("{hash:032x}")
}

/// The fingerprint of all files: the same bytes as other rows are another input.
pub(super) fn combined_fingerprint(files: &[SourceFile]) -> String {
    let each = files.iter().map(|file| format!("{:?} {}\n", file.format, file.fingerprint));
    hash_to_hex(xxh3_128(each.collect::<String>().as_bytes()))
}

/// The fingerprint of one file, from the hashes of its blocks.
#[derive(Default)]
pub(super) struct FingerprintHasher(Box<Xxh3>);

impl FingerprintHasher {
    /// The next blocks.
    pub(super) fn add(&mut self, blocks: &[u128]) {
        blocks.iter().for_each(|block| self.0.update(&block.to_le_bytes()));
    }

    pub(super) fn finish(self) -> String {
        hash_to_hex(self.0.digest128())
    }
}

/// A file of which some bytes are hashed as they are read, in blocks.
pub(super) struct HashingReader {
    file: File,
    at: u64,
    hashed: Range<u64>,
    block: u64,
    hash: Box<Xxh3>,
    blocks: Vec<u128>,
}

/// What is read at a time beyond what is hashed: the end of a row that another piece goes on with.
const TAIL_READ_BYTES: usize = 64 << 10;

impl HashingReader {
    /// Of a file that stands at the byte `at`; hashed are some that follow, which begin with a block.
    pub(super) fn new(file: File, at: u64, hashed: Range<u64>, block: u64) -> Self {
        Self { file, at, hashed, block, hash: Box::default(), blocks: Vec::new() }
    }

    /// The file, how many bytes were hashed, and the hashes of their blocks.
    pub(super) fn finish(mut self) -> (File, u64, Vec<u128>) {
        let read = self.hashed_bytes();
        if !read.is_multiple_of(self.block) {
            self.finish_block();
        }
        (self.file, read, self.blocks)
    }

    fn hashed_bytes(&self) -> u64 {
        self.at.min(self.hashed.end).saturating_sub(self.hashed.start)
    }

    /// Takes in bytes all of which are hashed.
    fn hash_bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let left = self.block - self.hashed_bytes() % self.block;
            let left = usize::try_from(left).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(left.min(bytes.len()));
            self.hash.update(now);
            self.at += now.len() as u64;
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
        let (is_hashed, most) = match self.at {
            at if at < start => (false, start - at),
            at if at < end => (true, end - at),
            _ => (false, TAIL_READ_BYTES as u64),
        };
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(to.len());
        let read = self.file.read(&mut to[..most])?;
        if is_hashed {
            self.hash_bytes(&to[..read]);
        } else {
            self.at += read as u64;
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
            let mut print = FingerprintHasher::default();
            for cut in cuts.windows(2) {
                let mut file = File::open(&path).unwrap();
                let before = cut[0].saturating_sub(1);
                file.seek(io::SeekFrom::Start(before)).unwrap();
                let mut hashed = HashingReader::new(file, before, cut[0]..cut[1], BLOCK_BYTES);
                let mut to = vec![0; chunk];
                while hashed.read(&mut to).unwrap() > 0 {}
                let (_, read, blocks) = hashed.finish();
                assert_eq!(read, cut[1] - cut[0]);
                print.add(&blocks);
            }
            print.finish()
        };
        let all = text.len() as u64;
        let print = of(1 << 20, &[0, all]);
        assert_eq!(print, of(777_777, &[0, all]));
        assert_eq!(print, of(777_777, &[0, BLOCK_BYTES, 2 * BLOCK_BYTES, all]));
        let blocks: Vec<u8> =
            text.chunks(16 << 20).flat_map(|it| xxh3_128(it).to_le_bytes()).collect();
        assert_eq!(print, hash_to_hex(xxh3_128(&blocks)));
    }
}
