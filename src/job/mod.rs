//! The job: the only module that sees ranks, endpoints and files at once, and orders their steps.
//!
//! Failure has three forms here. A rank or an endpoint that fails is a value in a report to rank 0. Only a job that cannot
//! continue is an `Err`. And whatever happens, every rank reaches the last collective, since a rank that returns early
//! would hang all the others; `context::all_ok` spreads an error to all ranks.
//!
//! A run goes through the folders in this order: `context` (settings agreed), `root` and `resume` (run folder opened),
//! `setup` (scan, servers, model, deadline), `dispatch` (coordinator and workers), `collect` (answers gathered), and `root`
//! again (manifest and report). `pipeline` holds that sequence, `tree_reduce` repeats it for each level of a reduce.

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

pub(crate) use crate::job::commands::check::run_check;
pub(crate) use crate::job::commands::merge::{MergeRequest, merge_shards};
pub(crate) use crate::job::commands::plan::plan_run;
pub(crate) use crate::job::commands::report::report_run;
pub use crate::job::commands::session::TreeReduction;
pub(crate) use crate::job::commands::session::{CallSpec, JobSession, session_exit_code};
pub(crate) use crate::job::commands::status::{FollowOptions, follow_status, show_status};
pub(crate) use crate::job::pipeline::run::run;
pub(crate) use crate::job::tree_reduce::reduce::run_reduce;
pub(crate) use bench::{BenchOptions, bench_compare, bench_models, bench_sweep};
pub(crate) use context::{AnswerSender, Invocation};
use errors::EXIT_STOPPED_EARLY;
pub(crate) use errors::{ErrorClass, ExitCodeFn, JobError, JobVerdict, PreconditionError};
