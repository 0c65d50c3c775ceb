//! The lease client: a rank's own side of the ledger, and the schedule of its reports.
//!
//! Owns the bookkeeping between the engine, which knows rows, and rank 0, which knows places; and when a report is due:
//! at once if prompts are needed or, near the end, outcomes were written; every few seconds otherwise. Rank 0 has one
//! of its own. It uses neither MPI nor HTTP: events and messages come in, messages go out. The loop around it is
//! `worker.rs`, on rank 0 `coordinator.rs`.

use std::{
    collections::{HashMap, VecDeque},
    sync::mpsc,
    time::{Duration, Instant},
};

use tracing::{error, warn};

use super::{
    local_events::LocalEvent,
    protocol::{LeaseGrant, ToRoot, ToWorker, WorkEnd, WorkLease, WorkerReport, compress_runs},
};
use crate::{
    domain::{ModelSet, Tally},
    engine::{EngineBacklog, EngineCommand, EngineEvent, EngineExit, EngineHandle, EngineProgress},
    input::RowLease,
    ledger::{min_report_interval, target_backlog},
};

/// The leases of a rank, its engine, and the messages it owes rank 0.
pub(crate) struct LeaseClient {
    engine: Option<EngineHandle>,
    /// Sends leases to the engine's reader. Dropping it ends the engine's input.
    lease_sender: Option<mpsc::Sender<RowLease>>,
    /// Place of each row that the rank holds.
    place_of_row: HashMap<u64, u64>,
    /// Prompts given to the engine in all.
    prompts_given: u64,
    /// The leases with text that the engine has not read: their bytes, and the prompts given up to their end.
    unread_texts: VecDeque<(usize, u64)>,
    settled: Vec<u64>,
    returned: Vec<u64>,
    progress: EngineProgress,
    backlog: EngineBacklog,
    /// The last grant said that no prompt is free.
    exhausted: bool,
    seconds_left: Option<f64>,
    /// The rank has asked for prompts and received none since.
    awaiting_grant: bool,
    /// Number of signals that asked this process to shut down.
    shutdown_requests: u32,
    reported_idle: u64,
    reported_models: ModelSet,
    reported_answered: bool,
    /// Messages other than reports, to be sent after the next report.
    outbox: Vec<ToRoot>,
    schedule: ReportSchedule,
    /// Time of the next report if nothing happens before.
    next_report: Instant,
    /// Earliest time of an urgent report.
    earliest_report: Instant,
}

/// Bytes of leases with text that may wait at a rank before it asks for more.
const MAX_UNREAD_TEXT_BYTES: usize = 32 << 20;

/// Intervals between the reports of a rank.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReportSchedule {
    max_interval: Duration,
    /// Limits the message rate at rank 0, which reads the reports of all ranks.
    min_interval: Duration,
    /// Spreads the first reports of the ranks over an interval.
    first_delay: Duration,
}

impl ReportSchedule {
    /// Creates the schedule of a rank that counts as lost after `silence`.
    pub(crate) fn for_rank(rank: usize, ranks: usize, silence: Duration) -> Self {
        let min_interval = min_report_interval(ranks);
        // A single rank costs no other rank anything, and its progress bar may be on a terminal.
        let max_interval = Duration::from_secs(if ranks == 1 { 1 } else { 5 });
        let max_interval = max_interval.max(min_interval).min(silence / 4);
        let first_delay = max_interval.mul_f64((rank + 1) as f64 / ranks.max(1) as f64);
        Self { max_interval, min_interval, first_delay }
    }
}

impl LeaseClient {
    /// Creates the client of a running engine, or of a rank without one.
    pub(crate) fn new(
        engine: Option<EngineHandle>,
        lease_sender: Option<mpsc::Sender<RowLease>>,
        schedule: ReportSchedule,
    ) -> Self {
        let now = Instant::now();
        Self {
            engine,
            lease_sender,
            place_of_row: HashMap::new(),
            prompts_given: 0,
            unread_texts: VecDeque::new(),
            settled: Vec::new(),
            returned: Vec::new(),
            progress: EngineProgress::default(),
            backlog: EngineBacklog::default(),
            exhausted: false,
            seconds_left: None,
            awaiting_grant: false,
            shutdown_requests: 0,
            reported_idle: 0,
            reported_models: ModelSet::default(),
            reported_answered: false,
            outbox: Vec::new(),
            schedule,
            next_report: now + schedule.first_delay,
            earliest_report: now,
        }
    }

