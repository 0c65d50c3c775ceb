//! Who gets the last prompts: endpoints beside endpoints, and ranks beside ranks, go by the same rule.

use std::time::Duration;

/// So much slower than the fastest is slow; less is noise.
pub const SLOW_FACTOR: f64 = 1.5;

/// How fast the others are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PeerSpeed {
    /// What a prompt usually takes at the fastest of them.
    pub fastest_latency: Duration,
    /// Prompts a second of all of them together.
    pub prompts_per_second: f64,
}

impl PeerSpeed {
    /// Would they be through with `waiting` prompts before a slow one, which takes `usual` for a prompt, is with its next?
    /// Then it had better have none: what is withheld costs no work, what is asked twice does.
    #[must_use]
    pub fn would_finish_first(self, usual: Duration, waiting: u64) -> bool {
        let Self { fastest_latency: fastest, prompts_per_second: rate } = self;
        if rate <= 0.0 || usual.as_secs_f64() < fastest.as_secs_f64() * SLOW_FACTOR {
            return false;
        }
        usual.as_secs_f64() > waiting as f64 / rate + fastest.as_secs_f64()
    }
}
