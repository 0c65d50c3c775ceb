//! The end of the work: together, or by rank 0 alone.
//!
//! Owns the roll-call before the last collectives, since a collective with a lost rank never returns, and what is done
//! where somebody is missing: rank 0 finishes the run from the files, and ends the MPI job from inside.

use std::time::Duration;

use super::protocol::Over;
use crate::job::{
    CodeOf, JobError, Verdict,
    collect::{local_shards::Folders, recover_shards},
    root::Root,
    setup::run_plan::Brief,
};
use crate::{
    comm::{Comm, RollCall, roll_call},
    console,
};

/// How long rank 0 waits for the roll-call's answers.
const ROLL_CALL: Duration = Duration::from_secs(30);
/// How long rank 0 may take to end a job by itself: it reads all that was written, and writes the answers.
const LONGEST_END: Duration = Duration::from_secs(6 * 3600);

/// How ends become exit codes.
#[derive(Clone, Copy)]
pub struct Codes {
    /// Of an error.
    pub error: CodeOf,
    /// Of a verdict.
    pub verdict: fn(Verdict) -> u8,
}

/// In effect collective. Returns where all ranks are here, so that collectives may follow; else the job ends in here.
pub(crate) fn together(
    comm: &mut dyn Comm,
    over: Over,
    root: Option<Root>,
    (brief, folders): (&Brief, &Folders),
    codes: Codes,
) -> Result<Option<Root>, JobError> {
    let here = match over {
        Over::Together => roll_call(comm, ROLL_CALL)?,
        Over::RanksLost => RollCall::NoWord,
    };
    match (here, root) {
        (RollCall::AllHere, root) => Ok(root),
        (missing, Some(mut root)) => {
            if let RollCall::Missing(ranks) = missing {
                root.are_lost(&ranks);
            }
            recover_shards::collect(comm, &root.lost(), folders, brief);
            let code = root.end_without(brief, folders).map_err(JobError::unfinished).map_or_else(
                |error| {
                    console::complain(&error);
                    (codes.error)(&error)
                },
                codes.verdict,
            );
            comm.abort(code)
        }
        (_, None) => {
            // Rank 0 ends it; bounded, in case rank 0 is lost as well.
            recover_shards::give(comm, folders, brief, LONGEST_END);
            comm.abort(crate::job::STOPPED_EARLY)
        }
    }
}
