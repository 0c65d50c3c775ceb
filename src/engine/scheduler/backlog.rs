//! What a rank's engine has in hand: what it says of it, and how prompts are taken from it again.
//!
//! Owns when a word is due. Whoever gives prompts decides how many to give; where they come from, and who else works on
//! them, is unknown here.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::Scheduler;
use crate::engine::{EngineEvent, endpoint_state::EndpointState};

/// What the engine could use, for whoever gives it prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EngineBacklog {
    /// Prompts taken in since it began.
    pub received_count: u64,
    /// Prompts that wait to be sent.
    pub queued_count: u64,
    /// Sequences that the windows of its endpoints hold.
    pub window_total: u64,
    /// Prompts answered a second.
    pub answer_rate: f64,
    /// Permits for which it has nothing to send.
    pub idle_permits: u64,
    /// What a prompt usually takes at its fastest endpoint.
    pub p50_latency: Option<Duration>,
}

/// Work for so long is ample, in seconds.
pub(crate) const AMPLE_BACKLOG_SECONDS: f64 = 4.0;
/// The loop goes round every second at least.
const SUSPEND_THRESHOLD: Duration = Duration::from_secs(4);
/// Words of this kind are no closer together.
const MIN_REPORT_INTERVAL: Duration = Duration::from_millis(5);
/// Endpoints that are all down for so long may stay so: others take the work.
const DOWN_RETURN_DELAY: Duration = Duration::from_secs(2);

/// What was said last.
#[derive(Debug)]
pub(crate) struct BacklogReporter {
    last_backlog: EngineBacklog,
    reported_down: bool,
    reported_drained: bool,
    next_report: Instant,
}

impl BacklogReporter {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            last_backlog: EngineBacklog::default(),
            reported_down: false,
            reported_drained: false,
            next_report: now,
        }
    }

    /// When there may be something to say that was held back.
    pub(crate) fn report_due(&self, driver: &Scheduler) -> Option<Instant> {
        let changed = (driver.received_count, driver.queue.len() as u64)
            != (self.last_backlog.received_count, self.last_backlog.queued_count);
        changed.then_some(self.next_report)
    }
}

impl Scheduler {
    /// A process that was stopped, or swapped out, was away itself: what stood still meanwhile was not the endpoints.
    pub(crate) fn detect_suspend(&mut self, now: Instant) {
        if now - self.last_tick > SUSPEND_THRESHOLD {
            self.last_progress = now;
            self.all_down_since = self.all_down_since.map(|_| now);
        }
        self.last_tick = now;
    }

    /// Are no more prompts to be expected for now?
    pub(crate) fn is_supply_exhausted(&self) -> bool {
        !self.input_open || (self.supply_exhausted && self.received_count >= self.supplied_count)
    }

    /// Are prompts on their way that would make a full list of what is a short one now? Waited for a moment only.
    pub(crate) fn is_filling_batch(&mut self, now: Instant) -> bool {
        let list = self.servers.iter().map(EndpointState::max_batch_size).max().unwrap_or(1);
        if self.received_count >= self.supplied_count || self.queue.len() >= list {
            self.batch_fill_since = None;
            return false;
        }
        now - *self.batch_fill_since.get_or_insert(now) < self.policy.max_batch_wait
    }

    /// Says what there is to say: that prompts are needed, that nobody is up or somebody is again.
    pub(crate) fn report_backlog(&mut self, now: Instant, tell: &impl Fn(EngineEvent)) {
        if self.all_down_since.is_some() != self.backlog_reporter.reported_down {
            self.backlog_reporter.reported_down = self.all_down_since.is_some();
            tell(EngineEvent::Progress(self.current_progress()));
        }
        if self.draining
            || !self.received_revoked.is_empty()
            || self.return_deadline().is_some_and(|at| at <= now)
        {
            self.return_unsent(tell);
        }
        if self.draining
            && self.in_flight_sequences == 0
            && !std::mem::replace(&mut self.backlog_reporter.reported_drained, true)
        {
            tell(EngineEvent::Progress(self.current_progress()));
        }
        if now < self.backlog_reporter.next_report {
            return;
        }
        let in_hand = self.current_backlog(now);
        let before = &self.backlog_reporter.last_backlog;
        let same = (
            in_hand.received_count,
            in_hand.queued_count,
            in_hand.window_total,
            in_hand.idle_permits,
        ) == (
            before.received_count,
            before.queued_count,
            before.window_total,
            before.idle_permits,
        );
        let ample =
            (in_hand.window_total as f64 * 2.0).max(in_hand.answer_rate * AMPLE_BACKLOG_SECONDS);
        let idles = (in_hand.idle_permits > 0) != (before.idle_permits > 0);
        if same || (in_hand.queued_count as f64 * 2.0 > ample && !idles) {
            return;
        }
        self.backlog_reporter.last_backlog = in_hand;
        self.backlog_reporter.next_report = now + MIN_REPORT_INTERVAL;
        tell(EngineEvent::Backlog(in_hand));
    }

    fn current_backlog(&self, now: Instant) -> EngineBacklog {
        let up = || self.servers.iter().filter(|it| it.is_up());
        let idle = if self.queue.len() == 0 && !self.paused {
            up().filter(|it| it.is_healthy()).map(|it| it.free_permits(now)).sum::<usize>()
        } else {
            0
        };
        EngineBacklog {
            received_count: self.received_count,
            queued_count: self.queue.len() as u64,
            window_total: up().map(|it| it.window.size() as u64).sum(),
            answer_rate: up().map(|it| it.batch_sizer.answer_rate()).sum(),
            idle_permits: idle as u64,
            p50_latency: up().filter_map(|it| it.latency.p50_latency(1)).min(),
        }
    }

    /// When others should have what waits here, if nobody comes up before.
    pub(crate) fn return_deadline(&self) -> Option<Instant> {
        let wait = DOWN_RETURN_DELAY.min(self.policy.no_progress_timeout / 2);
        self.all_down_since.filter(|_| self.queue.len() > 0).map(|since| since + wait)
    }

    /// Gives back what is not under way.
    pub(crate) fn return_unsent(&mut self, tell: &impl Fn(EngineEvent)) {
        let mut indexes = self.queue.remove_matching(|_| true);
        indexes.append(&mut self.received_revoked);
        if !indexes.is_empty() {
            tell(EngineEvent::PromptsReturned(indexes));
        }
    }

    /// Others have settled these: they are not sent, and what is under way for them alone is ended.
    pub(crate) fn drop_redundant(&mut self, indexes: &[u64]) {
        let indexes: HashSet<u64> = indexes.iter().copied().collect();
        self.queue.remove_matching(|index| indexes.contains(&index));
        let concerned: Vec<u64> = self
            .in_flight_requests
            .iter()
            .filter(|(_, it)| it.batch.tasks.iter().any(|it| indexes.contains(&it.prompt.index)))
            .map(|(&id, _)| id)
            .collect();
        self.settled_elsewhere.extend(indexes);
        for id in concerned {
            self.cancel_if_redundant(Some(id));
        }
    }
}
