//! The reports of the engine's backlog to the side that grants prompts.
//!
//! Owns what was reported last and when the next report is due. The report itself is in `engine::events`. The receiver
//! decides how many prompts to grant; where prompts come from, and which other ranks work on them, is unknown here.

use std::time::{Duration, Instant};

use crate::{domain::ModelSet, engine::EngineBacklog};

/// Seconds of work that count as ample.
const AMPLE_BACKLOG_SECONDS: f64 = 4.0;
const MIN_REPORT_INTERVAL: Duration = Duration::from_millis(5);

/// The reports sent last.
#[derive(Debug)]
pub(crate) struct BacklogReporter {
    last_backlog: EngineBacklog,
    reported_models: ModelSet,
    reported_drained: bool,
    next_report: Instant,
}

impl BacklogReporter {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            last_backlog: EngineBacklog::default(),
            reported_models: ModelSet::default(),
            reported_drained: false,
            next_report: now,
        }
    }

    /// Returns when a change that was held back may be reported.
    pub(crate) fn report_due(&self, received: u64, queued: u64) -> Option<Instant> {
        let last = &self.last_backlog;
        let is_changed = (received, queued) != (last.received_count, last.queued_count);
        is_changed.then_some(self.next_report)
    }

    /// Returns whether it is news that endpoints that are up serve these models, and no others.
    pub(crate) fn is_models_news(&mut self, served: ModelSet) -> bool {
        std::mem::replace(&mut self.reported_models, served) != served
    }

    /// Returns true the first time.
    pub(crate) fn is_drained_news(&mut self) -> bool {
        !std::mem::replace(&mut self.reported_drained, true)
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        now >= self.next_report
    }

    /// Returns whether the backlog is to be reported, and counts it as reported then: it has changed, and more prompts
    /// are needed soon, or the endpoints have begun or ceased to be idle.
    pub(crate) fn should_report(&mut self, backlog: EngineBacklog, now: Instant) -> bool {
        // An ample backlog is not reported: rank 0 receives the reports of all ranks.
        let last = &self.last_backlog;
        let is_idle_news = (backlog.idle_permits > 0) != (last.idle_permits > 0);
        if has_same_counts(&backlog, last) || (is_ample(&backlog) && !is_idle_news) {
            return false;
        }
        self.last_backlog = backlog;
        self.next_report = now + MIN_REPORT_INTERVAL;
        true
    }
}

/// Returns whether the counts that matter for grants are equal.
fn has_same_counts(backlog: &EngineBacklog, last: &EngineBacklog) -> bool {
    backlog.received_count == last.received_count
        && backlog.queued_count == last.queued_count
        && backlog.window_total == last.window_total
        && backlog.idle_permits == last.idle_permits
}

/// Returns whether at least half of an ample backlog is queued.
fn is_ample(backlog: &EngineBacklog) -> bool {
    let ample =
        (backlog.window_total as f64 * 2.0).max(backlog.answer_rate * AMPLE_BACKLOG_SECONDS);
    backlog.queued_count as f64 * 2.0 > ample
}
