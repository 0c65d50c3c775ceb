//! A set of places as a bitset that counts its members.

#[derive(Debug)]
pub(super) struct PlaceSet {
    words: Vec<u64>,
    capacity: u64,
    count: u64,
}

impl PlaceSet {
    pub(super) fn new(size: u64) -> Self {
        Self {
            words: vec![0; usize::try_from(size.div_ceil(64)).unwrap_or(usize::MAX)],
            capacity: size,
            count: 0,
        }
    }

    /// Inserts a place. Returns false if it was present or is out of range.
    pub(super) fn insert(&mut self, place: u64) -> bool {
        if place >= self.capacity || self.contains(place) {
            return false;
        }
        self.words[(place / 64) as usize] |= 1 << (place % 64);
        self.count += 1;
        true
    }

    pub(super) fn contains(&self, place: u64) -> bool {
        place < self.capacity && self.words[(place / 64) as usize] & (1 << (place % 64)) != 0
    }

    pub(super) fn len(&self) -> u64 {
        self.count
    }
}
