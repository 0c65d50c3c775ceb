//! Aggregates of the answers (`--aggregate`): each rank computes those of its own lines, an MPI reduction merges them,
//! and rank 0 writes them to files beside the answers. What each aggregate computes is defined in
//! [`aggregate`](crate::aggregate).
//!
//! A rank has the bytes of its lines in memory when it sends them to be gathered. Computing its aggregates at that
//! moment costs no extra reading and is shared by all ranks, and the messages of the reduction are small. A rank cannot
//! know by itself which of two ranks' lines for the same prompt counts. That is resolved first, and only if such
//! prompts exist, which a reduction over one number tells; superseded lines are then not sent at all. If answers stay
//! in the shard files, each rank reads its own, and no answer leaves its rank.
//!
//! Concatenated texts are as long as the answers and in input order. Rank 0 writes them from the rounds of the gather,
//! which are run for this purpose even if the answers themselves stay in the shard files.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tracing::warn;

use super::line_index::{LineFrames, LineIndex};
use crate::job::{JobError, setup::run_plan::RequestedOutputs};
use crate::{
    aggregate::{Aggregate, AnswerConcat, ObservedLine},
    comm::{Comm, ReduceOp, TypedComm},
    domain::Merge,
    metrics::AnswerStats,
    output::{AtomicFile, OutputError, PromptCounts, answers_sibling_path, part_path, write_json},
    settings::AggregateSpec,
};

/// Number of prompts whose lines are compared in one reduction; each takes 8 bytes.
const PRECEDENCE_CHUNK_ROWS: u64 = 1 << 20;

/// Returns the path of the JSON file with all aggregates.
pub(crate) fn aggregate_report_path(answers: &Path) -> PathBuf {
    answers_sibling_path(answers, "aggregate.json")
}

/// Returns the paths of all files that the requested aggregates produce.
pub(crate) fn aggregate_paths(requested: &[AggregateSpec], answers: &Path) -> Vec<PathBuf> {
    let report = (!requested.is_empty()).then(|| aggregate_report_path(answers));
    let suffixes = requested.iter().filter_map(AggregateSpec::file_suffix);
    let texts = suffixes.map(|suffix| answers_sibling_path(answers, suffix));
    report.into_iter().chain(texts).collect()
}

/// Returns the names of these files.
pub(crate) fn aggregate_file_names(requested: &[AggregateSpec], answers: &Path) -> Vec<String> {
    aggregate_paths(requested, answers).iter().map(|path| file_name(path)).collect()
}

/// Returns the aggregates in an existing file of them; none if it has none. Values without a specification are those of
/// other programs, and are lost if the file is replaced.
pub(crate) fn read_aggregate_specs(answers: &Path) -> Vec<AggregateSpec> {
    #[derive(Deserialize)]
    struct WrittenAggregates {
        aggregates: Map<String, Value>,
    }
    let text = std::fs::read(aggregate_report_path(answers)).unwrap_or_default();
    let written = serde_json::from_slice::<WrittenAggregates>(&text);
    let names = written.map(|written| written.aggregates).unwrap_or_default();
    names.keys().filter_map(|name| name.parse().ok()).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Removes aggregates of an earlier state of the answers, finished or partly written. Failures are only logged.
pub(crate) fn remove_stale_aggregates(names: &[String], answers: &Path) {
    for name in names {
        let stale = answers.with_file_name(name);
        for path in [part_path(&stale), stale] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    warn!(
                        event = "stale_aggregate_not_removed",
                        "aggregate of earlier answers not removed: {}: {error}",
                        path.display()
                    );
                }
                _ => {}
            }
        }
    }
}

/// The requested aggregates while lines are added to them.
#[derive(Default)]
pub(crate) struct AggregateSet {
    requested: Vec<AggregateSpec>,
    partial: PartialAggregates,
    /// Filled on rank 0 only.
    text_aggregates: Vec<TextAggregate>,
}

/// Aggregates that merge: over the lines of one rank, and after the reduction over those of all ranks.
#[derive(Default, Serialize, Deserialize)]
struct PartialAggregates {
    /// Statistics for the report, if one is requested.
    measured: Option<AnswerStats>,
    /// In the order of the requested aggregates, without the texts.
    values: Vec<Aggregate>,
    /// Number of lines that could not be parsed.
    damaged_lines: u64,
}

impl Merge for PartialAggregates {
    fn merge(&mut self, other: Self) {
        self.damaged_lines += other.damaged_lines;
        Merge::merge(&mut self.measured, other.measured);
        self.values.iter_mut().zip(other.values).for_each(|(mine, other)| mine.merge(other));
    }
}

impl PartialAggregates {
    /// Returns whether lines can be skipped because no aggregate needs them.
    fn is_unused(&self) -> bool {
        self.values.is_empty() && self.measured.is_none()
    }
}

/// A text that is written to its file as the lines arrive.
struct TextAggregate {
    file: AtomicFile,
    joined: AnswerConcat,
    has_content: bool,
}

