//! The report of a run or a reduce: `summary.json` and `report.html`. Pure.
//!
//! Owns the numbers that are computed from a run's files (throughput, latency percentiles, endpoint utilisation,
//! stragglers, outages) and the page that is drawn from them, with the SVG charts and the number formats that
//! [`console`](crate::console) uses too. Prints nothing, and reads and writes no file: that is `job/root/report.rs`.

mod distribution;
mod endpoint_load;
pub(crate) mod format;
mod html;
pub(crate) mod reduce_levels;
mod reduce_starts;
mod summary;
mod throughput;

pub(crate) use html::axis_ticks;
pub(crate) use html::render_report;
pub(crate) use reduce_levels::{GroupCounts, LevelRun, ReduceLevelSource, ReduceSource};
pub(crate) use summary::{RunSummary, SummarySources};
