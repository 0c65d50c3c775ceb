//! The deadline: the time by which all requests must have ended, from the settings, the batch system or a signal.
//!
//! Owns the choice among these and the margin that is kept for the end of the job. Pure, except that it queries the batch
//! system. The coordinator in `dispatch` enforces the deadline; signals are caught in [`site`](crate::site).

use std::time::{Duration, Instant, SystemTime};

use tracing::{info, warn};

use crate::job::{JobError, context::JobContext};
use crate::{
    comm::{Comm, TypedComm},
    settings::{HumanDuration, Settings, Walltime},
    site::{ShutdownRequest, pbs_time_left},
};

/// Upper bound of the default margin, which is a fifth of the walltime: time to write and gather answers.
const MAX_DEFAULT_MARGIN: Duration = Duration::from_secs(120);
/// Time to end after SIGTERM. A launcher sends SIGKILL some time after SIGTERM: PBS, by default, after ten seconds.
const SIGTERM_GRACE: Duration = Duration::from_secs(8);

/// The end of the work; unlimited by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Deadline {
    /// Time from which on no request may be in flight.
    pub(crate) at: Option<Instant>,
    /// Value of `--margin`.
    margin: Option<Duration>,
}

impl Deadline {
    /// Collective. Computes the deadline on rank 0 and distributes it as time left, since clocks differ between nodes. The
    /// walltime counts from `began`.
    pub(crate) fn agree_on(
        comm: &mut dyn Comm,
        context: &JobContext,
        began: Instant,
    ) -> Result<Self, JobError> {
        let deadline = (comm.rank() == 0).then(|| {
            Self::from_settings(&context.settings, context.batch_job_id.as_deref(), began)
        });
        let left =
            |deadline: &Self| deadline.at.map(|at| at.saturating_duration_since(Instant::now()));
        let left = comm.broadcast_value(deadline.as_ref().map(left))?;
        let margin = context.settings.margin.map(HumanDuration::to_duration);
        Ok(deadline.unwrap_or(Self { at: left.map(|left| Instant::now() + left), margin }))
    }

    /// Computes the deadline of a job that began at `began`; `job` is its id in the batch system.
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
            // A deadline in the past means that no time is left.
            let left =
                deadline.to_system_time().duration_since(SystemTime::now()).unwrap_or_default();
            ends.extend(Instant::now().checked_add(left));
        }
        let margin = settings.margin.map(HumanDuration::to_duration);
        let deadline = Self { at: subtract_margin(began, ends.into_iter().min(), margin), margin };
        if let Some(at) = deadline.at {
            let left = at.saturating_duration_since(Instant::now());
            let left_s = left.as_secs();
            info!(
                event = "deadline_set",
                left_s,
                "deadline set: {} left (walltime less margin)",
                humantime::format_duration(Duration::from_secs(left_s))
            );
            if left.is_zero() {
                warn!(
                    event = "deadline_passed",
                    "deadline passed: no time is left after the margin (--margin), no prompts are sent"
                );
            }
        }
        deadline
    }

    /// Returns the time by which all requests must have ended after a signal.
    pub(crate) fn after_signal(self, ask: ShutdownRequest, now: Instant) -> Instant {
        let grace = match ask {
            ShutdownRequest::Now => self.margin.unwrap_or(SIGTERM_GRACE).min(SIGTERM_GRACE),
            ShutdownRequest::Soon => self.margin.unwrap_or(MAX_DEFAULT_MARGIN),
        };
        let end = now + grace;
        self.at.map_or(end, |at| at.min(end))
    }
}

/// Returns the end of the work: the end of the walltime less the margin, but not before `began`.
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
        assert_eq!(
            end_after(60, Some(seconds(100))),
            Some(0),
            "the margin is longer than the walltime"
        );
        assert_eq!(subtract_margin(began, None, None), None);
    }

    #[test]
    fn a_signal_ends_the_work_within_the_launchers_grace() {
        let now = Instant::now();
        let deadline = Deadline { at: None, margin: None };
        assert_eq!(deadline.after_signal(ShutdownRequest::Now, now), now + SIGTERM_GRACE);
        assert_eq!(deadline.after_signal(ShutdownRequest::Soon, now), now + MAX_DEFAULT_MARGIN);
        let at = now + Duration::from_secs(3);
        assert_eq!(
            Deadline { at: Some(at), margin: None }.after_signal(ShutdownRequest::Now, now),
            at
        );
    }
}
