//! The state of a rank's endpoints: who is up, who is put aside and until when. Pure but for instants it is given.
//!
//! An endpoint is put aside when it is gone, or when it fails one request after the other; it is asked again with growing
//! pauses, and an answer brings it back. Until it has answered a request it gets one at a time: one that hangs says of
//! itself that it is well.

pub(crate) mod batch_size;
pub(crate) mod concurrency;
pub(crate) mod render_check;
pub(crate) mod timeouts;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::EnginePolicy;
use crate::domain::{ServerRoutes, TimelineSlot, Url};
use batch_size::BatchSizer;
use concurrency::ConcurrencyController;
use render_check::RenderCheck;
use timeouts::LatencyModel;

/// One of them.
#[derive(Debug)]
pub(super) struct EndpointState {
    pub(super) url: Url,
    /// The URL as answers carry it.
    pub(super) label: Arc<str>,
    /// Its place in the job's timeline, and whether it was up when that was looked at last.
    pub(super) timeline_row: TimelineSlot,
    pub(super) was_up: bool,
    /// Permits taken.
    pub(super) permits_taken: usize,
    availability: EndpointAvailability,
    /// Faults since the last answer.
    consecutive_faults: u32,
    probe_backoff: Duration,
    /// Refusals for want of room since the last answer.
    consecutive_refusals: u32,
    /// It was put aside, and has answered nothing since.
    on_probation: bool,
    /// Since it came up.
    pub(super) answered_since_up: bool,
    /// In this run.
    pub(super) ever_answered: bool,
    /// The longest list it takes, as far as that is known; 1 for servers that take no lists.
    pub(super) batch_limit: usize,
    pub(super) window: ConcurrencyController,
    pub(super) batch_sizer: BatchSizer,
    pub(super) latency: LatencyModel,
    /// May conversations be rendered here for it?
    pub(super) render_check: RenderCheck,
    /// Questions in a row after its load that were not answered.
    missed_load_polls: u32,
    /// Its window was used up when all was sent that could be.
    pub(super) was_full: bool,
    /// When it is to say how much it has to do; none while it is being asked.
    next_load_poll: Option<Instant>,
    /// A rate limit lets the next request begin then.
    throttled_until: Instant,
}

/// An endpoint as the engine is given it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where it is.
    pub url: Url,
    /// What it can be asked; none while it is not ready.
    pub ready_routes: Option<ServerRoutes>,
    /// Its place among all of the job's.
    pub timeline_row: TimelineSlot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndpointAvailability {
    Up,
    /// To be asked again at this time.
    Suspended(Instant),
    /// Being asked.
    Probing,
}

/// Faults in a row before an endpoint is looked at.
const SUSPEND_AFTER_FAULTS: u32 = 3;
/// Questions after its load that a server may leave unanswered in a row.
const MAX_MISSED_LOAD_POLLS: u32 = 3;
const MIN_PROBE_BACKOFF: Duration = Duration::from_millis(500);
const MAX_PROBE_BACKOFF: Duration = Duration::from_secs(30);
/// A rate limit's timers are late by no more.
const TIMER_SLACK: Duration = Duration::from_millis(10);
const MIN_REFUSAL_BACKOFF: Duration = Duration::from_millis(25);
const MAX_REFUSAL_BACKOFF: Duration = Duration::from_secs(1);

