//! The scan of the input: by rank 0 alone, or in parallel if the input is large and visible on all ranks.
//!
//! Owns the assignment of chunks to ranks and the transfer of their results to rank 0. Back-pressure: a rank has one result
//! in transfer at a time and rank 0 takes them in order, so that no rank holds much more than one chunk. Results are opaque
//! here: errors in them are values that rank 0 finds. What the scan of a chunk does is in [`input`](crate::input).

use std::path::{Path, PathBuf};

use tracing::{info, warn};

use super::run_plan::{run_folder, spool_folder_name};
use crate::job::JobError;
use crate::{
    comm::{Comm, MessageTag, PollBackoff, ReduceOp, TypedComm},
    input::{
        self, ChunkScan, FoundFile, InputChunk, InputFile, InputFinder, InputIntake, InputListing,
        InputRules, InputScan, ScannedInput,
    },
    output::{Manifest, answers_sibling_path, partial_answers_path},
    report::format::pluralize,
};

/// Input size in bytes from which on the scan is parallel; smaller inputs are scanned faster by one rank.
const MIN_PARALLEL_BYTES: u64 = 64 << 20;
/// Upper bound of scanning ranks; more would only wait for rank 0, which merges all results.
const MAX_READERS: usize = 64;

/// Local. Scans the input in this process alone.
pub(crate) fn scan_alone(
    inputs: &[String],
    rules: &InputRules,
    folder: &Path,
    output: Option<&Path>,
) -> Result<ScannedInput, JobError> {
    Ok(input::scan_files(&prepare_input_files(inputs, rules, folder, 1, output)?, rules)?)
}

/// Local. Returns the input as plain files. Input that ranks cannot read by ranges (standard input, compressed files) is
/// copied into the run folder.
pub(crate) fn prepare_input_files(
    inputs: &[String],
    rules: &InputRules,
    folder: &Path,
    start: u32,
    output: Option<&Path>,
) -> Result<Vec<InputFile>, JobError> {
    let is_run = |output: &&Path| {
        Manifest::read_from(&run_folder(output)).is_ok_and(|manifest| manifest.is_some())
    };
    // Answers that no run has written may be prompts.
    let own = output.filter(is_run).map(resolved_answers).unwrap_or_default();
    // The run folder of a first session has a heartbeat, and no manifest that would make it known as such.
    let own_answers = own.iter().cloned().chain(folder.canonicalize()).collect();
    let finder = InputFinder { format: rules.files.format, own_answers };
    let found = exclude_own_answers(finder.find_files(inputs)?, inputs, &own);
    let mut intake = InputIntake::new(rules, folder.join(spool_folder_name(start)));
    let files = found.iter().map(|found| intake.prepare_file(found));
    let mut files = files.collect::<Result<Vec<_>, _>>()?;
    if inputs.iter().any(|input| input == "-") {
        files.push(intake.prepare_stdin()?);
    }
    Ok(files)
}

/// Returns the resolved paths of the answers and of the files beside them, as far as they exist.
fn resolved_answers(output: &Path) -> Vec<PathBuf> {
    let siblings = ["concat.txt", "merged.json", "aggregate.json"];
    let siblings = siblings.iter().map(|ending| answers_sibling_path(output, ending));
    let own = siblings.chain([output.to_owned(), partial_answers_path(output)]);
    own.filter_map(|path| path.canonicalize().ok()).collect()
}

/// Local. Removes this run's own outputs from the input files, since a pattern may match them. A file that was named
/// itself holds prompts.
fn exclude_own_answers(found: Vec<FoundFile>, named: &[String], own: &[PathBuf]) -> Vec<FoundFile> {
    let is_named = |path: &Path| named.iter().any(|input| Path::new(input) == path);
    let is_own = |path: &Path| path.canonicalize().is_ok_and(|path| own.contains(&path));
    let (answers, rows): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|found| is_own(&found.path) && !is_named(&found.path));
    for FoundFile { path, .. } in answers {
        info!(
            event = "own_answers_skipped",
            "input file skipped (answers of this run): {}",
            path.display()
        );
    }
    rows
}

/// Collective. Scans rank 0's `files`. Returns the result on rank 0 and `None` on the others; `rules` are the same on all.
pub(crate) fn scan_input(
    comm: &mut dyn Comm,
    files: Option<&[InputFile]>,
    rules: &InputRules,
) -> Option<Result<ScannedInput, JobError>> {
    let alone = || files.map(|files| Ok(input::scan_files(files, rules)?));
    if comm.size() == 1 {
        return alone();
    }
    // An error here is found again, and reported, by the scan itself.
    let listed = files.and_then(|files| InputListing::new(files).ok());
    let large = listed.filter(|input| input.total_bytes() >= MIN_PARALLEL_BYTES);
    let (is_root, is_large) = (files.is_some(), large.is_some());
    let input = comm.broadcast_value(Some(large)).unwrap_or(None);
    let mut all_see = [u64::from(input.as_ref().is_some_and(InputListing::is_visible))];
    comm.all_reduce(&mut all_see, ReduceOp::Min);
    let input = match input {
        Some(input) if all_see == [1] => input,
        _ => {
            if is_large {
                info!(
                    event = "scan_on_one_rank",
                    "input scan on rank 0 only: not every rank sees the input"
                );
            }
            return alone();
        }
    };
    let assignment = ScanAssignment::new(input.split_chunks(), comm.size());
    if is_root {
        let (ranks, chunks) = (assignment.readers, assignment.chunks.len());
        info!(
            event = "parallel_scan_started",
            ranks,
            chunks,
            "input scan started: {}, {}",
            pluralize(ranks as u64, "rank"),
            pluralize(chunks as u64, "chunk")
        );
        Some(collect_parts(comm, &input, rules, &assignment))
    } else {
        send_parts(comm, &input, rules, &assignment);
        None
    }
}

