//! The report of measuring models, or single endpoints, one after the other.

use serde::Serialize;

use super::{BenchConditions, BenchRun, RunFigures};

/// Report of `bench models`, serialized as its JSON output.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct ModelsReport {
    /// Conditions that hold for all measurements.
    pub conditions: BenchConditions,
    /// Measured models or endpoints, including failed ones.
    pub models: Vec<ModelRow>,
    /// Remarks for the reader of the report.
    pub notes: Vec<String>,
}

/// Result of one model at all endpoints that serve it, or at a single endpoint.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ModelRow {
    /// Name of the measured model.
    pub model: String,
    /// Endpoint, if endpoints are measured one by one.
    pub endpoint: Option<String>,
    /// Number of endpoints that serve the model.
    pub endpoints: u64,
    /// Route that texts were sent to.
    pub api: Option<String>,
    /// Number of runs that were requested.
    pub runs_wanted: u32,
    /// Number of runs in which every prompt was answered.
    pub runs_whole: u32,
    /// Figures over those runs; `None` without any.
    pub figures: Option<RunFigures>,
    /// All runs in the order measured.
    pub runs: Vec<BenchRun>,
    /// One of the answers, as an example.
    pub sample: Option<String>,
    /// Reason why runs are missing or incomplete, if any are.
    pub failed: Option<String>,
}

impl ModelRow {
    /// Sums up the runs of a model; `failed` is the reason why runs are missing.
    #[must_use]
    pub(crate) fn new(
        (model, endpoint): (String, Option<String>),
        runs_wanted: u32,
        runs: Vec<BenchRun>,
        sample: Option<String>,
        failed: Option<String>,
    ) -> Self {
        let complete: Vec<&BenchRun> = runs.iter().filter(|run| run.failed.is_none()).collect();
        let figures = RunFigures::from_runs(complete.iter().copied());
        let runs_whole = u32::try_from(complete.len()).unwrap_or(u32::MAX);
        let failed = failed.or_else(|| runs.iter().find_map(|run| run.failed.clone()));
        Self {
            model,
            endpoint,
            endpoints: 0,
            api: None,
            runs_wanted,
            runs_whole,
            figures,
            runs,
            sample,
            failed,
        }
    }
}

impl ModelsReport {
    /// Creates the report with its remarks.
    #[must_use]
    pub(crate) fn new(conditions: BenchConditions, models: Vec<ModelRow>) -> Self {
        let note = (!conditions.caches_apart && models.len() > 1).then(|| {
            "all models get the same prompts: if two names of a server mean the same model, the second may hit prefix \
            caches, which only vLLM 0.11 or later isolates, and only without a cache_salt of your own"
                .to_owned()
        });
        Self { conditions, models, notes: note.into_iter().collect() }
    }

    /// Returns whether every run of every model answered every prompt.
    #[must_use]
    pub(crate) fn is_whole(&self) -> bool {
        !self.models.is_empty() && self.models.iter().all(|row| row.runs_whole == row.runs_wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::measurement::tests::any_measurement;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn only_runs_that_really_succeeded_count(all in prop::collection::vec(any_measurement(), 0..6)) {
            let runs: Vec<BenchRun> = all.iter().map(BenchRun::from_measurement).collect();
            let row = ModelRow::new(("m".into(), None), 6, runs, None, None);
            let complete = all.iter().filter(|it| it.asked > 0 && it.answered == it.asked);
            prop_assert_eq!(row.runs_whole as usize, complete.clone().count());
            prop_assert_eq!(row.failed.is_some(), complete.count() < all.len());
            let report = ModelsReport { models: vec![row.clone()], ..ModelsReport::default() };
            prop_assert_eq!(report.is_whole(), row.runs_whole == 6);
        }
    }
}
