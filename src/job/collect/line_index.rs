//! Where this rank's answers lie in its shard files, and getting a stretch of them out, in input order.
//!
//! Sixteen bytes a line are kept, and of each prompt only the line that counts among this rank's. It knows nothing of other
//! ranks, whose lines may count more: what it gets out says for each line how it compares.

use std::collections::BTreeMap;

use crate::shards::{FileCache, LineEntry, LineLocation, LinePrecedence, ShardError, ShardFile};

/// Hardly a line that this program writes is shorter.
const SHORT_LINE_BYTES: u64 = 200;
/// Lines nearer to each other than this are read at once: the bytes between cost less than another call.
const MAX_READ_GAP: u64 = 16 << 10;
/// The most that is read at once, if no line is longer.
const MAX_READ_BYTES: u64 = 1 << 20;

/// This rank's lines, by prompt.
pub(crate) struct LineIndex {
    file_cache: FileCache,
    locations: Vec<LineLocation>,
    /// The lengths that a spot has no room for.
    long_lengths: BTreeMap<LineLocation, u32>,
    rows: u64,
}

impl LineIndex {
    /// None yet. The files are numbered as they stand, in order of start and rank.
    pub(crate) fn for_files(files: Vec<ShardFile>, rows: u64) -> Self {
        let size = |file: &ShardFile| std::fs::metadata(&file.path).map_or(0, |it| it.len());
        let bytes: u64 = files.iter().map(size).sum();
        let mut spots = Vec::new();
        // More than there can be, mostly, since memory that is not touched costs nothing, and growing in between may for a
        // moment cost twice. Where it cannot be had, the vector grows as vectors do.
        let _ = spots.try_reserve_exact(usize::try_from(bytes / SHORT_LINE_BYTES).unwrap_or(0));
        Self {
            file_cache: FileCache::new(files),
            locations: spots,
            long_lengths: BTreeMap::new(),
            rows,
        }
    }

    /// Keeps where a line of the file of that number lies. A prompt beyond the input is nobody's.
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

    /// All are kept: into order, and of each prompt only the line that counts.
    pub(crate) fn sort_lines(&mut self) {
        self.locations.sort_unstable();
        self.locations.dedup_by_key(|spot| spot.prompt_index());
    }

    /// Of how many prompts there is a line, once they are sorted.
    pub(crate) fn line_count(&self) -> u64 {
        self.locations.len() as u64
    }

    /// Of each prompt of a stretch, how the line here compares with others' lines: the lowest counts. The highest number
    /// there is where there is none.
    pub(crate) fn precedence_keys(&self, from: u64, to: u64) -> Vec<u64> {
        let mut claims = vec![u64::MAX; (to - from) as usize];
        for &spot in self.of(from, to) {
            claims[(spot.prompt_index() - from) as usize] = self.precedence_key(spot);
        }
        claims
    }

    /// Leaves out the lines of a stretch that do not count: `lowest` are the lowest claims of all ranks.
    pub(crate) fn drop_superseded(&mut self, from: u64, lowest: &[u64]) {
        let mut spots = std::mem::take(&mut self.locations);
        spots.retain(|&spot| {
            let lowest =
                spot.prompt_index().checked_sub(from).and_then(|at| lowest.get(at as usize));
            lowest.is_none_or(|&lowest| self.precedence_key(spot) == lowest)
        });
        self.locations = spots;
    }

    /// As [`Rank`]s compare, in one number: no two files have the same start and rank.
    fn precedence_key(&self, spot: LineLocation) -> u64 {
        let file = self.file_cache.shard_file(spot.file());
        let start = u64::from(file.start) & (u64::from(u32::MAX) >> 1);
        u64::from(spot.failed()) << 63 | start << 32 | u64::from(file.rank)
    }

    /// How many bytes [`Lines::stretch`] would give, by bins of so many prompts.
    pub(crate) fn bytes_by_bin(&self, from: u64, to: u64, width: u64) -> Vec<u64> {
        let mut bins = vec![0; (to - from).div_ceil(width) as usize];
        for &spot in self.of(from, to) {
            bins[((spot.prompt_index() - from) / width) as usize] +=
                self.line_length(spot) + FRAME_HEADER_BYTES as u64;
        }
        bins
    }

    /// Appends the stretch's lines in input order, each behind a head that says whose it is ([`Heads`] takes them apart).
    pub(crate) fn read_range(
        &mut self,
        from: u64,
        to: u64,
        into: &mut Vec<u8>,
    ) -> Result<(), ShardError> {
        let mut pieces = Vec::new();
        for &spot in self.of(from, to) {
            let (file, length) = (self.file_cache.shard_file(spot.file()), self.line_length(spot));
            into.extend(spot.prompt_index().to_le_bytes());
            for number in [u32::from(spot.failed()), file.start, file.rank, length as u32] {
                into.extend(number.to_le_bytes());
            }
            let (number, offset, at) = (spot.file(), spot.line_offset(), into.len());
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

    /// Answers lie in their files in the order in which servers gave them, which is nearly the input's: read in the order
    /// of the files, many are one call.
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
                self.file_cache.read(piece.file, piece.from, &mut into[piece.place()])?;
                continue;
            }
            let length = (run[many - 1].to - first.from) as usize;
            together.resize(together.len().max(length), 0);
            self.file_cache.read(first.file, first.from, &mut together[..length])?;
            for piece in run {
                let (from, to) = (piece.from - first.from, piece.to - first.from);
                into[piece.place()].copy_from_slice(&together[from as usize..to as usize]);
            }
        }
        Ok(())
    }

    fn of(&self, from: u64, to: u64) -> &[LineLocation] {
        let at = |index: u64| self.locations.partition_point(|spot| spot.prompt_index() < index);
        &self.locations[at(from)..at(to)]
    }

    fn line_length(&self, spot: LineLocation) -> u64 {
        let length = spot.line_length().or_else(|| self.long_lengths.get(&spot).copied());
        u64::from(length.unwrap_or_default())
    }
}

/// Bytes of a file, and where they go.
struct ReadPiece {
    file: usize,
    from: u64,
    to: u64,
    buffer_offset: usize,
}

impl ReadPiece {
    fn place(&self) -> std::ops::Range<usize> {
        self.buffer_offset..self.buffer_offset + (self.to - self.from) as usize
    }
}

/// Index, failed, start, rank, length.
const FRAME_HEADER_BYTES: usize = 8 + 4 + 4 + 4 + 4;

/// The lines of a stretch, one after the other: whose, how it compares, and the line.
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
