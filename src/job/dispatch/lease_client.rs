//! A rank's own side of the ledger: what it was given, what it has settled, and when it says so.
//!
//! Owns the bookkeeping between the engine, which knows rows, and rank 0, which knows places; and when a report is due:
//! soon where work is needed or, near the end, was done; every few seconds otherwise. Rank 0 has one of its own. It knows
//! neither MPI nor HTTP: words come in, letters go out.

use std::{
    collections::HashMap,
    sync::mpsc,
    time::{Duration, Instant},
};

use tracing::{error, warn};

use super::protocol::{DispatchMessage, LeaseGrant, WorkLease, WorkerReport, compress_runs};
use crate::{
    domain::Tally,
    engine::{EngineBacklog, EngineEvent, EngineExit, EngineHandle, EngineProgress},
    input,
    ledger::{min_report_interval, target_backlog},
    site::ShutdownRequest,
};

/// What a rank's other threads say to its main thread.
pub(crate) enum LocalEvent {
    /// The engine.
    Engine(EngineEvent),
    /// The outcomes of these rows are in the shard file.
    RowsWritten(Vec<u64>),
    /// Somebody asks this process to end.
    ShutdownRequested(ShutdownRequest),
    /// On rank 0: a lease for a rank, with its rows' text.
    TextFetched(usize, Result<WorkLease, String>),
}

/// A rank's work.
pub(crate) struct LeaseClient {
    engine: Option<EngineHandle>,
    /// To the engine's reader; without it the prompts come to their end.
    lease_sender: Option<mpsc::Sender<input::RowLease>>,
    /// The place of each row that it has.
    place_of_row: HashMap<u64, u64>,
    /// Prompts given to the engine in all.
    prompts_given: u64,
    settled: Vec<u64>,
    returned: Vec<u64>,
    progress: EngineProgress,
    backlog: EngineBacklog,
    /// What rank 0 said last.
    exhausted: bool,
    seconds_left: Option<f64>,
    /// It asked for prompts and has not got any since.
    awaiting_grant: bool,
    /// How often somebody asked this process to end.
    shutdown_requests: u32,
    reported_idle: u64,
    reported_up: bool,
    reported_answered: bool,
    /// To be sent as they are.
    outbox: Vec<DispatchMessage>,
    schedule: ReportSchedule,
    /// The next report, and the next at the soonest.
    next_report: Instant,
    earliest_report: Instant,
}

/// How often a rank writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReportSchedule {
    /// At least so often.
    pub(crate) max_interval: Duration,
    /// Letters are no closer together: rank 0 reads those of all ranks.
    pub(crate) min_interval: Duration,
    /// The first is sent after so long, so that not all are at once.
    first_delay: Duration,
}

impl ReportSchedule {
    /// For one of so many ranks, which are lost when they are silent for so long.
    pub(crate) fn for_rank(rank: usize, ranks: usize, silence: Duration) -> Self {
        let apart = min_report_interval(ranks);
        // A rank that is alone has nobody to spare, and somebody may look at its bar.
        let every = Duration::from_secs(if ranks == 1 { 1 } else { 5 });
        let every = every.max(apart).min(silence / 4);
        let first = every.mul_f64((rank + 1) as f64 / ranks.max(1) as f64);
        Self { max_interval: every, min_interval: apart, first_delay: first }
    }
}

impl LeaseClient {
    /// Of an engine at work, or none.
    pub(crate) fn new(
        engine: Option<EngineHandle>,
        leases: Option<mpsc::Sender<input::RowLease>>,
        rhythm: ReportSchedule,
    ) -> Self {
        let now = Instant::now();
        Self {
            engine,
            lease_sender: leases,
            place_of_row: HashMap::new(),
            prompts_given: 0,
            settled: Vec::new(),
            returned: Vec::new(),
            progress: EngineProgress::default(),
            backlog: EngineBacklog::default(),
            exhausted: false,
            seconds_left: None,
            awaiting_grant: false,
            shutdown_requests: 0,
            reported_idle: 0,
            reported_up: false,
            reported_answered: false,
            outbox: Vec::new(),
            schedule: rhythm,
            next_report: now + rhythm.first_delay,
            earliest_report: now,
        }
    }

