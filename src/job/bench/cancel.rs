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

use crate::job::{CodeOf, JobError, context::everywhere, setup::deadline::Limit};
use crate::{
    comm::{Combine, Comm},
    site::Signals,
};

/// How long a rank measures before it asks the others how they stand.
pub(super) const SLICE: Duration = Duration::from_millis(200);

const GOING: u64 = 1;
const SIGNAL: u64 = 2;
const WALLTIME: u64 = 4;

/// What ends it, if anything.
pub(super) struct Stop {
    asked: Arc<AtomicBool>,
    signals: Signals,
    limit: Limit,
    over: Option<&'static str>,
}

/// What comes of one time together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vote {
    /// Some rank has not got all outcomes yet.
    GoOn,
    /// All ranks have.
    Done,
    /// The end of all, for this reason.
    Stop(&'static str),
}

impl Stop {
    /// Collective. From now on signals are listened to.
    pub(super) fn listens(
        comm: &mut dyn Comm,
        limit: Limit,
        code: CodeOf,
    ) -> Result<Self, JobError> {
        let caught = Signals::catch().map_err(JobError::Signals);
        let signals = everywhere(comm, caught, code)?;
        let asked = Arc::new(AtomicBool::new(false));
        let note = Arc::clone(&asked);
        signals.tell(Some(Box::new(move |_| note.store(true, Ordering::Relaxed))));
        Ok(Self { asked, signals, limit, over: None })
    }

    /// Collective. Is any rank going on, or is it over for all of them?
    pub(super) fn vote(&mut self, comm: &mut dyn Comm, going: bool) -> Vote {
        let late = self.limit.at.is_some_and(|at| Instant::now() >= at);
        let asked = self.asked.load(Ordering::Relaxed);
        let one = |bit, is: bool| if is { bit } else { 0 };
        let mut votes = [one(GOING, going) | one(SIGNAL, asked) | one(WALLTIME, late)];
        comm.all_reduce(&mut votes, Combine::Or);
        let vote = counted(votes[0]);
        if let Vote::Stop(why) = vote {
            self.over = Some(why);
            // Whoever asks again cannot wait: it does what it always does.
            self.signals.tell(None);
        }
        vote
    }

    /// Why nothing more is measured, on any rank.
    pub(super) fn over(&self) -> Option<&'static str> {
        self.over
    }
}

/// What all ranks' bits mean.
fn counted(votes: u64) -> Vote {
    match votes {
        it if it & SIGNAL != 0 => Vote::Stop("a signal asked for the end"),
        it if it & WALLTIME != 0 => Vote::Stop("the walltime was over"),
        it if it & GOING != 0 => Vote::GoOn,
        _ => Vote::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_rank_is_enough_to_go_on_and_to_end() {
        assert_eq!(counted(0), Vote::Done);
        assert_eq!(counted(GOING), Vote::GoOn);
        for stops in [SIGNAL, WALLTIME, SIGNAL | WALLTIME] {
            assert!(matches!(counted(stops), Vote::Stop(_)));
            assert_eq!(
                counted(stops),
                counted(stops | GOING),
                "who is not through cannot hinder it"
            );
        }
    }
}
