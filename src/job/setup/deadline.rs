//! When the work has to be over: from the settings, the batch system, or a signal.
//!
//! Owns the choice among these and the margin that is left for the end. Pure but for the question to the batch system.

use std::time::{Duration, Instant, SystemTime};

use tracing::{info, warn};

use crate::job::{JobError, context::JobContext};
use crate::{
    comm::{Comm, TypedComm},
    settings::{HumanDuration, Settings, Walltime},
    site::{ShutdownRequest, pbs_time_left},
};

/// Kept for the end, where nothing else is asked for: the lesser of this and a fifth of the whole time.
const MAX_DEFAULT_MARGIN: Duration = Duration::from_secs(120);
/// A launcher that asks for the end by a signal kills some time after it: PBS, by default, after ten seconds.
const SIGTERM_GRACE: Duration = Duration::from_secs(8);

/// The end of the work, if there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deadline {
    /// Nothing is under way any more from then on.
    pub(crate) at: Option<Instant>,
    /// As it was asked for.
    margin: Option<Duration>,
}

impl Deadline {
    /// Collective. Rank 0's, whose clock began then, on every rank.
    pub(crate) fn agree_on(
        comm: &mut dyn Comm,
        common: &JobContext,
        began: Instant,
    ) -> Result<Self, JobError> {
        let limit = (comm.rank() == 0)
            .then(|| Self::from_settings(&common.settings, common.batch_job_id.as_deref(), began));
        let left = |limit: &Self| limit.at.map(|at| at.saturating_duration_since(Instant::now()));
        let left = comm.broadcast_value(limit.as_ref().map(left))?;
        let margin = common.settings.margin.map(HumanDuration::to_duration);
        Ok(limit.unwrap_or(Self { at: left.map(|left| Instant::now() + left), margin }))
    }

    /// Of a job that began then; `job` is its number in the batch system.
    fn from_settings(settings: &Settings, job: Option<&str>, began: Instant) -> Self {
        let mut ends: Vec<Instant> = Vec::new();
        match settings.walltime {
            Walltime::Fixed(period) => ends.extend(began.checked_add(period.to_duration())),
            Walltime::Auto if settings.deadline.is_none() => {
                let left = job.and_then(pbs_time_left);
                ends.extend(left.and_then(|left| Instant::now().checked_add(left)));
            }
            Walltime::Auto => {}
        }
        if let Some(deadline) = settings.deadline {
            // What is past is over at once.
            let left =
                deadline.to_system_time().duration_since(SystemTime::now()).unwrap_or_default();
            ends.extend(Instant::now().checked_add(left));
        }
        let margin = settings.margin.map(HumanDuration::to_duration);
        let limit = Self { at: subtract_margin(began, ends.into_iter().min(), margin), margin };
        if let Some(at) = limit.at {
            let left = at.saturating_duration_since(Instant::now());
            info!(
                seconds = left.as_secs(),
                "the walltime ends the work after that, if nothing else does"
            );
            if left.is_zero() {
                warn!("no walltime is left after the margin for the end: nothing is asked");
            }
        }
        limit
    }

    /// When all has to be over after a signal.
    pub(crate) fn after_signal(self, ask: ShutdownRequest, now: Instant) -> Instant {
        let grace = match ask {
            ShutdownRequest::Now => self.margin.unwrap_or(SIGTERM_GRACE).min(SIGTERM_GRACE),
            ShutdownRequest::Soon => self.margin.unwrap_or(MAX_DEFAULT_MARGIN),
        };
        let end = now + grace;
        self.at.map_or(end, |at| at.min(end))
    }
}

/// The whole time, less the margin.
fn subtract_margin(
    began: Instant,
    whole: Option<Instant>,
    margin: Option<Duration>,
) -> Option<Instant> {
    let whole = whole?;
    let fifth = whole.saturating_duration_since(began) / 5;
    let margin = margin.unwrap_or(fifth.min(MAX_DEFAULT_MARGIN));
    Some(whole.checked_sub(margin).unwrap_or(began).max(began))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_margin_is_a_fifth_and_at_most_two_minutes() {
        let began = Instant::now();
        let seconds = Duration::from_secs;
        let end_after = |whole, margin| {
            subtract_margin(began, Some(began + seconds(whole)), margin)
                .map(|end| (end - began).as_secs())
        };
        assert_eq!(end_after(20, None), Some(16));
        assert_eq!(end_after(36_000, None), Some(35_880));
        assert_eq!(end_after(60, Some(seconds(10))), Some(50));
        assert_eq!(end_after(60, Some(seconds(100))), Some(0), "there is none left");
        assert_eq!(subtract_margin(began, None, None), None);
    }

    #[test]
    fn a_signal_ends_the_work_within_the_launchers_grace() {
        let now = Instant::now();
        let limit = Deadline { at: None, margin: None };
        assert_eq!(limit.after_signal(ShutdownRequest::Now, now), now + SIGTERM_GRACE);
        assert_eq!(limit.after_signal(ShutdownRequest::Soon, now), now + MAX_DEFAULT_MARGIN);
        let at = now + Duration::from_secs(3);
        assert_eq!(
            Deadline { at: Some(at), margin: None }.after_signal(ShutdownRequest::Now, now),
            at
        );
    }
}
