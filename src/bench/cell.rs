//! The cells of a sweep: a batch size and a window each, and how many prompts it takes to measure one.

use serde::{Deserialize, Serialize};

use crate::settings::AutoOrCount;

/// How servers are asked in one row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BenchCell {
    /// Prompts a request.
    pub batch: AutoOrCount,
    /// Sequences in flight an endpoint.
    pub window: AutoOrCount,
}

/// So often a window goes round in a measurement: its beginning and its end, in which servers are not full, weigh alike
/// in all cells.
const WINDOW_ROUNDS: u64 = 8;
/// Prompts of a measurement at least.
const MIN_PROMPTS: u64 = 16;
/// With a window that is found while the work goes on.
const AUTO_WINDOW_PROMPTS: u64 = 512;

/// Every batch size with every window, each once: window by window, in the order they were given.
#[must_use]
pub fn sweep_cells(batches: &[AutoOrCount], windows: &[AutoOrCount]) -> Vec<BenchCell> {
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
    /// Why there is nothing to measure, where a prompt takes `n` sequences.
    #[must_use]
    pub fn impossible_reason(&self, n: u64) -> Option<String> {
        let (AutoOrCount::Count(batch), AutoOrCount::Count(window)) = (self.batch, self.window)
        else {
            return None;
        };
        let sequences = (batch as u64).saturating_mul(n.max(1));
        (sequences > window as u64).then(|| {
            format!("not measured: a list of {sequences} does not fit into a window of {window}")
        })
    }

    /// Prompts an endpoint and measurement, where nobody said how many.
    #[must_use]
    pub fn default_prompts(&self) -> u64 {
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
        fn every_pair_is_there_once_and_nothing_else(
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
        fn what_can_be_measured_has_rounds_enough(batch in any_amount(), window in any_amount(), n in 1..4u64) {
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
    fn a_list_longer_than_the_window_says_so() {
        let cell = |batch, window| BenchCell { batch: Count(batch), window: Count(window) };
        assert_eq!(cell(64, 64).impossible_reason(1), None);
        let why = cell(64, 8).impossible_reason(1).expect("it does not fit");
        assert!(why.contains("64") && why.contains("window of 8"), "{why}");
        assert!(cell(5, 8).impossible_reason(2).is_some(), "sequences count");
    }
}
