//! Reading the input over: by rank 0 alone, or, where it is large and all ranks see it, by ranks together.
//!
//! Owns who scans which piece and how the parts come to rank 0. A reader has one part on its way at a time and rank 0 takes
//! them in their order, so that no rank holds much more than the piece it is at. Does not know what a part says: errors in
//! it are values, which rank 0 finds.

use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::run_plan::{run_folder, spool_folder_name};
use crate::job::JobError;
use crate::{
    comm::{Comm, MessageTag, PollBackoff, ReduceOp, TypedComm},
    input::{
        self, ChunkScan, InputChunk, InputFile, InputFormat, InputListing, InputRules, InputScan,
        ScannedInput,
    },
    output::{Manifest, OutputError, answers_sibling_path},
};

/// Below, one rank is done before ranks have agreed to share.
const MIN_PARALLEL_BYTES: u64 = 64 << 20;
/// More would wait for rank 0, which has to take in what they find.
const MAX_READERS: usize = 64;

/// Local. The scan by this process alone.
pub(crate) fn scan_alone(
    inputs: &[String],
    rules: &InputRules,
    folder: &Path,
    output: Option<&Path>,
) -> Result<ScannedInput, JobError> {
    Ok(input::scan_files(&prepare_input_files(inputs, rules, folder, 1, output)?, rules)?)
}

/// Local. The input as plain files: what ranks could not read by ranges (standard input, packed files) is laid out in the
/// run folder.
pub(crate) fn prepare_input_files(
    inputs: &[String],
    rules: &InputRules,
    folder: &Path,
    start: u32,
    output: Option<&Path>,
) -> Result<Vec<InputFile>, JobError> {
    let mut files = Vec::new();
    let spool = folder.join(spool_folder_name(start));
    let named: Vec<String> = inputs.iter().filter(|it| *it != "-").cloned().collect();
    let found = if named.is_empty() { Vec::new() } else { input::find_input_files(&named)? };
    let found = match output {
        Some(output) => exclude_own_answers(found, &named, output)?,
        None => found,
    };
    let plain = |number: usize, path: &Path, from: &mut dyn std::io::Read| {
        std::fs::create_dir_all(&spool).map_err(OutputError::io_error("cannot make", &spool))?;
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let to = spool.join(format!("{number:05}-{name}"));
        input::spool_stream(from, &to)?;
        Ok::<_, JobError>(to)
    };
    for (number, path) in found.iter().enumerate() {
        let format = input::format_of(path).unwrap_or(InputFormat::Jsonl);
        files.push(if input::is_compressed(path) {
            let copy = plain(number, path, &mut input::open_decompressed(path, rules)?)?;
            InputFile { path: copy, format, name: path.clone() }
        } else {
            let path =
                std::path::absolute(path).map_err(OutputError::io_error("cannot find", path))?;
            InputFile::new(path, format)
        });
    }
    if named.len() < inputs.len() {
        let path = plain(found.len(), Path::new("stdin.jsonl"), &mut std::io::stdin().lock())?;
        files.push(InputFile { path, format: InputFormat::Jsonl, name: "standard input".into() });
    }
    Ok(files)
}

/// Local. The same without what a run to this output has written there: answers may lie in the folder that prompts are in.
/// What no run has written, or was named itself, is somebody's prompts, which answers must not be written over.
fn exclude_own_answers(
    found: Vec<PathBuf>,
    named: &[String],
    output: &Path,
) -> Result<Vec<PathBuf>, JobError> {
    let own = [output.to_owned(), answers_sibling_path(output, "concat.txt")];
    let own: Vec<PathBuf> = own.iter().filter_map(|it| it.canonicalize().ok()).collect();
    let (answers, rows): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|it| it.canonicalize().is_ok_and(|it| own.contains(&it)));
    let ran = Manifest::read(&run_folder(output)).is_ok_and(|it| it.is_some());
    for file in answers {
        let is_named = named.iter().any(|it| Path::new(it) == file);
        if is_named || !ran {
            let file = file.display();
            return Err(JobError::PreconditionFailed(format!(
                "{file} is an input, and answers would be written over it: choose another --output"
            )));
        }
        info!(file = %file.display(), "left out: the answers of this run");
    }
    Ok(rows)
}

/// Collective. The scan of rank 0's `files`: its result on rank 0, nothing on the others. The rules are the same on all.
pub(crate) fn scan_input(
    comm: &mut dyn Comm,
    files: Option<&[InputFile]>,
    rules: &InputRules,
) -> Option<Result<ScannedInput, JobError>> {
    let alone = || files.map(|files| Ok(input::scan_files(files, rules)?));
    if comm.size() == 1 {
        return alone();
    }
    // What is wrong with the files is found again, and said, by the scan.
    let listed = files.and_then(|files| InputListing::new(files).ok());
    let large = listed.filter(|input| input.bytes() >= MIN_PARALLEL_BYTES);
    let (is_root, is_large) = (files.is_some(), large.is_some());
    let input = comm.broadcast_value(Some(large)).unwrap_or(None);
    let mut all_see = [u64::from(input.as_ref().is_some_and(InputListing::is_visible))];
    comm.all_reduce(&mut all_see, ReduceOp::Min);
    let input = match input {
        Some(input) if all_see == [1] => input,
        _ => {
            if is_large {
                info!("not every rank sees the input: rank 0 reads it over alone");
            }
            return alone();
        }
    };
    let deal = ScanAssignment::new(input.split_chunks(), comm.size());
    if is_root {
        info!(ranks = deal.readers, pieces = deal.pieces.len(), "ranks read the input over");
        Some(collect_parts(comm, &input, rules, &deal))
    } else {
        send_parts(comm, &input, rules, &deal);
        None
    }
}

