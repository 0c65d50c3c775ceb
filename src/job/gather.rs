//! Answers from all ranks' shard files into one file, in input order, in rounds that fit a buffer.
//!
//! Each round's stretch of prompts is chosen by a reduction over what the ranks have of it, so that its bytes fit; ranks
//! send their lines by a varying-count gather, and rank 0 writes them in order. A prompt may stand in several shard files:
//! rank 0 takes the line that counts.

use std::{fs::File, os::unix::fs::FileExt};

use tracing::info;

use super::{
    CodeOf, JobError,
    agree::{Common, everywhere},
    brief::Brief,
    standing::{Standing, my_files},
};
use crate::{
    comm::{Combine, Comm, Gathered},
    output::OutputFile,
    shards::{self, Entry, Rank, ShardError, ShardFile},
};

/// Bytes at rank 0 at a time, about.
const ROUND: u64 = 32 << 20;
/// Pieces that a stretch is measured in.
const BINS: u64 = 4096;

/// This rank's lines, by prompt.
struct Lines {
    files: Vec<(ShardFile, File)>,
    /// Sorted by index; the file's place, and where in it.
    entries: Vec<(Entry, u32)>,
}

/// Collective. Writes the output file, where one is wanted and every prompt has its outcome.
pub(super) fn gather(
    comm: &mut dyn Comm,
    brief: &Brief,
    common: &Common,
    standing: &Standing,
    code: CodeOf,
) -> Result<(), JobError> {
    let Some(format) = brief.format else { return Ok(()) };
    if standing.counts(brief.source.rows).open > 0 {
        return Ok(());
    }
    let began = std::time::Instant::now();
    let lines = my_files(comm.rank(), comm.size(), brief)
        .and_then(|files| Lines::read(files, &brief.source.fingerprint));
    let lines = everywhere(comm, lines, code)?;
    let output = (comm.rank() == 0).then(|| OutputFile::create(&brief.output, format));
    let mut output = everywhere(comm, output.transpose().map_err(JobError::from), code)?;
    let mut gathered = Gathered::default();
    let mut fault = None;
    for (from, to) in stretches(comm, &lines, brief.source.rows) {
        let mut mine = Vec::new();
        // A rank that cannot read its file goes on with nothing, and says so when all can hear it.
        if let Err(error) = lines.stretch(from, to, &mut mine) {
            mine.clear();
            fault.get_or_insert(JobError::from(error));
        }
        comm.gather(&mine, &mut gathered);
        if let Some(output) = output.as_mut().filter(|_| fault.is_none()) {
            fault = write_round(output, &gathered, from, to).err();
        }
    }
    everywhere(comm, fault.map_or(Ok(()), Err), code)?;
    let finished = output.map_or(Ok(()), OutputFile::finish);
    everywhere(comm, finished.map_err(JobError::from), code)?;
    if common.place.rank == 0 {
        info!(seconds = began.elapsed().as_secs_f64(), output = %brief.output.display(), "the answers are gathered");
    }
    Ok(())
}

/// Collective. Stretches of prompts, in order, whose lines together fit a round (or are a single prompt's).
fn stretches(comm: &mut dyn Comm, lines: &Lines, rows: u64) -> Vec<(u64, u64)> {
    let mut found: Vec<(u64, u64)> = Vec::new();
    let mut to_measure = vec![(0, rows)];
    let mut filled = 0;
    while let Some((from, to)) = to_measure.pop() {
        if from >= to {
            continue;
        }
        let width = (to - from).div_ceil(BINS);
        let mut bins = lines.bytes_by_bin(from, to, width);
        comm.all_reduce(&mut bins, Combine::Sum);
        let mut left = Vec::new();
        for (bin, &bytes) in (0..).zip(&bins) {
            let (begin, end) = (from + bin * width, to.min(from + (bin + 1) * width));
            if begin >= end {
                break;
            }
            if bytes > ROUND && end - begin > 1 {
                // Too much in one piece: what comes after it has to wait until it is measured.
                left.push((end, to));
                left.push((begin, end));
                break;
            }
            match found.last_mut() {
                Some(last) if last.1 == begin && filled + bytes <= ROUND => {
                    last.1 = end;
                    filled += bytes;
                }
                _ => {
                    found.push((begin, end));
                    filled = bytes;
                }
            }
        }
        to_measure.extend(left);
    }
    found
}