    /// Returns the time at which a message will be due if nothing happens before.
    pub(crate) fn next_report_time(&self) -> Instant {
        if self.is_report_urgent() {
            self.earliest_report.min(self.next_report)
        } else {
            self.next_report
        }
    }

    /// Handles an event of another thread of this rank.
    pub(crate) fn on_local_event(&mut self, event: LocalEvent) {
        match event {
            LocalEvent::Engine(event) => self.on_engine_event(event),
            LocalEvent::RowsWritten(rows) => {
                self.settled.extend(rows.iter().filter_map(|row| self.place_of_row.remove(row)));
            }
            LocalEvent::ShutdownRequested(request) => {
                self.shutdown_requests += 1;
                self.outbox.push(ToRoot::ShutdownRequested(request));
            }
        }
    }

    fn on_engine_event(&mut self, event: EngineEvent) {
        match event {
            EngineEvent::Progress(progress) => self.progress = progress,
            EngineEvent::Backlog(backlog) => {
                self.backlog = backlog;
                self.unread_texts.retain(|&(_, end)| end > backlog.received_count);
            }
            EngineEvent::PromptsReturned(rows) => {
                self.backlog.queued_count = 0;
                self.returned.extend(rows.iter().filter_map(|row| self.place_of_row.remove(row)));
            }
            EngineEvent::FailFastTripped(count, message) => {
                self.outbox.push(ToRoot::UniformFailures(count, message));
            }
            EngineEvent::TimelineRecorded(timeline) => {
                self.outbox.push(ToRoot::EndpointTimeline(timeline));
            }
            EngineEvent::Ended(exit, tally) => self.on_engine_end(exit, tally),
        }
    }

    /// Handles a message from rank 0. Returns the end of the work phase if it is that message.
    pub(crate) fn on_message(&mut self, message: ToWorker) -> Option<WorkEnd> {
        match message {
            ToWorker::Grant(grant) => self.on_grant(grant),
            ToWorker::Redundant(rows) => {
                for row in &rows {
                    self.place_of_row.remove(row);
                }
                self.command_engine(EngineCommand::DropRedundant(rows));
            }
            ToWorker::Revoke => {
                self.command_engine(EngineCommand::RevokeUnsent(self.prompts_given));
            }
            ToWorker::Drain => {
                // Makes outcomes urgent: rank 0 ends the work when the last of them is reported.
                self.exhausted = true;
                self.command_engine(EngineCommand::Drain);
            }
            ToWorker::Engine(command) => self.command_engine(command),
            ToWorker::WorkEnd(end) => return Some(end),
        }
        None
    }

    /// Returns the messages that are due.
    pub(crate) fn take_due_messages(&mut self, now: Instant) -> Vec<ToRoot> {
        let mut messages = Vec::new();
        // A report precedes every other message, so that rank 0 knows all outcomes before the end of the engine.
        if now >= self.next_report_time() || !self.outbox.is_empty() {
            (self.next_report, self.earliest_report) =
                (now + self.schedule.max_interval, now + self.schedule.min_interval);
            messages.push(ToRoot::Report(self.build_report()));
        }
        messages.append(&mut self.outbox);
        messages
    }

    /// Returns true if a grant is awaited or the end is near, so that messages should be polled for often.
    pub(crate) fn is_waiting(&self) -> bool {
        self.awaiting_grant || self.exhausted
    }

    /// Returns true after a second signal: the process exits without waiting for anything.
    pub(crate) fn is_shutdown_forced(&self) -> bool {
        self.shutdown_requests > 1
    }

    /// Stops the engine and waits for its threads.
    pub(crate) fn stop_engine(mut self) {
        self.lease_sender = None;
        if let Some(engine) = self.engine.take() {
            engine.send_command(EngineCommand::Stop);
            engine.join();
        }
    }

    fn command_engine(&self, command: EngineCommand) {
        if let Some(engine) = &self.engine {
            engine.send_command(command);
        }
    }

    fn on_grant(&mut self, grant: LeaseGrant) {
        let LeaseGrant { lease, exhausted, seconds_left } = grant;
        let has_lease = lease.is_some();
        if let Some(lease) = lease {
            self.accept_lease(lease);
        }
        self.seconds_left = seconds_left;
        if has_lease || exhausted != self.exhausted {
            self.exhausted = exhausted;
            self.command_engine(EngineCommand::SetSupplied(self.prompts_given, exhausted));
        }
    }

