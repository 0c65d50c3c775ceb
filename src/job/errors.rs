//! Why a job cannot go on, and how it ended otherwise.

use serde::{Deserialize, Serialize};

use crate::{
    comm::CommError,
    input::{ChatTemplateError, InputError},
    output::OutputError,
    settings::SettingsError,
    shards::ShardError,
    site::{AssignError, HostfileError},
};

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobVerdict {
    /// All is well: every prompt answered, every check passed.
    Done,
    /// Every prompt has its outcome, some of them failures.
    SomeFailed,
    /// Prompts are open: the same command goes on.
    PromptsOpen,
    /// No endpoint was ever ready.
    NoEndpoint,
    /// It would not begin, and why has been said.
    Refused,
}

/// A job that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// Settings that cannot be.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Ranks that cannot talk.
    #[error(transparent)]
    Comm(#[from] CommError),
    /// The input cannot be read, or has bad rows.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The chat template cannot be used.
    #[error(transparent)]
    ChatTemplate(#[from] ChatTemplateError),
    /// Answers cannot be read or written.
    #[error(transparent)]
    Shard(#[from] ShardError),
    /// Signals cannot be caught.
    #[error("the system does not let signals be caught: {0}")]
    SignalHandler(std::io::Error),
    /// The run's other files cannot be read or written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// A file that a setting names cannot be read.
    #[error("{what} {path} cannot be read: {error}")]
    Unreadable {
        /// What it is.
        what: &'static str,
        /// Which.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The hostfile has bad lines.
    #[error("the hostfile {path} has bad lines:\n{}", list_hostfile_errors(.errors))]
    Hostfile {
        /// Which.
        path: String,
        /// All of them.
        errors: Vec<HostfileError>,
    },
    /// Servers that no rank can own.
    #[error(transparent)]
    EndpointAssignment(#[from] AssignError),
    /// Another number of ranks than the user expects.
    #[error(
        "{expected} ranks were expected (expect-ranks) and there are {there}: is this the mpiexec of the MPI that the \
         program was built with, and are all nodes up?"
    )]
    RankCount {
        /// By the settings.
        expected: usize,
        /// In MPI.
        there: usize,
    },
    /// Servers cannot be started: by which rank, on which host, and why.
    #[error("rank {0} on {1} cannot start its servers: {2}")]
    ServerStart(usize, String, String),
    /// What is there already does not go with what is asked for.
    #[error("{0}")]
    PreconditionFailed(String),
    /// The model that is to be asked is not served, or nobody said which of several.
    #[error("{0}")]
    Model(String),
    /// Nothing was answered, and the first prompts all failed in the same way.
    #[error(
        "the first prompts all failed alike, so the job itself is likely to be wrong: {0}. No outcome was written and the \
         prompts are open: change what is wrong and run it again"
    )]
    FailFast(String),
    /// The run folder is not the same on all nodes.
    #[error(
        "rank {rank} on {host} does not see the run folder {folder} that rank 0 made: it must be on a file system that \
         all nodes share, or --local-shards names a folder of each node's own"
    )]
    RunFolderNotShared {
        /// The rank.
        rank: usize,
        /// Its host.
        host: String,
        /// The folder.
        folder: String,
    },
    /// A file that cannot be read or written after answers have come.
    #[error(
        "{0}. What was answered is kept, and the run is not finished: once there is room or the file can be had, the same \
         command goes on"
    )]
    FinishFailed(Box<Self>),
    /// A rank has no place for its answers.
    #[error("rank {rank} on {host} cannot keep answers in {folder} (local-shards): {error}")]
    LocalShards {
        /// The rank.
        rank: usize,
        /// Its host.
        host: String,
        /// The folder.
        folder: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// Too few endpoints were ready: of a program that asks, where a command only has a code.
    #[error("too few endpoints were ready, and nothing was asked")]
    NoEndpoint,
    /// Prompts are open: of a program that asks, where a command only has a code.
    #[error(
        "the work has ended early (a signal, the walltime, or servers that are gone), and prompts are open: what is answered is \
         kept where the program names a folder, and the same program goes on"
    )]
    PromptsOpen,
    /// Another rank has said what is wrong; this one only leaves with its code.
    #[error("another rank has ended the job")]
    OtherRank(u8),
}

impl JobError {
    /// The same, after the work: what stands in the way of files is no reason to begin with other settings any more.
    pub(super) fn into_finish_error(self) -> Self {
        match self {
            Self::Shard(_) | Self::Output(_) => Self::FinishFailed(Box::new(self)),
            other => other,
        }
    }
}

fn list_hostfile_errors(errors: &[HostfileError]) -> String {
    errors.iter().take(20).map(|error| format!("  {error}")).collect::<Vec<_>>().join("\n")
}
