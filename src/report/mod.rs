//! How a run or a reduce went, as numbers and as a page. Pure.
//!
//! Owns what is computed from a run's files (`summary.json`) and the page that is drawn from it (`report.html`). Prints
//! nothing: terminal output is in [`console`](crate::console).

mod endpoint_load;
pub(crate) mod format;
mod html;
pub(crate) mod reduce_levels;
mod reduce_starts;
mod summary;
mod throughput;

pub use html::page;
pub use reduce_levels::{Groups, LevelSource, Ran, TreeSource};
pub use summary::{Sources, Summary};
