//! `aurora-swarm` sends large sets of prompts to the vLLM servers inside an HPC job and returns one answer per prompt,
//! in input order. This crate is the library behind the command of the same name: a program that is started by
//! `mpiexec`, or alone, calls a [`Swarm`], and every call has the command's batching, load balancing, retries and
//! resume.
//!
//! ```no_run
//! use aurora_swarm::{Environment, SwarmBuilder};
//!
//! # fn main() -> Result<(), aurora_swarm::SwarmError> {
//! let mut swarm = SwarmBuilder::new(Environment::of_this_process())
//!     .base_port(8000)
//!     .endpoints_per_node(12)
//!     .max_tokens(64)
//!     .folder("/flare/project/summaries") // with a folder, the program can be resumed
//!     .start()?;
//! let pages = ["First page …", "Second page …"];
//! let summaries = swarm.map_gather(pages, "Summarise: {{item}}")?;
//! for summary in summaries.into_root().into_iter().flatten() {
//!     println!("{}: {}", summary.id, summary.text().unwrap_or("failed")); // on rank 0, in order
//! }
//! swarm.finish();
//! # Ok(())
//! # }
//! ```
//!
//! * [`Swarm`]: the calls, collective and local, and what they return
//! * [`SwarmBuilder`]: settings, by typed methods or by the names that the command's options have
//! * [`MajorityVote`], [`NumericStatistics`], [`TopK`], [`FailureReport`]: aggregates for [`Swarm::aggregate`], and
//!   [`Merge`] for others
//! * [`SwarmError`]: why a call has failed
#![cfg_attr(
    doc,
    doc = "* [`docs`]: the manual of the command, page by page, and the [architecture](docs::architecture) of this crate"
)]
//!
//! # Features
//!
//! `mpi` (default) needs an MPI library; without it every program has one rank. `parquet` (default) reads and writes
//! Parquet files, and `tls` allows `https` endpoints.

// Modules are listed in the order of their layers, which a test checks (tests/integration/architecture.rs).
pub(crate) mod cli;
pub(crate) mod swarm;

pub(crate) mod job;

pub(crate) mod engine;

pub(crate) mod validation;

pub(crate) mod endpoint;

pub(crate) mod comm;

pub(crate) mod ledger;

pub(crate) mod reduce;

pub(crate) mod input;

pub(crate) mod chat_template;

pub(crate) mod shards;

pub(crate) mod aggregate;

pub(crate) mod serve;

pub(crate) mod console;

pub(crate) mod report;

pub(crate) mod bench;

pub(crate) mod metrics;

pub(crate) mod output;

pub(crate) mod parquet;

pub(crate) mod compression;

pub(crate) mod new_file;

pub(crate) mod site;

pub(crate) mod settings;

pub(crate) mod domain;

#[cfg(doc)]
pub mod docs;
#[cfg(not(doc))]
pub(crate) mod docs;

pub use swarm::{
    AnswerIter, AnswerOrigin, AnswerPosition, Environment, FailureKind, FailureReport,
    MajorityVote, Merge, NumericStatistics, ObservedAnswer, ObservedFailure, PromptFailure, Rooted,
    Swarm, SwarmAnswer, SwarmBuilder, SwarmChoice, SwarmError, SwarmErrorKind, TokenUsage, TopK,
    TreeReduction, Url,
};

/// Items for the binary, the integration tests and the benchmarks of this package. Not part of the library's interface:
/// they may change at any time.
#[doc(hidden)]
pub mod internals {
    pub use crate::cli::run as run_command_line;
    pub use crate::comm::{
        Comm, CommError, CommLibrary, LauncherInfo, LivenessResult, Mailbox, MailboxEvent,
        MessageTag, RankMessage, RankParts, ReduceOp, SoloComm, TypedComm, abort_job_on_panic,
        all_to_all_in_rounds, check_liveness, drain_messages, gather_in_rounds, start_comm,
    };
    pub use crate::ledger::{Ledger, PlaceRange, min_report_interval, target_backlog};
    pub use crate::parquet::ParquetReader;
    pub use crate::shards::list_shard_files;
}