impl EndpointState {
    /// An endpoint that is ready, or is not yet.
    pub(super) fn new(endpoint: Endpoint, policy: &EnginePolicy, now: Instant) -> Self {
        let Endpoint { url, ready_routes: ready, timeline_row: seat } = endpoint;
        let state = if ready.is_some() {
            EndpointAvailability::Up
        } else {
            EndpointAvailability::Suspended(now + MIN_PROBE_BACKOFF)
        };
        // What is not known yet is taken to be a vLLM; one that does not say how it is shows that.
        let told = ready.is_none_or(|routes| routes.metrics);
        let window =
            ConcurrencyController::new(policy.concurrency, policy.sequences_per_prompt(), told);
        Self {
            label: url.to_string().into(),
            url,
            timeline_row: seat,
            was_up: ready.is_some(),
            permits_taken: 0,
            availability: state,
            consecutive_faults: 0,
            probe_backoff: MIN_PROBE_BACKOFF,
            consecutive_refusals: 0,
            on_probation: false,
            answered_since_up: false,
            ever_answered: false,
            batch_limit: usize::MAX,
            missed_load_polls: 0,
            was_full: false,
            next_load_poll: window.uses_server_metrics().then(|| now + window.poll_interval()),
            window,
            batch_sizer: BatchSizer::new(policy.batch_size),
            latency: LatencyModel::default(),
            render_check: RenderCheck::new(policy.renderer.is_some()),
            throttled_until: now,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.availability == EndpointAvailability::Up
    }

    /// Up, and not only by its own word.
    pub(super) fn is_healthy(&self) -> bool {
        self.is_up() && !self.on_probation
    }

    /// Has it room, and is it well?
    pub(super) fn has_healthy_capacity(&self, now: Instant) -> bool {
        self.is_healthy() && self.free_permits(now) > 0
    }

    /// It answered a request.
    pub(super) fn record_success(&mut self) {
        self.consecutive_faults = 0;
        self.probe_backoff = MIN_PROBE_BACKOFF;
        self.answered_since_up = true;
        self.ever_answered = true;
        self.on_probation = false;
        self.consecutive_refusals = 0;
    }

    /// Permits that are left.
    pub(super) fn free_permits(&self, now: Instant) -> usize {
        if !self.is_up() || now < self.throttled_until {
            0
        } else if self.on_probation {
            1_usize.saturating_sub(self.permits_taken)
        } else {
            self.window.size().saturating_sub(self.permits_taken)
        }
    }

    /// The longest list it is asked for now.
    pub(super) fn max_batch_size(&self) -> usize {
        if self.on_probation {
            1
        } else {
            self.batch_sizer.max_batch_size(self.window.size()).min(self.batch_limit)
        }
    }

    /// A request begins.
    pub(super) fn begin_request(&mut self, permits: usize, rate_limit: Option<f64>, now: Instant) {
        self.permits_taken += permits;
        if let Some(rate) = rate_limit {
            // What timers are late by is made up for.
            let late = now.checked_sub(TIMER_SLACK).unwrap_or(now);
            self.throttled_until =
                self.throttled_until.max(late) + Duration::from_secs_f64(1.0 / rate);
        }
    }

    /// When a rate limit lets the next request begin, if that is not at once.
    pub(super) fn throttled_until(&self, now: Instant) -> Option<Instant> {
        Some(self.throttled_until).filter(|&start| self.is_up() && start > now)
    }

    /// It has too much to do, with `level` sequences in flight of which `sequences` were refused now. After the second
    /// refusal in a row nothing is sent for a moment, and for longer each time: asking more often brings nothing.
    pub(super) fn apply_backpressure(&mut self, level: usize, sequences: usize, now: Instant) {
        self.window.decrease_on_refusal(level, sequences);
        self.consecutive_refusals = (self.consecutive_refusals + 1).min(8);
        if self.consecutive_refusals > 1 {
            let pause = MIN_REFUSAL_BACKOFF * 2_u32.pow(self.consecutive_refusals - 2);
            self.throttled_until = self.throttled_until.max(now + pause.min(MAX_REFUSAL_BACKOFF));
        }
    }

    /// It refused a list of so many for its length.
    pub(super) fn lower_batch_limit(&mut self, prompts: usize) {
        self.batch_limit = self.batch_limit.min((prompts / 2).max(1));
    }

    /// It stumbled; true if that is once too often and it is put aside, for a moment only if it may be the prompts.
    pub(super) fn record_fault(&mut self, now: Instant, briefly: bool) -> bool {
        self.consecutive_faults += 1;
        let aside = self.is_up() && self.consecutive_faults >= SUSPEND_AFTER_FAULTS;
        if aside {
            if briefly {
                self.probe_backoff = MIN_PROBE_BACKOFF;
            }
            self.suspend_endpoint(now);
        }
        aside
    }

    /// It is gone; true if that is news.
    pub(super) fn mark_unreachable(&mut self, now: Instant) -> bool {
        let news = self.is_up();
        if news {
            self.suspend_endpoint(now);
        }
        news
    }

    fn suspend_endpoint(&mut self, now: Instant) {
        self.answered_since_up = false;
        self.on_probation = true;
        self.availability = EndpointAvailability::Suspended(now + self.probe_backoff);
        self.probe_backoff = (self.probe_backoff * 2).min(MAX_PROBE_BACKOFF);
    }

    /// When it is to be asked again whether it is ready.
    pub(super) fn next_probe(&self) -> Option<Instant> {
        match self.availability {
            EndpointAvailability::Suspended(due) => Some(due),
            EndpointAvailability::Up | EndpointAvailability::Probing => None,
        }
    }

    /// Is it time to ask? Then it counts as being asked.
    pub(super) fn begin_due_probe(&mut self, now: Instant) -> bool {
        let due = self.next_probe().is_some_and(|due| due <= now);
        if due {
            self.availability = EndpointAvailability::Probing;
        }
        due
    }

    /// It was asked; true if it is back.
    pub(super) fn finish_probe(&mut self, ready: bool, now: Instant) -> bool {
        if ready {
            // Its faults are kept: one more and it is aside again, for twice as long.
            self.availability = EndpointAvailability::Up;
            self.consecutive_faults = self.consecutive_faults.min(SUSPEND_AFTER_FAULTS - 1);
        } else {
            self.suspend_endpoint(now);
        }
        ready
    }

    /// When it is to say how much it has to do.
    pub(super) fn load_poll_due(&self) -> Option<Instant> {
        self.next_load_poll.filter(|_| self.is_up() && self.permits_taken > 0)
    }

    /// It is being asked how much it has to do.
    pub(super) fn begin_load_poll(&mut self) {
        self.next_load_poll = None;
    }

    /// It said how much it has to do, or nothing. One that says nothing again and again is not asked any more.
    pub(super) fn finish_load_poll(&mut self, told: bool, now: Instant) {
        self.missed_load_polls = if told { 0 } else { self.missed_load_polls + 1 };
        if self.missed_load_polls >= MAX_MISSED_LOAD_POLLS {
            self.window.fall_back_to_throughput();
        }
        self.next_load_poll =
            self.window.uses_server_metrics().then(|| now + self.window.poll_interval());
    }

    /// Is its window used up?
    pub(super) fn is_window_full(&self) -> bool {
        self.permits_taken * 10 >= self.window.size() * 9
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::policy::test_policy;

    fn test_server(now: Instant) -> EndpointState {
        let ready = Some(ServerRoutes { metrics: true, ..ServerRoutes::default() });
        let endpoint = Endpoint {
            url: Url::loopback(1),
            ready_routes: ready,
            timeline_row: TimelineSlot::default(),
        };
        EndpointState::new(endpoint, &test_policy(), now)
    }

    #[test]
    fn consecutive_faults_suspend_and_answers_restore() {
        let now = Instant::now();
        let mut server = test_server(now);
        assert!(!server.record_fault(now, false) && !server.record_fault(now, false));
        server.record_success();
        assert!(!server.record_fault(now, false) && !server.record_fault(now, false));
        assert!(server.record_fault(now, false));
        assert!(!server.is_up() && !server.begin_due_probe(now));
        let later = now + MIN_PROBE_BACKOFF;
        assert!(
            server.begin_due_probe(later) && !server.begin_due_probe(later),
            "asked once at a time"
        );
        assert!(server.finish_probe(true, later) && server.is_up());
        assert_eq!(
            (server.free_permits(later), server.max_batch_size()),
            (1, 1),
            "it has shown nothing yet"
        );
        assert!(server.record_fault(later, false));
        assert_eq!(server.next_probe(), Some(later + MIN_PROBE_BACKOFF * 2));
        assert!(
            server.begin_due_probe(later + MIN_PROBE_BACKOFF * 2)
                && server.finish_probe(true, later)
        );
        server.record_success();
        assert_eq!(server.free_permits(later), 8);
    }

    #[test]
    fn probe_backoff_grows_to_its_limit() {
        let mut now = Instant::now();
        let mut server = test_server(now);
        assert!(server.mark_unreachable(now) && !server.mark_unreachable(now), "news once");
        for _ in 0..12 {
            now = server.next_probe().expect("aside");
            assert!(server.begin_due_probe(now) && !server.finish_probe(false, now));
        }
        assert_eq!(server.next_probe(), Some(now + MAX_PROBE_BACKOFF));
    }

    #[test]
    fn consecutive_refusals_throttle_the_endpoint() {
        let now = Instant::now();
        let mut server = test_server(now);
        server.apply_backpressure(8, 1, now);
        assert_eq!(server.throttled_until(now), None, "once may be chance");
        for _ in 0..20 {
            server.apply_backpressure(8, 1, now);
        }
        assert_eq!(server.throttled_until(now), Some(now + MAX_REFUSAL_BACKOFF));
        server.record_success();
        server.apply_backpressure(8, 1, now + MAX_REFUSAL_BACKOFF);
        assert_eq!(server.throttled_until(now + MAX_REFUSAL_BACKOFF), None);
    }

    #[test]
    fn a_rate_limit_spaces_requests() {
        let now = Instant::now();
        let mut server = test_server(now);
        server.begin_request(1, Some(4.0), now);
        server.begin_request(1, Some(4.0), now);
        server.permits_taken -= 1;
        let next = server.throttled_until(now).expect("a limit");
        let after = next - now;
        assert!((400..=500).contains(&after.as_millis()), "{after:?}");
        assert_eq!((server.free_permits(now), server.throttled_until(now)), (0, Some(next)));
        assert_eq!((server.free_permits(next), server.throttled_until(next)), (7, None));
        server.begin_request(1, None, next);
        assert_eq!(server.free_permits(next), 6);
    }
}
