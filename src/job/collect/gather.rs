//! The gather: copies the answers from all ranks' shard files into one file, in input order, in rounds that fit a
//! buffer.
//!
//! A round covers a range of prompts, which a reduction over the ranks' byte counts chooses so that its lines fit. The
//! ranks send their lines with `MPI_Gatherv`, and rank 0 merges and writes them in order. A prompt may occur in several
//! shard files: each rank sends the line that takes precedence among its own, and rank 0 keeps the one that takes
//! precedence among those. Aggregates are computed on the way from the same bytes ([`super::aggregate`]). Reading lines
//! from the shard files is the business of [`super::line_index`].

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
    path::Path,
    time::{Duration, Instant},
};

use tracing::info;

use super::{
    aggregate::{AggregateSet, resolve_duplicate_lines},
    completion::CompletionState,
    line_index::{LineFrames, LineIndex},
};
use crate::job::{
    JobError,
    context::{JobContext, all_ok, root_result},
    setup::run_plan::{RequestedOutputs, RunPlan},
};
use crate::{
    comm::{Comm, RankParts, ReduceOp, SoloComm, TypedComm},
    domain::{ColumnSurvey, FoundColumns},
    metrics::AnswerStats,
    output::{AnswerFormat, Manifest, OutputError, OutputFile, PromptCounts},
    report::format::pluralize,
};

/// Approximate number of bytes that rank 0 receives in a round.
pub(crate) const GATHER_ROUND_BYTES: u64 = 32 << 20;
/// Number of bins in which the bytes of a range of prompts are counted, per reduction.
const ROUND_BINS: u64 = 4096;

/// Collective. Writes the requested outputs from all ranks' lines: the output file, the aggregates, and the statistics
/// for the report, which are returned on rank 0. Does nothing without an index of the lines or if nothing is requested.
pub(crate) fn gather_answers(
    comm: &mut dyn Comm,
    plan: &RunPlan,
    context: &JobContext,
    lines: Option<LineIndex>,
    completion: &CompletionState,
) -> Result<Option<AnswerStats>, JobError> {
    let counts = completion.outcome_counts(plan.source.rows);
    let (began, outputs) = (Instant::now(), plan.requested_outputs(&counts));
    let Some(mut lines) = lines.filter(|_| !outputs.is_empty()) else { return Ok(None) };
    let is_root = comm.rank() == 0;
    let columns = find_columns(comm, &mut lines, &counts, outputs.format)?;
    let files = AnswerFiles { path: &plan.output, columns: &columns };
    let collector = AnswerCollector::create_files(&files, &outputs, &counts, is_root);
    let mut collector = all_ok(comm, collector.map_err(JobError::into_finish_error))?;
    // Sending all answers to rank 0 is only worth while if something is written in input order.
    let gathered = if outputs.format.is_some() || collector.aggregates.needs_input_order() {
        gather_in_order(comm, lines, counts.submitted, GATHER_ROUND_BYTES, &mut collector)
    } else {
        process_in_place(comm, &mut lines, counts.submitted, &mut collector)
    };
    all_ok(comm, gathered.map_err(JobError::into_finish_error))?;
    let AnswerCollector { output, aggregates, .. } = collector;
    let finished = output.map_or(Ok(()), OutputFile::finish);
    let finished = finished.map_err(|error| JobError::from(error).into_finish_error());
    all_ok(comm, finished)?;
    let merged = aggregates.reduce_to_root(comm)?;
    let written = merged.map(|aggregates| {
        aggregates.write_files(&plan.output, &counts).map_err(JobError::into_finish_error)
    });
    let stats = root_result(comm, written)?;
    if context.placement.rank == 0 && counts.open == 0 {
        log_gathered(plan, &outputs, &counts, began.elapsed());
    }
    Ok(stats.flatten())
}

fn log_gathered(
    plan: &RunPlan,
    outputs: &RequestedOutputs<'_>,
    counts: &PromptCounts,
    elapsed: Duration,
) {
    let elapsed_s = elapsed.as_secs_f64();
    let answers = pluralize(counts.answered + counts.failed, "line");
    if outputs.format.is_some() {
        let output = plan.output.display();
        info!(
            event = "output_written",
            elapsed_s,
            output = %output,
            "output written: {output} ({answers}, {elapsed_s:.1} s)"
        );
    } else {
        info!(
            event = "answers_processed",
            elapsed_s, "answers processed in the shard files: {answers} ({elapsed_s:.1} s)"
        );
    }
}

