//! The completion state of a run: which prompts have an outcome, according to its shard files.
//!
//! Each rank reads a share of the files, and an MPI reduction combines the bitmaps. The shard files are the only truth
//! about progress: the counts in the manifest may be older. What is leased or in flight is not on disk and belongs to
//! the [`ledger`](crate::ledger).

use std::{collections::BTreeMap, path::Path, time::Instant};

use tracing::info;

use super::{line_index::LineIndex, shard_folders::ShardFolders};
use crate::job::{
    JobError,
    context::all_ok,
    setup::run_plan::{RunPlan, SHARDS_FOLDER, TOKEN_FILE},
};
use crate::{
    comm::{Comm, ReduceOp, TypedComm},
    domain::{AnswerFlaws, BitSet, FlawCounts},
    input,
    output::PromptCounts,
    report::format::{format_count, pluralize},
    shards::{self, ShardFile},
    site::RankPlacement,
};

/// Sets of answered and failed prompts, one bit per prompt each.
#[derive(Clone, Debug)]
pub(crate) struct CompletionState {
    rows: u64,
    /// Until the files of all ranks are combined, only those answered without flaws.
    answered: BitSet,
    /// Prompts whose answer has these flaws, for the sets of flaws that occur.
    flawed: BTreeMap<AnswerFlaws, BitSet>,
    /// Failed in any way and not answered.
    failed: BitSet,
    /// Failed in a way that a retry cannot fix, and not answered.
    permanently_failed: BitSet,
}

impl CompletionState {
    /// Collective. Reads the shard files of the run folder. Every rank returns the state of the whole run.
    pub(crate) fn read_all_ranks(
        comm: &mut dyn Comm,
        folders: &ShardFolders,
        plan: &RunPlan,
    ) -> Result<Self, JobError> {
        let (began, mut state) = (Instant::now(), Self::all_open(plan.source.rows));
        let read = folders
            .readable_files(plan.start)
            .and_then(|files| state.read_files(&files, &plan.source.fingerprint, None));
        let state = state.reduce_over_ranks(comm, read)?;
        if comm.rank() == 0 {
            let answered = state.answered.member_count();
            info!(
                event = "earlier_answers_loaded",
                answered,
                elapsed_s = began.elapsed().as_secs_f64(),
                "earlier answers loaded: {} of {}",
                format_count(answered),
                format_count(plan.source.rows)
            );
        }
        Ok(state)
    }

    /// Collective. Reads the completion state and, in the same pass, the index of this rank's lines.
    ///
    /// The index is returned on all ranks or on none: if `if_complete` is set and every prompt is done, or if `always`
    /// is set.
    pub(crate) fn read_with_index(
        comm: &mut dyn Comm,
        folders: &ShardFolders,
        plan: &RunPlan,
        (if_complete, always): (bool, bool),
    ) -> Result<(Self, Option<LineIndex>), JobError> {
        if !(if_complete || always) {
            return Ok((Self::read_all_ranks(comm, folders, plan)?, None));
        }
        let (rows, mut state) = (plan.source.rows, Self::all_open(plan.source.rows));
        let read = folders.readable_files(plan.start).and_then(|files| {
            let mut lines = LineIndex::for_files(files.clone(), rows);
            state.read_files(&files, &plan.source.fingerprint, Some(&mut lines))?;
            Ok(lines)
        });
        let (read, lines) = match read {
            Ok(lines) => (Ok(()), Some(lines)),
            Err(error) => (Err(error.into_finish_error()), None),
        };
        let state = state.reduce_over_ranks(comm, read)?;
        let is_complete = state.outcome_counts(rows).open == 0;
        Ok((state, lines.filter(|_| is_complete || always)))
    }

    /// Collective. Combines what the ranks have read; an error on one rank is an error on all.
    fn reduce_over_ranks(
        mut self,
        comm: &mut dyn Comm,
        read: Result<(), JobError>,
    ) -> Result<Self, JobError> {
        all_ok(comm, read)?;
        // Most runs have few or no flawed answers, so only the sets that occur on any rank are combined.
        let mut occurring = [self.flawed.keys().fold(0, |all, flaws| all | 1 << flaws.bits())];
        comm.all_reduce(&mut occurring, ReduceOp::Or);
        let occurs = |flaws: &AnswerFlaws| occurring[0] & 1 << flaws.bits() != 0;
        for flaws in (0..).map_while(AnswerFlaws::from_bits).filter(occurs) {
            self.flawed.entry(flaws).or_insert_with(|| BitSet::new(self.rows));
        }
        let sets = [&mut self.answered, &mut self.failed, &mut self.permanently_failed];
        for set in sets.into_iter().chain(self.flawed.values_mut()) {
            set.update_words(|words| comm.all_reduce(words, ReduceOp::Or));
        }
        // Only after the reduction: a prompt may have failed in one rank's files and be answered in another's.
        Ok(self.prefer_better())
    }