    fn accept_lease(&mut self, lease: WorkLease) {
        self.awaiting_grant = false;
        let places: Vec<(u64, u64)> = lease.row_places().collect();
        let text_bytes = lease.rows.text.as_ref().map_or(0, Vec::len);
        if self.lease_sender.as_ref().is_some_and(|sender| sender.send(lease.rows).is_ok()) {
            self.prompts_given += places.len() as u64;
            if text_bytes > 0 {
                self.unread_texts.push_back((text_bytes, self.prompts_given));
            }
            self.place_of_row.extend(places);
        } else {
            // The reader has ended, and the engine will: it needs no more prompts.
            self.lease_sender = None;
            self.returned.extend(places.into_iter().map(|(_, place)| place));
        }
    }

    fn on_engine_end(&mut self, exit: EngineExit, tally: Tally) {
        match &exit {
            // A failed write is logged by the writer.
            EngineExit::Finished | EngineExit::Stopped | EngineExit::WriteFailed => {}
            EngineExit::Stalled => warn!(
                event = "rank_stalled",
                "all servers of this rank have been failing for --ready-timeout: its prompts are reassigned"
            ),
            EngineExit::ReadFailed(reason) => {
                error!(event = "input_unreadable", "cannot read the input: {reason}");
            }
            EngineExit::StartFailed(reason) => {
                error!(event = "engine_start_failed", "cannot start work on this rank: {reason}");
            }
        }
        self.progress = EngineProgress { tally: tally.clone(), ..EngineProgress::default() };
        self.backlog =
            EngineBacklog { received_count: self.prompts_given, ..EngineBacklog::default() };
        self.outbox.push(ToRoot::EngineEnded(exit, tally));
    }

    fn is_report_urgent(&self) -> bool {
        let asks = !self.awaiting_grant && self.prompts_wanted() > 0;
        // While work is ample, outcomes are reported with the next request for more.
        let settles = (self.exhausted || self.awaiting_grant) && !self.settled.is_empty();
        let idles = self.exhausted && self.backlog.idle_permits != self.reported_idle;
        // The first answer anywhere ends the fail-fast wait of other ranks.
        let answers = self.progress.tally.answered > 0 && !self.reported_answered;
        let up_changes = self.progress.models_up != self.reported_models;
        asks || settles || idles || answers || up_changes || !self.returned.is_empty()
    }

    fn build_report(&mut self) -> WorkerReport {
        let prompts_wanted = self.prompts_wanted();
        self.awaiting_grant |= prompts_wanted > 0;
        self.reported_idle = self.backlog.idle_permits;
        self.reported_models = self.progress.models_up;
        self.reported_answered = self.progress.tally.answered > 0;
        WorkerReport {
            progress: self.progress.clone(),
            settled: compress_runs(std::mem::take(&mut self.settled)),
            returned: compress_runs(std::mem::take(&mut self.returned)),
            prompts_wanted,
            idle_capacity: self.backlog.idle_permits,
            typical_latency: self.backlog.p50_latency,
        }
    }

