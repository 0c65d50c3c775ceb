//! Every exit code, and which end of a job gets which. The codes are a contract with job scripts.
//!
//! Launchers change codes on the way: scripts that need to be sure ask the run's files.

use crate::{
    job::{Codes, JobError, Verdict},
    settings::SettingsError,
};

/// All answered; all in order.
pub(super) const DONE: u8 = 0;
/// The command line cannot be understood.
pub(super) const USAGE: u8 = 2;
/// Every prompt has its outcome, some of them failures.
pub(super) const SOME_FAILED: u8 = 3;
/// Settings, input or an existing output stand in the way.
pub(super) const SETTINGS: u8 = 5;
/// No endpoint was ever ready.
pub(super) const NO_ENDPOINT: u8 = 6;
/// MPI did not start, or is not the launcher's.
pub(super) const MPI: u8 = 71;
/// Stopped early with prompts open: the same command goes on.
pub(super) const OPEN: u8 = 75;

/// For jobs that end from inside.
pub(super) const CODES: Codes = Codes { error: code_of, verdict: code_of_verdict };

/// The code of an end. No wildcard: a new end has to decide.
pub(super) fn code_of_verdict(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Done => DONE,
        Verdict::SomeFailed => SOME_FAILED,
        Verdict::NoEndpoint => NO_ENDPOINT,
        Verdict::Open => OPEN,
        Verdict::Refused => SETTINGS,
    }
}

/// The code of an error. No wildcard: a new error has to decide.
#[must_use]
pub fn code_of(error: &JobError) -> u8 {
    match error {
        JobError::Settings(error) if error.is_usage() => USAGE,
        JobError::Settings(
            SettingsError::Unreadable { .. }
            | SettingsError::NotToml { .. }
            | SettingsError::Unknown { .. }
            | SettingsError::Bad { .. }
            | SettingsError::Contradiction(_),
        )
        | JobError::Input(_)
        | JobError::Shard(_)
        | JobError::Output(_)
        | JobError::Servers(..)
        | JobError::Standing(_)
        | JobError::Model(_)
        | JobError::ChatTemplate(_)
        | JobError::AllAlike(_)
        | JobError::Unshared { .. }
        | JobError::NoLocalShards { .. }
        | JobError::Unreadable { .. }
        | JobError::Hostfile { .. }
        | JobError::Deal(_)
        | JobError::Ranks { .. } => SETTINGS,
        JobError::Signals(_) | JobError::Unfinished(_) | JobError::Open => OPEN,
        JobError::NoEndpoint => NO_ENDPOINT,
        JobError::Comm(_) => MPI,
        JobError::Elsewhere(code) => *code,
    }
}