/// The assignment of chunks to ranks: round-robin over the readers, which are evenly spaced among the ranks so that they
/// are on many nodes.
struct ScanAssignment {
    chunks: Vec<InputChunk>,
    readers: usize,
    ranks: usize,
}

impl ScanAssignment {
    fn new(chunks: Vec<InputChunk>, ranks: usize) -> Self {
        let readers = ranks.min(MAX_READERS).min(chunks.len()).max(1);
        Self { chunks, readers, ranks }
    }

    /// Iterates over the chunks in order, each with the rank that scans it.
    fn pieces_with_ranks(&self) -> impl Iterator<Item = (InputChunk, usize)> {
        let rank = |at: usize| (at % self.readers) * self.ranks / self.readers;
        self.chunks.iter().enumerate().map(move |(at, &chunk)| (chunk, rank(at)))
    }
}

/// Merges on rank 0 the results of all chunks in order, its own among them. Replies to each result whether the rank shall
/// continue.
fn collect_parts(
    comm: &mut dyn Comm,
    input: &InputListing,
    rules: &InputRules,
    assignment: &ScanAssignment,
) -> Result<ScannedInput, JobError> {
    let mut scan = InputScan::new(input, rules).map_err(JobError::from);
    let mut stopped = vec![false; assignment.ranks];
    for (chunk, rank) in assignment.pieces_with_ranks() {
        // After an error no chunk is scanned any more; rank 0 still replies to the ranks that do not know of it yet.
        if stopped[rank] || (rank == 0 && scan.is_err()) {
            continue;
        }
        let part = match rank {
            0 => Ok(chunk.scan_rows(input, rules)),
            _ => comm.wait_for_value::<ChunkScan>(rank, MessageTag::Scan),
        };
        scan = scan.and_then(|mut scan| {
            scan.add_chunk(part?)?;
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

/// Scans the chunks of another rank than 0, and sends each result when rank 0 has taken the one before.
fn send_parts(
    comm: &mut dyn Comm,
    input: &InputListing,
    rules: &InputRules,
    assignment: &ScanAssignment,
) {
    let mine = comm.rank();
    let mut awaits_reply = false;
    for (chunk, _) in assignment.pieces_with_ranks().filter(|&(_, rank)| rank == mine) {
        let part = chunk.scan_rows(input, rules);
        if awaits_reply && !wait_to_continue(comm) {
            return;
        }
        let sent = comm.send_value(0, MessageTag::Scan, &part);
        drop(part);
        if let Err(error) = sent {
            // An empty message fails to decode, so that rank 0 ends the scan instead of waiting.
            warn!(event = "scan_result_not_sent", "scan result not sent: {error}");
            let _ = comm.send_bytes(0, MessageTag::Scan, Vec::new());
        }
        flush_sends(comm);
        awaits_reply = true;
    }
    if awaits_reply {
        wait_to_continue(comm);
    }
}

fn wait_to_continue(comm: &mut dyn Comm) -> bool {
    comm.wait_for_value(0, MessageTag::Scan).unwrap_or(false)
}

/// Sleeps until all sent messages have left this rank.
fn flush_sends(comm: &mut dyn Comm) {
    let mut backoff = PollBackoff::for_transfer();
    while comm.pending_messages() > 0 {
        backoff.sleep_next();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{InputFormat, RowLayout};

    #[test]
    fn pieces_go_round_robin_over_evenly_spaced_ranks() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, "x\n").expect("a file");
            InputFile::new(path, RowLayout::of_format(InputFormat::Text))
        };
        let files: Vec<_> = ["a.txt", "b.txt", "c.txt"].map(file).into();
        let chunks = InputListing::new(&files).expect("files").split_chunks();
        let ranks = |ranks: usize, chunks: &[InputChunk]| -> Vec<usize> {
            ScanAssignment::new(chunks.to_vec(), ranks)
                .pieces_with_ranks()
                .map(|(_, rank)| rank)
                .collect()
        };
        assert_eq!(ranks(1, &chunks), [0, 0, 0]);
        assert_eq!(ranks(2, &chunks), [0, 1, 0]);
        assert_eq!(ranks(12, &chunks), [0, 4, 8]);
        assert!(ranks(12, &[]).is_empty());
        let many = chunks.repeat(100);
        assert_eq!(ranks(6400, &many)[..3], [0, 100, 200]);
        assert_eq!(ranks(6400, &many)[MAX_READERS], 0);
    }
}
