//! How much a rank asks for and is granted at a time: guided self-scheduling.
//!
//! Half of the rank's fair share of what is left, by the paces that were seen: large at first, so that there are few
//! messages; single prompts at the end, so that ranks end together whatever their pace. Never more than was asked for.

use std::time::Duration;

/// How fast a rank is, in prompts a second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RankThroughput {
    rate: f64,
    interval_start: Option<Duration>,
    settled: u64,
}

/// A pace is looked at so often.
const EVERY: Duration = Duration::from_secs(2);

impl RankThroughput {
    pub(super) fn settled(&mut self, count: u64, now: Duration) {
        self.settled += count;
        let since = *self.interval_start.get_or_insert(now);
        let passed = now.saturating_sub(since);
        if passed >= EVERY {
            let rate = self.settled as f64 / passed.as_secs_f64();
            self.rate = if self.rate > 0.0 { (self.rate + rate) / 2.0 } else { rate };
            (self.interval_start, self.settled) = (Some(now), 0);
        }
    }

    /// What is known of it; nothing before it was looked at.
    pub(super) fn measured_rate(self) -> f64 {
        self.rate
    }

    /// Where nothing is known yet, `usual`.
    pub(super) fn rate_or(self, usual: f64) -> f64 {
        if self.rate > 0.0 { self.rate } else { usual }
    }
}

/// What a rank of pace `mine` is granted of `free` places if all ranks together have the pace `all`: at least one, at most
/// `want`. A rank that is alone need not leave anything to others.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a count, not above it"
)]
pub(super) fn guided_share(free: u64, want: u64, mine: f64, all: f64) -> u64 {
    if mine >= all {
        return want.min(free);
    }
    let fair = free as f64 * (mine / all);
    ((fair / 2.0).ceil() as u64).max(1).min(want).min(free)
}

/// Work for so long is ample, in seconds; less is kept in hand when less is left for all.
const AMPLE_BACKLOG_SECONDS: f64 = 4.0;
/// More than what windows hold twice is not kept in hand beyond so many prompts, however fast they go.
const MOST: f64 = 16_384.0;

/// How far apart a rank's letters are at least: rank 0 reads at most 20,000 a second, from however many.
#[must_use]
pub fn apart(ranks: usize) -> Duration {
    let ranks = u32::try_from(ranks).unwrap_or(u32::MAX);
    Duration::from_millis(5).max(Duration::from_micros(50).saturating_mul(ranks))
}

/// How many prompts a rank should have in hand: what its windows hold twice, or what it does in a few seconds, at `rate` a
/// second. As the work comes to its end (`left` seconds of it nobody has) it is less and less, so that what is left lies at
/// rank 0 and goes to whoever is first; never less than what windows hold, since short answers come back all at once, or
/// than what it does while it may not write (`apart`).
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of prompts")]
#[must_use]
pub fn target_backlog(windows: u64, rate: f64, left: Option<f64>, apart: Duration) -> u64 {
    let (windows, apart) = (windows as f64, apart.as_secs_f64());
    let seconds = AMPLE_BACKLOG_SECONDS.max(apart * 4.0);
    let ample = (windows * 2.0).max((rate * seconds).min(MOST));
    let part = left.map_or(1.0, |left| (left / (2.0 * seconds)).min(1.0));
    (ample * part).max(windows).max(rate * apart * 2.0).ceil() as u64
}

/// A rank that has not settled a prompt so long after it was granted …
const MIN_STUCK_AGE: Duration = Duration::from_secs(8);
/// … and so many times what a prompt usually takes, has not only kept it waiting.
const STUCK_P50_FACTOR: u32 = 4;

/// Where nothing was answered yet nobody knows what is long.
const STUCK_AGE_UNMEASURED: Duration = Duration::from_secs(60);

/// Does a lease of this age hold something that hangs?
pub(super) fn is_lease_stuck(age: Duration, usual: Option<Duration>) -> bool {
    age >= usual.map_or(STUCK_AGE_UNMEASURED, |usual| MIN_STUCK_AGE + usual * STUCK_P50_FACTOR)
}

/// Of `load` prompts that a rank has: how many will still wait there when the fastest rank could have done them. Half of
/// those, since it goes on meanwhile.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a count")]
pub(super) fn excess_queued_count(
    load: u64,
    pace: f64,
    usual: Option<Duration>,
    fastest: Option<Duration>,
) -> u64 {
    let (Some(usual), Some(fastest)) = (usual, fastest) else { return 0 };
    let wait = load as f64 / pace - usual.as_secs_f64();
    if pace <= 0.0 || wait <= fastest.as_secs_f64() {
        return 0;
    }
    ((wait - fastest.as_secs_f64()) * pace / 2.0).min(load as f64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_shrink_with_what_is_left() {
        assert_eq!(guided_share(1000, 400, 1.0, 4.0), 125);
        assert_eq!(guided_share(1000, 64, 1.0, 4.0), 64, "no more than asked for");
        assert_eq!(guided_share(3, 64, 1.0, 4.0), 1);
        assert_eq!((guided_share(0, 64, 1.0, 4.0), guided_share(5, 0, 1.0, 4.0)), (0, 0));
        assert_eq!(guided_share(100, 64, 2.0, 2.0), 64, "nobody else is there");
    }

    #[test]
    fn the_target_backlog_shrinks_with_the_free_work() {
        let few = apart(4);
        assert_eq!(target_backlog(64, 10.0, None, few), 128);
        assert_eq!(target_backlog(64, 100.0, None, few), 400);
        assert_eq!(target_backlog(64, 100.0, Some(60.0), few), 400);
        assert_eq!(target_backlog(64, 100.0, Some(2.0), few), 100);
        assert_eq!(
            target_backlog(64, 100.0, Some(0.0), few),
            64,
            "what comes back at once is sent at once"
        );
        assert_eq!(target_backlog(64, 40_000.0, None, few), 16_384);
        assert_eq!(target_backlog(0, 0.0, None, few), 0, "nobody is up");
        assert_eq!(apart(10_000), Duration::from_millis(500));
        assert_eq!(target_backlog(64, 100.0, Some(0.0), apart(10_000)), 100, "a second's");
    }

    #[test]
    fn prompts_queued_longer_than_peers_need_are_excess() {
        let second = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(
            excess_queued_count(100, 10.0, second(2), second(1)),
            35,
            "8 s of waiting, 1 s there"
        );
        assert_eq!(excess_queued_count(20, 10.0, second(2), second(1)), 0, "all are under way");
        assert_eq!(excess_queued_count(20, 0.0, second(2), second(1)), 0);
        assert_eq!(excess_queued_count(20, 1.0, None, second(1)), 0);
        assert!(!is_lease_stuck(Duration::from_secs(9), second(1)));
        assert!(is_lease_stuck(Duration::from_secs(12), second(1)));
        assert!(!is_lease_stuck(Duration::from_secs(50), None), "answers may be that long");
    }

    #[test]
    fn throughput_is_averaged_over_intervals() {
        let mut pace = RankThroughput::default();
        assert_eq!(pace.rate_or(7.0).to_bits(), 7f64.to_bits());
        pace.settled(0, Duration::ZERO);
        pace.settled(50, Duration::from_secs(1));
        pace.settled(50, Duration::from_secs(2));
        assert!((pace.measured_rate() - 50.0).abs() < 1e-9);
    }
}
