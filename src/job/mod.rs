//! The score: the only module that sees ranks, endpoints and files at once.
//!
//! Owns what happens in which order, and what a job's end is called. Failure has three forms here: a rank or an endpoint
//! that fails is a value in a report to rank 0; only a job that cannot go on is an `Err`; and whatever happens, every rank
//! reaches the last collective, since a rank that returns early would hang all the others.

mod agree;
mod check;

pub use agree::{Given, JobError, Verdict};
pub use check::check;
