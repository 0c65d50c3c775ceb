//! The cells of a sweep: a batch size and a window each, and how many prompts it takes to measure one.

use serde::{Deserialize, Serialize};

use crate::settings::Amount;

/// How servers are asked in one row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Prompts a request.
    pub batch: Amount,
    /// Sequences in flight an endpoint.
    pub window: Amount,
}

/// So often a window goes round in a measurement: its beginning and its end, in which servers are not full, weigh alike
/// in all cells.
const ROUNDS: u64 = 8;
/// Prompts of a measurement at least.
const LEAST: u64 = 16;
/// With a window that is found while the work goes on.
const OF_AUTO: u64 = 512;

/// Every batch size with every window, each once: window by window, in the order they were given.
#[must_use]
pub fn cells(batches: &[Amount], windows: &[Amount]) -> Vec<Cell> {
    let mut cells = Vec::new();
    for &window in windows {
        for &batch in batches {
            let cell = Cell { batch, window };
            if !cells.contains(&cell) {
                cells.push(cell);
            }
        }
    }
    cells
}

impl Cell {
    /// Why there is nothing to measure, where a prompt takes `n` sequences.
    #[must_use]
    pub fn cannot(&self, n: u64) -> Option<String> {
        let (Amount::Exactly(batch), Amount::Exactly(window)) = (self.batch, self.window) else {
            return None;
        };
        let sequences = (batch as u64).saturating_mul(n.max(1));
        (sequences > window as u64).then(|| {
            format!("not measured: a list of {sequences} does not fit into a window of {window}")
        })
    }

    /// Prompts an endpoint and measurement, where nobody said how many.
    #[must_use]
    pub fn prompts(&self) -> u64 {
        let largest = match (self.batch, self.window) {
            (_, Amount::Exactly(window)) => window as u64,
            (Amount::Exactly(batch), Amount::Auto) => {
                return OF_AUTO.max(ROUNDS.saturating_mul(batch as u64));
            }
            (Amount::Auto, Amount::Auto) => return OF_AUTO,
        };
        LEAST.max(ROUNDS.saturating_mul(largest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Amount::{Auto, Exactly};
    use proptest::prelude::*;

    fn amount() -> impl Strategy<Value = Amount> {
        prop_oneof![Just(Auto), (1..2000usize).prop_map(Exactly)]
    }

    proptest! {
        #[test]
        fn every_pair_is_there_once_and_nothing_else(
            batches in prop::collection::vec(amount(), 1..6),
            windows in prop::collection::vec(amount(), 1..6),
        ) {
            let cells = cells(&batches, &windows);
            for &window in &windows {
                for &batch in &batches {
                    let cell = Cell { batch, window };
                    prop_assert_eq!(cells.iter().filter(|&&it| it == cell).count(), 1);
                }
            }
            prop_assert!(cells.iter().all(|it| batches.contains(&it.batch) && windows.contains(&it.window)));
        }

        #[test]
        fn what_can_be_measured_has_rounds_enough(batch in amount(), window in amount(), n in 1..4u64) {
            let cell = Cell { batch, window };
            let prompts = cell.prompts();
            prop_assert!(prompts >= LEAST);
            if cell.cannot(n).is_none() {
                if let Exactly(batch) = batch {
                    prop_assert!(prompts >= ROUNDS * batch as u64);
                }
            } else {
                prop_assert!(batch != Auto && window != Auto);
            }
        }
    }

    #[test]
    fn a_list_longer_than_the_window_says_so() {
        let cell = |batch, window| Cell { batch: Exactly(batch), window: Exactly(window) };
        assert_eq!(cell(64, 64).cannot(1), None);
        let why = cell(64, 8).cannot(1).expect("it does not fit");
        assert!(why.contains("64") && why.contains("window of 8"), "{why}");
        assert!(cell(5, 8).cannot(2).is_some(), "sequences count");
    }
}
