//! The end of the work phase: with all ranks, or by rank 0 alone.
//!
//! Owns the roll-call before the last collectives, since a collective with a lost rank never returns; and the end of a
//! job with lost ranks: rank 0 finishes the run from the shard files and aborts the MPI job. How ranks are found lost
//! during the work is the ledger's; reading their files is in `collect/recover_shards.rs`.

use std::time::Duration;

use super::protocol::WorkEnd;
use crate::job::{
    JobError, JobVerdict,
    collect::{recover_shards, shard_folders::ShardFolders},
    root::RootRun,
    setup::run_plan::RunPlan,
};
use crate::{
    comm::{Comm, LivenessResult, check_liveness},
    console,
};

/// Time that rank 0 waits for the answers to the roll-call.
const ROLL_CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Limit of the time that rank 0 may take to finish a run alone: it reads all shard files and writes the output.
const MAX_SHUTDOWN_TIME: Duration = Duration::from_secs(6 * 3600);

/// In effect collective, by messages. Returns if all ranks are alive, so that collectives may follow; otherwise rank 0
/// finishes the run and the job ends inside this call, on rank 0 with the code that `abort_code` returns for the
/// result.
pub(crate) fn sync_or_abort(
    comm: &mut dyn Comm,
    work_end: WorkEnd,
    root: Option<RootRun>,
    plan: &RunPlan,
    folders: &ShardFolders,
    abort_code: impl Fn(&Result<JobVerdict, JobError>) -> u8,
) -> Result<Option<RootRun>, JobError> {
    let liveness = match work_end {
        WorkEnd::AllRanksEnded => check_liveness(comm, ROLL_CALL_TIMEOUT)?,
        WorkEnd::RanksLost => LivenessResult::RootSilent,
    };
    match (liveness, root) {
        (LivenessResult::AllAlive, root) => Ok(root),
        (result, Some(mut root)) => {
            if let LivenessResult::Missing(ranks) = result {
                root.set_lost_ranks(&ranks);
            }
            recover_shards::recover_shards(comm, &root.lost_ranks(), folders, plan);
            let ended =
                root.finish_without_lost(plan, folders).map_err(JobError::into_finish_error);
            if let Err(error) = &ended {
                console::print_error(error);
            }
            comm.abort(abort_code(&ended))
        }
        (_, None) => {
            // Rank 0 aborts the job; the time limit is for the case that it is lost as well.
            recover_shards::serve_own_shard(comm, folders, plan, MAX_SHUTDOWN_TIME);
            comm.abort(crate::job::EXIT_STOPPED_EARLY)
        }
    }
}
