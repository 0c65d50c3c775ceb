//! The errors that end a job, and the verdicts of jobs that end without one.
//!
//! [`ErrorClass`] is what ranks tell each other about an error. The exit code of each class and verdict is chosen by the
//! command line (`cli::exit`). A failed prompt, endpoint or rank is no error but a value in a report to rank 0.

mod precondition;

pub(crate) use precondition::PreconditionError;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{
    chat_template::ChatTemplateError,
    comm::CommError,
    input::InputError,
    output::OutputError,
    settings::SettingsError,
    shards::ShardError,
    site::{AssignError, HostfileError},
};

/// The result of a job that ended without an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum JobVerdict {
    /// Every prompt is answered, or every check passed.
    Done,
    /// Every prompt has an outcome, and some are failures.
    SomeFailed,
    /// Prompts remain; the same command resumes the run.
    PromptsOpen,
    /// Too few endpoints became ready, and no prompt was sent.
    NoEndpoint,
    /// The job would not start; the reason has been printed.
    Refused,
}

/// The class of an error: all that other ranks and the exit code need to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorClass {
    /// The command line is invalid.
    Usage,
    /// Settings, input, servers or existing files do not allow the job: something must change before the next try.
    Precondition,
    /// Too few endpoints were ready.
    NoEndpoint,
    /// MPI did not start or a message was lost.
    Communication,
    /// The job stopped early; the same command resumes the run.
    Interrupted,
}

impl ErrorClass {
    const ALL: [Self; 5] =
        [Self::Usage, Self::Precondition, Self::NoEndpoint, Self::Communication, Self::Interrupted];

    /// Returns the number that stands for the class in a reduction over ranks, which carries only integers.
    pub(super) fn to_number(self) -> u64 {
        self as u64
    }

    pub(super) fn from_number(number: u64) -> Self {
        let class = Self::ALL.into_iter().find(|class| class.to_number() == number);
        class.unwrap_or(Self::Communication)
    }
}

/// Maps the end of a job to an exit code. The job needs it only to abort MPI where ranks are lost; elsewhere errors and
/// verdicts are returned to the caller.
pub(crate) type ExitCodeFn = fn(Result<JobVerdict, ErrorClass>) -> u8;

/// Exit code of a rank that aborts the MPI job because rank 0 is lost or unresponsive: that of [`JobVerdict::PromptsOpen`].
pub(super) const EXIT_STOPPED_EARLY: u8 = 75;