    /// When there will be something to write, if nothing happens before.
    pub(crate) fn next_report_time(&self) -> Instant {
        if self.is_report_urgent() {
            self.earliest_report.min(self.next_report)
        } else {
            self.next_report
        }
    }

    /// A thread of this rank has said something.
    pub(crate) fn on_local_event(&mut self, said: LocalEvent) {
        match said {
            LocalEvent::Engine(EngineEvent::Progress(progress)) => self.progress = progress,
            LocalEvent::Engine(EngineEvent::Backlog(in_hand)) => self.backlog = in_hand,
            LocalEvent::Engine(EngineEvent::PromptsReturned(rows)) => {
                self.backlog.queued_count = 0;
                self.returned.extend(rows.iter().filter_map(|row| self.place_of_row.remove(row)));
            }
            LocalEvent::Engine(EngineEvent::FailFastTripped(count, words)) => {
                self.outbox.push(DispatchMessage::UniformFailures(count, words));
            }
            LocalEvent::Engine(EngineEvent::TimelineRecorded(timeline)) => {
                self.outbox.push(DispatchMessage::EndpointTimeline(timeline))
            }
            LocalEvent::Engine(EngineEvent::Ended(ended, tally)) => {
                self.on_engine_end(ended, tally)
            }
            LocalEvent::RowsWritten(rows) => {
                self.settled.extend(rows.iter().filter_map(|row| self.place_of_row.remove(row)));
            }
            LocalEvent::ShutdownRequested(ask) => {
                self.shutdown_requests += 1;
                self.outbox.push(DispatchMessage::ShutdownRequested(ask));
            }
            LocalEvent::TextFetched(rank, _) => {
                warn!(rank, "text for a lease, which only rank 0 sends")
            }
        }
    }

    /// Rank 0 has written.
    pub(crate) fn on_message(&mut self, message: DispatchMessage) {
        match message {
            DispatchMessage::Grant(grant) => self.on_grant(grant),
            DispatchMessage::Redundant(rows) => {
                for row in &rows {
                    self.place_of_row.remove(row);
                }
                self.with_engine(|engine| engine.drop_redundant(rows));
            }
            DispatchMessage::Revoke => {
                let given = self.prompts_given;
                self.with_engine(|engine| engine.revoke_unsent(given));
            }
            DispatchMessage::Proceed => self.with_engine(EngineHandle::proceed),
            DispatchMessage::KeepHolding => self.with_engine(EngineHandle::keep_holding),
            DispatchMessage::Drain => {
                self.exhausted = true;
                self.with_engine(EngineHandle::drain);
            }
            DispatchMessage::Stop => self.with_engine(EngineHandle::stop),
            DispatchMessage::WorkEnd(_) => {}
            DispatchMessage::Report(_)
            | DispatchMessage::EndpointTimeline(_)
            | DispatchMessage::EngineEnded(..)
            | DispatchMessage::UniformFailures(..)
            | DispatchMessage::ShutdownRequested(_) => {
                warn!("a letter that only rank 0 reads");
            }
        }
    }

    /// The letters that are due.
    pub(crate) fn take_due_messages(&mut self, now: Instant) -> Vec<DispatchMessage> {
        let mut letters = Vec::new();
        // What was done is told before that it is over.
        if now >= self.next_report_time() || !self.outbox.is_empty() {
            (self.next_report, self.earliest_report) =
                (now + self.schedule.max_interval, now + self.schedule.min_interval);
            letters.push(DispatchMessage::Report(self.build_report()));
        }
        letters.append(&mut self.outbox);
        letters
    }

    /// Has it asked for something that it needs soon, or is the end near? Then letters are looked for often.
    pub(crate) fn is_waiting(&self) -> bool {
        self.awaiting_grant || self.exhausted
    }

    /// Was this process asked to end more than once? Then nothing is waited for any more.
    pub(crate) fn is_shutdown_forced(&self) -> bool {
        self.shutdown_requests > 1
    }

