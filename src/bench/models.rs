//! Models, or endpoints, one after the other.

use serde::Serialize;

use super::{BenchConditions, BenchRun, RunFigures};

/// What came of all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ModelsReport {
    /// What holds for all.
    pub conditions: BenchConditions,
    /// Each, those that failed too.
    pub models: Vec<ModelRow>,
    /// What is worth saying.
    pub notes: Vec<String>,
}

/// One model at all endpoints that serve it, or at one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ModelRow {
    /// The model.
    pub model: String,
    /// The endpoint, where each is measured by itself.
    pub endpoint: Option<String>,
    /// How many endpoints serve it.
    pub endpoints: u64,
    /// The route of texts.
    pub api: Option<String>,
    /// Runs that were asked for.
    pub runs_wanted: u32,
    /// Runs in which every prompt was answered.
    pub runs_whole: u32,
    /// Of those runs.
    pub figures: Option<RunFigures>,
    /// Each run.
    pub runs: Vec<BenchRun>,
    /// An answer.
    pub sample: Option<String>,
    /// Why runs are missing, where any are.
    pub failed: Option<String>,
}

impl ModelRow {
    /// Of these runs; `failed` is why there are not as many as there should be.
    #[must_use]
    pub fn new(
        (model, endpoint): (String, Option<String>),
        wanted: u32,
        runs: Vec<BenchRun>,
        sample: Option<String>,
        failed: Option<String>,
    ) -> Self {
        let whole: Vec<&BenchRun> = runs.iter().filter(|run| run.failed.is_none()).collect();
        let figures = RunFigures::of(whole.iter().copied());
        let runs_whole = u32::try_from(whole.len()).unwrap_or(u32::MAX);
        let failed = failed.or_else(|| runs.iter().find_map(|run| run.failed.clone()));
        Self {
            model,
            endpoint,
            endpoints: 0,
            api: None,
            runs_wanted: wanted,
            runs_whole,
            figures,
            runs,
            sample,
            failed,
        }
    }
}

impl ModelsReport {
    /// Of these.
    #[must_use]
    pub fn new(conditions: BenchConditions, models: Vec<ModelRow>) -> Self {
        let note = (!conditions.caches_apart && models.len() > 1).then(|| {
            "all are asked the same prompts: a server's second model finds them in prefix caches where both names stand for \
             the same one, which only vLLM from 0.11 on keeps apart, where you give no cache_salt"
                .to_owned()
        });
        Self { conditions, models, notes: note.into_iter().collect() }
    }

    /// Did every run of every model answer every prompt?
    #[must_use]
    pub fn is_whole(&self) -> bool {
        !self.models.is_empty() && self.models.iter().all(|it| it.runs_whole == it.runs_wanted)
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
            let runs: Vec<BenchRun> = all.iter().map(BenchRun::of).collect();
            let row = ModelRow::new(("m".into(), None), 6, runs, None, None);
            let whole = all.iter().filter(|it| it.asked > 0 && it.answered == it.asked);
            prop_assert_eq!(row.runs_whole as usize, whole.clone().count());
            prop_assert_eq!(row.failed.is_some(), whole.count() < all.len());
            let report = ModelsReport { models: vec![row.clone()], ..ModelsReport::default() };
            prop_assert_eq!(report.is_whole(), row.runs_whole == 6);
        }
    }
}
