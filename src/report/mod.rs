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

pub use html::render_report;
pub use reduce_levels::{GroupCounts, LevelRun, ReduceLevelSource, ReduceSource};
pub use summary::{RunSummary, SummarySources};