    /// Ends the engine and waits for its threads.
    pub(crate) fn stop_engine(mut self) {
        self.lease_sender = None;
        if let Some(engine) = self.engine.take() {
            engine.stop();
            engine.join();
        }
    }

    fn with_engine(&self, tell: impl FnOnce(&EngineHandle)) {
        if let Some(engine) = &self.engine {
            tell(engine);
        }
    }

    fn on_grant(&mut self, grant: LeaseGrant) {
        let LeaseGrant { lease, exhausted: ending, seconds_left: left } = grant;
        let has_more = lease.is_some();
        if let Some(lease) = lease {
            self.awaiting_grant = false;
            let places: Vec<(u64, u64)> = lease.row_places().collect();
            if self.lease_sender.as_ref().is_some_and(|leases| leases.send(lease.rows).is_ok()) {
                self.prompts_given += places.len() as u64;
                self.place_of_row.extend(places);
            } else {
                // The reader has met its end, and the engine will: it needs nothing more.
                self.lease_sender = None;
                self.returned.extend(places.into_iter().map(|(_, place)| place));
            }
        }
        self.seconds_left = left;
        if has_more || ending != self.exhausted {
            self.exhausted = ending;
            let given = self.prompts_given;
            self.with_engine(|engine| engine.set_supplied(given, ending));
        }
    }

    fn on_engine_end(&mut self, ended: EngineExit, tally: Tally) {
        match &ended {
            EngineExit::Finished | EngineExit::Stopped | EngineExit::WriteFailed => {} // the last was told where it happened
            EngineExit::Stalled => warn!(
                "this rank's endpoints do nothing but refuse, for as long as --ready-timeout bears: its prompts go to others"
            ),
            EngineExit::ReadFailed(why) => error!("the input cannot be read on: {why}"),
            EngineExit::StartFailed(why) => error!("this rank cannot work: {why}"),
        }
        self.progress = EngineProgress { tally: tally.clone(), in_flight: 0, endpoints_up: 0 };
        self.backlog =
            EngineBacklog { received_count: self.prompts_given, ..EngineBacklog::default() };
        self.outbox.push(DispatchMessage::EngineEnded(ended, tally));
    }

    fn is_report_urgent(&self) -> bool {
        let asks = !self.awaiting_grant && self.prompts_wanted() > 0;
        // Where there is ample work, what was done is told with the next question after more.
        let did = (self.exhausted || self.awaiting_grant) && !self.settled.is_empty();
        let idles = self.exhausted && self.backlog.idle_permits != self.reported_idle;
        // The first answer is news: others may wait to hear whether there is any.
        let answered = self.progress.tally.answered > 0 && !self.reported_answered;
        let turned = (self.progress.endpoints_up > 0) != self.reported_up;
        asks || did || idles || answered || turned || !self.returned.is_empty()
    }

    fn build_report(&mut self) -> WorkerReport {
        let want = self.prompts_wanted();
        self.awaiting_grant |= want > 0;
        self.reported_idle = self.backlog.idle_permits;
        self.reported_up = self.progress.endpoints_up > 0;
        self.reported_answered = self.progress.tally.answered > 0;
        WorkerReport {
            progress: self.progress.clone(),
            settled: compress_runs(std::mem::take(&mut self.settled)),
            returned: compress_runs(std::mem::take(&mut self.returned)),
            prompts_wanted: want,
            idle_capacity: self.backlog.idle_permits,
            typical_latency: self.backlog.p50_latency,
        }
    }

