//! Numbers and texts out of a seed: the same ones in every run, on every machine.
//!
//! It owns no state and knows the simulator's tokens only, so that a text has the length that was
//! wanted.

use vllm_sim::cache::mix;
use vllm_sim::tokens;

/// A whole number of log-normal distribution, from 1 to `most`.
pub fn log_normal(seed: u64, median: f64, sigma: f64, most: usize) -> usize {
    let unit = |nth: u64| ((mix(seed, nth) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    let normal = (-2.0 * unit(1).ln()).sqrt() * (std::f64::consts::TAU * unit(2)).cos();
    ((median * (sigma * normal).exp()).round() as usize).clamp(1, most)
}

/// A text of so many tokens (five at least). Its first ones are like no other text's, so that no
/// two texts share a block of the prefix cache unless they are given a common head.
pub fn text(seed: u64, tokens: usize) -> String {
    let head = (0..4).map(|at| tokens::letter_pair(mix(seed, at) >> 8));
    let words = (4..tokens.max(5)).map(|at| tokens::spaced_word(mix(seed, at as u64) >> 8));
    tokens::decode(&head.chain(words).collect::<Vec<_>>(), true)
}

/// The same things in another order, always the same one.
pub fn shuffled<T>(mut things: Vec<T>, seed: u64) -> Vec<T> {
    for at in (1..things.len()).rev() {
        things.swap(at, (mix(seed, at as u64) % (at as u64 + 1)) as usize);
    }
    things
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn half_of_the_lengths_are_below_the_median_and_none_above_the_most() {
        let all: Vec<usize> = (0..4000).map(|seed| log_normal(seed, 64.0, 1.0, 1024)).collect();
        let below = all.iter().filter(|l| **l <= 64).count();
        assert!((1900..2100).contains(&below), "{below}");
        assert!(all.iter().all(|l| (1..=1024).contains(l)));
        assert!(all.iter().any(|l| *l > 500));
    }

    #[test]
    fn a_text_has_the_tokens_it_should_and_a_head_of_its_own() {
        let heads: HashSet<String> = (0..2000).map(|s| text(s, 20)[..8].to_owned()).collect();
        assert!(heads.len() > 1995, "{}", heads.len());
        let right = (0..200).filter(|s| tokens::encode(&text(*s, 20)).len() == 20).count();
        assert!(right > 190, "{right}");
    }

    #[test]
    fn shuffling_loses_nothing() {
        let shuffled = shuffled((0..100).collect(), 3);
        assert_ne!(shuffled, (0..100).collect::<Vec<_>>());
        assert_eq!(shuffled.into_iter().collect::<HashSet<_>>().len(), 100);
    }
}
