//! The last minute: who gets the last prompts, and which are asked a second time. Pure.
//!
//! Owns two rules. An endpoint that would be done with a prompt only after all the others are through with everything gets
//! none any more: withholding costs no work. And what takes far longer than it should, or than it would elsewhere, is
//! asked once more: the first answer counts.

use std::time::Duration;

use crate::domain::{PeerSpeed, SLOW_FACTOR};

/// How fast an endpoint is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct EndpointSpeed {
    /// What a single prompt usually takes.
    pub(crate) p50_latency: Option<Duration>,
    /// Prompts a second.
    pub(crate) rate: f64,
}

/// Where too little was seen to know the slowest hundredth: so many times the usual.
const STUCK_P50_FACTOR: u32 = 6;
/// Nothing younger is stuck.
const MIN_STUCK_AGE: Duration = Duration::from_secs(1);

/// Are the last `waiting` prompts better left to the others?
pub(crate) fn should_withhold(
    mine: EndpointSpeed,
    others: &[EndpointSpeed],
    waiting: usize,
) -> bool {
    let Some(usual) = mine.p50_latency else { return false };
    let Some(fastest) = others.iter().filter_map(|it| it.p50_latency).min() else { return false };
    let rate = others.iter().map(|it| it.rate).sum();
    PeerSpeed { fastest_latency: fastest, prompts_per_second: rate }
        .would_finish_first(usual, waiting as u64)
}

/// What is known of a request under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestAge {
    /// Since it was sent.
    pub(crate) elapsed: Duration,
    /// What one like it usually takes there.
    pub(crate) p50_latency: Option<Duration>,
    /// What the slowest hundredth takes there.
    pub(crate) p99_latency: Option<Duration>,
}

/// Is it worth asking an idle endpoint, where a prompt usually takes `there`, once more? `elsewhere` is whether that is
/// another endpoint.
pub(crate) fn should_hedge(request: RequestAge, there: Option<Duration>, elsewhere: bool) -> bool {
    let RequestAge { elapsed: age, p50_latency: usual, p99_latency: slowest } = request;
    let stuck = slowest.map(|it| it * 2).or(usual.map(|it| it * STUCK_P50_FACTOR));
    if age > MIN_STUCK_AGE && stuck.is_some_and(|stuck| age > stuck) {
        return true;
    }
    let (Some(usual), Some(there)) = (usual, there) else { return false };
    let slow = usual.as_secs_f64() > there.as_secs_f64() * SLOW_FACTOR;
    elsewhere && slow && usual.saturating_sub(age) > there
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint_speed(usual: f64, rate: f64) -> EndpointSpeed {
        EndpointSpeed { p50_latency: Some(Duration::from_secs_f64(usual)), rate }
    }

    #[test]
    fn a_slow_endpoint_gets_none_of_the_last_prompts() {
        let fast = [endpoint_speed(1.0, 100.0); 3];
        assert!(should_withhold(endpoint_speed(2.5, 40.0), &fast, 300), "2.5 s against 1 + 1 s");
        assert!(
            !should_withhold(endpoint_speed(2.5, 40.0), &fast, 600),
            "there is time for one more"
        );
        assert!(!should_withhold(endpoint_speed(1.2, 90.0), &fast, 1), "as fast as the others");
        assert!(!should_withhold(endpoint_speed(2.5, 40.0), &[], 1), "nobody else");
        assert!(!should_withhold(EndpointSpeed::default(), &fast, 1), "nothing is known of it");
    }

    #[test]
    fn stuck_requests_and_those_faster_elsewhere_are_hedged() {
        let second = Duration::from_secs(1);
        let age = |age, usual, slowest: Option<u32>| RequestAge {
            elapsed: second * age,
            p50_latency: Some(second * usual),
            p99_latency: slowest.map(|it| second * it),
        };
        assert!(should_hedge(age(30, 1, Some(10)), None, false), "stuck, wherever");
        assert!(!should_hedge(age(15, 1, Some(10)), None, false));
        assert!(
            should_hedge(age(7, 1, None), None, false)
                && !should_hedge(age(5, 1, None), None, false)
        );
        assert!(should_hedge(age(1, 10, None), Some(second * 2), true), "9 s left here, 2 there");
        assert!(!should_hedge(age(9, 10, None), Some(second * 2), true), "nearly done");
        assert!(!should_hedge(age(1, 10, None), Some(second * 2), false), "no faster than itself");
        assert!(!should_hedge(
            RequestAge { elapsed: second, p50_latency: None, p99_latency: None },
            None,
            true
        ));
    }
}
