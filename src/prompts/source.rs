//! The input as all ranks have to see it, and the means to tell whether one does.
//!
//! Owns the files' facts and fingerprints. Does not know the rows: where they lie is `table`'s, what they say is `row`'s.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::{Format, InputError, Packing};

/// A fingerprint is taken over the hashes of blocks of this many bytes, so that blocks can be hashed apart from each other.
const BLOCK: u64 = 16 << 20;

/// How much of either end of a file every rank compares. Small, because all ranks read it at once before they begin.
const END: u64 = 64 << 10;

/// The input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
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
    pub longest: u64,
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
    pub format: Format,
    /// How it is compressed. Scanned files are plain.
    pub packing: Packing,
    /// What it says, as a hash in hex.
    pub fingerprint: String,
    /// What both its ends say, as a hash in hex.
    pub ends: String,
    /// How many rows it has.
    pub rows: u64,
    /// The index of its first row.
    pub first: u64,
    /// The names in a table's header.
    pub columns: Vec<String>,
}

/// Consecutive rows of one file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
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
pub fn sees(source: &Source) -> bool {
    let same = |file: &SourceFile| {
        let opened = file.open().ok()?;
        Some(ends(&opened, file.size).ok()? == file.ends)
    };
    source.files.iter().all(|file| same(file).unwrap_or(false))
}

impl SourceFile {
    /// Opens it, if it still is the file that was scanned.
    pub(super) fn open(&self) -> Result<File, InputError> {
        let (file, facts) = open(&self.path)?;
        if (facts.len(), mtime(&facts)) == (self.size, self.mtime) {
            Ok(file)
        } else {
            Err(InputError::Changed { path: self.path.clone() })
        }
    }
}

pub(super) fn open(path: &Path) -> Result<(File, Metadata), InputError> {
    let io = |source| InputError::Io { doing: "cannot open it", path: path.to_path_buf(), source };
    let file = File::open(path).map_err(io)?;
    let facts = file.metadata().map_err(io)?;
    Ok((file, facts))
}

pub(super) fn mtime(facts: &Metadata) -> i64 {
    facts.mtime().saturating_mul(1_000_000_000).saturating_add(facts.mtime_nsec())
}

pub(super) fn ends(file: &File, size: u64) -> io::Result<String> {
    let read = |from: u64| {
        // At most END, so that it fits in any usize.
        let mut end = vec![0; (size - from).min(END) as usize];
        file.read_exact_at(&mut end, from).map(|()| end)
    };
    let both = [read(0)?, read(size.saturating_sub(END))?].concat();
    Ok(hex(xxh3_128(&both)))
}

pub(super) fn hex(hash: u128) -> String {
    format!("{hash:032x}")
}

/// The fingerprint of all files: the same bytes as other rows are another input.
pub(super) fn fingerprint(files: &[SourceFile]) -> String {
    let each = files.iter().map(|file| format!("{:?} {}\n", file.format, file.fingerprint));
    hex(xxh3_128(each.collect::<String>().as_bytes()))
}

/// A file that is hashed as it is read.
pub(super) struct Hashed {
    file: File,
    read: u64,
    block: Box<Xxh3>,
    blocks: Box<Xxh3>,
}

impl Hashed {
    pub(super) fn new(file: File) -> Self {
        Self { file, read: 0, block: Box::default(), blocks: Box::default() }
    }

    /// The file, how much of it was read, and the fingerprint of that.
    pub(super) fn finish(mut self) -> (File, u64, String) {
        if !self.read.is_multiple_of(BLOCK) {
            self.end_block();
        }
        (self.file, self.read, hex(self.blocks.digest128()))
    }

    fn hash(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let left = usize::try_from(BLOCK - self.read % BLOCK).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(left.min(bytes.len()));
            self.block.update(now);
            self.read += now.len() as u64;
            if self.read.is_multiple_of(BLOCK) {
                self.end_block();
            }
            bytes = later;
        }
    }

    fn end_block(&mut self) {
        self.blocks.update(&self.block.digest128().to_le_bytes());
        self.block.reset();
    }
}

impl Read for Hashed {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(to)?;
        self.hash(&to[..read]);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_does_not_depend_on_how_it_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let text: Vec<u8> = (0..9_000_000_u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&path, &text).unwrap();
        let of = |chunk: usize| {
            let mut hashed = Hashed::new(File::open(&path).unwrap());
            let mut to = vec![0; chunk];
            while hashed.read(&mut to).unwrap() > 0 {}
            hashed.finish()
        };
        let (_, read, print) = of(1 << 20);
        assert_eq!(read, text.len() as u64);
        assert_eq!(print, of(777_777).2);
        let blocks: Vec<u8> =
            text.chunks(16 << 20).flat_map(|it| xxh3_128(it).to_le_bytes()).collect();
        assert_eq!(print, hex(xxh3_128(&blocks)));
    }
}
