//! Places that were granted once and are free again.
//!
//! Owns them as runs, so that a rank's returned lease costs one entry and not one per place. Places that were never
//! granted are the ledger's.

use std::collections::BTreeMap;

use super::order::PlaceRange;

/// A set of places, in order.
#[derive(Debug, Default)]
pub(super) struct ReturnedPlaces {
    /// Start and end of each run. Runs do not overlap.
    runs: BTreeMap<u64, u64>,
    place_count: u64,
}

impl ReturnedPlaces {
    pub(super) fn place_count(&self) -> u64 {
        self.place_count
    }

    #[cfg(test)]
    pub(super) fn runs(&self) -> impl Iterator<Item = PlaceRange> {
        self.runs.iter().map(|(&start, &end)| start..end)
    }

    /// Removes and returns the first places, consecutive ones and at most `limit`.
    pub(super) fn take_first(&mut self, limit: u64) -> Option<PlaceRange> {
        let (start, run_end) = self.runs.pop_first()?;
        let end = run_end.min(start + limit);
        if end < run_end {
            self.runs.insert(end, run_end);
        }
        self.place_count -= end - start;
        Some(start..end)
    }

    /// Adds a place that is not in the set, and joins it with its neighbours.
    pub(super) fn add_place(&mut self, place: u64) {
        let before = self.runs.range(..place).next_back().map(|(&start, &end)| (start, end));
        let start = match before {
            Some((start, end)) if end == place => start,
            _ => place,
        };
        let end = self.runs.remove(&(place + 1)).unwrap_or(place + 1);
        self.runs.insert(start, end);
        self.place_count += 1;
    }

    /// Removes a place if it is in the set.
    pub(super) fn remove_place(&mut self, place: u64) {
        let Some((&start, &end)) = self.runs.range(..=place).next_back() else { return };
        if place >= end {
            return;
        }
        self.runs.remove(&start);
        self.place_count -= 1;
        if start < place {
            self.runs.insert(start, place);
        }
        if place + 1 < end {
            self.runs.insert(place + 1, end);
        }
    }
}
