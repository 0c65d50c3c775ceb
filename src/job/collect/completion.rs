//! How a run stands: which prompts have an outcome, from all its shard files. Every rank reads some of the files, and a
//! reduction makes one picture of it.

use std::time::Instant;

use tracing::info;

use super::{line_index::Lines, local_shards::Folders};
use crate::job::{
    CodeOf, JobError,
    context::everywhere,
    setup::run_plan::{Brief, SHARDS},
};
use crate::{
    comm::{Combine, Comm, Typed},
    output::Counts,
    shards::{self, Bitmap, ShardFile},
    site::Place,
};

/// Which prompts were answered, which failed, and which of those may be asked again.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    answered: Bitmap,
    /// Failed, of whatever kind, and not answered.
    failed: Bitmap,
    /// Failed for good, and not answered.
    for_good: Bitmap,
}

impl Standing {
    /// Collective.
    pub(crate) fn read(
        comm: &mut dyn Comm,
        folders: &Folders,
        brief: &Brief,
        code: CodeOf,
    ) -> Result<Self, JobError> {
        let (began, mut standing) = (Instant::now(), Self::none(brief.source.rows));
        let read = folders
            .files(brief.start)
            .and_then(|files| standing.take(&files, &brief.source.fingerprint, None));
        let standing = standing.of_all(comm, read, code)?;
        if comm.rank() == 0 {
            let seconds = began.elapsed().as_secs_f64();
            info!(seconds, answered = standing.answered.count(), "what is there already is read");
        }
        Ok(standing)
    }

    /// Collective. The same, and where this rank's lines lie, on all ranks or on none: where they are wanted, and every prompt
    /// has its outcome or they are wanted all the same. Both in one reading.
    pub(crate) fn read_with_lines(
        comm: &mut dyn Comm,
        folders: &Folders,
        brief: &Brief,
        (wanted, anyway): (bool, bool),
        code: CodeOf,
    ) -> Result<(Self, Option<Lines>), JobError> {
        if !(wanted || anyway) {
            return Ok((Self::read(comm, folders, brief, code)?, None));
        }
        let (rows, mut standing) = (brief.source.rows, Self::none(brief.source.rows));
        let read = folders.files(brief.start).and_then(|files| {
            let mut lines = Lines::none_of(files.clone(), rows);
            standing.take(&files, &brief.source.fingerprint, Some(&mut lines))?;
            Ok(lines)
        });
        let (read, lines) = match read {
            Ok(lines) => (Ok(()), Some(lines)),
            Err(error) => (Err(error.unfinished()), None),
        };
        let standing = standing.of_all(comm, read, code)?;
        let whole = standing.counts(rows).open == 0;
        Ok((standing, lines.filter(|_| whole || anyway)))
    }

    /// Collective. One picture out of what each rank has read.
    fn of_all(
        mut self,
        comm: &mut dyn Comm,
        read: Result<(), JobError>,
        code: CodeOf,
    ) -> Result<Self, JobError> {
        everywhere(comm, read, code)?;
        for bitmap in [&mut self.answered, &mut self.failed, &mut self.for_good] {
            comm.all_reduce(bitmap.words_mut(), Combine::Or);
        }
        Ok(self.settled())
    }

    /// Local. The same, from a run folder, by this process alone.
    pub(crate) fn of_folder(
        folder: &std::path::Path,
        rows: u64,
        fingerprint: &str,
    ) -> Result<Self, JobError> {
        let mut standing = Self::none(rows);
        standing.take(&shards::list(&folder.join(SHARDS))?, fingerprint, None)?;
        Ok(standing.settled())
    }

    /// Local. The same, and where all lines lie.
    pub(crate) fn of_folder_with_lines(
        folder: &std::path::Path,
        rows: u64,
        fingerprint: &str,
    ) -> Result<(Self, Lines), JobError> {
        let files = shards::list(&folder.join(SHARDS))?;
        let (mut standing, mut lines) = (Self::none(rows), Lines::none_of(files.clone(), rows));
        standing.take(&files, fingerprint, Some(&mut lines))?;
        Ok((standing.settled(), lines))
    }

    fn none(rows: u64) -> Self {
        Self { answered: Bitmap::new(rows), failed: Bitmap::new(rows), for_good: Bitmap::new(rows) }
    }

    fn take(
        &mut self,
        files: &[ShardFile],
        fingerprint: &str,
        mut lines: Option<&mut Lines>,
    ) -> Result<(), JobError> {
        shards::read_all(files, fingerprint, |file, entry| {
            if entry.success {
                self.answered.insert(entry.index);
            } else {
                self.failed.insert(entry.index);
                if !entry.passes {
                    self.for_good.insert(entry.index);
                }
            }
            lines.as_mut().map_or(Ok(()), |lines| lines.keep(file, &entry))
        })?;
        Ok(())
    }

    /// Success beats failure.
    fn settled(mut self) -> Self {
        self.failed.subtract(&self.answered);
        self.for_good.subtract(&self.answered);
        self
    }

    /// Is there an answer to this prompt?
    pub(crate) fn has_answered(&self, index: u64) -> bool {
        self.answered.has(index)
    }

    /// Everything but this is to do.
    pub(crate) fn done(&self, retry_failed: bool) -> Bitmap {
        let mut done = self.answered.clone();
        if !retry_failed {
            done.join(&self.for_good);
        }
        done
    }

    /// Those that were answered.
    pub(crate) fn answered(&self) -> &Bitmap {
        &self.answered
    }

    /// The counts that go into the manifest.
    pub(crate) fn counts(&self, rows: u64) -> Counts {
        Counts::new(rows, self.answered.count(), self.failed.count())
    }
}

/// Collective. Every rank has to see the run folder that rank 0 has opened, unless it keeps what it writes elsewhere. On rank 0: which ranks do not see the input as
/// it does, and are to be told what its rows say.
pub(crate) fn check_folder(
    comm: &mut dyn Comm,
    brief: &Brief,
    place: &Place,
    code: CodeOf,
) -> Result<Option<Vec<bool>>, JobError> {
    let token = std::fs::read_to_string(brief.folder.join("token")).unwrap_or_default();
    let seen = if token == brief.token || brief.local.is_some() {
        Ok(())
    } else {
        Err(JobError::Unshared {
            rank: place.rank,
            host: place.node.host.clone(),
            folder: brief.folder.display().to_string(),
        })
    };
    everywhere(comm, seen, code)?;
    let blind = comm.gather_values(&!crate::input::sees(&brief.source))?;
    if let Some(rank) = blind.iter().flatten().position(|&blind| blind) {
        info!(
            rank,
            "this rank, and maybe more, does not see the input as rank 0 does: rank 0 sends them the rows' text"
        );
    }
    Ok(blind)
}
