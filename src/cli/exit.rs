//! Every exit code, and which end of a job gets which. The codes are a contract with job scripts.
//!
//! Launchers change codes on the way: scripts that need to be sure ask the run's files.

use crate::{
    job::{ExitCodeMap, JobError, JobVerdict},
    settings::SettingsError,
};

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

/// For jobs that end from inside.
pub(super) const EXIT_CODES: ExitCodeMap =
    ExitCodeMap { error: error_exit_code, verdict: verdict_exit_code };

/// The code of an end. No wildcard: a new end has to decide.
pub(super) fn verdict_exit_code(verdict: JobVerdict) -> u8 {
    match verdict {
        JobVerdict::Done => DONE,
        JobVerdict::SomeFailed => SOME_FAILED,
        JobVerdict::NoEndpoint => NO_ENDPOINT,
        JobVerdict::PromptsOpen => PROMPTS_OPEN,
        JobVerdict::Refused => BAD_SETTINGS,
    }
}

/// The code of an error. No wildcard: a new error has to decide.
#[must_use]
pub fn error_exit_code(error: &JobError) -> u8 {
    match error {
        JobError::Settings(error) if error.is_usage() => USAGE,
        JobError::Settings(
            SettingsError::UnreadableFile { .. }
            | SettingsError::InvalidToml { .. }
            | SettingsError::UnknownKey { .. }
            | SettingsError::InvalidValue { .. }
            | SettingsError::Conflict { .. },
        )
        | JobError::Input(_)
        | JobError::Shard(_)
        | JobError::Output(_)
        | JobError::ServerStart(..)
        | JobError::PreconditionFailed(_)
        | JobError::Model(_)
        | JobError::ChatTemplate(_)
        | JobError::FailFast(_)
        | JobError::RunFolderNotShared { .. }
        | JobError::LocalShards { .. }
        | JobError::Unreadable { .. }
        | JobError::Hostfile { .. }
        | JobError::EndpointAssignment(_)
        | JobError::RankCount { .. } => BAD_SETTINGS,
        JobError::SignalHandler(_) | JobError::FinishFailed(_) | JobError::PromptsOpen => {
            PROMPTS_OPEN
        }
        JobError::NoEndpoint => NO_ENDPOINT,
        JobError::Comm(_) => MPI_ERROR,
        JobError::OtherRank(code) => *code,
    }
}
