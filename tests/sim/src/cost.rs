//! What time costs: the model of an engine's steps, and the least time any client could need.
//!
//! It owns the arithmetic and no clock. The engine asks it for the cost of a step; benchmarks
//! ask it for the bound that they hold a measured time against.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The cost of an engine's steps, in microseconds, and the sizes that limit a step.
///
/// A step costs `step_base_us + per_seq_us × running + per_prefill_token_us × prefill`, times
/// `slow`; `running` counts every sequence that has a slot, and `prefill` the prompt tokens
/// taken in this step that were not in the prefix cache. Each sequence whose prompt is done
/// gains one token in a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CostModel {
    /// The fixed part of a step.
    pub step_base_us: f64,
    /// The part of a step for each sequence that has a slot.
    pub per_seq_us: f64,
    /// The part for each prompt token that is computed.
    pub per_prefill_token_us: f64,
    /// The number of slots.
    pub max_num_seqs: usize,
    /// The most tokens a step takes, prompt tokens and one for each decoding sequence together.
    pub max_batched_tokens: usize,
    /// The tokens that the KV cache holds, prompts and answers of the running sequences together; 0 is without limit.
    pub memory_tokens: usize,
    /// How many times slower than the others this endpoint is.
    pub slow: f64,
    /// The API server's time for a request: a queue of one in front of the engine.
    pub api_us_per_request: f64,
    /// The API server's time for each prompt of a request.
    pub api_us_per_prompt: f64,
}

impl Default for CostModel {
    fn default() -> Self {
        Self {
            step_base_us: 5_000.0,
            per_seq_us: 20.0,
            per_prefill_token_us: 5.0,
            max_num_seqs: 128,
            max_batched_tokens: 8192,
            memory_tokens: 0,
            slow: 1.0,
            api_us_per_request: 0.0,
            api_us_per_prompt: 0.0,
        }
    }
}

impl CostModel {
    /// The time of one step in microseconds.
    #[must_use]
    pub fn step_us(&self, running: usize, prefill: usize) -> f64 {
        let busy = self.per_seq_us * running as f64 + self.per_prefill_token_us * prefill as f64;
        (self.step_base_us + busy) * self.slow
    }

    /// The API server's time for a request of so many prompts, in microseconds.
    #[must_use]
    pub fn api_us(&self, prompts: usize) -> f64 {
        (self.api_us_per_request + self.api_us_per_prompt * prompts as f64) * self.slow
    }

    /// The least time for the given prompts, as (prompt tokens, output tokens) each, spread
    /// without a seam over endpoints with the given slow factors (this model's own is left out).
    ///
    /// It is decode at a full batch plus prefill over each prompt's tokens once: with `D` output
    /// tokens, `P` prompt tokens and `S` slots the work is `D/S × step_base_us + D × per_seq_us +
    /// P × per_prefill_token_us`, and endpoints with factors `f` do `Σ 1/f` of it at a time. No
    /// schedule is faster: a step gives at most `S` tokens, and each of them has paid its share.
    /// Prompt tokens that the prefix cache will save must not be counted in, and the API
    /// server's time is no part of it.
    #[must_use]
    pub fn bound<W>(&self, work: W, slow: &[f64]) -> Duration
    where
        W: IntoIterator<Item = (usize, usize)>,
    {
        let (mut prompt, mut output) = (0.0, 0.0);
        for (prompt_tokens, output_tokens) in work {
            prompt += prompt_tokens as f64;
            output += output_tokens as f64;
        }
        let slots = self.max_num_seqs.max(1) as f64;
        let us = output * (self.step_base_us / slots + self.per_seq_us)
            + prompt * self.per_prefill_token_us;
        let speed: f64 = slow.iter().filter(|f| **f > 0.0).map(|f| 1.0 / f).sum();
        if speed <= 0.0 {
            return Duration::ZERO;
        }
        Duration::from_secs_f64(us / speed / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_endpoint_adds_only_its_share_of_speed() {
        let cost = CostModel::default();
        let work = || (0..1000).map(|_| (10, 48));
        let four = cost.bound(work(), &[1.0; 4]);
        let one_slow = cost.bound(work(), &[1.0, 1.0, 1.0, 2.5]);
        let ratio = one_slow.as_secs_f64() / four.as_secs_f64();
        assert!((ratio - 4.0 / 3.4).abs() < 1e-6, "{ratio}");
    }

    #[test]
    fn no_endpoint_and_no_work_need_no_time() {
        let cost = CostModel::default();
        assert_eq!(cost.bound([(1, 1)], &[]), Duration::ZERO);
        assert_eq!(cost.bound([], &[1.0]), Duration::ZERO);
    }
}
