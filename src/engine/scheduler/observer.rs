//! What this rank's endpoints do over time, as it is seen by the loop that drives them.
//!
//! Owns how often they are looked at. What is seen is kept by the timeline, in bounded memory.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::Scheduler;
use crate::domain::{Prompt, Settled, Standing, Tally, Timeline};
use crate::engine::{Command, Ended, Word, endpoint_state::EndpointState};

/// Often enough for pictures, seldom enough to cost nothing: the loop goes round thousands of times a second.
const EVERY: Duration = Duration::from_millis(20);

/// What was seen so far.
#[derive(Debug)]
pub(crate) struct TimelineObserver {
    timeline: Timeline,
    started_at: Instant,
    /// It was looked last, in milliseconds since it began.
    looked: u64,
}

impl TimelineObserver {
    pub(crate) fn new(servers: &[EndpointState], began: Instant) -> Self {
        let mut timeline = Timeline::default();
        servers.iter().for_each(|server| timeline.register_endpoint(&server.timeline_row));
        Self { timeline, started_at: began, looked: 0 }
    }

    fn since(&self, now: Instant) -> u64 {
        u64::try_from((now - self.started_at).as_millis()).unwrap_or(u64::MAX)
    }
}

impl Scheduler {
    /// Works to its end, and says then what was seen.
    pub(crate) async fn run(
        mut self,
        mut prompts: mpsc::Receiver<Prompt>,
        settled: mpsc::Sender<Vec<Settled>>,
        mut commands: mpsc::UnboundedReceiver<Command>,
        tell: &impl Fn(Word),
    ) -> (Ended, Tally) {
        let ended = self.work(&mut prompts, &settled, &mut commands, tell).await;
        self.look(Instant::now());
        tell(Word::Watched(std::mem::take(&mut self.watch.timeline)));
        (ended, self.tally)
    }

    /// Looks at all endpoints, if it is time: they stood since the last look as they stand now.
    pub(crate) fn watch(&mut self, now: Instant) {
        if self.watch.since(now) >= self.watch.looked + EVERY.as_millis() as u64 {
            self.look(now);
        }
    }

    fn look(&mut self, now: Instant) {
        let (from, to) = (self.watch.looked, self.watch.since(now));
        self.watch.looked = to;
        for server in &mut self.servers {
            let (timeline, up) = (&mut self.watch.timeline, server.is_up());
            let stood = Standing {
                in_flight: server.taken as u64,
                window: server.window.size() as u64,
                up,
                is_full: server.is_window_full(),
            };
            timeline.saw(&server.timeline_row, from, to, stood);
            if !up {
                let news = std::mem::take(&mut server.was_up);
                timeline.away.add(&server.timeline_row.name, to - from, news);
            } else if !std::mem::replace(&mut server.was_up, true) {
                timeline.away.mark_recovered(&server.timeline_row.name);
            }
        }
    }

    /// These were settled.
    pub(crate) fn record_results(&mut self, outcomes: &[Settled], now: Instant) {
        let at = self.watch.since(now);
        for settled in outcomes {
            let Some(label) = &settled.endpoint else { continue };
            if let Some(server) = self.servers.iter().find(|it| Arc::ptr_eq(&it.label, label)) {
                self.watch.timeline.settled(
                    &server.timeline_row,
                    at,
                    settled.outcome.completion_tokens(),
                );
            }
        }
    }
}
