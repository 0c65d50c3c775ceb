//! The score: the only module that sees ranks, endpoints and files at once.
//!
//! Owns what happens in which order, and what a job's end is called. Failure has three forms here: a rank or an endpoint
//! that fails is a value in a report to rank 0; only a job that cannot go on is an `Err`; and whatever happens, every rank
//! reaches the last collective, since a rank that returns early would hang all the others.

mod agree;
mod book;
mod brief;
mod check;
mod choose;
mod conversations;
mod end;
mod errors;
mod gather;
mod hand;
mod letters;
mod level;
mod limit;
mod lines;
mod listen;
mod offline;
mod pass;
mod provenance;
mod ready;
mod reduce;
mod resume;
mod root;
mod run;
mod scan;
mod servers;
mod standing;
mod talk;
mod texts;
mod work;
mod wrong;

pub use agree::{CodeOf, Given};
pub use check::check;
pub use end::Codes;
pub use errors::{JobError, Verdict};
pub use offline::{merge, plan, status};
pub use reduce::reduce;
pub use run::run;

/// The exit code of a rank that ends without a word from rank 0.
const STOPPED_EARLY: u8 = 75;
