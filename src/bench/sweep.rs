//! A sweep's report, and which of its cells is best.

use serde::Serialize;

use super::{BenchCell, BenchConditions, BenchRun, RepeatSpread, RunFigures};

/// What a sweep found.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SweepReport {
    /// What holds for all cells.
    pub conditions: BenchConditions,
    /// All cells, those that failed too.
    pub cells: Vec<SweepRow>,
    /// The place of the best, from 0.
    pub best: Option<usize>,
    /// The places of those that are as good as the best, as far as can be told.
    pub as_good: Vec<usize>,
    /// The place of the one with the least p99 of all these.
    pub soonest: Option<usize>,
    /// What is worth saying.
    pub notes: Vec<String>,
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SweepRow {
    /// Which.
    #[serde(flatten)]
    pub cell: BenchCell,
    /// Each measurement.
    pub runs: Vec<BenchRun>,
    /// Of all runs, if each of them answered all prompts.
    pub figures: Option<RunFigures>,
    /// Why there are none.
    pub failed: Option<String>,
}

/// Nearer to the best than this is as good: servers and machines vary by as much, whatever a few repeats show.
const TIE_TOLERANCE: f64 = 0.02;

impl SweepRow {
    /// Of these measurements; `failed` is why there are not as many as there should be.
    #[must_use]
    pub fn new(cell: BenchCell, runs: Vec<BenchRun>, failed: Option<String>) -> Self {
        let failed = failed.or_else(|| runs.iter().find_map(|run| run.failed.clone()));
        let figures = if failed.is_none() { RunFigures::of(&runs) } else { None };
        let failed = failed.or_else(|| figures.is_none().then(|| "it was not measured".into()));
        Self { cell, runs, figures, failed }
    }
}

impl SweepReport {
    /// Of these cells.
    #[must_use]
    pub fn new(conditions: BenchConditions, cells: Vec<SweepRow>) -> Self {
        let (best, as_good) = find_best_cells(&cells);
        let mut notes = conditions.report_notes();
        if has_no_lists(&cells) {
            notes.push(
                "batch sizes make no difference here: prompts went one by one, since they are conversations for the server \
                 to render (--api completions sends raw texts; --chat-template renders here)"
                    .into(),
            );
        }
        let p99 = |&at: &usize| cells[at].figures.map_or(f64::MAX, |it| it.p99_s.median);
        let good = best.iter().chain(&as_good).copied();
        let soonest = good.min_by(|one, other| p99(one).total_cmp(&p99(other)));
        Self { conditions, cells, best, as_good, soonest, notes }
    }
}

/// The place of the best cell, and of those that are as good.
fn find_best_cells(cells: &[SweepRow]) -> (Option<usize>, Vec<usize>) {
    let speed = |row: &SweepRow| row.figures.map(|it| it.compared_throughput());
    let speeds = cells.iter().enumerate().filter_map(|(at, row)| Some((at, speed(row)?)));
    // (of equal ones the first)
    let Some((best, its)) =
        speeds.clone().reduce(|one, other| if other.1.median > one.1.median { other } else { one })
    else {
        return (None, Vec::new());
    };
    // What the best itself does not always reach is no difference.
    let least = its.least.min(its.median * (1.0 - TIE_TOLERANCE));
    let near = |&(at, speed): &(usize, RepeatSpread)| at != best && speed.median >= least;
    (Some(best), speeds.filter(near).map(|(at, _)| at).collect())
}

/// Were lists asked for, and none made?
fn has_no_lists(cells: &[SweepRow]) -> bool {
    let several = |row: &&SweepRow| row.cell.batch != crate::settings::AutoOrCount::Count(1);
    let fixed = |row: &&SweepRow| row.cell.batch != crate::settings::AutoOrCount::Auto;
    let mut lists = cells.iter().filter(several).filter(fixed).filter_map(|row| row.figures);
    let sizes: Vec<f64> = lists.by_ref().map(|it| it.prompts_per_request).collect();
    !sizes.is_empty() && sizes.iter().all(|&size| size < 1.05)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bench::{BenchMeasurement, measurement::tests::any_measurement},
        settings::AutoOrCount,
    };
    use proptest::prelude::*;

    fn sweep_row(tokens_per_s: u64) -> SweepRow {
        let cell = BenchCell { batch: AutoOrCount::Count(4), window: AutoOrCount::Auto };
        let measured = BenchMeasurement {
            asked: 4,
            answered: 4,
            requests: 1,
            completion_tokens: tokens_per_s,
            seconds: 1.0,
            ..BenchMeasurement::default()
        };
        SweepRow::new(cell, vec![BenchRun::of(&measured)], None)
    }

    fn failed_row() -> SweepRow {
        SweepRow { figures: None, failed: Some("it hung".into()), ..sweep_row(9_999_999) }
    }

    proptest! {
        #[test]
        fn the_best_is_whole_and_nothing_is_better(runs in prop::collection::vec(
            prop::collection::vec(any_measurement(), 0..4), 0..8)
        ) {
            let cell = BenchCell { batch: AutoOrCount::Count(4), window: AutoOrCount::Auto };
            let rows = runs.iter().map(|runs| SweepRow::new(cell, runs.iter().map(BenchRun::of).collect(), None));
            let report = SweepReport::new(BenchConditions::default(), rows.collect());
            let speed = |at: usize| report.cells[at].figures.map(|it| it.compared_throughput().median);
            prop_assert!(report.cells.iter().all(|row| row.figures.is_some() != row.failed.is_some()));
            match report.best {
                None => prop_assert!(report.cells.iter().all(|row| row.failed.is_some())),
                Some(best) => {
                    let most = speed(best).expect("it is whole");
                    for at in 0..report.cells.len() {
                        prop_assert!(speed(at).is_none_or(|it| it <= most));
                        let least = report.cells[best].figures.map_or(0.0, |it| it.compared_throughput().least);
                        let near = speed(at).is_some_and(|it| it >= least.min(most * 0.98));
                        let near = near && at != best;
                        prop_assert_eq!(report.as_good.contains(&at), near);
                    }
                }
            }
        }
    }

    #[test]
    fn the_fastest_that_did_not_fail_is_best_and_what_is_near_is_as_good() {
        let rows = vec![
            sweep_row(500),
            failed_row(),
            sweep_row(1000),
            sweep_row(985),
            sweep_row(1000),
            sweep_row(900),
        ];
        let report = SweepReport::new(BenchConditions::default(), rows);
        assert_eq!((report.best, report.as_good), (Some(2), vec![3, 4]));
    }

    #[test]
    fn lists_that_were_never_made_are_told_of() {
        let mut alone = sweep_row(100);
        alone.figures.as_mut().expect("whole").prompts_per_request = 1.0;
        let says = |rows| SweepReport::new(BenchConditions::default(), rows).notes.len();
        assert_eq!((says(vec![alone.clone()]), says(vec![alone, sweep_row(100)])), (1, 0));
        assert_eq!(says(vec![failed_row()]), 0);
    }
}
