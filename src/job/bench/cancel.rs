//! Cancellation of a benchmark by a signal to any rank or by the deadline.
//!
//! Owns the vote by which ranks agree on it, in a collective a few times per second while they measure. What a
//! cancelled measurement means for the report is decided in `measure.rs`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::job::{JobError, context::all_ok, setup::deadline::Deadline};
use crate::{
    comm::{Comm, ReduceOp},
    site::SignalHandler,
};

/// Interval between votes while ranks measure.
pub(super) const VOTE_INTERVAL: Duration = Duration::from_millis(200);

const VOTE_RUNNING: u64 = 1;
const VOTE_SIGNAL: u64 = 2;
const VOTE_WALLTIME: u64 = 4;

/// Sources of cancellation, and the reason once all ranks have agreed on it.
pub(super) struct BenchCancellation {
    signal_received: Arc<AtomicBool>,
    signals: SignalHandler,
    deadline: Deadline,
    reason: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CancelVote {
    /// Some rank still waits for outcomes.
    Continue,
    /// All ranks have all their outcomes.
    Done,
    /// All ranks stop measuring, for this reason.
    Cancelled(&'static str),
}

impl BenchCancellation {
    /// Collective. Starts to catch signals on all ranks.
    pub(super) fn catch_signals(comm: &mut dyn Comm, deadline: Deadline) -> Result<Self, JobError> {
        let handler = SignalHandler::install_handler().map_err(JobError::SignalHandler);
        let signals = all_ok(comm, handler)?;
        let signal_received = Arc::new(AtomicBool::new(false));
        let note = Arc::clone(&signal_received);
        signals.set_listener(Some(Box::new(move |_| note.store(true, Ordering::Relaxed))));
        Ok(Self { signal_received, signals, deadline, reason: None })
    }

    /// Collective. Combines the states of all ranks: whether any is still running, was signalled, or is past its
    /// deadline.
    pub(super) fn collect_votes(&mut self, comm: &mut dyn Comm, is_running: bool) -> CancelVote {
        let is_late = self.deadline.at.is_some_and(|at| Instant::now() >= at);
        let signal_received = self.signal_received.load(Ordering::Relaxed);
        let flag = |bit, is: bool| if is { bit } else { 0 };
        let mut votes = [flag(VOTE_RUNNING, is_running)
            | flag(VOTE_SIGNAL, signal_received)
            | flag(VOTE_WALLTIME, is_late)];
        comm.all_reduce(&mut votes, ReduceOp::Or);
        let vote = decode_votes(votes[0]);
        if let CancelVote::Cancelled(reason) = vote {
            self.reason = Some(reason);
            // A second signal means that waiting is not acceptable: it gets its default effect.
            self.signals.set_listener(None);
        }
        vote
    }

    /// Returns the reason why measuring has ended; the same on all ranks.
    pub(super) fn cancel_reason(&self) -> Option<&'static str> {
        self.reason
    }
}

/// Interprets the bitwise or of all ranks' votes.
fn decode_votes(votes: u64) -> CancelVote {
    match votes {
        votes if votes & VOTE_SIGNAL != 0 => CancelVote::Cancelled("stopped by a signal"),
        votes if votes & VOTE_WALLTIME != 0 => CancelVote::Cancelled("deadline reached"),
        votes if votes & VOTE_RUNNING != 0 => CancelVote::Continue,
        _ => CancelVote::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rank_is_enough_to_continue_and_a_signal_or_deadline_outweighs_it() {
        assert_eq!(decode_votes(0), CancelVote::Done);
        assert_eq!(decode_votes(VOTE_RUNNING), CancelVote::Continue);
        for stops in [VOTE_SIGNAL, VOTE_WALLTIME, VOTE_SIGNAL | VOTE_WALLTIME] {
            assert!(matches!(decode_votes(stops), CancelVote::Cancelled(_)));
            assert_eq!(
                decode_votes(stops),
                decode_votes(stops | VOTE_RUNNING),
                "a rank that is still running does not prevent it"
            );
        }
    }
}
