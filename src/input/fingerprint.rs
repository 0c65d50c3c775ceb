//! Fingerprints: hashes of files, by which ranks and sessions recognise the same input.
//!
//! Owns the block structure of a fingerprint and the reader that hashes a file while it is scanned. The files' sizes
//! and times are in `source.rs`; row hashes are in `scan/row_hashes.rs`.

use std::{
    fs::File,
    io::{self, Read},
    ops::Range,
    os::unix::fs::FileExt,
};

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::{PartitionColumn, format::RowLayout};

/// Bytes per block of a fingerprint, which is a hash over block hashes, so that blocks can be hashed independently.
pub(super) const BLOCK_BYTES: u64 = 16 << 20;

/// Bytes at either end of a file that every rank compares. Small, because all ranks read them at once at start-up.
const END_BYTES: u64 = 64 << 10;

pub(super) fn hash_ends(file: &File, size: u64) -> io::Result<String> {
    let read = |from: u64| {
        // At most `END_BYTES`, so the cast cannot truncate.
        let mut end = vec![0; (size - from).min(END_BYTES) as usize];
        file.read_exact_at(&mut end, from).map(|()| end)
    };
    let ends = [read(0)?, read(size.saturating_sub(END_BYTES))?].concat();
    Ok(hash_to_hex(xxh3_128(&ends)))
}

/// Returns the text by which added columns take part in hashes, which is empty without any.
pub(super) fn describe_partition(columns: &[PartitionColumn]) -> String {
    if columns.is_empty() { String::new() } else { format!("{columns:?}\n") }
}

fn hash_to_hex(hash: u128) -> String {
    format!("{hash:032x}")
}

/// Returns the fingerprint of several files, given each one's layout, added columns and fingerprint. It includes them all,
/// since the same bytes read as other rows are another input.
pub(super) fn combine_fingerprints<'f>(
    files: impl Iterator<Item = (RowLayout, &'f [PartitionColumn], &'f str)>,
) -> String {
    let each = files.map(|(layout, partition, fingerprint)| {
        format!("{} {fingerprint}\n{}", layout.hashed_name(), describe_partition(partition))
    });
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
        let (is_hashed, limit) = match self.position {
            at if at < start => (false, start - at),
            at if at < end => (true, end - at),
            _ => (false, TAIL_READ_BYTES as u64),
        };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(to.len());
        let read = self.file.read(&mut to[..limit])?;
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
