//! Every exit code, and which end of a job gets which. The codes are a contract with job scripts.
//!
//! Launchers change codes on the way: scripts that need to be sure ask the run's files.

use crate::job::{ErrorClass, JobVerdict};

/// All answered; all in order.
pub(super) const DONE: u8 = 0;
/// The command line cannot be understood.
pub(super) const USAGE: u8 = 2;
/// Every prompt has its outcome, some of them failures.
pub(super) const SOME_FAILED: u8 = 3;
/// Settings, input or an existing output stand in the way.
pub(super) const BAD_SETTINGS: u8 = 5;
/// No endpoint was ever ready.
pub(super) const NO_ENDPOINT: u8 = 6;
/// MPI did not start, or is not the launcher's.
pub(super) const MPI_ERROR: u8 = 71;
/// Stopped early with prompts open: the same command goes on.
pub(super) const PROMPTS_OPEN: u8 = 75;

/// Returns the exit code for the end of a job. The match is exhaustive: a new verdict or class must choose its code.
pub(super) fn exit_code(ended: Result<JobVerdict, ErrorClass>) -> u8 {
    match ended {
        Ok(JobVerdict::Done) => DONE,
        Ok(JobVerdict::SomeFailed) => SOME_FAILED,
        Ok(JobVerdict::Refused) | Err(ErrorClass::Precondition) => BAD_SETTINGS,
        Ok(JobVerdict::NoEndpoint) | Err(ErrorClass::NoEndpoint) => NO_ENDPOINT,
        Ok(JobVerdict::PromptsOpen) | Err(ErrorClass::Interrupted) => PROMPTS_OPEN,
        Err(ErrorClass::Usage) => USAGE,
        Err(ErrorClass::Communication) => MPI_ERROR,
    }
}
