//! What this rank's endpoints do over time, as it is seen by the loop that drives them.
//!
//! Owns how often they are looked at. What is seen is kept by the timeline, in bounded memory.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::Scheduler;
use crate::domain::{EndpointSnapshot, Prompt, PromptResult, Tally, Timeline};
use crate::engine::{EngineCommand, EngineEvent, EngineExit, endpoint_state::EndpointState};

/// Often enough for pictures, seldom enough to cost nothing: the loop goes round thousands of times a second.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);

/// What was seen so far.
#[derive(Debug)]
pub(crate) struct TimelineObserver {
    timeline: Timeline,
    started_at: Instant,
    /// It was looked last, in milliseconds since it began.
    last_sample_ms: u64,
}

impl TimelineObserver {
    pub(crate) fn new(servers: &[EndpointState], began: Instant) -> Self {
        let mut timeline = Timeline::default();
        servers.iter().for_each(|server| timeline.register_endpoint(&server.timeline_row));
        Self { timeline, started_at: began, last_sample_ms: 0 }
    }

    fn elapsed_ms(&self, now: Instant) -> u64 {
        u64::try_from((now - self.started_at).as_millis()).unwrap_or(u64::MAX)
    }
}

impl Scheduler {
    /// Works to its end, and says then what was seen.
    pub(crate) async fn run(
        mut self,
        mut prompts: mpsc::Receiver<Prompt>,
        settled: mpsc::Sender<Vec<PromptResult>>,
        mut commands: mpsc::UnboundedReceiver<EngineCommand>,
        tell: &impl Fn(EngineEvent),
    ) -> (EngineExit, Tally) {
        let ended = self.run_event_loop(&mut prompts, &settled, &mut commands, tell).await;
        self.sample_endpoints(Instant::now());
        tell(EngineEvent::TimelineRecorded(std::mem::take(&mut self.observer.timeline)));
        (ended, self.tally)
    }

    /// Looks at all endpoints, if it is time: they stood since the last look as they stand now.
    pub(crate) fn sample_if_due(&mut self, now: Instant) {
        if self.observer.elapsed_ms(now)
            >= self.observer.last_sample_ms + SAMPLE_INTERVAL.as_millis() as u64
        {
            self.sample_endpoints(now);
        }
    }

    fn sample_endpoints(&mut self, now: Instant) {
        let (from, to) = (self.observer.last_sample_ms, self.observer.elapsed_ms(now));
        self.observer.last_sample_ms = to;
        for server in &mut self.servers {
            let (timeline, up) = (&mut self.observer.timeline, server.is_up());
            let stood = EndpointSnapshot {
                in_flight: server.permits_taken as u64,
                window: server.window.size() as u64,
                is_up: up,
                is_full: server.is_window_full(),
            };
            timeline.record_interval(&server.timeline_row, from, to, stood);
            if !up {
                let news = std::mem::take(&mut server.was_up);
                timeline.away.record_downtime(&server.timeline_row.name, to - from, news);
            } else if !std::mem::replace(&mut server.was_up, true) {
                timeline.away.mark_recovered(&server.timeline_row.name);
            }
        }
    }

    /// These were settled.
    pub(crate) fn record_results(&mut self, outcomes: &[PromptResult], now: Instant) {
        let at = self.observer.elapsed_ms(now);
        for settled in outcomes {
            let Some(label) = &settled.endpoint else { continue };
            if let Some(server) = self.servers.iter().find(|it| Arc::ptr_eq(&it.label, label)) {
                self.observer.timeline.record_settled(
                    &server.timeline_row,
                    at,
                    settled.outcome.completion_tokens(),
                );
            }
        }
    }
}