    /// Returns the number of prompts to ask for: up to the target backlog, or none while more than half of it is
    /// queued, or leases with much text are unread.
    fn prompts_wanted(&self) -> u64 {
        let unread: usize = self.unread_texts.iter().map(|&(bytes, _)| bytes).sum();
        if self.lease_sender.is_none() || unread > MAX_UNREAD_TEXT_BYTES {
            return 0;
        }
        let EngineBacklog { received_count, queued_count, window_total, answer_rate, .. } =
            self.backlog;
        let queued = queued_count + self.prompts_given.saturating_sub(received_count);
        let target = target_backlog(
            window_total,
            answer_rate,
            self.seconds_left,
            self.schedule.min_interval,
        );
        if queued * 2 > target { 0 } else { target.saturating_sub(queued) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::RowRange;

    fn grant_message(first: u64, rows: u64, exhausted: bool) -> ToWorker {
        let range = RowRange { file: 0, first, rows, offset: 0, bytes: 0 };
        let rows_of = RowLease { ranges: vec![range], text: None };
        let lease = WorkLease { places: vec![(first, rows)], rows: rows_of };
        ToWorker::Grant(LeaseGrant { lease: Some(lease), exhausted, seconds_left: None })
    }

    fn new_client() -> (LeaseClient, mpsc::Receiver<RowLease>) {
        let (sender, leases) = mpsc::channel();
        let schedule = ReportSchedule::for_rank(3, 4, Duration::from_secs(60));
        (LeaseClient::new(None, Some(sender), schedule), leases)
    }

    fn backlog_event(received_count: u64, queued_count: u64) -> LocalEvent {
        LocalEvent::Engine(EngineEvent::Backlog(EngineBacklog {
            received_count,
            queued_count,
            window_total: 64,
            ..EngineBacklog::default()
        }))
    }

    fn only_reports(messages: Vec<ToRoot>) -> Vec<WorkerReport> {
        let report = |message| match message {
            ToRoot::Report(report) => Some(report),
            _ => None,
        };
        messages.into_iter().filter_map(report).collect()
    }

    #[test]
    fn more_work_is_requested_once_when_less_than_half_the_target_is_left() {
        let (mut client, leases) = new_client();
        let soon = Instant::now() + Duration::from_millis(50);
        client.on_message(grant_message(0, 128, false));
        assert_eq!(leases.try_recv().expect("a lease").ranges.len(), 1);
        client.on_local_event(backlog_event(64, 30));
        assert!(client.take_due_messages(soon).is_empty(), "30 are queued, 64 not yet received");
        client.on_local_event(backlog_event(128, 63));
        let asked = only_reports(client.take_due_messages(soon));
        assert_eq!(asked.iter().map(|it| it.prompts_wanted).collect::<Vec<_>>(), [65]);
        client.on_local_event(backlog_event(128, 10));
        let later = soon + Duration::from_secs(1);
        assert!(client.take_due_messages(later).is_empty(), "the rank has asked already");
        client.on_message(grant_message(128, 10, false));
        assert_eq!(only_reports(client.take_due_messages(later))[0].prompts_wanted, 108);
    }

    #[test]
    fn no_more_work_is_requested_while_much_text_is_unread() {
        let (mut client, _leases) = new_client();
        let mut grant = grant_message(0, 8, false);
        let ToWorker::Grant(LeaseGrant { lease: Some(lease), .. }) = &mut grant else { return };
        lease.rows.text = Some(vec![b' '; MAX_UNREAD_TEXT_BYTES + 1]);
        client.on_message(grant);
        client.on_local_event(backlog_event(7, 2));
        assert_eq!(client.prompts_wanted(), 0);
        client.on_local_event(backlog_event(8, 2));
        assert!(client.prompts_wanted() > 0);
    }

    #[test]
    fn results_are_reported_as_place_runs_and_at_once_near_the_end() {
        let (mut client, _leases) = new_client();
        let soon = Instant::now() + Duration::from_millis(50);
        client.on_message(grant_message(100, 128, false));
        client.on_local_event(backlog_event(128, 128));
        let _ = client.take_due_messages(soon);
        client.on_local_event(LocalEvent::RowsWritten(vec![101, 100, 104, 999]));
        let later = soon + Duration::from_secs(1);
        assert!(client.take_due_messages(later).is_empty(), "not urgent while work is ample");
        let exhausted = LeaseGrant { exhausted: true, ..LeaseGrant::default() };
        client.on_message(ToWorker::Grant(exhausted));
        assert_eq!(only_reports(client.take_due_messages(later))[0].settled, [(100, 2), (104, 1)]);
        let returned = EngineEvent::PromptsReturned(vec![105, 100]);
        client.on_local_event(LocalEvent::Engine(returned));
        let reports = only_reports(client.take_due_messages(later + Duration::from_secs(1)));
        assert_eq!(reports[0].returned, [(105, 1)], "100 was settled");
    }

    #[test]
    fn the_last_report_precedes_the_end_of_the_engine() {
        let (mut client, _leases) = new_client();
        client.on_message(grant_message(0, 2, true));
        client.on_local_event(LocalEvent::RowsWritten(vec![0, 1]));
        let ended = EngineEvent::Ended(EngineExit::Finished, Tally::default());
        client.on_local_event(LocalEvent::Engine(ended));
        let messages = client.take_due_messages(Instant::now());
        assert!(matches!(
            &messages[..],
            [ToRoot::Report(report), ToRoot::EngineEnded(..)] if report.settled == [(0, 2)]
        ));
    }

    #[test]
    fn the_work_end_is_returned_to_the_loop() {
        let (mut client, _leases) = new_client();
        assert_eq!(client.on_message(ToWorker::Drain), None);
        let end = client.on_message(ToWorker::WorkEnd(WorkEnd::RanksLost));
        assert_eq!(end, Some(WorkEnd::RanksLost));
    }
}
