//! The end of the work: together, or by rank 0 alone.
//!
//! Owns the roll-call before the last collectives, since a collective with a lost rank never returns, and what is done
//! where somebody is missing: rank 0 finishes the run from the files, and ends the MPI job from inside.

use std::time::Duration;

use super::protocol::WorkEnd;
use crate::job::{
    JobError, JobVerdict,
    collect::{local_shards::ShardFolders, recover_shards},
    root::RootRun,
    setup::run_plan::RunPlan,
};
use crate::{
    comm::{Comm, LivenessResult, check_liveness},
    console,
};

/// How long rank 0 waits for the roll-call's answers.
const ROLL_CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long rank 0 may take to end a job by itself: it reads all that was written, and writes the answers.
const MAX_SHUTDOWN_TIME: Duration = Duration::from_secs(6 * 3600);

/// In effect collective. Returns where all ranks are here, so that collectives may follow; else the job ends in here.
pub(crate) fn sync_or_abort(
    comm: &mut dyn Comm,
    over: WorkEnd,
    root: Option<RootRun>,
    (brief, folders): (&RunPlan, &ShardFolders),
    abort_code: impl Fn(&Result<JobVerdict, JobError>) -> u8,
) -> Result<Option<RootRun>, JobError> {
    let here = match over {
        WorkEnd::AllRanksEnded => check_liveness(comm, ROLL_CALL_TIMEOUT)?,
        WorkEnd::RanksLost => LivenessResult::RootSilent,
    };
    match (here, root) {
        (LivenessResult::AllAlive, root) => Ok(root),
        (missing, Some(mut root)) => {
            if let LivenessResult::Missing(ranks) = missing {
                root.set_lost_ranks(&ranks);
            }
            recover_shards::recover_shards(comm, &root.lost_ranks(), folders, brief);
            let ended =
                root.finish_without_lost(brief, folders).map_err(JobError::into_finish_error);
            if let Err(error) = &ended {
                console::print_error(error);
            }
            comm.abort(abort_code(&ended))
        }
        (_, None) => {
            // Rank 0 ends it; bounded, in case rank 0 is lost as well.
            recover_shards::serve_own_shard(comm, folders, brief, MAX_SHUTDOWN_TIME);
            comm.abort(crate::job::EXIT_STOPPED_EARLY)
        }
    }
}
