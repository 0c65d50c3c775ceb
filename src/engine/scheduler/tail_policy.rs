//! The tail of a run: which endpoints get the last prompts, and which requests are hedged. Pure.
//!
//! Owns two rules. An endpoint that would be done with a prompt only after all others are done with everything gets
//! none any more: withholding costs no work. A request that takes far longer than it should, or than it would
//! elsewhere, is worth sending again: the first answer counts. Sending is the scheduler's; `hedging` keeps account of
//! prompts that are in flight twice. Ranks go by the same rules among each other: see `ledger`.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::{
    domain::{ModelSet, PeerSpeed, SLOW_FACTOR},
    engine::endpoint_state::{EndpointPool, EndpointState},
};

/// The speed of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct EndpointSpeed {
    /// The median latency of a single prompt.
    p50_latency: Option<Duration>,
    /// Prompts answered per second.
    answer_rate: f64,
}

impl EndpointSpeed {
    fn of_endpoint(endpoint: &EndpointState) -> Self {
        Self { p50_latency: endpoint.p50_latency(1), answer_rate: endpoint.answer_rate() }
    }
}

/// The age of a request in flight, beside what requests of its size take at its endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestAge {
    pub(crate) elapsed: Duration,
    pub(crate) p50_latency: Option<Duration>,
    pub(crate) p99_latency: Option<Duration>,
}

/// The age, in medians, from which a request counts as stuck where no p99 is known.
const STUCK_P50_FACTOR: u32 = 6;
/// The age below which no request counts as stuck.
const MIN_STUCK_AGE: Duration = Duration::from_secs(1);

/// The memory of the withholding rule.
#[derive(Debug, Default)]
pub(crate) struct TailGuard {
    /// The number of prompts that were last withheld from endpoints that serve these models, and since when it has been
    /// this number.
    withheld: BTreeMap<ModelSet, WithheldPrompts>,
}

#[derive(Clone, Copy, Debug)]
struct WithheldPrompts {
    count: usize,
    since: Instant,
}

impl TailGuard {
    /// Returns whether prompts have been withheld from an endpoint in this run.
    pub(crate) fn is_withholding(&self) -> bool {
        !self.withheld.is_empty()
    }

    /// Returns whether the last `waiting` prompts for the endpoint's models are better left to the other endpoints.
    pub(crate) fn should_withhold_from(
        &mut self,
        endpoint: usize,
        endpoints: &EndpointPool,
        waiting: usize,
        now: Instant,
    ) -> bool {
        let models = endpoints[endpoint].models();
        let peers: Vec<EndpointSpeed> = endpoints
            .iter()
            .enumerate()
            .filter(|(number, peer)| *number != endpoint && peer.is_healthy())
            .filter(|(_, peer)| peer.models().intersects(models))
            .map(|(_, peer)| EndpointSpeed::of_endpoint(peer))
            .collect();
        let own = EndpointSpeed::of_endpoint(&endpoints[endpoint]);
        if !should_withhold(own, &peers, waiting) {
            return false;
        }
        // No longer than the others make progress: they may all be stuck.
        match self.withheld.get(models).copied() {
            Some(WithheldPrompts { count, since }) if count == waiting => {
                own.p50_latency.is_some_and(|p50| now - since < p50)
            }
            _ => {
                self.withheld.insert(*models, WithheldPrompts { count: waiting, since: now });
                true
            }
        }
    }
}

fn should_withhold(own: EndpointSpeed, peers: &[EndpointSpeed], waiting: usize) -> bool {
    let Some(own_latency) = own.p50_latency else { return false };
    let Some(fastest_latency) = peers.iter().filter_map(|peer| peer.p50_latency).min() else {
        return false;
    };
    let prompts_per_second = peers.iter().map(|peer| peer.answer_rate).sum();
    PeerSpeed { fastest_latency, prompts_per_second }
        .would_finish_first(own_latency, waiting as u64)
}

/// Returns whether the request is worth a hedge at an idle endpoint whose median latency is `target_p50`.
/// `is_elsewhere` is whether that is another endpoint.
pub(crate) fn should_hedge(
    request: RequestAge,
    target_p50: Option<Duration>,
    is_elsewhere: bool,
) -> bool {
    let RequestAge { elapsed, p50_latency, p99_latency } = request;
    let stuck_age = p99_latency.map(|p99| p99 * 2);
    let stuck_age = stuck_age.or(p50_latency.map(|p50| p50 * STUCK_P50_FACTOR));
    if elapsed > MIN_STUCK_AGE && stuck_age.is_some_and(|stuck_age| elapsed > stuck_age) {
        return true;
    }
    let (Some(own_p50), Some(target_p50)) = (p50_latency, target_p50) else { return false };
    let is_slow = own_p50.as_secs_f64() > target_p50.as_secs_f64() * SLOW_FACTOR;
    is_elsewhere && is_slow && own_p50.saturating_sub(elapsed) > target_p50
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint_speed(p50_seconds: f64, answer_rate: f64) -> EndpointSpeed {
        EndpointSpeed { p50_latency: Some(Duration::from_secs_f64(p50_seconds)), answer_rate }
    }

    #[test]
    fn a_slow_endpoint_gets_none_of_the_last_prompts() {
        let fast = [endpoint_speed(1.0, 100.0); 3];
        let slow = endpoint_speed(2.5, 40.0);
        assert!(should_withhold(slow, &fast, 300), "2.5 s against 1 + 1 s");
        assert!(!should_withhold(slow, &fast, 600), "there is time for one more");
        assert!(!should_withhold(endpoint_speed(1.2, 90.0), &fast, 1), "as fast as the others");
        assert!(!should_withhold(slow, &[], 1), "no other endpoint");
        assert!(!should_withhold(EndpointSpeed::default(), &fast, 1), "its speed is unknown");
    }

    #[test]
    fn stuck_requests_and_those_faster_elsewhere_are_hedged() {
        let second = Duration::from_secs(1);
        let age = |elapsed, p50, p99: Option<u32>| RequestAge {
            elapsed: second * elapsed,
            p50_latency: Some(second * p50),
            p99_latency: p99.map(|p99| second * p99),
        };
        assert!(should_hedge(age(30, 1, Some(10)), None, false), "stuck, wherever");
        assert!(!should_hedge(age(15, 1, Some(10)), None, false));
        assert!(should_hedge(age(7, 1, None), None, false));
        assert!(!should_hedge(age(5, 1, None), None, false));
        assert!(should_hedge(age(1, 10, None), Some(second * 2), true), "9 s left here, 2 there");
        assert!(!should_hedge(age(9, 10, None), Some(second * 2), true), "nearly done");
        assert!(!should_hedge(age(1, 10, None), Some(second * 2), false), "not faster than itself");
        let unknown = RequestAge { elapsed: second, p50_latency: None, p99_latency: None };
        assert!(!should_hedge(unknown, None, true));
    }
}
