//! Peer speed: whether a slow endpoint or rank should get any of the last prompts. Endpoints among endpoints and ranks
//! among ranks follow the same rule, which is part of load balancing in the tail.

use std::time::Duration;

/// A peer is slow if its latency exceeds the fastest one's by this factor; less is noise.
pub(crate) const SLOW_FACTOR: f64 = 1.5;

/// Speed of the other endpoints or ranks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PeerSpeed {
    /// Usual time per prompt at the fastest of them.
    pub fastest_latency: Duration,
    /// Combined throughput in prompts per second.
    pub prompts_per_second: f64,
}

impl PeerSpeed {
    /// Whether the peers would finish `waiting` prompts before a slow one, which takes `own_latency` per prompt,
    /// finishes its next. Then the slow one should get none: withholding a prompt costs no work, sending it twice does.
    #[must_use]
    pub(crate) fn would_finish_first(self, own_latency: Duration, waiting: u64) -> bool {
        let Self { fastest_latency: fastest, prompts_per_second: rate } = self;
        // Without a measured rate nothing is known of the peers, so nothing is withheld.
        if rate <= 0.0 || own_latency.as_secs_f64() < fastest.as_secs_f64() * SLOW_FACTOR {
            return false;
        }
        own_latency.as_secs_f64() > waiting as f64 / rate + fastest.as_secs_f64()
    }
}
