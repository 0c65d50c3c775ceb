//! Commands that work without a run of their own: [`check`] probes servers, whereas [`status`], [`report`], [`plan`] and
//! [`merge`] need neither MPI ranks nor servers, and work also while a run is active. [`preview`] is the decision that
//! `plan` shows. [`session`] serves programs that use the library: several runs in one job.
//!
//! The commands `run`, `reduce` and `bench` have rooms of their own: [`pipeline`](super::pipeline),
//! [`tree_reduce`](super::tree_reduce) and [`bench`](super::bench).

pub(crate) mod check;
pub(crate) mod merge;
pub(crate) mod plan;
pub(crate) mod preview;
pub(crate) mod report;
pub(crate) mod session;
pub(crate) mod status;