    /// How many more prompts its windows can use soon: nothing while it has half of that.
    fn prompts_wanted(&self) -> u64 {
        if self.lease_sender.is_none() {
            return 0;
        }
        let EngineBacklog {
            received_count: taken,
            queued_count: waiting,
            window_total: windows,
            answer_rate: rate,
            ..
        } = self.backlog;
        let have = waiting + self.prompts_given.saturating_sub(taken);
        let target = target_backlog(windows, rate, self.seconds_left, self.schedule.min_interval);
        if have * 2 > target { 0 } else { target.saturating_sub(have) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::RowRange;

    fn grant_message(first: u64, rows: u64, ending: bool) -> DispatchMessage {
        let stretch = RowRange { file: 0, first, rows, offset: 0, bytes: 0 };
        let rows_of = input::RowLease { ranges: vec![stretch], text: None };
        let lease = WorkLease { places: vec![(first, rows)], rows: rows_of };
        DispatchMessage::Grant(LeaseGrant {
            lease: Some(lease),
            exhausted: ending,
            seconds_left: None,
        })
    }

    fn new_client() -> (LeaseClient, mpsc::Receiver<input::RowLease>) {
        let (leases, given) = mpsc::channel();
        (
            LeaseClient::new(
                None,
                Some(leases),
                ReportSchedule::for_rank(3, 4, Duration::from_secs(60)),
            ),
            given,
        )
    }

    fn backlog_event(taken: u64, waiting: u64) -> LocalEvent {
        LocalEvent::Engine(EngineEvent::Backlog(EngineBacklog {
            received_count: taken,
            queued_count: waiting,
            window_total: 64,
            ..EngineBacklog::default()
        }))
    }

    fn only_reports(letters: Vec<DispatchMessage>) -> Vec<WorkerReport> {
        let report = |it| match it {
            DispatchMessage::Report(report) => Some(report),
            _ => None,
        };
        letters.into_iter().filter_map(report).collect()
    }

    #[test]
    fn more_work_is_requested_once_when_less_than_half_the_target_is_left() {
        let (mut hand, given) = new_client();
        let soon = Instant::now() + Duration::from_millis(50);
        hand.on_message(grant_message(0, 128, false));
        assert_eq!(given.try_recv().expect("a lease").ranges.len(), 1);
        hand.on_local_event(backlog_event(64, 30));
        assert!(hand.take_due_messages(soon).is_empty(), "30 wait, 64 are on their way in");
        hand.on_local_event(backlog_event(128, 63));
        let asked = only_reports(hand.take_due_messages(soon));
        assert_eq!(asked.iter().map(|it| it.prompts_wanted).collect::<Vec<_>>(), [65]);
        hand.on_local_event(backlog_event(128, 10));
        assert!(hand.take_due_messages(soon + Duration::from_secs(1)).is_empty(), "it has asked");
        hand.on_message(grant_message(128, 10, false));
        assert_eq!(
            only_reports(hand.take_due_messages(soon + Duration::from_secs(1)))[0].prompts_wanted,
            108
        );
    }

    #[test]
    fn results_are_reported_as_place_runs_and_at_once_near_the_end() {
        let (mut hand, _given) = new_client();
        let soon = Instant::now() + Duration::from_millis(50);
        hand.on_message(grant_message(100, 128, false));
        hand.on_local_event(backlog_event(128, 128));
        let _ = hand.take_due_messages(soon);
        hand.on_local_event(LocalEvent::RowsWritten(vec![101, 100, 104, 999]));
        let later = soon + Duration::from_secs(1);
        assert!(hand.take_due_messages(later).is_empty(), "there is time");
        hand.on_message(DispatchMessage::Grant(LeaseGrant {
            exhausted: true,
            ..LeaseGrant::default()
        }));
        assert_eq!(only_reports(hand.take_due_messages(later))[0].settled, [(100, 2), (104, 1)]);
        hand.on_local_event(LocalEvent::Engine(EngineEvent::PromptsReturned(vec![105, 100])));
        let letters = only_reports(hand.take_due_messages(later + Duration::from_secs(1)));
        assert_eq!(letters[0].returned, [(105, 1)], "100 was settled");
    }

    #[test]
    fn the_last_report_comes_before_the_end() {
        let (mut hand, _given) = new_client();
        hand.on_message(grant_message(0, 2, true));
        hand.on_local_event(LocalEvent::RowsWritten(vec![0, 1]));
        hand.on_local_event(LocalEvent::Engine(EngineEvent::Ended(
            EngineExit::Finished,
            Tally::default(),
        )));
        let letters = hand.take_due_messages(Instant::now());
        assert!(
            matches!(&letters[..], [DispatchMessage::Report(it), DispatchMessage::EngineEnded(..)] if it.settled == [(0, 2)])
        );
    }
}
