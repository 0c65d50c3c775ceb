//! Guided self-scheduling: the size of a rank's grants, and which leases are slow enough for speculation.
//!
//! A grant is half of the rank's fair share of the free work, by the throughputs measured: large at first, so that
//! there are few messages; single prompts at the end, so that ranks end together whatever their speed. A rank never
//! gets more than it asked for. The demand side is here too: a rank's target backlog and the interval of its reports,
//! which `job/dispatch/lease_client.rs` applies.

use std::time::Duration;

/// Throughput of a rank: an exponentially weighted moving average (EWMA, weight 1/2), in prompts per second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct RankThroughput {
    rate: f64,
    interval_start: Option<Duration>,
    interval_settled: u64,
}

/// Length of an averaging interval.
const RATE_INTERVAL: Duration = Duration::from_secs(2);

impl RankThroughput {
    pub(super) fn record_settled(&mut self, count: u64, now: Duration) {
        self.interval_settled += count;
        let since = *self.interval_start.get_or_insert(now);
        let passed = now.saturating_sub(since);
        if passed >= RATE_INTERVAL {
            let rate = self.interval_settled as f64 / passed.as_secs_f64();
            self.rate = if self.rate > 0.0 { (self.rate + rate) / 2.0 } else { rate };
            (self.interval_start, self.interval_settled) = (Some(now), 0);
        }
    }

    /// Returns the average, or 0 before the first interval has ended.
    pub(super) fn measured_rate(self) -> f64 {
        self.rate
    }

    /// Returns the average, or `default` before the first interval has ended.
    pub(super) fn rate_or(self, default: f64) -> f64 {
        if self.rate > 0.0 { self.rate } else { default }
    }
}

/// Returns the number of places, of `free` ones, to grant a rank with throughput `own_rate` if all ranks together
/// have `total_rate`: at least one, at most `want`. A single rank need not leave anything to others.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a count, not above it"
)]
pub(super) fn guided_share(free: u64, want: u64, own_rate: f64, total_rate: f64) -> u64 {
    if own_rate >= total_rate {
        return want.min(free);
    }
    let fair = free as f64 * (own_rate / total_rate);
    ((fair / 2.0).ceil() as u64).max(1).min(want).min(free)
}

/// An ample backlog holds this many seconds of work; it is smaller when less free work is left.
const AMPLE_BACKLOG_SECONDS: f64 = 4.0;
/// Limit of a backlog above two windows, in prompts, at any throughput.
const MAX_BACKLOG: f64 = 16_384.0;

/// Returns the minimum interval between the reports of a rank: rank 0 reads at most 20,000 messages per second, from
/// any number of ranks.
#[must_use]
pub fn min_report_interval(ranks: usize) -> Duration {
    let ranks = u32::try_from(ranks).unwrap_or(u32::MAX);
    Duration::from_millis(5).max(Duration::from_micros(50).saturating_mul(ranks))
}

/// Returns the number of prompts that a rank should have queued: two windows, or the work of a few seconds at `rate`
/// prompts per second. It shrinks near the end of the work (when `left` seconds of it are free), so that the rest
/// stays at rank 0 and goes to the first rank with capacity. It is never less than one window, since short answers
/// return all at once, or than the work during `report_interval`, in which the rank may not ask again.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of prompts")]
#[must_use]
pub fn target_backlog(
    window_total: u64,
    rate: f64,
    left: Option<f64>,
    report_interval: Duration,
) -> u64 {
    let (window_total, report_interval) = (window_total as f64, report_interval.as_secs_f64());
    let seconds = AMPLE_BACKLOG_SECONDS.max(report_interval * 4.0);
    let ample = (window_total * 2.0).max((rate * seconds).min(MAX_BACKLOG));
    let scale = left.map_or(1.0, |left| (left / (2.0 * seconds)).min(1.0));
    (ample * scale).max(window_total).max(rate * report_interval * 2.0).ceil() as u64
}

/// A lease is stuck when it is older than this …
const MIN_STUCK_AGE: Duration = Duration::from_secs(8);
/// … plus this multiple of the rank's median latency: a prompt may just have waited in its queue.
const STUCK_P50_FACTOR: u32 = 4;

