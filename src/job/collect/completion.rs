//! How a run stands: which prompts have an outcome, from all its shard files. Every rank reads some of the files, and a
//! reduction makes one picture of it.

use std::time::Instant;

use tracing::info;

use super::{line_index::LineIndex, local_shards::ShardFolders};
use crate::job::{
    ErrorCodeFn, JobError,
    context::all_ok,
    setup::run_plan::{RunPlan, SHARDS_FOLDER},
};
use crate::{
    comm::{Comm, ReduceOp, TypedComm},
    output::PromptCounts,
    shards::{self, IndexSet, ShardFile},
    site::Place,
};

/// Which prompts were answered, which failed, and which of those may be asked again.
#[derive(Clone, Debug)]
pub(crate) struct CompletionState {
    answered: IndexSet,
    /// Failed, of whatever kind, and not answered.
    failed: IndexSet,
    /// Failed for good, and not answered.
    permanently_failed: IndexSet,
}

impl CompletionState {
    /// Collective.
    pub(crate) fn read(
        comm: &mut dyn Comm,
        folders: &ShardFolders,
        brief: &RunPlan,
        code: ErrorCodeFn,
    ) -> Result<Self, JobError> {
        let (began, mut standing) = (Instant::now(), Self::all_open(brief.source.rows));
        let read = folders
            .readable_files(brief.start)
            .and_then(|files| standing.take(&files, &brief.source.fingerprint, None));
        let standing = standing.reduce_over_ranks(comm, read, code)?;
        if comm.rank() == 0 {
            let seconds = began.elapsed().as_secs_f64();
            info!(seconds, answered = standing.answered.count(), "what is there already is read");
        }
        Ok(standing)
    }

    /// Collective. The same, and where this rank's lines lie, on all ranks or on none: where they are wanted, and every prompt
    /// has its outcome or they are wanted all the same. Both in one reading.
    pub(crate) fn read_with_index(
        comm: &mut dyn Comm,
        folders: &ShardFolders,
        brief: &RunPlan,
        (wanted, anyway): (bool, bool),
        code: ErrorCodeFn,
    ) -> Result<(Self, Option<LineIndex>), JobError> {
        if !(wanted || anyway) {
            return Ok((Self::read(comm, folders, brief, code)?, None));
        }
        let (rows, mut standing) = (brief.source.rows, Self::all_open(brief.source.rows));
        let read = folders.readable_files(brief.start).and_then(|files| {
            let mut lines = LineIndex::for_files(files.clone(), rows);
            standing.take(&files, &brief.source.fingerprint, Some(&mut lines))?;
            Ok(lines)
        });
        let (read, lines) = match read {
            Ok(lines) => (Ok(()), Some(lines)),
            Err(error) => (Err(error.into_finish_error()), None),
        };
        let standing = standing.reduce_over_ranks(comm, read, code)?;
        let whole = standing.counts(rows).open == 0;
        Ok((standing, lines.filter(|_| whole || anyway)))
    }

    /// Collective. One picture out of what each rank has read.
    fn reduce_over_ranks(
        mut self,
        comm: &mut dyn Comm,
        read: Result<(), JobError>,
        code: ErrorCodeFn,
    ) -> Result<Self, JobError> {
        all_ok(comm, read, code)?;
        for bitmap in [&mut self.answered, &mut self.failed, &mut self.permanently_failed] {
            comm.all_reduce(bitmap.words_mut(), ReduceOp::Or);
        }
        Ok(self.settled())
    }

    /// Local. The same, from a run folder, by this process alone.
    pub(crate) fn from_folder(
        folder: &std::path::Path,
        rows: u64,
        fingerprint: &str,
    ) -> Result<Self, JobError> {
        let mut standing = Self::all_open(rows);
        standing.take(&shards::list(&folder.join(SHARDS_FOLDER))?, fingerprint, None)?;
        Ok(standing.settled())
    }

    /// Local. The same, and where all lines lie.
    pub(crate) fn from_folder_with_index(
        folder: &std::path::Path,
        rows: u64,
        fingerprint: &str,
    ) -> Result<(Self, LineIndex), JobError> {
        let files = shards::list(&folder.join(SHARDS_FOLDER))?;
        let (mut standing, mut lines) =
            (Self::all_open(rows), LineIndex::for_files(files.clone(), rows));
        standing.take(&files, fingerprint, Some(&mut lines))?;
        Ok((standing.settled(), lines))
    }

    fn all_open(rows: u64) -> Self {
        Self {
            answered: IndexSet::new(rows),
            failed: IndexSet::new(rows),
            permanently_failed: IndexSet::new(rows),
        }
    }

    fn take(
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

    /// Success beats failure.
    fn settled(mut self) -> Self {
        self.failed.remove_all(&self.answered);
        self.permanently_failed.remove_all(&self.answered);
        self
    }

    /// Is there an answer to this prompt?
    pub(crate) fn is_answered(&self, index: u64) -> bool {
        self.answered.contains(index)
    }

    /// Everything but this is to do.
    pub(crate) fn done_prompts(&self, retry_failed: bool) -> IndexSet {
        let mut done = self.answered.clone();
        if !retry_failed {
            done.insert_all(&self.permanently_failed);
        }
        done
    }

    /// Those that were answered.
    pub(crate) fn answered_prompts(&self) -> &IndexSet {
        &self.answered
    }

    /// The counts that go into the manifest.
    pub(crate) fn counts(&self, rows: u64) -> PromptCounts {
        PromptCounts::new(rows, self.answered.count(), self.failed.count())
    }
}

/// Collective. Every rank has to see the run folder that rank 0 has opened, unless it keeps what it writes elsewhere. On rank 0: which ranks do not see the input as
/// it does, and are to be told what its rows say.
pub(crate) fn check_run_folder(
    comm: &mut dyn Comm,
    brief: &RunPlan,
    place: &Place,
    code: ErrorCodeFn,
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
    all_ok(comm, seen, code)?;
    let blind = comm.gather_values(&!crate::input::is_source_visible(&brief.source))?;
    if let Some(rank) = blind.iter().flatten().position(|&blind| blind) {
        info!(
            rank,
            "this rank, and maybe more, does not see the input as rank 0 does: rank 0 sends them the rows' text"
        );
    }
    Ok(blind)
}
