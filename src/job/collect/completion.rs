//! The completion state of a run: which prompts have an outcome, according to its shard files.
//!
//! Each rank reads a share of the files, and an MPI reduction combines the bitmaps. The shard files are the only truth
//! about progress: the counts in the manifest may be older. What is leased or in flight is not on disk and belongs to
//! the [`ledger`](crate::ledger).

use std::{path::Path, time::Instant};

use tracing::info;

use super::{line_index::LineIndex, shard_folders::ShardFolders};
use crate::job::{
    JobError,
    context::all_ok,
    setup::run_plan::{RunPlan, SHARDS_FOLDER, TOKEN_FILE},
};
use crate::{
    comm::{Comm, ReduceOp, TypedComm},
    domain::BitSet,
    input,
    output::PromptCounts,
    report::format::{format_count, pluralize},
    shards::{self, ShardFile},
    site::RankPlacement,
};

/// Sets of answered and failed prompts, one bit per prompt each.
#[derive(Clone, Debug)]
pub(crate) struct CompletionState {
    answered: BitSet,
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
        for set in [&mut self.answered, &mut self.failed, &mut self.permanently_failed] {
            set.update_words(|words| comm.all_reduce(words, ReduceOp::Or));
        }
        // Only after the reduction: a prompt may have failed in one rank's files and be answered in another's.
        Ok(self.prefer_success())
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
        Ok(state.prefer_success())
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
        Ok((state.prefer_success(), lines))
    }

    fn all_open(rows: u64) -> Self {
        Self {
            answered: BitSet::new(rows),
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
            if entry.success {
                self.answered.insert(entry.index);
            } else {
                self.failed.insert(entry.index);
                if !entry.is_retryable {
                    self.permanently_failed.insert(entry.index);
                }
            }
            lines.as_mut().map_or(Ok(()), |lines| lines.record_line(file, &entry))
        })?;
        Ok(())
    }

    /// Removes from the failed prompts those that were answered too.
    fn prefer_success(mut self) -> Self {
        self.failed.remove_all(&self.answered);
        self.permanently_failed.remove_all(&self.answered);
        self
    }

    pub(crate) fn is_answered(&self, index: u64) -> bool {
        self.answered.contains(index)
    }

    /// Returns the prompts that are not sent again. With `retry_failed`, permanent failures are sent again too.
    pub(crate) fn done_prompts(&self, retry_failed: bool) -> BitSet {
        let mut done = self.answered.clone();
        if !retry_failed {
            done.insert_all(&self.permanently_failed);
        }
        done
    }

    pub(crate) fn answered_prompts(&self) -> &BitSet {
        &self.answered
    }

    /// Returns the counts as the manifest has them.
    pub(crate) fn outcome_counts(&self, rows: u64) -> PromptCounts {
        PromptCounts::new(rows, self.answered.member_count(), self.failed.member_count())
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
