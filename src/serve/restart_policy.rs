//! When a server that has ended is started again, and when not: pure.

use std::time::{Duration, Instant};

/// What is known of one server's starts.
#[derive(Clone, Debug)]
pub(super) struct RestartPolicy {
    backoff: Duration,
    was_ever_ready: bool,
    /// Ends before it ever was ready.
    failed_starts: u32,
}

/// What to do with a server that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RestartDecision {
    /// Start it after this pause.
    RestartAfter(Duration),
    /// Leave it; it has ended so many times.
    GiveUp(u32),
}

/// What to do with a server whose time to be started again has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartDecision {
    /// Start it.
    Start,
    /// Its last start has not given back yet what the next one needs: look again then.
    WaitUntil(Instant),
    /// It never will, it seems: start it, and say so.
    StartAnyway,
}

/// So often is looked at what is left.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// With so many processes left of its last start, which are waited for until then.
pub(super) fn decide_start(left: usize, now: Instant, patience: Instant) -> StartDecision {
    match left {
        0 => StartDecision::Start,
        _ if now < patience => StartDecision::WaitUntil(now + RECHECK_INTERVAL),
        _ => StartDecision::StartAnyway,
    }
}

const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// After so long the pauses are short again.
const STABLE_UPTIME: Duration = Duration::from_secs(600);
/// A server that was ready once may be again, so it is tried for as long as the job lasts; one that never was is wrong.
const MAX_FAILED_STARTS: u32 = 5;
/// The shell did not find the command, or may not run it. A second look, since shared file systems have bad moments.
const MAX_STARTS_WITHOUT_COMMAND: u32 = 2;
const COMMAND_NOT_FOUND_CODES: [i32; 2] = [126, 127];

impl RestartPolicy {
    pub(super) fn new() -> Self {
        Self { backoff: MIN_BACKOFF, was_ever_ready: false, failed_starts: 0 }
    }

    /// It has ended, after so long, with this exit code (none: by a signal).
    pub(super) fn after(
        &mut self,
        up: Duration,
        was_ready: bool,
        code: Option<i32>,
    ) -> RestartDecision {
        self.was_ever_ready |= was_ready;
        if up >= STABLE_UPTIME {
            self.backoff = MIN_BACKOFF;
        }
        if !self.was_ever_ready {
            self.failed_starts += 1;
            let no_command = code.is_some_and(|code| COMMAND_NOT_FOUND_CODES.contains(&code));
            if self.failed_starts
                >= if no_command { MAX_STARTS_WITHOUT_COMMAND } else { MAX_FAILED_STARTS }
            {
                return RestartDecision::GiveUp(self.failed_starts);
            }
        }
        let pause = self.backoff;
        self.backoff = (pause * 2).min(MAX_BACKOFF);
        RestartDecision::RestartAfter(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT_UPTIME: Duration = Duration::from_secs(3);

    fn again(seconds: u64) -> RestartDecision {
        RestartDecision::RestartAfter(Duration::from_secs(seconds))
    }

    #[test]
    fn what_is_left_of_the_last_start_is_waited_for_but_not_for_ever() {
        let now = Instant::now();
        let (before, later) = (now, now + SHORT_UPTIME);
        assert_eq!(decide_start(0, now, later), StartDecision::Start);
        assert_eq!(decide_start(0, later, before), StartDecision::Start);
        assert!(
            matches!(decide_start(1, now, later), StartDecision::WaitUntil(again) if again > now)
        );
        assert_eq!(decide_start(1, later, later), StartDecision::StartAnyway);
    }

    #[test]
    fn pauses_double_to_a_minute_and_are_short_again_after_a_good_life() {
        let mut restarts = RestartPolicy::new();
        let pauses: Vec<RestartDecision> =
            (0..8).map(|_| restarts.after(SHORT_UPTIME, true, None)).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60].map(again));
        assert_eq!(restarts.after(STABLE_UPTIME, true, None), again(1));
        assert_eq!(restarts.after(SHORT_UPTIME, false, Some(1)), again(2));
    }

    #[test]
    fn a_server_that_never_was_ready_is_given_up_after_five_ends() {
        let mut restarts = RestartPolicy::new();
        let ends: Vec<RestartDecision> =
            (0..5).map(|_| restarts.after(SHORT_UPTIME, false, Some(1))).collect();
        assert_eq!(ends, [again(1), again(2), again(4), again(8), RestartDecision::GiveUp(5)]);
    }

    #[test]
    fn a_server_that_was_ready_once_is_never_given_up() {
        let mut restarts = RestartPolicy::new();
        restarts.after(SHORT_UPTIME, true, None);
        let none_is_last = |_| {
            matches!(
                restarts.after(SHORT_UPTIME, false, Some(127)),
                RestartDecision::RestartAfter(_)
            )
        };
        assert!((0..20).all(none_is_last));
    }

    #[test]
    fn a_command_that_is_not_there_is_looked_for_twice() {
        for code in COMMAND_NOT_FOUND_CODES {
            let mut restarts = RestartPolicy::new();
            assert_eq!(restarts.after(SHORT_UPTIME, false, Some(code)), again(1));
            assert_eq!(restarts.after(SHORT_UPTIME, false, Some(code)), RestartDecision::GiveUp(2));
        }
    }
}
