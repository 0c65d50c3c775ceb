//! The last minute: who gets the last prompts, and which are asked a second time. Pure.
//!
//! Owns two rules. An endpoint that would be done with a prompt only after all the others are through with everything gets
//! none any more: withholding costs no work. And what takes far longer than it should, or than it would elsewhere, is
//! asked once more: the first answer counts.

use std::time::Duration;

use crate::domain::{PeerSpeed, SLOW};

/// How fast an endpoint is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct EndpointSpeed {
    /// What a single prompt usually takes.
    pub(crate) usual: Option<Duration>,
    /// Prompts a second.
    pub(crate) rate: f64,
}

/// Where too little was seen to know the slowest hundredth: so many times the usual.
const STUCK_P50_FACTOR: u32 = 6;
/// Nothing younger is stuck.
const LEAST: Duration = Duration::from_secs(1);

/// Are the last `waiting` prompts better left to the others?
pub(crate) fn withholds(mine: EndpointSpeed, others: &[EndpointSpeed], waiting: usize) -> bool {
    let Some(usual) = mine.usual else { return false };
    let Some(fastest) = others.iter().filter_map(|it| it.usual).min() else { return false };
    let rate = others.iter().map(|it| it.rate).sum();
    PeerSpeed { fastest, rate }.would_finish_first(usual, waiting as u64)
}

/// What is known of a request under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestAge {
    /// Since it was sent.
    pub(crate) elapsed: Duration,
    /// What one like it usually takes there.
    pub(crate) usual: Option<Duration>,
    /// What the slowest hundredth takes there.
    pub(crate) slowest: Option<Duration>,
}

/// Is it worth asking an idle endpoint, where a prompt usually takes `there`, once more? `elsewhere` is whether that is
/// another endpoint.
pub(crate) fn copies(request: RequestAge, there: Option<Duration>, elsewhere: bool) -> bool {
    let RequestAge { elapsed: age, usual, slowest } = request;
    let stuck = slowest.map(|it| it * 2).or(usual.map(|it| it * STUCK_P50_FACTOR));
    if age > LEAST && stuck.is_some_and(|stuck| age > stuck) {
        return true;
    }
    let (Some(usual), Some(there)) = (usual, there) else { return false };
    let slow = usual.as_secs_f64() > there.as_secs_f64() * SLOW;
    elsewhere && slow && usual.saturating_sub(age) > there
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speed(usual: f64, rate: f64) -> EndpointSpeed {
        EndpointSpeed { usual: Some(Duration::from_secs_f64(usual)), rate }
    }

    #[test]
    fn a_slow_endpoint_gets_none_of_the_last_prompts() {
        let fast = [speed(1.0, 100.0); 3];
        assert!(withholds(speed(2.5, 40.0), &fast, 300), "2.5 s against 1 + 1 s");
        assert!(!withholds(speed(2.5, 40.0), &fast, 600), "there is time for one more");
        assert!(!withholds(speed(1.2, 90.0), &fast, 1), "as fast as the others");
        assert!(!withholds(speed(2.5, 40.0), &[], 1), "nobody else");
        assert!(!withholds(EndpointSpeed::default(), &fast, 1), "nothing is known of it");
    }

    #[test]
    fn stuck_requests_and_those_faster_elsewhere_are_hedged() {
        let second = Duration::from_secs(1);
        let age = |age, usual, slowest: Option<u32>| RequestAge {
            elapsed: second * age,
            usual: Some(second * usual),
            slowest: slowest.map(|it| second * it),
        };
        assert!(copies(age(30, 1, Some(10)), None, false), "stuck, wherever");
        assert!(!copies(age(15, 1, Some(10)), None, false));
        assert!(copies(age(7, 1, None), None, false) && !copies(age(5, 1, None), None, false));
        assert!(copies(age(1, 10, None), Some(second * 2), true), "9 s left here, 2 there");
        assert!(!copies(age(9, 10, None), Some(second * 2), true), "nearly done");
        assert!(!copies(age(1, 10, None), Some(second * 2), false), "no faster than itself");
        assert!(!copies(RequestAge { elapsed: second, usual: None, slowest: None }, None, true));
    }
}
