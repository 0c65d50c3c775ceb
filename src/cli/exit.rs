//! Exit codes, and the code of each verdict and class of errors. The codes are a contract with job scripts.
//!
//! Launchers may replace the code of a rank, so scripts should use `status --exit-code`, which reads the run's files.
//! The class of each error is in `job/errors.rs`.

use crate::job::{ErrorClass, JobVerdict};

/// All prompts are answered, or all checks passed.
pub(super) const DONE: u8 = 0;
/// The command line is wrong.
pub(super) const USAGE: u8 = 2;
/// Every prompt has an outcome, and some have failed.
pub(super) const SOME_FAILED: u8 = 3;
/// The config file, the environment, the input or an existing output does not allow a start.
pub(super) const BAD_SETTINGS: u8 = 5;
/// Too few servers were ready.
pub(super) const NO_ENDPOINT: u8 = 6;
/// MPI did not start, or is not the launcher's.
pub(super) const MPI_ERROR: u8 = 71;
/// Stopped early with prompts open; the same command resumes.
pub(super) const PROMPTS_OPEN: u8 = 75;

/// Returns the exit code for the end of a job. The match is exhaustive: a new verdict or class must choose its code.
pub(super) fn exit_code(outcome: Result<JobVerdict, ErrorClass>) -> u8 {
    match outcome {
        Ok(JobVerdict::Done) => DONE,
        Ok(JobVerdict::SomeFailed) => SOME_FAILED,
        Ok(JobVerdict::Refused) | Err(ErrorClass::Precondition) => BAD_SETTINGS,
        Ok(JobVerdict::NoEndpoint) | Err(ErrorClass::NoEndpoint) => NO_ENDPOINT,
        Ok(JobVerdict::PromptsOpen) | Err(ErrorClass::Interrupted) => PROMPTS_OPEN,
        Err(ErrorClass::Usage) => USAGE,
        Err(ErrorClass::Communication) => MPI_ERROR,
    }
}
