//! The report of a sweep and the choice of its best cell.

use serde::Serialize;

use super::{BenchCell, BenchConditions, BenchRun, RepeatSpread, RunFigures};

/// Report of `bench sweep`, serialized as its JSON output.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct SweepReport {
    /// Conditions that hold for all cells.
    pub conditions: BenchConditions,
    /// All cells, including those that failed.
    pub cells: Vec<SweepRow>,
    /// Position in `cells` of the cell with the highest throughput, from 0.
    pub best: Option<usize>,
    /// Positions of the cells whose throughput is not distinguishable from the best.
    pub as_good: Vec<usize>,
    /// Position of the cell with the lowest p99 latency among the best and its ties.
    pub soonest: Option<usize>,
    /// Remarks for the reader of the report.
    pub notes: Vec<String>,
}

/// Measured result of one cell.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct SweepRow {
    /// Batch size and concurrency limit of the cell.
    #[serde(flatten)]
    pub cell: BenchCell,
    /// Measured runs in the order of repeats.
    pub runs: Vec<BenchRun>,
    /// Figures over all runs; `None` unless each of them answered all prompts.
    pub figures: Option<RunFigures>,
    /// Reason why there are no figures.
    pub failed: Option<String>,
}

/// Relative difference in throughput below which cells are tied: servers and machines vary by as much, whatever a few
/// repeats show.
const TIE_TOLERANCE: f64 = 0.02;

impl SweepRow {
    /// Sums up the runs of a cell; `failed` is the reason why runs are missing.
    #[must_use]
    pub(crate) fn new(cell: BenchCell, runs: Vec<BenchRun>, failed: Option<String>) -> Self {
        let failed = failed.or_else(|| runs.iter().find_map(|run| run.failed.clone()));
        let figures = if failed.is_none() { RunFigures::from_runs(&runs) } else { None };
        let failed = failed.or_else(|| figures.is_none().then(|| "not measured".into()));
        Self { cell, runs, figures, failed }
    }
}

impl SweepReport {
    /// Finds the best cells and creates the report with its remarks.
    #[must_use]
    pub(crate) fn new(conditions: BenchConditions, cells: Vec<SweepRow>) -> Self {
        let (best, as_good) = find_best_cells(&cells);
        let mut notes = conditions.report_notes();
        if has_no_lists(&cells) {
            notes.push(
                "batch sizes had no effect: prompts were sent one by one, since they are conversations that the \
                server renders (--api completions sends raw texts; --chat-template renders here)"
                    .into(),
            );
        }
        let p99 = |&position: &usize| {
            cells[position].figures.map_or(f64::MAX, |figures| figures.p99_s.median)
        };
        let candidates = best.iter().chain(&as_good).copied();
        let soonest = candidates.min_by(|left, right| p99(left).total_cmp(&p99(right)));
        Self { conditions, cells, best, as_good, soonest, notes }
    }
}

/// Returns the position of the best cell and those of its ties.
fn find_best_cells(cells: &[SweepRow]) -> (Option<usize>, Vec<usize>) {
    let speed = |row: &SweepRow| row.figures.map(|figures| figures.compared_throughput());
    let speeds =
        cells.iter().enumerate().filter_map(|(position, row)| Some((position, speed(row)?)));
    // Among equals the first wins.
    let Some((best, best_speed)) = speeds
        .clone()
        .reduce(|left, right| if right.1.median > left.1.median { right } else { left })
    else {
        return (None, Vec::new());
    };
    // A throughput that the best cell itself does not always reach is not a difference.
    let least = best_speed.least.min(best_speed.median * (1.0 - TIE_TOLERANCE));
    let near =
        |&(position, speed): &(usize, RepeatSpread)| position != best && speed.median >= least;
    (Some(best), speeds.filter(near).map(|(position, _)| position).collect())
}

/// Returns whether batches were requested and none were formed.
fn has_no_lists(cells: &[SweepRow]) -> bool {
    let is_batched = |row: &&SweepRow| row.cell.batch != crate::settings::AutoOrCount::Count(1);
    let fixed = |row: &&SweepRow| row.cell.batch != crate::settings::AutoOrCount::Auto;
    let mut batched = cells.iter().filter(is_batched).filter(fixed).filter_map(|row| row.figures);
    let sizes: Vec<f64> = batched.by_ref().map(|figures| figures.prompts_per_request).collect();
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
        SweepRow::new(cell, vec![BenchRun::from_measurement(&measured)], None)
    }

    fn failed_row() -> SweepRow {
        SweepRow { figures: None, failed: Some("it hung".into()), ..sweep_row(9_999_999) }
    }

    proptest! {
        #[test]
        fn the_best_cell_is_complete_and_no_other_is_faster(runs in prop::collection::vec(
            prop::collection::vec(any_measurement(), 0..4), 0..8)
        ) {
            let cell = BenchCell { batch: AutoOrCount::Count(4), window: AutoOrCount::Auto };
            let rows = runs.iter().map(|runs| SweepRow::new(cell, runs.iter().map(BenchRun::from_measurement).collect(), None));
            let report = SweepReport::new(BenchConditions::default(), rows.collect());
            let speed = |position: usize| report.cells[position].figures.map(|it| it.compared_throughput().median);
            prop_assert!(report.cells.iter().all(|row| row.figures.is_some() != row.failed.is_some()));
            match report.best {
                None => prop_assert!(report.cells.iter().all(|row| row.failed.is_some())),
                Some(best) => {
                    let best_speed = speed(best).expect("it is whole");
                    for position in 0..report.cells.len() {
                        prop_assert!(speed(position).is_none_or(|it| it <= best_speed));
                        let least = report.cells[best].figures.map_or(0.0, |it| it.compared_throughput().least);
                        let near = speed(position).is_some_and(|it| it >= least.min(best_speed * 0.98));
                        let near = near && position != best;
                        prop_assert_eq!(report.as_good.contains(&position), near);
                    }
                }
            }
        }
    }

    #[test]
    fn the_fastest_complete_cell_is_best_and_close_ones_are_ties() {
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
    fn a_sweep_without_batches_has_a_note() {
        let mut alone = sweep_row(100);
        alone.figures.as_mut().expect("whole").prompts_per_request = 1.0;
        let note_count = |rows| SweepReport::new(BenchConditions::default(), rows).notes.len();
        assert_eq!(
            (note_count(vec![alone.clone()]), note_count(vec![alone, sweep_row(100)])),
            (1, 0)
        );
        assert_eq!(note_count(vec![failed_row()]), 0);
    }
}