/// Who scans what: the pieces go round over readers, and readers stand as far apart among the ranks as can be, so that
/// they are on many nodes.
struct ScanAssignment {
    pieces: Vec<InputChunk>,
    readers: usize,
    ranks: usize,
}

impl ScanAssignment {
    fn new(pieces: Vec<InputChunk>, ranks: usize) -> Self {
        let readers = ranks.min(MAX_READERS).min(pieces.len()).max(1);
        Self { pieces, readers, ranks }
    }

    /// Each piece in its order with the rank that scans it.
    fn pieces_with_ranks(&self) -> impl Iterator<Item = (InputChunk, usize)> {
        let rank = |at: usize| (at % self.readers) * self.ranks / self.readers;
        self.pieces.iter().enumerate().map(move |(at, &piece)| (piece, rank(at)))
    }
}

/// Rank 0: its own pieces and everybody's parts, in their order. Every part is answered with whether to go on.
fn collect_parts(
    comm: &mut dyn Comm,
    input: &InputListing,
    rules: &InputRules,
    deal: &ScanAssignment,
) -> Result<ScannedInput, JobError> {
    let mut scan = InputScan::new(input, rules).map_err(JobError::from);
    let mut stopped = vec![false; deal.ranks];
    for (piece, rank) in deal.pieces_with_ranks() {
        // After an error nothing is scanned any more; only those are heard who do not know yet.
        if stopped[rank] || (rank == 0 && scan.is_err()) {
            continue;
        }
        let part = match rank {
            0 => Ok(piece.scan_rows(input, rules)),
            _ => comm.wait_for_value::<ChunkScan>(rank, MessageTag::Scan),
        };
        scan = scan.and_then(|mut scan| {
            scan.add(part?)?;
            Ok(scan)
        });
        stopped[rank] = scan.is_err();
        if rank != 0
            && let Err(error) = comm.send_value(rank, MessageTag::Scan, &scan.is_ok())
        {
            scan = scan.and(Err(error.into()));
        }
    }
    flush_sends(comm);
    Ok(scan?.finish()?)
}

/// The other ranks: a part is sent when rank 0 has taken the one before.
fn send_parts(
    comm: &mut dyn Comm,
    input: &InputListing,
    rules: &InputRules,
    deal: &ScanAssignment,
) {
    let mine = comm.rank();
    let mut waits = false;
    for (piece, _) in deal.pieces_with_ranks().filter(|&(_, rank)| rank == mine) {
        let part = piece.scan_rows(input, rules);
        if waits && !wait_to_continue(comm) {
            return;
        }
        let sent = comm.send_value(0, MessageTag::Scan, &part);
        drop(part);
        if let Err(error) = sent {
            // Nothing is no part: rank 0, which waits for one, ends the scan.
            warn!("what was scanned cannot be sent: {error}");
            let _ = comm.send_bytes(0, MessageTag::Scan, Vec::new());
        }
        flush_sends(comm);
        waits = true;
    }
    if waits {
        wait_to_continue(comm);
    }
}

fn wait_to_continue(comm: &mut dyn Comm) -> bool {
    comm.wait_for_value(0, MessageTag::Scan).unwrap_or(false)
}

/// Sleeps until what was sent is out of this rank's hands.
fn flush_sends(comm: &mut dyn Comm) {
    let mut nap = PollBackoff::for_transfer();
    while comm.pending_messages() > 0 {
        nap.sleep_next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_go_round_robin_over_evenly_spaced_ranks() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, "x\n").expect("a file");
            InputFile::new(path, InputFormat::Text)
        };
        let files: Vec<_> = ["a.txt", "b.txt", "c.txt"].map(file).into();
        let pieces = InputListing::new(&files).expect("files").split_chunks();
        let ranks = |ranks: usize, pieces: &[InputChunk]| -> Vec<usize> {
            ScanAssignment::new(pieces.to_vec(), ranks)
                .pieces_with_ranks()
                .map(|(_, rank)| rank)
                .collect()
        };
        assert_eq!(ranks(1, &pieces), [0, 0, 0]);
        assert_eq!(ranks(2, &pieces), [0, 1, 0]);
        assert_eq!(ranks(12, &pieces), [0, 4, 8]);
        assert!(ranks(12, &[]).is_empty());
        let many = pieces.repeat(100);
        assert_eq!(ranks(6400, &many)[..3], [0, 100, 200]);
        assert_eq!(ranks(6400, &many)[MAX_READERS], 0);
    }
}
