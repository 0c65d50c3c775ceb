//! Who ends a bench before it is through: a signal to any of its ranks, or the end of the walltime.
//!
//! Owns how ranks agree on it: while they measure they come together a few times a second. What was measured by then is told;
//! what that means for a report is not its business.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::job::{ErrorCodeFn, JobError, context::all_ok, setup::deadline::Deadline};
use crate::{
    comm::{Comm, ReduceOp},
    site::SignalHandler,
};

/// How long a rank measures before it asks the others how they stand.
pub(super) const VOTE_INTERVAL: Duration = Duration::from_millis(200);

const VOTE_RUNNING: u64 = 1;
const VOTE_SIGNAL: u64 = 2;
const VOTE_WALLTIME: u64 = 4;

/// What ends it, if anything.
pub(super) struct BenchCancellation {
    asked: Arc<AtomicBool>,
    signals: SignalHandler,
    deadline: Deadline,
    reason: Option<&'static str>,
}

/// What comes of one time together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CancelVote {
    /// Some rank has not got all outcomes yet.
    Continue,
    /// All ranks have.
    Done,
    /// The end of all, for this reason.
    Cancelled(&'static str),
}

impl BenchCancellation {
    /// Collective. From now on signals are listened to.
    pub(super) fn catch_signals(
        comm: &mut dyn Comm,
        limit: Deadline,
        code: ErrorCodeFn,
    ) -> Result<Self, JobError> {
        let caught = SignalHandler::install_handler().map_err(JobError::SignalHandler);
        let signals = all_ok(comm, caught, code)?;
        let asked = Arc::new(AtomicBool::new(false));
        let note = Arc::clone(&asked);
        signals.tell(Some(Box::new(move |_| note.store(true, Ordering::Relaxed))));
        Ok(Self { asked, signals, deadline: limit, reason: None })
    }

    /// Collective. Is any rank going on, or is it over for all of them?
    pub(super) fn collect_votes(&mut self, comm: &mut dyn Comm, going: bool) -> CancelVote {
        let late = self.deadline.at.is_some_and(|at| Instant::now() >= at);
        let asked = self.asked.load(Ordering::Relaxed);
        let one = |bit, is: bool| if is { bit } else { 0 };
        let mut votes =
            [one(VOTE_RUNNING, going) | one(VOTE_SIGNAL, asked) | one(VOTE_WALLTIME, late)];
        comm.all_reduce(&mut votes, ReduceOp::Or);
        let vote = decode_votes(votes[0]);
        if let CancelVote::Cancelled(why) = vote {
            self.reason = Some(why);
            // Whoever asks again cannot wait: it does what it always does.
            self.signals.tell(None);
        }
        vote
    }

    /// Why nothing more is measured, on any rank.
    pub(super) fn cancel_reason(&self) -> Option<&'static str> {
        self.reason
    }
}

/// What all ranks' bits mean.
fn decode_votes(votes: u64) -> CancelVote {
    match votes {
        it if it & VOTE_SIGNAL != 0 => CancelVote::Cancelled("a signal asked for the end"),
        it if it & VOTE_WALLTIME != 0 => CancelVote::Cancelled("the walltime was over"),
        it if it & VOTE_RUNNING != 0 => CancelVote::Continue,
        _ => CancelVote::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rank_is_enough_to_go_on_and_to_end() {
        assert_eq!(decode_votes(0), CancelVote::Done);
        assert_eq!(decode_votes(VOTE_RUNNING), CancelVote::Continue);
        for stops in [VOTE_SIGNAL, VOTE_WALLTIME, VOTE_SIGNAL | VOTE_WALLTIME] {
            assert!(matches!(decode_votes(stops), CancelVote::Cancelled(_)));
            assert_eq!(
                decode_votes(stops),
                decode_votes(stops | VOTE_RUNNING),
                "who is not through cannot hinder it"
            );
        }
    }
}