impl Lines {
    fn read(files: Vec<ShardFile>, fingerprint: &str) -> Result<Self, JobError> {
        let mut entries = Vec::new();
        let mut place = 0;
        let mut open = Vec::new();
        for file in files {
            let survey = shards::read(&file, fingerprint, |entry| entries.push((entry, place)))?;
            if !survey.foreign {
                let handle = File::open(&file.path).map_err(|error| unreadable(&file, error))?;
                open.push((file, handle));
                place += 1;
            }
        }
        // Stable: of two lines of one prompt in one file the first stays first.
        entries.sort_by_key(|(entry, _)| entry.index);
        Ok(Self { files: open, entries })
    }

    fn of(&self, from: u64, to: u64) -> &[(Entry, u32)] {
        let at = |index: u64| self.entries.partition_point(|(entry, _)| entry.index < index);
        &self.entries[at(from)..at(to)]
    }

    fn bytes_by_bin(&self, from: u64, to: u64, width: u64) -> Vec<u64> {
        let mut bins = vec![0; (to - from).div_ceil(width) as usize];
        for (entry, _) in self.of(from, to) {
            bins[((entry.index - from) / width) as usize] += u64::from(entry.length) + HEAD as u64;
        }
        bins
    }

    /// The stretch's lines, each behind a head that says whose it is.
    fn stretch(&self, from: u64, to: u64, into: &mut Vec<u8>) -> Result<(), ShardError> {
        for (entry, place) in self.of(from, to) {
            let (file, handle) = &self.files[*place as usize];
            into.extend(entry.index.to_le_bytes());
            into.extend(u32::from(!entry.success).to_le_bytes());
            into.extend(file.start.to_le_bytes());
            into.extend(file.rank.to_le_bytes());
            into.extend(entry.length.to_le_bytes());
            let old = into.len();
            into.resize(old + entry.length as usize, 0);
            handle
                .read_exact_at(&mut into[old..], entry.offset)
                .map_err(|error| unreadable(file, error))?;
        }
        Ok(())
    }
}

/// Index, failed, start, rank, length.
const HEAD: usize = 8 + 4 + 4 + 4 + 4;

/// One round: of each prompt the line that counts, in order.
fn write_round(
    output: &mut OutputFile,
    gathered: &Gathered,
    from: u64,
    to: u64,
) -> Result<(), JobError> {
    let mut best: Vec<Option<(Rank, &[u8])>> = vec![None; (to - from) as usize];
    for mut part in gathered.parts() {
        while let Some((head, rest)) = part.split_at_checked(HEAD) {
            let number = |at: usize| {
                u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
            };
            let index = u64::from(number(0)) | u64::from(number(4)) << 32;
            let rank = Rank { failed: number(8) != 0, start: number(12), rank: number(16) };
            let (line, rest) = rest.split_at(number(20) as usize);
            part = rest;
            let place = &mut best[(index - from) as usize];
            if place.is_none_or(|(other, _)| rank < other) {
                *place = Some((rank, line));
            }
        }
    }
    for (_, line) in best.into_iter().flatten() {
        output.answer(line)?;
    }
    Ok(())
}

fn unreadable(file: &ShardFile, error: std::io::Error) -> ShardError {
    ShardError { what: "cannot read the shard file", path: file.path.clone(), error }
}

/// Local. All answers of a run folder there are, in order, into `output`; how many.
pub(super) fn gather_alone(
    folder: &std::path::Path,
    rows: u64,
    fingerprint: &str,
    output: &mut OutputFile,
) -> Result<(), JobError> {
    let files = shards::list(&folder.join(super::brief::SHARDS))?;
    let lines = Lines::read(files, fingerprint)?;
    let mut comm = crate::comm::Solo::new();
    for (from, to) in stretches(&mut comm, &lines, rows) {
        let mut gathered = Gathered::default();
        lines.stretch(from, to, &mut gathered.bytes)?;
        gathered.counts.push(gathered.bytes.len());
        write_round(output, &gathered, from, to)?;
    }
    Ok(())
}
