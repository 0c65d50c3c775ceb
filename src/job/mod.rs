//! The score: the only module that sees ranks, endpoints and files at once.
//!
//! Owns what happens in which order, and what a job's end is called. Failure has three forms here: a rank or an endpoint
//! that fails is a value in a report to rank 0; only a job that cannot go on is an `Err`; and whatever happens, every rank
//! reaches the last collective, since a rank that returns early would hang all the others.

mod bench;
mod collect;
mod commands;
mod context;
mod dispatch;
mod errors;
mod pipeline;
mod resume;
mod root;
mod setup;
mod tree_reduce;

pub use crate::job::commands::check::run_check;
pub use crate::job::commands::offline::{merge_shards, plan_run};
pub use crate::job::commands::status::{FollowOptions, follow_status, show_status};
pub use crate::job::dispatch::shutdown::ExitCodeMap;
pub use crate::job::pipeline::run::run;
pub use crate::job::pipeline::session::{CallSpec, JobSession, TreeReduction};
pub use crate::job::tree_reduce::reduce::reduce;
pub use bench::{BenchOptions, bench_compare, bench_models, bench_sweep};
pub use context::{AnswerSender, ErrorCodeFn, Invocation};
pub use errors::{JobError, JobVerdict};
pub use root::report::report;

/// The exit code of a rank that ends without a word from rank 0.
const EXIT_STOPPED_EARLY: u8 = 75;