impl AggregateSet {
    /// Local. Creates empty aggregates, on rank 0 (`answers` is given) with their files.
    pub(crate) fn create_empty(
        outputs: &RequestedOutputs<'_>,
        answers: Option<&Path>,
    ) -> Result<Self, OutputError> {
        let measured = outputs.report.then(AnswerStats::default);
        let (mut values, mut text_aggregates) = (Vec::new(), Vec::new());
        for spec in outputs.aggregate {
            match (Aggregate::from_spec(spec), spec.file_suffix(), answers) {
                (Aggregate::Concat(joined), Some(suffix), Some(answers)) => {
                    let mut file = AtomicFile::create(&answers_sibling_path(answers, suffix))?;
                    file.write_bytes(joined.opening_text().as_bytes())?;
                    text_aggregates.push(TextAggregate { file, joined, has_content: false });
                }
                // Ranks without the answers in order have no part in texts.
                (Aggregate::Concat(_), ..) => {}
                (value, ..) => values.push(value),
            }
        }
        Ok(Self {
            requested: outputs.aggregate.to_vec(),
            partial: PartialAggregates { measured, values, damaged_lines: 0 },
            text_aggregates,
        })
    }

    /// Returns whether the answers are needed in input order. The same on every rank.
    pub(crate) fn needs_input_order(&self) -> bool {
        self.requested.iter().any(|spec| spec.file_suffix().is_some())
    }

    /// Collective. Keeps only the line that counts of each prompt, if any aggregate merges.
    pub(crate) fn resolve_duplicates(
        &self,
        comm: &mut dyn Comm,
        lines: &mut LineIndex,
        counts: &PromptCounts,
    ) {
        if !self.partial.is_unused() {
            resolve_duplicate_lines(comm, lines, counts);
        }
    }

    /// Local. Adds framed lines of this rank.
    pub(crate) fn add_lines(&mut self, lines: &[u8]) {
        if self.partial.is_unused() {
            return;
        }
        for (_, _, line) in LineFrames(lines) {
            if let Some(measured) = &mut self.partial.measured {
                measured.add_line(line);
            }
            if self.partial.values.is_empty() {
                continue;
            }
            match ObservedLine::parse_line(line) {
                Ok(line) => line.observed_answers().for_each(|seen| {
                    self.partial.values.iter_mut().for_each(|value| value.add_answer(&seen));
                }),
                Err(_) => self.partial.damaged_lines += 1,
            }
        }
    }

    /// Local, on rank 0. Adds the next line in input order to the texts.
    pub(crate) fn add_ordered_line(&mut self, line: &[u8]) -> Result<(), OutputError> {
        if self.text_aggregates.is_empty() {
            return Ok(());
        }
        let Ok(line) = ObservedLine::parse_line(line) else { return Ok(()) };
        for seen in line.observed_answers() {
            for text in &mut self.text_aggregates {
                let Some(piece) = text.joined.count_piece(&seen) else { continue };
                if std::mem::replace(&mut text.has_content, true) {
                    text.file.write_bytes(text.joined.separator_text().as_bytes())?;
                }
                text.file.write_bytes(piece.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Collective. Merges the aggregates of all ranks; returns them on rank 0.
    pub(crate) fn reduce_to_root(self, comm: &mut dyn Comm) -> Result<Option<Self>, JobError> {
        if self.partial.is_unused() {
            return Ok((comm.rank() == 0).then_some(self));
        }
        let Self { requested, partial, text_aggregates } = self;
        let merged = comm.reduce_values(partial)?;
        Ok(merged.map(|partial| Self { requested, partial, text_aggregates }))
    }

    /// Local, on rank 0. Writes the aggregates to files beside the answers, and returns the statistics for the report.
    pub(crate) fn write_files(
        self,
        answers: &Path,
        counts: &PromptCounts,
    ) -> Result<Option<AnswerStats>, JobError> {
        let Self { requested, partial, text_aggregates } = self;
        if requested.is_empty() {
            return Ok(partial.measured);
        }
        if partial.damaged_lines > 0 {
            warn!(
                event = "unreadable_lines_skipped",
                lines = partial.damaged_lines,
                "lines missing in the aggregates: {} cannot be parsed",
                partial.damaged_lines
            );
        }
        let (mut values, mut texts) = (partial.values.into_iter(), text_aggregates.into_iter());
        let mut results = Map::new();
        for spec in &requested {
            let value = match spec.file_suffix() {
                None => values.next().map(|value| value.to_json()),
                Some(suffix) => {
                    let finished = texts.next().map(TextAggregate::finish_file).transpose()?;
                    finished.map(|mut value| {
                        value["file"] = file_name(&answers_sibling_path(answers, suffix)).into();
                        value
                    })
                }
            };
            results.insert(spec.to_string(), value.unwrap_or(Value::Null));
        }
        let report = json!({"prompts": counts, "aggregates": results});
        write_json(&aggregate_report_path(answers), &report)?;
        Ok(partial.measured)
    }
}

/// Collective. Drops every line that is superseded by a line of another rank.
pub(crate) fn resolve_duplicate_lines(
    comm: &mut dyn Comm,
    lines: &mut LineIndex,
    counts: &PromptCounts,
) {
    let mut line_count = [lines.line_count()];
    comm.all_reduce(&mut line_count, ReduceOp::Sum);
    if line_count[0] == counts.answered + counts.failed {
        return; // as many lines as done prompts: no prompt has lines on two ranks
    }
    for from in (0..counts.submitted).step_by(PRECEDENCE_CHUNK_ROWS as usize) {
        let to = counts.submitted.min(from + PRECEDENCE_CHUNK_ROWS);
        let mut keys = lines.precedence_keys(from, to);
        comm.all_reduce(&mut keys, ReduceOp::Min);
        lines.drop_superseded(from, &keys);
    }
}

impl TextAggregate {
    fn finish_file(mut self) -> Result<Value, OutputError> {
        self.file.write_bytes(self.joined.closing_text().as_bytes())?;
        self.file.commit()?;
        Ok(self.joined.to_json())
    }
}
