//! The cells of a sweep: combinations of batch size and concurrency limit (window), and the prompts needed to measure
//! one.

use serde::{Deserialize, Serialize};

use crate::settings::AutoOrCount;

/// Batch size and concurrency limit that are measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct BenchCell {
    /// Batch size: prompts per request.
    pub batch: AutoOrCount,
    /// Concurrency limit: sequences in flight per endpoint.
    pub window: AutoOrCount,
}

/// Prompts of a measurement as a multiple of the concurrency limit, so that ramp and tail, in which servers are not
/// full, have the same weight in all cells.
const WINDOW_ROUNDS: u64 = 8;
/// Fewest prompts of a measurement.
const MIN_PROMPTS: u64 = 16;
/// Prompts of a measurement whose concurrency limit is found while it runs.
const AUTO_WINDOW_PROMPTS: u64 = 512;

/// Combines every batch size with every concurrency limit, without duplicates and in the order given; batch sizes vary
/// fastest.
#[must_use]
pub(crate) fn sweep_cells(batches: &[AutoOrCount], windows: &[AutoOrCount]) -> Vec<BenchCell> {
    let mut cells = Vec::new();
    for &window in windows {
        for &batch in batches {
            let cell = BenchCell { batch, window };
            if !cells.contains(&cell) {
                cells.push(cell);
            }
        }
    }
    cells
}

impl BenchCell {
    /// Returns why the cell cannot be measured with `n` sequences per prompt, if so.
    #[must_use]
    pub(crate) fn impossible_reason(&self, n: u64) -> Option<String> {
        let (AutoOrCount::Count(batch), AutoOrCount::Count(window)) = (self.batch, self.window)
        else {
            return None;
        };
        let sequences = (batch as u64).saturating_mul(n.max(1));
        (sequences > window as u64).then(|| {
            format!("not measured: a batch of {sequences} sequences exceeds the window of {window}")
        })
    }

    /// Returns the default number of prompts per endpoint and measurement.
    #[must_use]
    pub(crate) fn default_prompts(&self) -> u64 {
        let largest = match (self.batch, self.window) {
            (_, AutoOrCount::Count(window)) => window as u64,
            (AutoOrCount::Count(batch), AutoOrCount::Auto) => {
                return AUTO_WINDOW_PROMPTS.max(WINDOW_ROUNDS.saturating_mul(batch as u64));
            }
            (AutoOrCount::Auto, AutoOrCount::Auto) => return AUTO_WINDOW_PROMPTS,
        };
        MIN_PROMPTS.max(WINDOW_ROUNDS.saturating_mul(largest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use AutoOrCount::{Auto, Count};
    use proptest::prelude::*;

    fn any_amount() -> impl Strategy<Value = AutoOrCount> {
        prop_oneof![Just(Auto), (1..2000usize).prop_map(Count)]
    }

    proptest! {
        #[test]
        fn every_combination_occurs_exactly_once(
            batches in prop::collection::vec(any_amount(), 1..6),
            windows in prop::collection::vec(any_amount(), 1..6),
        ) {
            let cells = sweep_cells(&batches, &windows);
            for &window in &windows {
                for &batch in &batches {
                    let cell = BenchCell { batch, window };
                    prop_assert_eq!(cells.iter().filter(|&&it| it == cell).count(), 1);
                }
            }
            prop_assert!(cells.iter().all(|it| batches.contains(&it.batch) && windows.contains(&it.window)));
        }

        #[test]
        fn every_measurable_cell_has_enough_prompts(batch in any_amount(), window in any_amount(), n in 1..4u64) {
            let cell = BenchCell { batch, window };
            let prompts = cell.default_prompts();
            prop_assert!(prompts >= MIN_PROMPTS);
            if cell.impossible_reason(n).is_none() {
                if let Count(batch) = batch {
                    prop_assert!(prompts >= WINDOW_ROUNDS * batch as u64);
                }
            } else {
                prop_assert!(batch != Auto && window != Auto);
            }
        }
    }

    #[test]
    fn a_batch_larger_than_the_window_is_not_measurable() {
        let cell = |batch, window| BenchCell { batch: Count(batch), window: Count(window) };
        assert_eq!(cell(64, 64).impossible_reason(1), None);
        let why = cell(64, 8).impossible_reason(1).expect("it does not fit");
        assert!(why.contains("64") && why.contains("window of 8"), "{why}");
        assert!(cell(5, 8).impossible_reason(2).is_some(), "sequences count");
    }
}