/// Collective. Returns on rank 0 the columns that a table needs for these lines. Each rank surveys its own lines; for
/// formats without columns none are read.
fn find_columns(
    comm: &mut dyn Comm,
    lines: &mut LineIndex,
    counts: &PromptCounts,
    format: Option<AnswerFormat>,
) -> Result<FoundColumns, JobError> {
    if !format.is_some_and(AnswerFormat::is_table) {
        return Ok(FoundColumns::default());
    }
    let mut surveyor = ColumnSurveyor { survey: ColumnSurvey::default(), counts };
    let read = process_in_place(comm, lines, counts.submitted, &mut surveyor);
    all_ok(comm, read.map_err(JobError::into_finish_error))?;
    let merged = comm.reduce_values(surveyor.survey)?;
    Ok(merged.map(ColumnSurvey::into_columns).unwrap_or_default())
}

/// A [`LineSink`] that finds the columns of a table.
struct ColumnSurveyor<'s> {
    survey: ColumnSurvey,
    counts: &'s PromptCounts,
}

impl LineSink for ColumnSurveyor<'_> {
    fn resolve_duplicates(&self, comm: &mut dyn Comm, lines: &mut LineIndex) {
        resolve_duplicate_lines(comm, lines, self.counts);
    }

    fn on_local_lines(&mut self, lines: &[u8]) {
        LineFrames(lines).for_each(|(index, _, line)| self.survey.add_line(index, line));
    }

    fn on_ordered_line(&mut self, _: u64, _: &[u8]) -> Result<(), OutputError> {
        Ok(())
    }
}

/// Collective. Computes the statistics for the report from all ranks' lines, if one is requested; returns them on rank
/// 0. Afterwards `lines` holds only the lines that take precedence.
pub(crate) fn measure_answers(
    comm: &mut dyn Comm,
    plan: &RunPlan,
    lines: Option<&mut LineIndex>,
    counts: &PromptCounts,
) -> Result<Option<AnswerStats>, JobError> {
    let outputs = RequestedOutputs::only_report(plan.report);
    let Some(lines) = lines.filter(|_| outputs.report) else { return Ok(None) };
    let files = AnswerFiles { path: &plan.output, columns: &FoundColumns::default() };
    let mut collector = AnswerCollector::create_files(&files, &outputs, counts, false)?;
    let read = process_in_place(comm, lines, counts.submitted, &mut collector);
    all_ok(comm, read.map_err(JobError::into_finish_error))?;
    let merged = collector.aggregates.reduce_to_root(comm)?;
    merged.map_or(Ok(None), |aggregates| aggregates.write_files(&plan.output, counts))
}

/// Local. Writes the requested outputs from all answers of a run to files at `path`, by this process alone.
pub(crate) fn gather_solo(
    mut lines: LineIndex,
    counts: &PromptCounts,
    path: &Path,
    outputs: &RequestedOutputs<'_>,
) -> Result<Option<AnswerStats>, JobError> {
    let comm = &mut SoloComm::new();
    let columns = find_columns(comm, &mut lines, counts, outputs.format)?;
    let files = AnswerFiles { path, columns: &columns };
    let mut collector = AnswerCollector::create_files(&files, outputs, counts, true)?;
    gather_in_order(comm, lines, counts.submitted, GATHER_ROUND_BYTES, &mut collector)?;
    let AnswerCollector { output, aggregates, .. } = collector;
    output.map_or(Ok(()), OutputFile::finish)?;
    let merged = aggregates.reduce_to_root(comm)?;
    merged.map_or(Ok(None), |aggregates| aggregates.write_files(path, counts))
}

/// Local. Computes the answer statistics of a run folder in this process alone, and sets the manifest's counts to those
/// of the shard files.
pub(crate) fn remeasure_run(
    folder: &Path,
    manifest: &mut Manifest,
) -> Result<AnswerStats, JobError> {
    let (rows, fingerprint) = (manifest.rows, &manifest.fingerprint);
    let (completion, lines) = CompletionState::from_folder_with_index(folder, rows, fingerprint)?;
    manifest.counts = completion.outcome_counts(rows);
    let outputs = RequestedOutputs::only_report(true);
    let stats = gather_solo(lines, &manifest.counts, folder, &outputs)?;
    Ok(stats.unwrap_or_default())
}

