//! How much a rank is granted at a time: guided self-scheduling.
//!
//! Half of the rank's fair share of what is left, by the paces that were seen: large at first, so that there are few
//! messages; single prompts at the end, so that ranks end together whatever their pace. Never more than was asked for.

use std::time::Duration;

/// How fast a rank is, in prompts a second.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    rate: f64,
    since: Option<Duration>,
    settled: u64,
}

/// A pace is looked at so often.
const EVERY: Duration = Duration::from_secs(2);

impl Pace {
    pub(super) fn settled(&mut self, count: u64, now: Duration) {
        self.settled += count;
        let since = *self.since.get_or_insert(now);
        let passed = now.saturating_sub(since);
        if passed >= EVERY {
            let rate = self.settled as f64 / passed.as_secs_f64();
            self.rate = if self.rate > 0.0 { (self.rate + rate) / 2.0 } else { rate };
            (self.since, self.settled) = (Some(now), 0);
        }
    }

    /// What is known of it; nothing before it was looked at.
    pub(super) fn known(self) -> f64 {
        self.rate
    }

    /// Where nothing is known yet, what a rank asks for says how large it is.
    pub(super) fn of(self, want: u64) -> f64 {
        if self.rate > 0.0 { self.rate } else { want as f64 }
    }
}

/// What a rank of pace `mine` is granted of `free` places if all ranks together have the pace `all`: at least one, at most
/// `want`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a count, not above it"
)]
pub(super) fn share(free: u64, want: u64, mine: f64, all: f64) -> u64 {
    let fair = if all > 0.0 { free as f64 * (mine / all).min(1.0) } else { free as f64 };
    ((fair / 2.0).ceil() as u64).max(1).min(want).min(free)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_shrink_with_what_is_left() {
        assert_eq!(share(1000, 400, 1.0, 4.0), 125);
        assert_eq!(share(1000, 64, 1.0, 4.0), 64, "no more than asked for");
        assert_eq!(share(3, 64, 1.0, 4.0), 1);
        assert_eq!((share(0, 64, 1.0, 4.0), share(5, 0, 1.0, 4.0)), (0, 0));
        assert_eq!(share(100, 64, 0.0, 0.0), 50);
    }

    #[test]
    fn a_pace_is_what_was_seen() {
        let mut pace = Pace::default();
        assert_eq!(pace.of(7).to_bits(), 7f64.to_bits());
        pace.settled(0, Duration::ZERO);
        pace.settled(50, Duration::from_secs(1));
        pace.settled(50, Duration::from_secs(2));
        assert!((pace.known() - 50.0).abs() < 1e-9);
    }
}
