//! Benchmark plans, statistics and reports: the cells to measure, figures from measurements, and the choice of the best
//! cell.
//!
//! Pure: everything here is a value. Sending prompts is `job/bench`, tables are printed in `console/bench.rs`, and the
//! sweep's chart is drawn in `report/`.

mod cache_salt;
mod cell;
mod compare;

mod measurement;
mod models;
mod spread;
mod sweep;
mod synthetic_prompts;

pub(crate) use cache_salt::{add_cache_salt, has_cache_salt, supports_cache_salt};
pub(crate) use cell::{BenchCell, sweep_cells};
pub(crate) use compare::{AnswerAgreement, CompareReport, CompareSide};

pub(crate) use measurement::BenchMeasurement;
pub(crate) use models::{ModelRow, ModelsReport};
pub(crate) use spread::{BenchRun, RepeatSpread, RunFigures};
pub(crate) use sweep::{SweepReport, SweepRow};
pub(crate) use synthetic_prompts::generate_text;

use serde::Serialize;

/// Conditions that are common to all measurements of a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct BenchConditions {
    /// Version of the program that measured.
    pub version: String,
    /// Number of MPI ranks that measured.
    pub ranks: usize,
    /// Number of ready endpoints measured, over all ranks.
    pub endpoints: u64,
    /// Model that answered; `None` if there are several.
    pub model: Option<String>,
    /// Route of texts; `None` if models differ in it.
    pub api: Option<String>,
    /// Input files of the prompts; empty for synthetic prompts.
    pub inputs: Vec<String>,
    /// Longest answer in tokens (`--max-tokens`); `None` if the server decides.
    pub max_tokens: Option<u64>,
    /// Sampling parameters of every request, as JSON.
    pub sampling: String,
    /// Measurements per cell, after a warm-up that is not counted.
    pub repeats: u32,
    /// Whether each measurement was isolated in the servers' prefix caches; otherwise it may have hit entries of
    /// earlier ones.
    pub caches_apart: bool,
    /// Whether the input had too few rows, so that prompts were repeated and may have hit prefix caches.
    pub rows_came_again: bool,
    /// Reason why measuring ended early, if it did.
    pub incomplete: Option<String>,
}

impl BenchConditions {
    /// Returns the remarks that apply to any report under these conditions.
    #[must_use]
    pub(crate) fn report_notes(&self) -> Vec<String> {
        let again = "the input has too few rows: prompts were repeated and may have hit prefix caches (use more rows, \
        or a smaller --prompts)";
        self.rows_came_again.then(|| again.to_owned()).into_iter().collect()
    }
}