    /// Local. Reads the completion state from a run folder, by this process alone.
    pub(crate) fn from_folder(
        folder: &Path,
        rows: u64,
        fingerprint: &str,
    ) -> Result<Self, JobError> {
        let mut state = Self::all_open(rows);
        let files = shards::list_shard_files(&folder.join(SHARDS_FOLDER))?;
        state.read_files(&files, fingerprint, None)?;
        Ok(state.prefer_better())
    }

    /// Local. Reads the completion state and the index of all lines from a run folder.
    pub(crate) fn from_folder_with_index(
        folder: &Path,
        rows: u64,
        fingerprint: &str,
    ) -> Result<(Self, LineIndex), JobError> {
        let files = shards::list_shard_files(&folder.join(SHARDS_FOLDER))?;
        let mut state = Self::all_open(rows);
        let mut lines = LineIndex::for_files(files.clone(), rows);
        state.read_files(&files, fingerprint, Some(&mut lines))?;
        Ok((state.prefer_better(), lines))
    }

    fn all_open(rows: u64) -> Self {
        Self {
            rows,
            answered: BitSet::new(rows),
            flawed: BTreeMap::new(),
            failed: BitSet::new(rows),
            permanently_failed: BitSet::new(rows),
        }
    }

    fn read_files(
        &mut self,
        files: &[ShardFile],
        fingerprint: &str,
        mut lines: Option<&mut LineIndex>,
    ) -> Result<(), JobError> {
        shards::read_all_entries(files, fingerprint, |file, entry| {
            match entry.grade.flaws() {
                Some(AnswerFlaws::NONE) => drop(self.answered.insert(entry.index)),
                Some(flaws) => {
                    let set = self.flawed.entry(flaws);
                    set.or_insert_with(|| BitSet::new(self.rows)).insert(entry.index);
                }
                None => {
                    self.failed.insert(entry.index);
                    if !entry.is_retryable {
                        self.permanently_failed.insert(entry.index);
                    }
                }
            }
            lines.as_mut().map_or(Ok(()), |lines| lines.record_line(file, &entry))
        })?;
        Ok(())
    }

    /// Leaves each prompt in the set of its best outcome, as the precedence among lines has it, and adds the prompts
    /// with flawed answers to those that are answered.
    fn prefer_better(mut self) -> Self {
        // In the order of the flaws, the mildest first.
        for set in self.flawed.values_mut() {
            set.remove_all(&self.answered);
            self.answered.insert_all(set);
        }
        self.failed.remove_all(&self.answered);
        self.permanently_failed.remove_all(&self.answered);
        self
    }

    /// Returns whether the prompt has an answer that no other one replaces, that is, one that is not cut.
    pub(crate) fn is_final(&self, index: u64) -> bool {
        self.answered.contains(index) && !self.cut_sets().any(|set| set.contains(index))
    }

    fn cut_sets(&self) -> impl Iterator<Item = &BitSet> {
        self.flawed.iter().filter(|(flaws, _)| flaws.is_cut()).map(|(_, set)| set)
    }

    /// Returns the prompts that are not sent again. With `retry_failed`, permanent failures are sent again too; with
    /// `retry_cut`, prompts whose answer was cut.
    pub(crate) fn done_prompts(&self, retry_failed: bool, retry_cut: bool) -> BitSet {
        let mut done = self.answered.clone();
        if retry_cut {
            self.cut_sets().for_each(|set| done.remove_all(set));
        }
        if !retry_failed {
            done.insert_all(&self.permanently_failed);
        }
        done
    }

    /// Returns the number of prompts that failed in an earlier session and are not among the done ones: they are sent
    /// again.
    pub(crate) fn resent_count(&self, done: &BitSet) -> u64 {
        let mut resent = self.failed.clone();
        resent.remove_all(done);
        resent.member_count()
    }

    /// Returns whether there are prompts to send, and each of them has used up its tries in an earlier session.
    pub(crate) fn only_exhausted_left(&self, done: &BitSet) -> bool {
        let mut exhausted = self.failed.clone();
        exhausted.remove_all(&self.permanently_failed);
        exhausted.insert_all(done);
        done.missing_ranges().next().is_some() && exhausted.missing_ranges().next().is_none()
    }

    pub(crate) fn answered_prompts(&self) -> &BitSet {
        &self.answered
    }

