//! The error of library calls: a job's error behind a small, stable interface.
//!
//! The errors themselves, with their messages, are in `job/errors.rs`; exit codes of the commands are in `cli/exit.rs`.

use std::{error, fmt};

use crate::{comm::CommError, job::JobError};

/// Reason why a call of the library has failed. The message says what is wrong and, after `hint: `, what to do.
///
/// A prompt that fails is not an error: it has a [`SwarmAnswer`](crate::SwarmAnswer) with its failure.
#[derive(Debug)]
pub struct SwarmError(JobError);

/// Kinds of [`SwarmError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SwarmErrorKind {
    /// A setting is unknown, invalid or in conflict with another one.
    Settings,
    /// The rows, a template or a model name cannot be used.
    Input,
    /// A file cannot be read or written, or is not shared by all nodes.
    Files,
    /// MPI did not start, or a message was lost.
    Mpi,
    /// Too few servers were ready, and no prompt was sent.
    NoServer,
    /// The first prompts all failed with the same error, and nothing was written.
    FailFast,
    /// The call was stopped early and prompts remain. With a folder, the program resumes when it is started again.
    Interrupted,
    /// Another rank has the error and reports it.
    OtherRank,
}

impl SwarmError {
    /// Returns the kind of the error.
    #[must_use]
    pub fn kind(&self) -> SwarmErrorKind {
        // Without a wildcard, so that a new error needs a decision here.
        match &self.0 {
            JobError::Settings(_)
            | JobError::Unreadable { .. }
            | JobError::Hostfile { .. }
            | JobError::EndpointAssignment(_)
            | JobError::RankCount { .. }
            | JobError::ServerStart(..)
            | JobError::Precondition(_) => SwarmErrorKind::Settings,
            JobError::Input(_) | JobError::ChatTemplate(_) | JobError::Model(_) => {
                SwarmErrorKind::Input
            }
            JobError::Shard(_)
            | JobError::Output(_)
            | JobError::OutputRefused(_)
            | JobError::RunFolderNotShared { .. }
            | JobError::LocalShards { .. } => SwarmErrorKind::Files,
            JobError::Comm(_) | JobError::ReplyTimeout(_) => SwarmErrorKind::Mpi,
            JobError::NoEndpoint => SwarmErrorKind::NoServer,
            JobError::FailFast(_) => SwarmErrorKind::FailFast,
            JobError::SignalHandler(_) | JobError::FinishFailed(_) | JobError::PromptsOpen => {
                SwarmErrorKind::Interrupted
            }
            JobError::OtherRank(_) => SwarmErrorKind::OtherRank,
        }
    }
}

impl fmt::Display for SwarmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl error::Error for SwarmError {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        self.0.source()
    }
}

impl From<JobError> for SwarmError {
    fn from(error: JobError) -> Self {
        Self(error)
    }
}

impl From<CommError> for SwarmError {
    fn from(error: CommError) -> Self {
        Self(JobError::Comm(error))
    }
}