/// A lease is stuck at this age where no latency has been measured yet.
const STUCK_AGE_UNMEASURED: Duration = Duration::from_secs(60);

/// Returns true if a lease of this age probably holds a prompt that hangs.
pub(super) fn is_lease_stuck(age: Duration, p50: Option<Duration>) -> bool {
    age >= p50.map_or(STUCK_AGE_UNMEASURED, |p50| MIN_STUCK_AGE + p50 * STUCK_P50_FACTOR)
}

/// Returns the number of prompts, of `load` at a rank, that will still be queued there when the fastest rank could
/// have finished them. Half of them, since the rank continues meanwhile.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a count")]
pub(super) fn excess_queued_count(
    load: u64,
    rate: f64,
    p50: Option<Duration>,
    min_p50: Option<Duration>,
) -> u64 {
    let (Some(p50), Some(min_p50)) = (p50, min_p50) else { return 0 };
    let wait = load as f64 / rate - p50.as_secs_f64();
    if rate <= 0.0 || wait <= min_p50.as_secs_f64() {
        return 0;
    }
    ((wait - min_p50.as_secs_f64()) * rate / 2.0).min(load as f64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_shrink_with_the_free_work() {
        assert_eq!(guided_share(1000, 400, 1.0, 4.0), 125);
        assert_eq!(guided_share(1000, 64, 1.0, 4.0), 64, "limited by the demand");
        assert_eq!(guided_share(3, 64, 1.0, 4.0), 1);
        assert_eq!((guided_share(0, 64, 1.0, 4.0), guided_share(5, 0, 1.0, 4.0)), (0, 0));
        assert_eq!(guided_share(100, 64, 2.0, 2.0), 64, "a single rank");
    }

    #[test]
    fn the_target_backlog_shrinks_with_the_free_work() {
        let few = min_report_interval(4);
        assert_eq!(target_backlog(64, 10.0, None, few), 128);
        assert_eq!(target_backlog(64, 100.0, None, few), 400);
        assert_eq!(target_backlog(64, 100.0, Some(60.0), few), 400);
        assert_eq!(target_backlog(64, 100.0, Some(2.0), few), 100);
        assert_eq!(
            target_backlog(64, 100.0, Some(0.0), few),
            64,
            "a full window is replaced at once"
        );
        assert_eq!(target_backlog(64, 40_000.0, None, few), 16_384);
        assert_eq!(target_backlog(0, 0.0, None, few), 0, "no endpoint is up");
        assert_eq!(min_report_interval(10_000), Duration::from_millis(500));
        assert_eq!(
            target_backlog(64, 100.0, Some(0.0), min_report_interval(10_000)),
            100,
            "two report intervals of work"
        );
    }

    #[test]
    fn prompts_queued_longer_than_peers_need_are_excess() {
        let second = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(
            excess_queued_count(100, 10.0, second(2), second(1)),
            35,
            "8 s in the queue, 1 s at the fastest rank"
        );
        assert_eq!(excess_queued_count(20, 10.0, second(2), second(1)), 0, "all are in flight");
        assert_eq!(excess_queued_count(20, 0.0, second(2), second(1)), 0);
        assert_eq!(excess_queued_count(20, 1.0, None, second(1)), 0);
        assert!(!is_lease_stuck(Duration::from_secs(9), second(1)));
        assert!(is_lease_stuck(Duration::from_secs(12), second(1)));
        assert!(
            !is_lease_stuck(Duration::from_secs(50), None),
            "no latency is known: answers may take that long"
        );
    }

    #[test]
    fn throughput_is_averaged_over_intervals() {
        let mut throughput = RankThroughput::default();
        assert_eq!(throughput.rate_or(7.0).to_bits(), 7f64.to_bits());
        throughput.record_settled(0, Duration::ZERO);
        throughput.record_settled(50, Duration::from_secs(1));
        throughput.record_settled(50, Duration::from_secs(2));
        assert!((throughput.measured_rate() - 50.0).abs() < 1e-9);
    }
}