    /// Returns the counts as the manifest has them.
    pub(crate) fn outcome_counts(&self, rows: u64) -> PromptCounts {
        let mut flaws = FlawCounts::default();
        self.flawed.iter().for_each(|(which, set)| flaws.add(*which, set.member_count()));
        let (answered, failed) = (self.answered.member_count(), self.failed.member_count());
        PromptCounts { flaws, ..PromptCounts::new(rows, answered, failed) }
    }
}

/// Collective. Checks that every rank sees the run folder that rank 0 has opened, unless it writes to its own node.
///
/// Returns on rank 0, for each rank, whether it does *not* see the input as rank 0 does; such ranks get the text of
/// their rows along with their leases.
pub(crate) fn check_run_folder(
    comm: &mut dyn Comm,
    plan: &RunPlan,
    placement: &RankPlacement,
) -> Result<Option<Vec<bool>>, JobError> {
    // A folder with this path may exist on a node without being the shared one, so its content is compared too.
    let token = std::fs::read_to_string(plan.folder.join(TOKEN_FILE)).unwrap_or_default();
    let visible = if token == plan.folder_token || plan.local_shards.is_some() {
        Ok(())
    } else {
        Err(JobError::RunFolderNotShared {
            rank: placement.rank,
            host: placement.node.host.clone(),
            folder: plan.folder.display().to_string(),
        })
    };
    all_ok(comm, visible)?;
    let lacks_input = comm.gather_values(&!input::is_source_visible(&plan.source))?;
    let ranks: usize = lacks_input.iter().flatten().filter(|&&lacks| lacks).count();
    if let Some(rank) = lacks_input.iter().flatten().position(|&lacks| lacks) {
        info!(
            event = "input_not_shared",
            ranks,
            "input not visible on {} (first: rank {rank}): rank 0 sends the text of their rows",
            pluralize(ranks as u64, "rank")
        );
    }
    Ok(lacks_input)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        comm::SoloComm,
        shards::{LineGrade, LinePrecedence},
    };

    const ROWS: u64 = 12;

    /// (index, whether it was answered, response, finish reason) of a line.
    type TestLine = (u64, bool, &'static str, &'static str);

    fn write_shard(folder: &Path, number: usize, lines: &[TestLine]) {
        let header = shards::ShardHeader::new(number as u32 / 2, number % 2, "n", "f");
        let mut text = serde_json::to_string(&header).expect("JSON") + "\n";
        for (index, success, response, end) in lines {
            text += &format!(
                r#"{{"id":{index},"index":{index},"success":{success},"response":"{response}","finish_reason":"{end}"}}"#
            );
            text.push('\n');
        }
        std::fs::write(folder.join(header.file_name()), text).expect("written");
    }

    fn test_line() -> impl Strategy<Value = TestLine> {
        let response = prop_oneof![Just("a"), Just(" ")];
        let end = prop_oneof![Just("stop"), Just("length"), Just("content_filter")];
        (0..ROWS + 1, any::<bool>(), response, end)
    }

    proptest! {
        #[test]
        fn counts_are_those_of_the_lines_that_take_precedence(
            files in prop::collection::vec(prop::collection::vec(test_line(), 0..20), 0..5),
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            for (number, lines) in files.iter().enumerate() {
                write_shard(folder.path(), number, lines);
            }
            let shard_files = shards::list_shard_files(folder.path()).expect("listed");
            let mut best = BTreeMap::new();
            for (number, file) in shard_files.iter().enumerate() {
                shards::read_all_entries([file], "f", |_, entry| {
                    let key = LinePrecedence::new(entry.grade, number as u32, 0);
                    let known = best.entry(entry.index).or_insert(key);
                    *known = key.min(*known);
                    Ok(())
                }).expect("read");
            }
            let winners = || best.range(..ROWS).map(|(_, key)| key.grade());
            let mut flaws = FlawCounts::default();
            winners().filter_map(LineGrade::flaws).for_each(|which| flaws.add(which, 1));
            let answered = winners().filter(|grade| grade.is_answered()).count() as u64;
            let mut state = CompletionState::all_open(ROWS);
            state.read_files(&shard_files, "f", None).expect("read");
            let state = state.reduce_over_ranks(&mut SoloComm::new(), Ok(())).expect("alone");
            let counts = state.outcome_counts(ROWS);
            prop_assert_eq!(counts.flaws, flaws);
            prop_assert_eq!(counts.answered, answered);
            let again = state.done_prompts(false, true);
            prop_assert_eq!(again.member_count() + flaws.cut + counts.failed + counts.open, ROWS
                + state.permanently_failed.member_count());
        }
    }
}