/// Receiver of lines that are gathered to rank 0. Every rank has one.
pub(crate) trait LineSink {
    /// Collective. Drops superseded lines before anything is sent, if the receiver needs that.
    fn resolve_duplicates(&self, _: &mut dyn Comm, _: &mut LineIndex) {}

    /// Local. Takes the framed lines that this rank sends in a round.
    fn on_local_lines(&mut self, _: &[u8]) {}

    /// Local, on rank 0. Takes the line of the next prompt, in input order over all ranks.
    fn on_ordered_line(&mut self, index: u64, line: &[u8]) -> Result<(), OutputError>;
}

/// The output file to create, and the columns of a table that depend on the answers.
struct AnswerFiles<'f> {
    path: &'f Path,
    columns: &'f FoundColumns,
}

/// The output file, which is open on rank 0 only and if it is requested, and the aggregates.
struct AnswerCollector {
    output: Option<OutputFile>,
    aggregates: AggregateSet,
    counts: PromptCounts,
}

impl AnswerCollector {
    /// Local. Creates empty output files if this is rank 0.
    fn create_files(
        files: &AnswerFiles<'_>,
        outputs: &RequestedOutputs<'_>,
        counts: &PromptCounts,
        is_root: bool,
    ) -> Result<Self, JobError> {
        let format = outputs.format.filter(|_| is_root);
        let output = format.map(|format| {
            OutputFile::create(files.path, format, files.columns)
                .map(|file| file.for_run(outputs.identity.clone()))
        });
        let aggregates = AggregateSet::create_empty(outputs, is_root.then_some(files.path))?;
        Ok(Self { output: output.transpose()?, aggregates, counts: counts.clone() })
    }
}

impl LineSink for AnswerCollector {
    fn resolve_duplicates(&self, comm: &mut dyn Comm, lines: &mut LineIndex) {
        self.aggregates.resolve_duplicates(comm, lines, &self.counts);
    }

    fn on_local_lines(&mut self, lines: &[u8]) {
        self.aggregates.add_lines(lines);
    }

    fn on_ordered_line(&mut self, _: u64, line: &[u8]) -> Result<(), OutputError> {
        self.output.as_mut().map_or(Ok(()), |output| output.write_answer(line))?;
        self.aggregates.add_ordered_line(line)
    }
}

/// Collective. Sends all ranks' lines to rank 0, about `round_bytes` bytes at a time.
pub(crate) fn gather_in_order(
    comm: &mut dyn Comm,
    mut lines: LineIndex,
    rows: u64,
    round_bytes: u64,
    sink: &mut impl LineSink,
) -> Result<(), JobError> {
    lines.sort_lines();
    sink.resolve_duplicates(comm, &mut lines);
    let is_root = comm.rank() == 0;
    // The buffers are reused, so that a round allocates nothing.
    let (mut own_lines, mut gathered) = (Vec::new(), RankParts::default());
    let mut fault = None;
    for (from, to) in plan_rounds(comm, &lines, rows, round_bytes) {
        own_lines.clear();
        // A rank that cannot read its file sends nothing and reports the error after the last round: leaving the loop
        // here would leave the other ranks waiting in their collective calls.
        if let Err(error) = lines.read_range(from, to, &mut own_lines) {
            own_lines.clear();
            fault.get_or_insert(JobError::from(error));
        }
        comm.gather_bytes(&own_lines, &mut gathered);
        sink.on_local_lines(&own_lines); // overlaps with rank 0 writing the round
        if is_root && fault.is_none() {
            fault = merge_round(sink, &gathered).err();
        }
    }
    fault.map_or(Ok(()), Err)
}

/// Collective. Passes each rank's lines to its own receiver; no answer leaves its rank.
fn process_in_place(
    comm: &mut dyn Comm,
    lines: &mut LineIndex,
    rows: u64,
    sink: &mut impl LineSink,
) -> Result<(), JobError> {
    lines.sort_lines();
    sink.resolve_duplicates(comm, lines);
    let mut own_lines = Vec::new();
    // The rounds are this rank's own: nothing is exchanged, so they need not agree with other ranks'.
    for (from, to) in plan_rounds(&mut SoloComm::new(), lines, rows, GATHER_ROUND_BYTES) {
        own_lines.clear();
        lines.read_range(from, to, &mut own_lines)?;
        sink.on_local_lines(&own_lines);
    }
    Ok(())
}

/// Callback for lines that stay on their rank.
pub(crate) type LineCallback<'e> = &'e mut dyn FnMut(&[u8]);

