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

use super::line_index::{Heads, Lines};
use crate::job::{JobError, setup::run_plan::Wanted};
use crate::{
    aggregate::{Aggregate, Joined, Line},
    comm::{Combine, Comm, Typed},
    domain::Merge,
    metrics::Measured,
    output::{Counts, OutputError, TextFile, beside_answers, part_of, write_json},
    settings::AggregateWanted,
};

/// Prompts whose lines are compared at a time: 8 bytes each.
const AT_A_TIME: u64 = 1 << 20;

/// Where the report lies.
pub(crate) fn report_place(answers: &Path) -> PathBuf {
    beside_answers(answers, "aggregate.json")
}

/// The names of all files that are made where these are wanted.
pub(crate) fn names(wanted: &[AggregateWanted], answers: &Path) -> Vec<String> {
    let report = (!wanted.is_empty()).then(|| report_place(answers));
    let texts = wanted.iter().filter_map(AggregateWanted::file);
    let texts = texts.map(|ending| beside_answers(answers, ending));
    let name = |it: PathBuf| it.file_name().unwrap_or_default().to_string_lossy().into_owned();
    report.into_iter().chain(texts).map(name).collect()
}

/// Takes away what earlier starts have made of other answers, and what such a start has left half made.
pub(crate) fn remove_stale(names: &[String], answers: &Path) {
    for name in names {
        let stale = answers.with_file_name(name);
        for path in [part_of(&stale), stale] {
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
pub(crate) struct Aggregates {
    wanted: Vec<AggregateWanted>,
    own: Own,
    /// On rank 0.
    texts: Vec<Text>,
}

/// A rank's, and then all ranks'.
#[derive(Default, Serialize, Deserialize)]
struct Own {
    /// What the lines measure, if that is wanted.
    measured: Option<Measured>,
    /// Those that merge, as wanted.
    values: Vec<Aggregate>,
    /// Lines that are no answers: damage.
    damaged: u64,
}

impl Merge for Own {
    fn merge(&mut self, other: Self) {
        self.damaged += other.damaged;
        Merge::merge(&mut self.measured, other.measured);
        self.values.iter_mut().zip(other.values).for_each(|(mine, other)| mine.merge(other));
    }
}

impl Own {
    /// Has it no use for lines?
    fn is_nothing(&self) -> bool {
        self.values.is_empty() && self.measured.is_none()
    }
}

/// One that is written as it comes.
struct Text {
    file: TextFile,
    joined: Joined,
    begun: bool,
}

impl Aggregates {
    /// Local. Empty ones; rank 0 gives the place of the answers.
    pub(crate) fn begin(wanted: &Wanted<'_>, answers: Option<&Path>) -> Result<Self, OutputError> {
        let (wanted, measured) = (wanted.aggregate, wanted.report.then(Measured::default));
        let (mut values, mut texts) = (Vec::new(), Vec::new());
        for it in wanted {
            match (Aggregate::of(it), it.file(), answers) {
                (Aggregate::Joined(joined), Some(ending), Some(answers)) => {
                    let mut file = TextFile::create(&beside_answers(answers, ending))?;
                    file.write(joined.head().as_bytes())?;
                    texts.push(Text { file, joined, begun: false });
                }
                (Aggregate::Joined(_), ..) => {}
                (value, ..) => values.push(value),
            }
        }
        Ok(Self { wanted: wanted.to_vec(), own: Own { measured, values, damaged: 0 }, texts })
    }

    /// Do they need the answers in order? The same on every rank.
    pub(crate) fn need_order(&self) -> bool {
        self.wanted.iter().any(|it| it.file().is_some())
    }

    /// Collective. Of each prompt only the line that counts, where any are to be counted.
    pub(crate) fn settle(&self, comm: &mut dyn Comm, lines: &mut Lines, counts: &Counts) {
        if !self.own.is_nothing() {
            settle(comm, lines, counts);
        }
    }

    /// Local. This rank's lines of a stretch.
    pub(crate) fn take(&mut self, lines: &[u8]) {
        if self.own.is_nothing() {
            return;
        }
        for (_, _, line) in Heads(lines) {
            if let Some(measured) = &mut self.own.measured {
                measured.add(line);
            }
            if self.own.values.is_empty() {
                continue;
            }
            match Line::read(line) {
                Ok(line) => line.seen().for_each(|seen| {
                    self.own.values.iter_mut().for_each(|value| value.add(&seen));
                }),
                Err(_) => self.own.damaged += 1,
            }
        }
    }

    /// Local, on rank 0. The next line of all.
    pub(crate) fn next(&mut self, line: &[u8]) -> Result<(), OutputError> {
        if self.texts.is_empty() {
            return Ok(());
        }
        let Ok(line) = Line::read(line) else { return Ok(()) };
        for seen in line.seen() {
            for text in &mut self.texts {
                let Some(piece) = text.joined.note(&seen) else { continue };
                if std::mem::replace(&mut text.begun, true) {
                    text.file.write(text.joined.between().as_bytes())?;
                }
                text.file.write(piece.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Collective. All ranks' together, on rank 0.
    pub(crate) fn reduce(self, comm: &mut dyn Comm) -> Result<Option<Self>, JobError> {
        if self.own.is_nothing() {
            return Ok((comm.rank() == 0).then_some(self));
        }
        let Self { wanted, own, texts } = self;
        Ok(comm.reduce(own)?.map(|own| Self { wanted, own, texts }))
    }

    /// Local, on rank 0. Into files beside the answers, where any were wanted; and what the lines measure.
    pub(crate) fn write(
        self,
        answers: &Path,
        counts: &Counts,
    ) -> Result<Option<Measured>, JobError> {
        let Self { wanted, own, texts } = self;
        if wanted.is_empty() {
            return Ok(own.measured);
        }
        if own.damaged > 0 {
            warn!("{} lines of the shard files are no answers, and in no aggregate", own.damaged);
        }
        let (mut values, mut texts) = (own.values.into_iter(), texts.into_iter());
        let mut all = Map::new();
        for it in &wanted {
            let value = match it.file() {
                None => values.next().map(|value| value.finish()),
                Some(ending) => {
                    let finished = texts.next().map(Text::finish).transpose()?;
                    finished.map(|mut value| {
                        let place = beside_answers(answers, ending);
                        value["file"] =
                            place.file_name().unwrap_or_default().to_string_lossy().into();
                        value
                    })
                }
            };
            all.insert(it.to_string(), value.unwrap_or(Value::Null));
        }
        let report = json!({"prompts": counts, "aggregates": all});
        write_json(&report_place(answers), &report)?;
        Ok(own.measured)
    }
}

/// Collective. Leaves of each prompt only the line that counts among all ranks'.
pub(crate) fn settle(comm: &mut dyn Comm, lines: &mut Lines, counts: &Counts) {
    let mut all = [lines.count()];
    comm.all_reduce(&mut all, Combine::Sum);
    if all[0] == counts.answered + counts.failed {
        return; // no prompt has lines on two ranks
    }
    for from in (0..counts.submitted).step_by(AT_A_TIME as usize) {
        let mut claims = lines.claims(from, counts.submitted.min(from + AT_A_TIME));
        comm.all_reduce(&mut claims, Combine::Min);
        lines.yield_to(from, &claims);
    }
}

impl Text {
    fn finish(mut self) -> Result<Value, OutputError> {
        self.file.write(self.joined.tail().as_bytes())?;
        self.file.finish()?;
        Ok(self.joined.finish())
    }
}
