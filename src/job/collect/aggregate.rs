//! The answers' aggregates: each rank's of its own lines, all ranks' by a reduction, and into files beside the answers.
//!
//! Why so: a rank has the bytes of its lines in hand when it sends them to be gathered, so making its aggregates then costs
//! no reading and is shared by all ranks; what travels up the tree of ranks is small. It needs one thing that a rank does
//! not know by itself: which of two ranks' lines of one prompt counts. That is settled first, and only where there are
//! such prompts at all (a reduction over one number tells); a line that does not count is then sent by nobody.
//! Where answers stay in the shard files, each rank reads its own, and no answer leaves its rank.
//!
//! Texts and lists are as long as the answers and in their order: rank 0 writes them from the rounds in which it has the
//! answers in order, though these stay in the shard files otherwise.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tracing::warn;

use super::line_index::{LineFrames, LineIndex};
use crate::job::{JobError, setup::run_plan::RequestedOutputs};
use crate::{
    aggregate::{Aggregate, AnswerConcat, Line},
    comm::{Comm, ReduceOp, TypedComm},
    domain::Merge,
    metrics::AnswerStats,
    output::{AtomicFile, OutputError, PromptCounts, answers_sibling_path, part_path, write_json},
    settings::AggregateSpec,
};

/// Prompts whose lines are compared at a time: 8 bytes each.
const PRECEDENCE_CHUNK_ROWS: u64 = 1 << 20;

/// Where the report lies.
pub(crate) fn aggregate_report_path(answers: &Path) -> PathBuf {
    answers_sibling_path(answers, "aggregate.json")
}

/// The names of all files that are made where these are wanted.
pub(crate) fn aggregate_file_names(wanted: &[AggregateSpec], answers: &Path) -> Vec<String> {
    let report = (!wanted.is_empty()).then(|| aggregate_report_path(answers));
    let texts = wanted.iter().filter_map(AggregateSpec::file);
    let texts = texts.map(|ending| answers_sibling_path(answers, ending));
    let name = |it: PathBuf| it.file_name().unwrap_or_default().to_string_lossy().into_owned();
    report.into_iter().chain(texts).map(name).collect()
}

/// Takes away what earlier starts have made of other answers, and what such a start has left half made.
pub(crate) fn remove_stale_aggregates(names: &[String], answers: &Path) {
    for name in names {
        let stale = answers.with_file_name(name);
        for path in [part_path(&stale), stale] {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    warn!(
                        "{} is of earlier answers, and cannot be removed: {error}",
                        path.display()
                    );
                }
                _ => {}
            }
        }
    }
}

/// All that are wanted, while they are made.
#[derive(Default)]
pub(crate) struct AggregateSet {
    wanted: Vec<AggregateSpec>,
    partial: PartialAggregates,
    /// On rank 0.
    text_aggregates: Vec<TextAggregate>,
}

/// A rank's, and then all ranks'.
#[derive(Default, Serialize, Deserialize)]
struct PartialAggregates {
    /// What the lines measure, if that is wanted.
    measured: Option<AnswerStats>,
    /// Those that merge, as wanted.
    values: Vec<Aggregate>,
    /// Lines that are no answers: damage.
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
    /// Has it no use for lines?
    fn is_unused(&self) -> bool {
        self.values.is_empty() && self.measured.is_none()
    }
}

/// One that is written as it comes.
struct TextAggregate {
    file: AtomicFile,
    joined: AnswerConcat,
    has_content: bool,
}

impl AggregateSet {
    /// Local. Empty ones; rank 0 gives the place of the answers.
    pub(crate) fn begin(
        wanted: &RequestedOutputs<'_>,
        answers: Option<&Path>,
    ) -> Result<Self, OutputError> {
        let (wanted, measured) = (wanted.aggregate, wanted.report.then(AnswerStats::default));
        let (mut values, mut texts) = (Vec::new(), Vec::new());
        for it in wanted {
            match (Aggregate::of(it), it.file(), answers) {
                (Aggregate::Concat(joined), Some(ending), Some(answers)) => {
                    let mut file = AtomicFile::create(&answers_sibling_path(answers, ending))?;
                    file.write(joined.head().as_bytes())?;
                    texts.push(TextAggregate { file, joined, has_content: false });
                }
                (Aggregate::Concat(_), ..) => {}
                (value, ..) => values.push(value),
            }
        }
        Ok(Self {
            wanted: wanted.to_vec(),
            partial: PartialAggregates { measured, values, damaged_lines: 0 },
            text_aggregates: texts,
        })
    }

