//! The score: the only module that sees ranks, endpoints and files at once.
//!
//! Owns what happens in which order, and what a job's end is called. Failure has three forms here: a rank or an endpoint
//! that fails is a value in a report to rank 0; only a job that cannot go on is an `Err`; and whatever happens, every rank
//! reaches the last collective, since a rank that returns early would hang all the others.

mod aggregate;
mod agree;
mod bench;
mod book;
mod brief;
mod changed;
mod check;
mod choose;
mod conversations;
mod end;
mod errors;
mod gather;
mod grown;
mod hand;
mod heart;
mod home;
mod letters;
mod level;
mod limit;
mod lines;
mod listen;
mod matching;
mod offline;
mod outlook;
mod pass;
mod provenance;
mod ready;
mod reduce;
mod reporting;
mod resume;
mod root;
mod run;
mod salvage;
mod scan;
mod servers;
mod session;
mod standing;
mod start;
mod status;
mod talk;
mod texts;
mod work;
mod wrong;

pub use agree::{CodeOf, Given, Tap};
pub use bench::{Measuring, compare, models, sweep};
pub use check::check;
pub use end::Codes;
pub use errors::{JobError, Verdict};
pub use offline::{merge, plan};
pub use reduce::reduce;
pub use reporting::report;
pub use run::run;
pub use session::{Call, Grown, Session};
pub use status::{Pursuit, follow, status};

/// The exit code of a rank that ends without a word from rank 0.
const STOPPED_EARLY: u8 = 75;
