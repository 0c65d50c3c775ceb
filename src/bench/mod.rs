//! What `bench` measures and what follows from it: which cells there are, figures out of measurements, which cell is best.
//!
//! Pure: owns plans, statistics and reports as values. Asks no server, prints nothing and draws nothing.

mod cache_salt;
mod cell;
mod compare;
mod latencies;
mod measurement;
mod models;
mod spread;
mod sweep;
mod synthetic_prompts;

pub use cache_salt::{add_cache_salt, has_cache_salt, supports_cache_salt};
pub use cell::{BenchCell, sweep_cells};
pub use compare::{AnswerAgreement, CompareReport, CompareSide};
pub use latencies::BenchLatencies;
pub use measurement::BenchMeasurement;
pub use models::{ModelRow, ModelsReport};
pub use spread::{BenchRun, RepeatSpread, RunFigures};
pub use sweep::{SweepReport, SweepRow};
pub use synthetic_prompts::generate_text;

use serde::Serialize;

/// What holds for all measurements of a report.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BenchConditions {
    /// The program's version.
    pub version: String,
    /// MPI ranks.
    pub ranks: usize,
    /// Ready endpoints that were asked, of all ranks.
    pub endpoints: u64,
    /// The model; none where there are several.
    pub model: Option<String>,
    /// The route of texts; none where models differ in it.
    pub api: Option<String>,
    /// Where prompts came from: files, or none if they were made up.
    pub inputs: Vec<String>,
    /// The longest answer, in tokens.
    pub max_tokens: u64,
    /// Sampling parameters of every request, as JSON.
    pub sampling: String,
    /// How often each cell was measured, after a warm-up that does not count.
    pub repeats: u32,
    /// Did every measurement have the servers' prefix caches for itself? Else it may have found what an earlier one asked.
    pub caches_apart: bool,
    /// The input has fewer rows than were asked for: prompts came again where they could be found in prefix caches.
    pub rows_came_again: bool,
    /// Why not all that was asked for was measured: what ended it early.
    pub incomplete: Option<String>,
}

impl BenchConditions {
    /// What is worth saying of any report under them.
    #[must_use]
    pub fn report_notes(&self) -> Vec<String> {
        let again = "the input has fewer rows than were asked for: prompts came again, and prefix caches may have helped \
                     (give more rows, or fewer --prompts)";
        self.rows_came_again.then(|| again.to_owned()).into_iter().collect()
    }
}
