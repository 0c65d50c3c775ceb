//! The index of this rank's lines in its shard files, and reading a range of them in input order.
//!
//! The index takes 16 bytes per line and keeps, for each prompt, only the line that takes precedence among this rank's. It
//! knows nothing of other ranks, whose lines may take precedence over these: each line that it reads is framed with what is
//! needed to compare it. The comparison across ranks is in [`super::gather`] and [`super::aggregate`].

use std::collections::BTreeMap;

use crate::shards::{FileCache, LineEntry, LineLocation, LinePrecedence, ShardError, ShardFile};

/// Lower estimate of the length of a line that this program writes.
const SHORT_LINE_BYTES: u64 = 200;
/// Lines that are closer to each other than this are read in one call: the bytes between them cost less than another call.
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
        let size = |file: &ShardFile| std::fs::metadata(&file.path).map_or(0, |it| it.len());
        let bytes: u64 = files.iter().map(size).sum();
        let mut spots = Vec::new();
        // This usually reserves more than is needed: untouched memory costs nothing, whereas growing the vector would hold
        // two copies for a moment. If the reservation fails, the vector grows as usual.
        let _ = spots.try_reserve_exact(usize::try_from(bytes / SHORT_LINE_BYTES).unwrap_or(0));
        Self {
            file_cache: FileCache::new(files),
            locations: spots,
            long_lengths: BTreeMap::new(),
            rows,
        }
    }

    /// Records the location of a line in the given file. Lines of prompts beyond the input are ignored.
    pub(crate) fn record_line(&mut self, file: usize, entry: &LineEntry) -> Result<(), ShardError> {
        if entry.index >= self.rows {
            return Ok(());
        }
        let spot = LineLocation::new(entry, file).map_err(|words| ShardError {
            what: "cannot note where the answers lie in the shard file",
            path: self.file_cache.shard_file(file).path.clone(),
            error: std::io::Error::other(words),
        })?;
        if spot.line_length().is_none() {
            self.long_lengths.insert(spot, entry.length);
        }
        self.locations.push(spot);
        Ok(())
    }

    /// Sorts the lines by prompt and keeps, of each prompt, the one that takes precedence. Call after the last line.
    pub(crate) fn sort_lines(&mut self) {
        self.locations.sort_unstable();
        self.locations.dedup_by_key(|spot| spot.prompt_index());
    }

    /// Returns the number of prompts with a line, once the lines are sorted.
    pub(crate) fn line_count(&self) -> u64 {
        self.locations.len() as u64
    }

    /// Returns a key for each prompt in `[from, to)` by which its line is compared with other ranks' lines: the lowest takes
    /// precedence. A prompt without a line has `u64::MAX`.
    pub(crate) fn precedence_keys(&self, from: u64, to: u64) -> Vec<u64> {
        let mut claims = vec![u64::MAX; (to - from) as usize];
        for &spot in self.locations_in(from, to) {
            claims[(spot.prompt_index() - from) as usize] = self.precedence_key(spot);
        }
        claims
    }

    /// Drops the lines that another rank supersedes. `lowest` has the lowest key of all ranks for each prompt from `from` on.
    pub(crate) fn drop_superseded(&mut self, from: u64, lowest: &[u64]) {
        let mut spots = std::mem::take(&mut self.locations);
        spots.retain(|&spot| {
            let lowest =
                spot.prompt_index().checked_sub(from).and_then(|at| lowest.get(at as usize));
            lowest.is_none_or(|&lowest| self.precedence_key(spot) == lowest)
        });
        self.locations = spots;
    }

    /// Encodes a [`LinePrecedence`] in one number of the same order. No two files have the same session and rank.
    fn precedence_key(&self, spot: LineLocation) -> u64 {
        let file = self.file_cache.shard_file(spot.file_number());
        let start = u64::from(file.start) & (u64::from(u32::MAX) >> 1);
        u64::from(spot.is_failed()) << 63 | start << 32 | u64::from(file.rank)
    }

    /// Returns the number of bytes that [`Self::read_range`] would append, for each bin of `width` prompts in `[from, to)`.
    pub(crate) fn bytes_by_bin(&self, from: u64, to: u64, width: u64) -> Vec<u64> {
        let mut bins = vec![0; (to - from).div_ceil(width) as usize];
        for &spot in self.locations_in(from, to) {
            bins[((spot.prompt_index() - from) / width) as usize] +=
                self.line_length(spot) + FRAME_HEADER_BYTES as u64;
        }
        bins
    }

    /// Appends the lines of the prompts in `[from, to)` in input order, each with a frame header ([`LineFrames`] parses them).
    pub(crate) fn read_range(
        &mut self,
        from: u64,
        to: u64,
        into: &mut Vec<u8>,
    ) -> Result<(), ShardError> {
        let mut pieces = Vec::new();
        for &spot in self.locations_in(from, to) {
            let (file, length) =
                (self.file_cache.shard_file(spot.file_number()), self.line_length(spot));
            into.extend(spot.prompt_index().to_le_bytes());
            for number in [u32::from(spot.is_failed()), file.start, file.rank, length as u32] {
                into.extend(number.to_le_bytes());
            }
            let (number, offset, at) = (spot.file_number(), spot.line_offset(), into.len());
            pieces.push(ReadPiece {
                file: number,
                from: offset,
                to: offset + length,
                buffer_offset: at,
            });
            into.resize(at + length as usize, 0);
        }
        self.read_pieces(pieces, into)
    }

    /// Copies the pieces into the buffer. Answers are in their files in the order in which servers gave them, which is nearly
    /// the input order: sorted by file offset, many pieces are read in one call.
    fn read_pieces(
        &mut self,
        mut pieces: Vec<ReadPiece>,
        into: &mut [u8],
    ) -> Result<(), ShardError> {
        pieces.sort_unstable_by_key(|piece| (piece.file, piece.from));
        let mut together = Vec::new();
        let mut rest = pieces.as_slice();
        while let Some(first) = rest.first() {
            let joins = |pair: &[ReadPiece]| {
                let (last, next) = (&pair[0], &pair[1]);
                next.file == first.file
                    && next.from - last.to <= MAX_READ_GAP
                    && next.to - first.from <= MAX_READ_BYTES
            };
            let many = 1 + rest.windows(2).take_while(|pair| joins(pair)).count();
            let (run, tail) = rest.split_at(many);
            rest = tail;
            if let [piece] = run {
                self.file_cache.read_at(piece.file, piece.from, &mut into[piece.buffer_range()])?;
                continue;
            }
            let length = (run[many - 1].to - first.from) as usize;
            together.resize(together.len().max(length), 0);
            self.file_cache.read_at(first.file, first.from, &mut together[..length])?;
            for piece in run {
                let (from, to) = (piece.from - first.from, piece.to - first.from);
                into[piece.buffer_range()].copy_from_slice(&together[from as usize..to as usize]);
            }
        }
        Ok(())
    }

    fn locations_in(&self, from: u64, to: u64) -> &[LineLocation] {
        let at = |index: u64| self.locations.partition_point(|spot| spot.prompt_index() < index);
        &self.locations[at(from)..at(to)]
    }

    fn line_length(&self, spot: LineLocation) -> u64 {
        let length = spot.line_length().or_else(|| self.long_lengths.get(&spot).copied());
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

/// Size of a frame header: index (u64), failed, session, rank and length (u32 each).
const FRAME_HEADER_BYTES: usize = 8 + 4 + 4 + 4 + 4;

/// Iterator over framed lines: index of the prompt, precedence, and the line.
pub(crate) struct LineFrames<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for LineFrames<'a> {
    type Item = (u64, LinePrecedence, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.0.split_first_chunk::<FRAME_HEADER_BYTES>()?;
        let number =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let index = u64::from(number(0)) | u64::from(number(4)) << 32;
        let rank = LinePrecedence { failed: number(8) != 0, start: number(12), rank: number(16) };
        let (line, rest) = rest.split_at_checked(number(20) as usize)?;
        self.0 = rest;
        Some((index, rank, line))
    }
}
