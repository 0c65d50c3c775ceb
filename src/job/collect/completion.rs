//! The completion state of a run: which prompts have an outcome, according to its shard files.
//!
//! Each rank reads a share of the files, and an MPI reduction combines the bitmaps. The shard files are the only truth about
//! progress: the counts in the manifest may be older. What is leased or in flight is not on disk and belongs to the
//! [`ledger`](crate::ledger).

use std::time::Instant;

use tracing::info;

use super::{line_index::LineIndex, local_shards::ShardFolders};
use crate::job::{
    JobError,
    context::all_ok,
    setup::run_plan::{RunPlan, SHARDS_FOLDER},
};
use crate::{
    comm::{Comm, ReduceOp, TypedComm},
    output::PromptCounts,
    shards::{self, IndexSet, ShardFile},
    site::RankPlacement,
};

/// Sets of answered and failed prompts, one bit per prompt each.
#[derive(Clone, Debug)]
pub(crate) struct CompletionState {
    answered: IndexSet,
    /// Failed in any way and not answered.
    failed: IndexSet,
    /// Failed in a way that a retry cannot fix, and not answered.
    permanently_failed: IndexSet,
}

impl CompletionState {
    /// Reads the shard files of the run folder. Every rank returns the state of the whole run. Collective.
    pub(crate) fn read_all_ranks(
        comm: &mut dyn Comm,
        folders: &ShardFolders,
        brief: &RunPlan,
    ) -> Result<Self, JobError> {
        let (began, mut standing) = (Instant::now(), Self::all_open(brief.source.rows));
        let read = folders
            .readable_files(brief.start)
            .and_then(|files| standing.read_files(&files, &brief.source.fingerprint, None));
        let standing = standing.reduce_over_ranks(comm, read)?;
        if comm.rank() == 0 {
            let seconds = began.elapsed().as_secs_f64();
            info!(
                seconds,
                answered = standing.answered.member_count(),
                "what is there already is read"
            );
        }
        Ok(standing)
    }

    /// Reads the completion state and, in the same pass, the index of this rank's lines. Collective.
    ///
    /// The index is returned on all ranks or on none: if it is `wanted` and every prompt is done, or if `anyway` is set.
    pub(crate) fn read_with_index(
        comm: &mut dyn Comm,
        folders: &ShardFolders,
        brief: &RunPlan,
        (wanted, anyway): (bool, bool),
    ) -> Result<(Self, Option<LineIndex>), JobError> {
        if !(wanted || anyway) {
            return Ok((Self::read_all_ranks(comm, folders, brief)?, None));
        }
        let (rows, mut standing) = (brief.source.rows, Self::all_open(brief.source.rows));
        let read = folders.readable_files(brief.start).and_then(|files| {
            let mut lines = LineIndex::for_files(files.clone(), rows);
            standing.read_files(&files, &brief.source.fingerprint, Some(&mut lines))?;
            Ok(lines)
        });
        let (read, lines) = match read {
            Ok(lines) => (Ok(()), Some(lines)),
            Err(error) => (Err(error.into_finish_error()), None),
        };
        let standing = standing.reduce_over_ranks(comm, read)?;
        let whole = standing.outcome_counts(rows).open == 0;
        Ok((standing, lines.filter(|_| whole || anyway)))
    }

    /// Combines what the ranks have read; an error on one rank is an error on all. Collective.
    fn reduce_over_ranks(
        mut self,
        comm: &mut dyn Comm,
        read: Result<(), JobError>,
    ) -> Result<Self, JobError> {
        all_ok(comm, read)?;
        for bitmap in [&mut self.answered, &mut self.failed, &mut self.permanently_failed] {
            comm.all_reduce(bitmap.words_mut(), ReduceOp::Or);
        }
        Ok(self.prefer_success())
    }

    /// Reads the completion state from a run folder, by this process alone. Local.
    pub(crate) fn from_folder(
        folder: &std::path::Path,
        rows: u64,
        fingerprint: &str,
    ) -> Result<Self, JobError> {
        let mut standing = Self::all_open(rows);
        standing.read_files(
            &shards::list_shard_files(&folder.join(SHARDS_FOLDER))?,
            fingerprint,
            None,
        )?;
        Ok(standing.prefer_success())
    }

    /// Reads the completion state and the index of all lines from a run folder. Local.
    pub(crate) fn from_folder_with_index(
        folder: &std::path::Path,
        rows: u64,
        fingerprint: &str,
    ) -> Result<(Self, LineIndex), JobError> {
        let files = shards::list_shard_files(&folder.join(SHARDS_FOLDER))?;
        let (mut standing, mut lines) =
            (Self::all_open(rows), LineIndex::for_files(files.clone(), rows));
        standing.read_files(&files, fingerprint, Some(&mut lines))?;
        Ok((standing.prefer_success(), lines))
    }

    fn all_open(rows: u64) -> Self {
        Self {
            answered: IndexSet::new(rows),
            failed: IndexSet::new(rows),
            permanently_failed: IndexSet::new(rows),
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
    pub(crate) fn done_prompts(&self, retry_failed: bool) -> IndexSet {
        let mut done = self.answered.clone();
        if !retry_failed {
            done.insert_all(&self.permanently_failed);
        }
        done
    }

    pub(crate) fn answered_prompts(&self) -> &IndexSet {
        &self.answered
    }

    /// Returns the counts as the manifest has them.
    pub(crate) fn outcome_counts(&self, rows: u64) -> PromptCounts {
        PromptCounts::new(rows, self.answered.member_count(), self.failed.member_count())
    }
}

/// Checks that every rank sees the run folder that rank 0 has opened, unless it writes to its own node. Collective.
///
/// Returns on rank 0, for each rank, whether it does *not* see the input as rank 0 does; such ranks get the text of their
/// rows along with their leases.
pub(crate) fn check_run_folder(
    comm: &mut dyn Comm,
    brief: &RunPlan,
    place: &RankPlacement,
) -> Result<Option<Vec<bool>>, JobError> {
    let token = std::fs::read_to_string(brief.folder.join("token")).unwrap_or_default();
    let seen = if token == brief.folder_token || brief.local_shards.is_some() {
        Ok(())
    } else {
        Err(JobError::RunFolderNotShared {
            rank: place.rank,
            host: place.node.host.clone(),
            folder: brief.folder.display().to_string(),
        })
    };
    all_ok(comm, seen)?;
    let blind = comm.gather_values(&!crate::input::is_source_visible(&brief.source))?;
    if let Some(rank) = blind.iter().flatten().position(|&blind| blind) {
        info!(
            rank,
            "this rank, and maybe more, does not see the input as rank 0 does: rank 0 sends them the rows' text"
        );
    }
    Ok(blind)
}