    /// Do they need the answers in order? The same on every rank.
    pub(crate) fn needs_input_order(&self) -> bool {
        self.wanted.iter().any(|it| it.file().is_some())
    }

    /// Collective. Of each prompt only the line that counts, where any are to be counted.
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

    /// Local. This rank's lines of a stretch.
    pub(crate) fn add_lines(&mut self, lines: &[u8]) {
        if self.partial.is_unused() {
            return;
        }
        for (_, _, line) in LineFrames(lines) {
            if let Some(measured) = &mut self.partial.measured {
                measured.add(line);
            }
            if self.partial.values.is_empty() {
                continue;
            }
            match Line::read(line) {
                Ok(line) => line.seen().for_each(|seen| {
                    self.partial.values.iter_mut().for_each(|value| value.add_answer(&seen));
                }),
                Err(_) => self.partial.damaged_lines += 1,
            }
        }
    }

    /// Local, on rank 0. The next line of all.
    pub(crate) fn add_ordered_line(&mut self, line: &[u8]) -> Result<(), OutputError> {
        if self.text_aggregates.is_empty() {
            return Ok(());
        }
        let Ok(line) = Line::read(line) else { return Ok(()) };
        for seen in line.seen() {
            for text in &mut self.text_aggregates {
                let Some(piece) = text.joined.note(&seen) else { continue };
                if std::mem::replace(&mut text.has_content, true) {
                    text.file.write(text.joined.between().as_bytes())?;
                }
                text.file.write(piece.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Collective. All ranks' together, on rank 0.
    pub(crate) fn reduce_to_root(self, comm: &mut dyn Comm) -> Result<Option<Self>, JobError> {
        if self.partial.is_unused() {
            return Ok((comm.rank() == 0).then_some(self));
        }
        let Self { wanted, partial: own, text_aggregates: texts } = self;
        Ok(comm.reduce(own)?.map(|own| Self { wanted, partial: own, text_aggregates: texts }))
    }

    /// Local, on rank 0. Into files beside the answers, where any were wanted; and what the lines measure.
    pub(crate) fn write_files(
        self,
        answers: &Path,
        counts: &PromptCounts,
    ) -> Result<Option<AnswerStats>, JobError> {
        let Self { wanted, partial: own, text_aggregates: texts } = self;
        if wanted.is_empty() {
            return Ok(own.measured);
        }
        if own.damaged_lines > 0 {
            warn!(
                "{} lines of the shard files are no answers, and in no aggregate",
                own.damaged_lines
            );
        }
        let (mut values, mut texts) = (own.values.into_iter(), texts.into_iter());
        let mut all = Map::new();
        for it in &wanted {
            let value = match it.file() {
                None => values.next().map(|value| value.finish()),
                Some(ending) => {
                    let finished = texts.next().map(TextAggregate::finish_file).transpose()?;
                    finished.map(|mut value| {
                        let place = answers_sibling_path(answers, ending);
                        value["file"] =
                            place.file_name().unwrap_or_default().to_string_lossy().into();
                        value
                    })
                }
            };
            all.insert(it.to_string(), value.unwrap_or(Value::Null));
        }
        let report = json!({"prompts": counts, "aggregates": all});
        write_json(&aggregate_report_path(answers), &report)?;
        Ok(own.measured)
    }
}

/// Collective. Leaves of each prompt only the line that counts among all ranks'.
pub(crate) fn resolve_duplicate_lines(
    comm: &mut dyn Comm,
    lines: &mut LineIndex,
    counts: &PromptCounts,
) {
    let mut all = [lines.line_count()];
    comm.all_reduce(&mut all, ReduceOp::Sum);
    if all[0] == counts.answered + counts.failed {
        return; // no prompt has lines on two ranks
    }
    for from in (0..counts.submitted).step_by(PRECEDENCE_CHUNK_ROWS as usize) {
        let mut claims =
            lines.precedence_keys(from, counts.submitted.min(from + PRECEDENCE_CHUNK_ROWS));
        comm.all_reduce(&mut claims, ReduceOp::Min);
        lines.drop_superseded(from, &claims);
    }
}

impl TextAggregate {
    fn finish_file(mut self) -> Result<Value, OutputError> {
        self.file.write(self.joined.closing_text().as_bytes())?;
        self.file.finish()?;
        Ok(self.joined.finish())
    }
}
