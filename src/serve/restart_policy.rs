//! The restart policy: exponential back-off between restarts of a server, and when to give up. Pure.

use std::time::{Duration, Instant};

/// Restart state of one server.
#[derive(Clone, Debug)]
pub(super) struct RestartPolicy {
    backoff: Duration,
    was_ever_ready: bool,
    /// Exits before the server was ever ready.
    failed_starts: u32,
}

/// Decision after a server exited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RestartDecision {
    /// Restart the server after this pause.
    RestartAfter(Duration),
    /// Do not restart it; with the number of failed starts.
    GiveUp(u32),
}

/// Decision when the restart of a server is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StartDecision {
    /// Nothing of the previous start is left.
    StartNow,
    /// The previous start has not yet released the memory and ports that the next one needs: decide again at this time.
    WaitUntil(Instant),
    /// The previous start was waited for long enough: start the server and report the processes that are left.
    StartAnyway,
}

/// Interval between checks for processes of the previous start.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Decides whether to start a server now, given the number of processes left of its previous start and how long to wait
/// for them.
pub(super) fn decide_start(left: usize, now: Instant, patience: Instant) -> StartDecision {
    match left {
        0 => StartDecision::StartNow,
        _ if now < patience => StartDecision::WaitUntil(now + RECHECK_INTERVAL),
        _ => StartDecision::StartAnyway,
    }
}

const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// After this uptime the back-off starts again at its minimum.
const STABLE_UPTIME: Duration = Duration::from_secs(600);
/// Starts of a server that was never ready, after which it is given up: its command must be wrong. A server that was
/// ready once may be so again and is restarted as long as the job lasts.
const MAX_FAILED_STARTS: u32 = 5;
/// Starts of a command that the shell cannot find or run. Two, since shared file systems have temporary failures.
const MAX_STARTS_WITHOUT_COMMAND: u32 = 2;
const COMMAND_NOT_FOUND_CODES: [i32; 2] = [126, 127];

impl RestartPolicy {
    pub(super) fn new() -> Self {
        Self { backoff: MIN_BACKOFF, was_ever_ready: false, failed_starts: 0 }
    }

    /// Decides what to do after an exit, given the uptime, whether the server was ready, and its exit code (`None`: a
    /// signal).
    pub(super) fn on_exit(
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

    fn restart_after(seconds: u64) -> RestartDecision {
        RestartDecision::RestartAfter(Duration::from_secs(seconds))
    }

    #[test]
    fn a_restart_waits_for_leftover_processes_but_not_forever() {
        let now = Instant::now();
        let (before, later) = (now, now + SHORT_UPTIME);
        assert_eq!(decide_start(0, now, later), StartDecision::StartNow);
        assert_eq!(decide_start(0, later, before), StartDecision::StartNow);
        assert!(
            matches!(decide_start(1, now, later), StartDecision::WaitUntil(again) if again > now)
        );
        assert_eq!(decide_start(1, later, later), StartDecision::StartAnyway);
    }

    #[test]
    fn pauses_double_up_to_a_minute_and_reset_after_a_long_uptime() {
        let mut restarts = RestartPolicy::new();
        let pauses: Vec<RestartDecision> =
            (0..8).map(|_| restarts.on_exit(SHORT_UPTIME, true, None)).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60].map(restart_after));
        assert_eq!(restarts.on_exit(STABLE_UPTIME, true, None), restart_after(1));
        assert_eq!(restarts.on_exit(SHORT_UPTIME, false, Some(1)), restart_after(2));
    }

    #[test]
    fn a_server_that_was_never_ready_is_given_up_after_five_starts() {
        let mut restarts = RestartPolicy::new();
        let ends: Vec<RestartDecision> =
            (0..5).map(|_| restarts.on_exit(SHORT_UPTIME, false, Some(1))).collect();
        assert_eq!(
            ends,
            [
                restart_after(1),
                restart_after(2),
                restart_after(4),
                restart_after(8),
                RestartDecision::GiveUp(5)
            ]
        );
    }

    #[test]
    fn a_server_that_was_ready_once_is_never_given_up() {
        let mut restarts = RestartPolicy::new();
        restarts.on_exit(SHORT_UPTIME, true, None);
        let none_is_last = |_| {
            matches!(
                restarts.on_exit(SHORT_UPTIME, false, Some(127)),
                RestartDecision::RestartAfter(_)
            )
        };
        assert!((0..20).all(none_is_last));
    }

    #[test]
    fn a_command_that_is_not_found_is_given_up_after_two_starts() {
        for code in COMMAND_NOT_FOUND_CODES {
            let mut restarts = RestartPolicy::new();
            assert_eq!(restarts.on_exit(SHORT_UPTIME, false, Some(code)), restart_after(1));
            assert_eq!(
                restarts.on_exit(SHORT_UPTIME, false, Some(code)),
                RestartDecision::GiveUp(2)
            );
        }
    }
}