/// A failure that ends the job on every rank.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// A setting is unknown, invalid, or conflicts with another one.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// MPI did not start, or a message was not sent, received or decoded.
    #[error(transparent)]
    Comm(#[from] CommError),
    /// The input cannot be read or has invalid rows.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The chat template cannot be read or compiled.
    #[error(transparent)]
    ChatTemplate(#[from] ChatTemplateError),
    /// A shard file cannot be read or written.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// The signal handlers were not installed.
    #[error("cannot install the signal handlers: {0}")]
    SignalHandler(std::io::Error),
    /// A file of the run other than a shard file cannot be read or written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A file named by a setting cannot be read.
    #[error("cannot read {what} {path}: {error}")]
    Unreadable {
        /// The option, as typed, and the word file where the option also takes a text.
        what: &'static str,
        path: String,
        error: std::io::Error,
    },
    /// The hostfile has invalid lines.
    #[error("invalid lines in --hostfile {path}:\n{}", list_hostfile_errors(.errors))]
    Hostfile {
        path: String,
        /// One error per invalid line; the message lists the first 20.
        errors: Vec<HostfileError>,
    },
    /// The configured endpoints cannot be assigned to ranks.
    #[error(transparent)]
    EndpointAssignment(#[from] AssignError),
    /// MPI started another number of ranks than `--expect-ranks` demands.
    #[error(
        "--expect-ranks {expected}, but MPI started {started}\nhint: use the mpiexec of the MPI library that the program \
         was built with, and check that all nodes are up"
    )]
    RankCount { expected: usize, started: usize },
    /// A rank cannot start its servers: the rank, its host, the reason.
    #[error("rank {0} on {1} cannot start its servers: {2}")]
    ServerStart(usize, String, String),
    /// Existing files, the input or an option do not allow the job.
    #[error(transparent)]
    Precondition(#[from] PreconditionError),
    /// A lost rank's node did not send its shard file in time.
    #[error("no reply within {} s", .0.as_secs())]
    ReplyTimeout(Duration),
    /// The requested model is not served, or several are served and none was requested.
    #[error("{0}")]
    Model(String),
    /// Fail-fast: no prompt was answered, and the first ones all failed with the same error.
    #[error(
        "the first prompts all failed with the same error: {0}. No outcome was written, so these prompts remain\nhint: \
         usually a wrong model, template or request parameter: fix it, then run the command again"
    )]
    FailFast(String),
    /// A rank without `--local-shards` does not see the run folder of rank 0.
    #[error(
        "rank {rank} on {host} cannot see the run folder {folder} that rank 0 created\nhint: put --output on a file \
         system shared by all nodes, or pass --local-shards DIR with a directory of each node's own"
    )]
    RunFolderNotShared { rank: usize, host: String, folder: String },
    /// A file cannot be read or written after answers have arrived.
    #[error(
        "{0}. All answers so far are saved, but the run is not finished\nhint: free some space or restore the file, then \
         run the same command again to resume"
    )]
    FinishFailed(Box<Self>),
    /// The output cannot be written after answers have arrived, and running the command again does not change that.
    #[error(
        "{0}. All answers so far are saved in the run folder\nhint: make --output writable, or let merge --output write \
             them to another file"
    )]
    OutputRefused(Box<Self>),
    /// A rank cannot create its directory for local shard files.
    #[error("rank {rank} on {host} cannot write answers to --local-shards {folder}: {error}")]
    LocalShards {
        rank: usize,
        host: String,
        /// Path on the host, with its placeholders filled in.
        folder: String,
        error: std::io::Error,
    },
    /// Too few endpoints were ready. For library callers; a command returns [`JobVerdict::NoEndpoint`].
    #[error("too few endpoints were ready; no prompts were sent")]
    NoEndpoint,
    /// Prompts remain. For library callers; a command returns [`JobVerdict::PromptsOpen`].
    #[error(
        "stopped early (signal, deadline or lost servers); prompts remain\nhint: if the program names a folder, all \
         answers so far are saved there, and running the program again resumes"
    )]
    PromptsOpen,
    /// Another rank has reported the error, which is of this class; this rank exits with the same code.
    #[error("another rank ended the job")]
    OtherRank(ErrorClass),
}

impl JobError {
    /// Returns the class of the error. No wildcard: a new variant must choose its class.
    #[must_use]
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Settings(error) if error.is_usage() => ErrorClass::Usage,
            Self::Settings(_)
            | Self::Input(_)
            | Self::Shard(_)
            | Self::Output(_)
            | Self::ServerStart(..)
            | Self::Precondition(_)
            | Self::Model(_)
            | Self::ChatTemplate(_)
            | Self::FailFast(_)
            | Self::RunFolderNotShared { .. }
            | Self::OutputRefused(_)
            | Self::LocalShards { .. }
            | Self::Unreadable { .. }
            | Self::Hostfile { .. }
            | Self::EndpointAssignment(_)
            | Self::RankCount { .. } => ErrorClass::Precondition,
            Self::NoEndpoint => ErrorClass::NoEndpoint,
            Self::Comm(_) | Self::ReplyTimeout(_) => ErrorClass::Communication,
            Self::SignalHandler(_) | Self::FinishFailed(_) | Self::PromptsOpen => {
                ErrorClass::Interrupted
            }
            Self::OtherRank(class) => *class,
        }
    }

    /// Marks a file error as one that came after the work: the run can be resumed, and mostly no setting has to change.
    pub(super) fn into_finish_error(self) -> Self {
        match self {
            Self::Output(ref error) if error.is_lasting() => Self::OutputRefused(Box::new(self)),
            Self::Shard(_) | Self::Output(_) => Self::FinishFailed(Box::new(self)),
            other => other,
        }
    }
}

fn list_hostfile_errors(errors: &[HostfileError]) -> String {
    errors.iter().take(20).map(|error| format!("  {error}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_class_survives_the_reduction_over_ranks() {
        for class in ErrorClass::ALL {
            assert_eq!(ErrorClass::from_number(class.to_number()), class);
        }
    }
}
