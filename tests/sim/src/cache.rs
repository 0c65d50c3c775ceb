//! The prefix cache: which blocks of prompt tokens the engine need not compute again.
//!
//! It owns block hashes in the order of their last use and nothing else; the engine tells it of
//! every prompt it admits. As in vLLM only whole blocks count, a block is known by the chain of
//! all tokens before it, and the last token of a prompt is always computed.

use crate::tokens::Id;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Folds one more number into a hash (the finalizer of splitmix64).
#[must_use]
pub fn mix(seed: u64, value: u64) -> u64 {
    let mut z = seed.rotate_left(5) ^ value.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Passes a number that is already a hash through unchanged.
#[derive(Default)]
pub struct Ready(u64);

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = mix(self.0, u64::from(*byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// A map from hashes, without hashing them again.
pub type ByHash<V> = HashMap<u64, V, BuildHasherDefault<Ready>>;

const NONE: usize = usize::MAX;

struct Block {
    hash: u64,
    newer: usize,
    older: usize,
}

/// Blocks of prompt tokens, least recently used first out.
pub struct PrefixCache {
    block_size: usize,
    capacity: usize,
    blocks: Vec<Block>,
    places: ByHash<usize>,
    newest: usize,
    oldest: usize,
}

impl PrefixCache {
    /// A cache of so many blocks of so many tokens; none of either means no cache.
    #[must_use]
    pub fn new(block_size: usize, capacity: usize) -> Self {
        let capacity = if block_size == 0 { 0 } else { capacity };
        Self {
            block_size,
            capacity,
            blocks: Vec::new(),
            places: ByHash::default(),
            newest: NONE,
            oldest: NONE,
        }
    }

    /// The hash chain of a prompt's whole blocks; made outside of the engine's lock.
    #[must_use]
    pub fn chain(block_size: usize, prompt: &[Id]) -> Box<[u64]> {
        if block_size == 0 {
            return Box::default();
        }
        let mut hash = 0x5EED;
        let blocks = prompt.chunks_exact(block_size);
        blocks
            .map(|block| {
                hash = block.iter().fold(hash, |hash, id| mix(hash, u64::from(*id)));
                hash
            })
            .collect()
    }

    /// Takes a prompt in and says how many of its tokens were there already.
    pub fn admit(&mut self, chain: &[u64], prompt_tokens: usize) -> usize {
        if self.capacity == 0 {
            return 0;
        }
        let usable = prompt_tokens.saturating_sub(1) / self.block_size;
        let known = chain.iter().take(usable).take_while(|h| self.places.contains_key(h)).count();
        // From the last block to the first, so that the tail of a chain, of no use without its
        // head, is thrown out before it.
        for hash in chain.iter().rev() {
            self.touch(*hash);
        }
        known * self.block_size
    }

    fn touch(&mut self, hash: u64) {
        if let Some(&place) = self.places.get(&hash) {
            if place != self.newest {
                self.unlink(place);
                self.link_newest(place);
            }
            return;
        }
        let place = self.free_place();
        self.blocks[place].hash = hash;
        self.places.insert(hash, place);
        self.link_newest(place);
    }

    fn free_place(&mut self) -> usize {
        if self.blocks.len() < self.capacity {
            self.blocks.push(Block { hash: 0, newer: NONE, older: NONE });
            return self.blocks.len() - 1;
        }
        let place = self.oldest;
        self.unlink(place);
        self.places.remove(&self.blocks[place].hash);
        place
    }

    fn unlink(&mut self, place: usize) {
        let Block { newer, older, .. } = self.blocks[place];
        match newer {
            NONE => self.newest = older,
            at => self.blocks[at].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            at => self.blocks[at].newer = newer,
        }
    }

    fn link_newest(&mut self, place: usize) {
        self.blocks[place].newer = NONE;
        self.blocks[place].older = self.newest;
        match self.newest {
            NONE => self.oldest = place,
            at => self.blocks[at].newer = place,
        }
        self.newest = place;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(cache: &mut PrefixCache, prompt: &[Id]) -> usize {
        let chain = PrefixCache::chain(4, prompt);
        cache.admit(&chain, prompt.len())
    }

    #[test]
    fn whole_blocks_are_found_again_but_never_the_last_token() {
        let mut cache = PrefixCache::new(4, 10);
        let prompt: Vec<Id> = (0..8).collect();
        assert_eq!(ask(&mut cache, &prompt), 0);
        assert_eq!(ask(&mut cache, &prompt), 4);
        let longer: Vec<Id> = (0..11).collect();
        assert_eq!(ask(&mut cache, &longer), 8);
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let mut cache = PrefixCache::new(4, 2);
        let (one, two, three) = ([1; 5], [2; 5], [3; 5]);
        ask(&mut cache, &one);
        ask(&mut cache, &two);
        ask(&mut cache, &one);
        ask(&mut cache, &three);
        assert_eq!(ask(&mut cache, &one), 4);
        assert_eq!(ask(&mut cache, &two), 0);
    }

    #[test]
    fn a_cache_of_nothing_finds_nothing() {
        let mut cache = PrefixCache::new(4, 0);
        assert_eq!(ask(&mut cache, &[1; 9]), 0);
        assert_eq!(ask(&mut cache, &[1; 9]), 0);
    }
}
