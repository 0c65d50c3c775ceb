//! The pipeline of a job: what happens in which order, from opened input to gathered answers.
//!
//! [`pass`] takes one prompt set through all steps up to its completed shard files. [`run`] makes one pass and gathers the
//! answers. The passes over the levels of a reduce are in
//! `tree_reduce`, the steps themselves in `root`, `setup`, `dispatch` and `collect`.

pub(crate) mod pass;
pub(crate) mod run;
