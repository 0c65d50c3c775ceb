//! Commands that work without a run of their own: [`check`] probes servers, [`status`] and [`offline`] (`plan`, `merge`)
//! read files only, also while a run is active.
//!
//! The commands `run`, `reduce` and `bench` have rooms of their own: [`pipeline`](super::pipeline),
//! [`tree_reduce`](super::tree_reduce) and [`bench`](super::bench).

pub(crate) mod check;
pub(crate) mod offline;
pub(crate) mod status;
