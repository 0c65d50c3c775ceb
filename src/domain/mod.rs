//! The words of the product and their laws: plain values that any module may hold.
//!
//! Owns what is true everywhere (how values merge, what a server is and told about itself) and knows nothing of MPI, HTTP,
//! files or the environment. serde and std only.

mod beginnings;
mod class;
mod contain;
mod merge;
mod outcome;
mod prompt;
pub(crate) mod raw_json;
mod row_hash;
mod server;
mod speed;
mod tally;
mod url;

pub use crate::metrics::timeline::{Absence, Away, Piece, Row, Seat, Standing, Timeline};
pub use beginnings::Beginnings;
pub use class::Class;
pub use contain::{contain, is_contained};
pub use merge::Merge;
pub use outcome::{Answer, Choice, Failure, FailureKind, Outcome, Settled, Usage};
pub use prompt::{Id, Input, Params, Prompt, Route};
pub use row_hash::RowHash;
pub use server::{Facts, Model, Probe, Routes, Surveyed};
pub use speed::{Others, SLOW};
pub use tally::Tally;
pub use url::Url;
