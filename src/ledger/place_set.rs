//! A set of places: a bit each, and how many there are.

/// Of places below a number.
#[derive(Debug)]
pub(super) struct PlaceSet {
    words: Vec<u64>,
    size: u64,
    count: u64,
}

impl PlaceSet {
    pub(super) fn new(size: u64) -> Self {
        Self {
            words: vec![0; usize::try_from(size.div_ceil(64)).unwrap_or(usize::MAX)],
            size,
            count: 0,
        }
    }

    /// Puts a place in; false if it was in, or is none.
    pub(super) fn insert(&mut self, place: u64) -> bool {
        if place >= self.size || self.contains(place) {
            return false;
        }
        self.words[(place / 64) as usize] |= 1 << (place % 64);
        self.count += 1;
        true
    }

    pub(super) fn contains(&self, place: u64) -> bool {
        place < self.size && self.words[(place / 64) as usize] & (1 << (place % 64)) != 0
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }
}
