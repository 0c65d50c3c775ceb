//! The index of this rank's lines in its shard files, and reading a range of them in input order.
//!
//! The index takes 16 bytes per line and keeps, for each prompt, only the line that takes precedence among this rank's.
//! It knows nothing of other ranks, whose lines may take precedence over these: each line that it reads is framed with
//! what is needed to compare it. The comparison across ranks is in [`super::gather`] and [`super::aggregate`].

use std::collections::BTreeMap;

use crate::shards::{
    FileCache, LineEntry, LineGrade, LineLocation, LinePrecedence, ShardError, ShardFile,
};

/// Lower estimate of the length of a line that this program writes.
const SHORT_LINE_BYTES: u64 = 200;
/// Lines that are closer to each other than this are read in one call: the bytes between them cost less than another
/// call.
const MAX_READ_GAP: u64 = 16 << 10;
/// Limit of a joined read; a single longer line is read in one call all the same.
const MAX_READ_BYTES: u64 = 1 << 20;

/// Locations of this rank's lines, sorted by prompt after [`LineIndex::sort_lines`].
pub(crate) struct LineIndex {
    file_cache: FileCache,
    locations: Vec<LineLocation>,
    /// Lengths that do not fit into a packed location.
    long_lengths: BTreeMap<LineLocation, u32>,
    rows: u64,
}

impl LineIndex {
    /// Creates an empty index. The files are numbered as given, in order of session and rank.
    pub(crate) fn for_files(files: Vec<ShardFile>, rows: u64) -> Self {
        let size =
            |file: &ShardFile| std::fs::metadata(&file.path).map_or(0, |metadata| metadata.len());
        let bytes: u64 = files.iter().map(size).sum();
        let mut locations = Vec::new();
        // This usually reserves more than is needed: untouched memory costs nothing, whereas growing the vector would
        // hold two copies for a moment. If the reservation fails, the vector grows as usual.
        let _ = locations.try_reserve_exact(usize::try_from(bytes / SHORT_LINE_BYTES).unwrap_or(0));
        Self { file_cache: FileCache::new(files), locations, long_lengths: BTreeMap::new(), rows }
    }

    /// Records the location of a line in the given file. Lines of prompts beyond the input are ignored.
    pub(crate) fn record_line(&mut self, file: usize, entry: &LineEntry) -> Result<(), ShardError> {
        if entry.index >= self.rows {
            return Ok(());
        }
        let location = LineLocation::new(entry, file).map_err(|reason| ShardError {
            what: "cannot index the lines of shard file",
            path: self.file_cache.shard_file(file).path.clone(),
            error: std::io::Error::other(reason),
        })?;
        if location.line_length().is_none() {
            self.long_lengths.insert(location, entry.length);
        }
        self.locations.push(location);
        Ok(())
    }

    /// Sorts the lines by prompt and keeps, of each prompt, the one that takes precedence. Call after the last line.
    pub(crate) fn sort_lines(&mut self) {
        self.locations.sort_unstable();
        self.locations.dedup_by_key(|location| location.prompt_index());
    }

    /// Returns the number of prompts with a line, once the lines are sorted.
    pub(crate) fn line_count(&self) -> u64 {
        self.locations.len() as u64
    }

    /// Returns a key for each prompt in `[from, to)` by which its line is compared with other ranks' lines: the lowest
    /// takes precedence. A prompt without a line has `u64::MAX`.
    pub(crate) fn precedence_keys(&self, from: u64, to: u64) -> Vec<u64> {
        let mut keys = vec![u64::MAX; (to - from) as usize];
        for &location in self.locations_in(from, to) {
            keys[(location.prompt_index() - from) as usize] = self.precedence_key(location);
        }
        keys
    }

    /// Drops the lines that another rank supersedes. `lowest` has the lowest key of all ranks for each prompt from
    /// `from` on.
    pub(crate) fn drop_superseded(&mut self, from: u64, lowest: &[u64]) {
        let mut locations = std::mem::take(&mut self.locations);
        locations.retain(|&location| {
            let offset = location.prompt_index().checked_sub(from);
            let lowest = offset.and_then(|offset| lowest.get(offset as usize));
            lowest.is_none_or(|&lowest| self.precedence_key(location) == lowest)
        });
        self.locations = locations;
    }

    /// Returns the line's precedence as a number. No two files have the same session and rank.
    fn precedence_key(&self, location: LineLocation) -> u64 {
        let file = self.file_cache.shard_file(location.file_number());
        LinePrecedence::new(location.grade(), file.start, file.rank).to_key()
    }