/// Collective. Passes the line of every prompt to `callback`, on exactly one of the ranks that have one. Does nothing
/// without an index, that is, while prompts are open.
pub(crate) fn visit_lines(
    comm: &mut dyn Comm,
    lines: Option<LineIndex>,
    counts: &PromptCounts,
    callback: LineCallback<'_>,
) -> Result<(), JobError> {
    let Some(mut lines) = lines else { return Ok(()) };
    let mut visitor = LineVisitor { callback, counts };
    let visited = process_in_place(comm, &mut lines, counts.submitted, &mut visitor);
    all_ok(comm, visited.map_err(JobError::into_finish_error))
}

/// A [`LineSink`] that passes lines to a callback.
struct LineVisitor<'v> {
    callback: LineCallback<'v>,
    counts: &'v PromptCounts,
}

impl LineSink for LineVisitor<'_> {
    fn resolve_duplicates(&self, comm: &mut dyn Comm, lines: &mut LineIndex) {
        resolve_duplicate_lines(comm, lines, self.counts);
    }

    fn on_local_lines(&mut self, lines: &[u8]) {
        LineFrames(lines).for_each(|(_, _, line)| (self.callback)(line));
    }

    fn on_ordered_line(&mut self, _: u64, _: &[u8]) -> Result<(), OutputError> {
        Ok(())
    }
}

/// Collective. Divides the prompts into consecutive ranges `[from, to)` whose lines fit a round or belong to a single
/// prompt.
fn plan_rounds(
    comm: &mut dyn Comm,
    lines: &LineIndex,
    rows: u64,
    round_bytes: u64,
) -> Vec<(u64, u64)> {
    let mut rounds: Vec<(u64, u64)> = Vec::new();
    // A stack of ranges in descending order, so that the first range of the input is planned first.
    let mut unplanned = vec![(0, rows)];
    let mut filled_bytes = 0;
    while let Some((from, to)) = unplanned.pop() {
        if from >= to {
            continue;
        }
        let width = (to - from).div_ceil(ROUND_BINS);
        let mut bins = lines.bytes_by_bin(from, to, width);
        comm.all_reduce(&mut bins, ReduceOp::Sum);
        let mut remainder = Vec::new();
        for (bin, &bytes) in (0..).zip(&bins) {
            let (bin_from, bin_to) = (from + bin * width, to.min(from + (bin + 1) * width));
            if bin_from >= bin_to {
                break;
            }
            if bytes > round_bytes && bin_to - bin_from > 1 {
                // This bin must be divided further before the ranges after it can be planned.
                remainder.push((bin_to, to));
                remainder.push((bin_from, bin_to));
                break;
            }
            match rounds.last_mut() {
                Some(last) if last.1 == bin_from && filled_bytes + bytes <= round_bytes => {
                    last.1 = bin_to;
                    filled_bytes += bytes;
                }
                _ => {
                    rounds.push((bin_from, bin_to));
                    filled_bytes = bytes;
                }
            }
        }
        unplanned.extend(remainder);
    }
    rounds
}