    /// Returns the number of bytes that [`Self::read_range`] would append, for each bin of `width` prompts in `[from,
    /// to)`.
    pub(crate) fn bytes_by_bin(&self, from: u64, to: u64, width: u64) -> Vec<u64> {
        let mut bins = vec![0; (to - from).div_ceil(width) as usize];
        for &location in self.locations_in(from, to) {
            bins[((location.prompt_index() - from) / width) as usize] +=
                self.line_length(location) + FRAME_HEADER_BYTES as u64;
        }
        bins
    }

    /// Appends the lines of the prompts in `[from, to)` in input order, each with a frame header ([`LineFrames`] parses
    /// them).
    pub(crate) fn read_range(
        &mut self,
        from: u64,
        to: u64,
        buffer: &mut Vec<u8>,
    ) -> Result<(), ShardError> {
        // Headers are written first, with room for the lines; the lines are then read in the order of the files.
        let mut pieces = Vec::new();
        for &location in self.locations_in(from, to) {
            let length = self.line_length(location);
            let file = self.file_cache.shard_file(location.file_number());
            buffer.extend(location.prompt_index().to_le_bytes());
            let grade = location.grade().bits() as u32;
            for number in [grade, file.start, file.rank, length as u32] {
                buffer.extend(number.to_le_bytes());
            }
            let (offset, buffer_offset) = (location.line_offset(), buffer.len());
            pieces.push(ReadPiece {
                file: location.file_number(),
                from: offset,
                to: offset + length,
                buffer_offset,
            });
            buffer.resize(buffer_offset + length as usize, 0);
        }
        self.read_pieces(pieces, buffer)
    }

    /// Copies the pieces into the buffer. Answers are in their files in the order in which servers gave them, which is
    /// nearly the input order: sorted by file offset, many pieces are read in one call.
    fn read_pieces(
        &mut self,
        mut pieces: Vec<ReadPiece>,
        buffer: &mut [u8],
    ) -> Result<(), ShardError> {
        pieces.sort_unstable_by_key(|piece| (piece.file, piece.from));
        let mut joined = Vec::new();
        let mut unread = pieces.as_slice();
        while let Some(first) = unread.first() {
            let is_joined = |pair: &[ReadPiece]| {
                let (last, next) = (&pair[0], &pair[1]);
                next.file == first.file
                    && next.from - last.to <= MAX_READ_GAP
                    && next.to - first.from <= MAX_READ_BYTES
            };
            let count = 1 + unread.windows(2).take_while(|pair| is_joined(pair)).count();
            let (group, rest) = unread.split_at(count);
            unread = rest;
            if let [piece] = group {
                self.file_cache.read_at(
                    piece.file,
                    piece.from,
                    &mut buffer[piece.buffer_range()],
                )?;
                continue;
            }
            let length = (group[count - 1].to - first.from) as usize;
            joined.resize(joined.len().max(length), 0);
            self.file_cache.read_at(first.file, first.from, &mut joined[..length])?;
            for piece in group {
                let (from, to) = (piece.from - first.from, piece.to - first.from);
                buffer[piece.buffer_range()].copy_from_slice(&joined[from as usize..to as usize]);
            }
        }
        Ok(())
    }

    fn locations_in(&self, from: u64, to: u64) -> &[LineLocation] {
        let position =
            |index: u64| self.locations.partition_point(|location| location.prompt_index() < index);
        &self.locations[position(from)..position(to)]
    }

    fn line_length(&self, location: LineLocation) -> u64 {
        let length = location.line_length().or_else(|| self.long_lengths.get(&location).copied());
        u64::from(length.unwrap_or_default())
    }
}

/// A range of bytes of a file and its position in the buffer.
struct ReadPiece {
    file: usize,
    from: u64,
    to: u64,
    buffer_offset: usize,
}

impl ReadPiece {
    fn buffer_range(&self) -> std::ops::Range<usize> {
        self.buffer_offset..self.buffer_offset + (self.to - self.from) as usize
    }
}

/// Size of a frame header: index (u64), grade, session, rank and length (u32 each).
const FRAME_HEADER_BYTES: usize = 8 + 4 + 4 + 4 + 4;

/// Iterator over framed lines: index of the prompt, precedence, and the line.
pub(crate) struct LineFrames<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for LineFrames<'a> {
    type Item = (u64, LinePrecedence, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (header, rest) = self.0.split_first_chunk::<FRAME_HEADER_BYTES>()?;
        let number = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
        };
        let index = u64::from(number(0)) | u64::from(number(4)) << 32;
        let grade = LineGrade::from_bits(number(8).into());
        let precedence = LinePrecedence::new(grade, number(12), number(16));
        let (line, rest) = rest.split_at_checked(number(20) as usize)?;
        self.0 = rest;
        Some((index, precedence, line))
    }
}