/// Writes one round: of each prompt the line that takes precedence. Each rank's part is in order, so a k-way merge
/// suffices.
fn merge_round(sink: &mut impl LineSink, gathered: &RankParts) -> Result<(), JobError> {
    let mut parts: Vec<LineFrames<'_>> = gathered.parts().map(LineFrames).collect();
    // The next line of each part. The part's number breaks ties, which cannot occur between files that a run wrote.
    let mut next_lines: BinaryHeap<_> = (0..)
        .zip(&mut parts)
        .filter_map(|(number, part)| {
            part.next().map(|(index, precedence, line)| Reverse((index, precedence, number, line)))
        })
        .collect();
    let mut written_index = None;
    while let Some(mut first) = next_lines.peek_mut() {
        let Reverse((index, precedence, number, line)) = *first;
        if written_index.replace(index) != Some(index) {
            let written = sink.on_ordered_line(index, line);
            written.map_err(|error| error.naming_answer(index, || precedence.file_name()))?;
        }
        match parts[number].next() {
            Some((index, precedence, line)) => *first = Reverse((index, precedence, number, line)),
            None => drop(PeekMut::pop(first)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use proptest::prelude::*;

    use super::*;
    use crate::shards::{self, LineGrade, LinePrecedence};

    fn only_jsonl() -> RequestedOutputs<'static> {
        let format = Some(AnswerFormat::Jsonl);
        RequestedOutputs { format, ..RequestedOutputs::only_report(false) }
    }

    const ROWS: u64 = 40;

    fn all_answered_counts() -> PromptCounts {
        PromptCounts::new(ROWS, ROWS, 0)
    }

    /// (index, grade, bytes of padding) of a line in a shard file.
    type WrittenLine = (u64, u64, usize);

    const WHOLE: u64 = 0;
    const CUT: u64 = 1;
    const FAILED: u64 = 8;

    fn shard_line((index, grade, padding): WrittenLine, label: &str) -> String {
        let (pad, success) = ("x".repeat(padding), grade != FAILED);
        let end = if grade == CUT { "length" } else { "stop" };
        format!(
            "{{\"id\":{index},\"index\":{index},\"success\":{success},\"at\":\"{label}\",\"response\":\"x{pad}\",\
             \"finish_reason\":\"{end}\"}}\n"
        )
    }

    fn line_label(file: usize, line: usize) -> String {
        format!("{file}/{line}")
    }

    /// Writes shard files with these outcomes, two ranks per session.
    fn write_shards(folder: &Path, files: &[Vec<WrittenLine>]) -> Vec<shards::ShardFile> {
        for (file, lines) in files.iter().enumerate() {
            let (start, rank) = (file / 2, file % 2);
            let header = shards::ShardHeader::new(start as u32, rank, "n", "f");
            let mut text = serde_json::to_string(&header).expect("JSON") + "\n";
            for (number, line) in lines.iter().enumerate() {
                text += &shard_line(*line, &line_label(file, number));
                if number % 3 == 1 {
                    text += "{\"index\":1,\"succ\n";
                }
            }
            write!(text, "{{\"index\":0,\"success\":tr").expect("formatted");
            std::fs::write(folder.join(header.file_name()), text).expect("written");
        }
        shards::list_shard_files(folder).expect("listed")
    }

    /// Returns the expected output: of each prompt the line that takes precedence.
    fn expected_output(files: &[Vec<WrittenLine>]) -> String {
        let all = || {
            files.iter().enumerate().flat_map(|(file, lines)| {
                lines.iter().enumerate().map(move |(number, &line)| (file, number, line))
            })
        };
        let best = |index: u64| {
            all().filter(|(_, _, line)| line.0 == index).min_by_key(|&(file, number, line)| {
                let (start, rank) = ((file / 2) as u32, (file % 2) as u32);
                (LinePrecedence::new(LineGrade::from_bits(line.1), start, rank), number)
            })
        };
        (0..ROWS)
            .filter_map(best)
            .map(|(file, number, line)| shard_line(line, &line_label(file, number)))
            .collect()
    }

    fn index_lines(files: Vec<shards::ShardFile>) -> LineIndex {
        let mut lines = LineIndex::for_files(files.clone(), ROWS);
        shards::read_all_entries(&files, "f", |file, entry| lines.record_line(file, &entry))
            .expect("read");
        lines
    }

    fn collect_output(folder: &Path, write: impl FnOnce(&mut AnswerCollector)) -> String {
        let path = folder.join("answers.jsonl");
        let counts = all_answered_counts();
        let files = AnswerFiles { path: &path, columns: &FoundColumns::default() };
        let mut collector =
            AnswerCollector::create_files(&files, &only_jsonl(), &counts, true).expect("created");
        write(&mut collector);
        collector.output.expect("requested").finish().expect("finished");
        std::fs::read_to_string(path).expect("read")
    }

    fn gather_to_string(folder: &Path, lines: LineIndex) -> Result<String, JobError> {
        let path = folder.join("answers.jsonl");
        gather_solo(lines, &all_answered_counts(), &path, &only_jsonl())?;
        Ok(std::fs::read_to_string(path).expect("read"))
    }

    fn any_files() -> impl Strategy<Value = Vec<Vec<WrittenLine>>> {
        // Some indices lie beyond the input. Some lines are far from the next one, some longer than a single read.
        let padding =
            prop_oneof![20 => 0usize..200, 2 => 10_000usize..40_000, 1 => Just(1_100_000usize)];
        let grade = prop_oneof![Just(WHOLE), Just(CUT), Just(FAILED)];
        let line = (0..ROWS + 2, grade, padding);
        prop::collection::vec(prop::collection::vec(line, 0..30), 0..7)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn rounds_of_any_size_give_the_lines_with_precedence_in_order(
            files in any_files(), round_bytes in 1u64..100_000,
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            let all = index_lines(write_shards(folder.path(), &files));
            let got = collect_output(folder.path(), |output| {
                gather_in_order(&mut SoloComm::new(), all, ROWS, round_bytes, output).expect("gathered");
            });
            prop_assert!(got == expected_output(&files));
        }

        #[test]
        fn the_output_does_not_depend_on_how_files_are_shared_among_ranks(
            files in any_files(), ranks in 1usize..5, width in 1u64..50,
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            let all = write_shards(folder.path(), &files);
            let part = |rank| all.iter().skip(rank).step_by(ranks).cloned().collect();
            let mut parts: Vec<LineIndex> = (0..ranks).map(|rank| index_lines(part(rank))).collect();
            parts.iter_mut().for_each(LineIndex::sort_lines);
            let got = collect_output(folder.path(), |output| {
                for from in (0..ROWS).step_by(width as usize) {
                    let mut gathered = RankParts::default();
                    for part in &mut parts {
                        let old = gathered.bytes.len();
                        part.read_range(from, ROWS.min(from + width), &mut gathered.bytes).expect("read");
                        gathered.counts.push(gathered.bytes.len() - old);
                    }
                    merge_round(output, &gathered).expect("written");
                }
            });
            prop_assert!(got == expected_output(&files));
        }

        #[test]
        fn resolving_duplicates_keeps_exactly_one_line_per_prompt_over_all_ranks(
            files in any_files(), ranks in 1usize..5, width in 1u64..50,
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            let all = write_shards(folder.path(), &files);
            let part = |rank| all.iter().skip(rank).step_by(ranks).cloned().collect();
            let mut parts: Vec<LineIndex> = (0..ranks).map(|rank| index_lines(part(rank))).collect();
            parts.iter_mut().for_each(LineIndex::sort_lines);
            for from in (0..ROWS).step_by(width as usize) {
                let keys = parts.iter().map(|part| part.precedence_keys(from, ROWS.min(from + width)));
                let lowest = keys.reduce(|one, other| {
                    one.iter().zip(&other).map(|(one, other)| *one.min(other)).collect()
                });
                parts.iter_mut().for_each(|part| part.drop_superseded(from, lowest.as_ref().expect("a rank")));
            }
            let mut bytes: Vec<Vec<u8>> = vec![Vec::new(); ranks];
            parts.iter_mut().zip(&mut bytes).for_each(|(part, bytes)| part.read_range(0, ROWS, bytes).expect("read"));
            let frames = bytes.iter().flat_map(|bytes| LineFrames(bytes));
            let mut left: Vec<(u64, &[u8])> = frames.map(|(index, _, line)| (index, line)).collect();
            left.sort_unstable();
            let left: Vec<u8> = left.into_iter().flat_map(|(_, line)| line).copied().collect();
            prop_assert!(left == expected_output(&files).as_bytes());
        }

        #[test]
        fn a_round_fits_the_buffer_or_holds_a_single_prompt(files in any_files(), round_bytes in 1u64..100_000) {
            let folder = tempfile::tempdir().expect("a folder");
            let mut all = index_lines(write_shards(folder.path(), &files));
            all.sort_lines();
            let mut next = 0;
            for (from, to) in plan_rounds(&mut SoloComm::new(), &all, ROWS, round_bytes) {
                prop_assert_eq!(from, next);
                next = to;
                let mut bytes = Vec::new();
                all.read_range(from, to, &mut bytes).expect("read");
                prop_assert!(bytes.len() as u64 <= round_bytes || to - from == 1);
                prop_assert_eq!(bytes.len() as u64, all.bytes_by_bin(from, to, 1).iter().sum::<u64>());
            }
            prop_assert_eq!(next, ROWS);
        }
    }

    #[test]
    fn a_line_too_long_for_a_packed_location_is_written_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = [vec![(1, WHOLE, 9 << 20), (0, CUT, 3), (2, FAILED, (8 << 20) - 60)]];
        let all = index_lines(write_shards(folder.path(), &files));
        let got = gather_to_string(folder.path(), all).expect("gathered");
        assert!(got == expected_output(&files));
    }

    #[test]
    fn a_shard_file_that_vanishes_before_the_gather_is_an_error_and_not_a_gap() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = write_shards(folder.path(), &[vec![(0, WHOLE, 1)], vec![(1, WHOLE, 1)]]);
        let all = index_lines(files.clone());
        std::fs::remove_file(&files[1].path).expect("removed");
        assert!(gather_to_string(folder.path(), all).is_err());
    }
}
