//! The coordinator: rank 0 during the work phase. It receives every rank's reports, grants leases and ends the work.
//!
//! Owns the reactions to messages, the deadline and the drain, and when the work is over. Which rank works on which
//! prompts (load balancing, speculation) is decided in `assignments.rs`, whether the job itself is wrong in
//! `fail_fast.rs`. It knows nothing of endpoints but how many are up.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use tracing::{debug, error, info, warn};

use super::{
    assignments::Assignments,
    fail_fast::{FailFastDecision, decide_fail_fast, does_other_rank_answer},
    lease_client::LeaseClient,
    local_events::RootEvent,
    progress_recorder::{ProgressRecorder, total_progress},
    protocol::{LeaseGrant, ToRoot, ToWorker, WorkEnd, WorkLease, WorkerReport, decode_or_log},
    rank_state::{HeldFailures, RankState},
    stop_reason::{StopReason, early_end_reason, exit_cause},
};
use crate::job::{root::RootRun, setup::deadline::Deadline};
use crate::{
    comm::{Mailbox, MailboxEvent, MessageTag, TypedComm},
    domain::{Merge, Tally},
    engine::{EngineCommand, EngineExit, EngineProgress},
    metrics::timeline::Timeline,
    settings::Settings,
    site::ShutdownRequest,
};

/// Size at which a lease with its text is split, in bytes.
const MAX_LEASE_TEXT_BYTES: u64 = 32 << 20;
/// The drain begins this multiple of the slowest rank's median latency before the deadline, so that most requests in
/// flight are answered in time.
const DRAIN_LATENCY_FACTOR: u32 = 2;
/// Interval between two ticks: checks of liveness, deadline and load balance.
const TICK_INTERVAL: Duration = Duration::from_millis(100);
/// Inputs of the coordinator.
pub(crate) struct CoordinatorSetup<'r> {
    pub(crate) root: &'r mut RootRun,
    pub(crate) assignments: Assignments,
    /// For each rank: it cannot open the input.
    pub(crate) lacks_input: Vec<bool>,
    pub(crate) deadline: Deadline,
}

/// Rank 0's loop and its state.
pub(crate) struct Coordinator<'c, 'r> {
    mailbox: Mailbox<'c, RootEvent>,
    /// Rank 0's own side of the ledger.
    lease_client: LeaseClient,
    assignments: Assignments,
    ranks: Vec<RankState>,
    /// Number of ranks whose work has ended.
    ended_count: usize,
    root: &'r mut RootRun,
    progress: ProgressRecorder,
    /// Sends leases to the text fetcher, if a rank cannot open the input.
    text_fetcher: Option<mpsc::Sender<(usize, WorkLease)>>,
    /// A prompt was answered, in this session or an earlier one.
    any_answered: bool,
    rank_silence: Duration,
    ready_timeout: Duration,
    no_endpoint_since: Option<Instant>,
    deadline: Deadline,
    /// End of the time for requests in flight. Nothing is granted during a drain.
    drain_until: Option<Instant>,
    stopping: bool,
    last_tick: Instant,
    /// Endpoint load over time, of the ranks that have ended.
    timeline: Timeline,
}

impl<'c, 'r> Coordinator<'c, 'r> {
    /// `ready_counts` is the number of ready endpoints of each rank at the start.
    pub(crate) fn new(
        mailbox: Mailbox<'c, RootEvent>,
        lease_client: LeaseClient,
        setup: CoordinatorSetup<'r>,
        settings: &Settings,
        ready_counts: &[u64],
        text_fetcher: Option<mpsc::Sender<(usize, WorkLease)>>,
    ) -> Self {
        let CoordinatorSetup { root, assignments, lacks_input, deadline } = setup;
        let new_state = |(rank, &ready): (usize, &u64)| {
            RankState::new(ready, lacks_input.get(rank).copied().unwrap_or(false))
        };
        let ranks: Vec<RankState> = ready_counts.iter().enumerate().map(new_state).collect();
        let open_prompts = assignments.open_count();
        Self {
            mailbox,
            lease_client,
            assignments,
            ended_count: 0,
            progress: ProgressRecorder::new(root, settings, ranks.len(), open_prompts, deadline),
            ranks,
            text_fetcher,
            any_answered: root.prompt_counts().answered > 0,
            root,
            rank_silence: settings.rank_silence.to_duration(),
            ready_timeout: settings.ready_timeout.to_duration(),
            no_endpoint_since: None,
            deadline,
            drain_until: None,
            stopping: false,
            last_tick: Instant::now(),
            timeline: Timeline::default(),
        }
    }

    /// Runs until all ranks have ended their work, or all others are lost.
    pub(crate) fn run_until_end(mut self) -> (WorkEnd, LeaseClient) {
        let mut next_tick = Instant::now();
        let work_end = loop {
            self.handle_next_event(self.lease_client.next_report_time().min(next_tick));
            let now = Instant::now();
            for message in self.lease_client.take_due_messages(now) {
                self.on_message(0, message);
            }
            if self.lease_client.is_shutdown_forced() {
                self.root.mark_stopped();
                self.mailbox.comm_mut().abort(crate::job::EXIT_STOPPED_EARLY);
            }
            if self.assignments.open_count() == 0 {
                self.stop_all_ranks(StopReason::AllSettled);
            }
            if self.ended_count == self.ranks.len() {
                break WorkEnd::AllRanksEnded;
            }
            if now < next_tick {
                continue;
            }
            next_tick = now + TICK_INTERVAL;
            self.run_tick();
            self.progress.record_if_due(now, &self.ranks, self.root);
            if !self.ranks.iter().any(RankState::is_active) {
                break WorkEnd::RanksLost;
            }
        };
        self.finish_work(work_end);
        (work_end, self.lease_client)
    }

    fn handle_next_event(&mut self, until: Instant) {
        match self.mailbox.wait_until(until) {
            MailboxEvent::Local(RootEvent::TextFetched(rank, lease)) => {
                self.on_text_fetched(rank, lease);
            }
            MailboxEvent::Local(RootEvent::Local(event)) => self.lease_client.on_local_event(event),
            MailboxEvent::Message(message) => {
                if let Some(decoded) = decode_or_log(&message) {
                    self.on_message(message.from, decoded);
                }
            }
            MailboxEvent::TimedOut => {}
        }
    }

    fn finish_work(&mut self, work_end: WorkEnd) {
        let progress = total_progress(&self.ranks, self.root);
        let lost: Vec<usize> = (0..self.ranks.len())
            .filter(|&rank| self.ranks[rank].lost && !self.ranks[rank].ended)
            .collect();
        self.progress.finish(&progress, lost.len(), self.root);
        self.root.save_timeline(&std::mem::take(&mut self.timeline), self.progress.started_at());
        self.root.add_tally(progress.tally);
        self.root.set_lost_ranks(&lost);
        let remaining = self.assignments.open_count();
        self.root.expect_open(remaining);
        for rank in 1..self.ranks.len() {
            self.send_to(rank, ToWorker::WorkEnd(work_end));
        }
        let ranks = self.ranks.len();
        debug!(
            event = "ranks_finished",
            ranks,
            lost = lost.len(),
            "ranks finished: {} of {ranks}",
            ranks - lost.len()
        );
        if remaining > 0 && !self.root.is_failed_fast() {
            warn!(event = "prompts_remaining", remaining, "prompts remaining: {remaining}");
        }
    }

    /// Does all that depends on time.
    fn run_tick(&mut self) {
        self.check_liveness();
        if self.stopping {
            return;
        }
        self.check_deadline();
        if self.drain_until.is_some() {
            return;
        }
        for (rank, lease) in self.assignments.rebalance_leases() {
            self.send_lease(rank, lease);
        }
        // A rank with ample work sends no request, so it would not learn from a grant that no prompt is free.
        for rank in 0..self.ranks.len() {
            if !self.ranks[rank].told_exhausted && self.assignments.grant_status(rank).exhausted {
                self.send_to(rank, ToWorker::Grant(self.assignments.grant_status(rank)));
            }
        }
        self.apply_fail_fast();
        self.check_endpoints();
    }

    fn check_liveness(&mut self) {
        // Rank 0 was suspended (stopped, swapped out): the other ranks' messages are still queued, so none is expired.
        let was_suspended = self.last_tick.elapsed() > self.rank_silence / 2;
        self.last_tick = Instant::now();
        if was_suspended {
            (0..self.ranks.len())
                .filter(|&rank| !self.ranks[rank].lost)
                .for_each(|rank| self.assignments.touch_rank(rank));
        }
        for rank in self.assignments.expire_silent(self.rank_silence) {
            // A rank that has ended its work sends nothing more.
            if !self.ranks[rank].ended {
                warn!(
                    event = "rank_unresponsive",
                    rank,
                    silence_s = self.rank_silence.as_secs_f64(),
                    "rank {rank} unresponsive for {:?}: its prompts are reassigned",
                    self.rank_silence
                );
            }
            self.ranks[rank].lost = true;
            self.ranks[rank].progress.in_flight = 0;
            self.ranks[rank].progress.endpoints_up = 0;
        }
    }

    fn check_endpoints(&mut self) {
        // An endpoint that serves none of the models of open prompts is of no use to them.
        let is_up = |rank: usize| {
            let state = &self.ranks[rank];
            state.is_active() && state.progress.endpoints_up > 0
        };
        self.no_endpoint_since = if self.assignments.has_served_work(is_up) {
            None
        } else {
            self.no_endpoint_since.or(Some(Instant::now()))
        };
        if self.no_endpoint_since.is_some_and(|since| since.elapsed() >= self.ready_timeout) {
            let remaining = self.assignments.open_count();
            warn!(
                event = "all_servers_down",
                timeout_s = self.ready_timeout.as_secs_f64(),
                remaining,
                "all servers down for {:?} (--ready-timeout): stopping, prompts remaining: {remaining}",
                self.ready_timeout
            );
            self.stop_all_ranks(StopReason::NoServer);
        }
    }

    fn apply_fail_fast(&mut self) {
        self.any_answered |= self.ranks.iter().any(|rank| rank.progress.tally.answered > 0);
        let decision = decide_fail_fast(
            &self.ranks,
            |rank| self.assignments.has_work(rank),
            self.any_answered,
            self.assignments.open_count(),
        );
        match decision {
            FailFastDecision::Wait => {}
            FailFastDecision::Proceed => {
                for rank in 0..self.ranks.len() {
                    if self.ranks[rank].held_failures.take().is_some() {
                        let command = if does_other_rank_answer(&self.ranks, rank) {
                            EngineCommand::ReturnHeld
                        } else {
                            EngineCommand::Proceed
                        };
                        self.send_to(rank, ToWorker::Engine(command));
                    }
                }
            }
            FailFastDecision::KeepHolding => {
                for rank in 0..self.ranks.len() {
                    if let Some(held) = &mut self.ranks[rank].held_failures
                        && !std::mem::replace(&mut held.told_to_hold, true)
                    {
                        self.send_to(rank, ToWorker::Engine(EngineCommand::KeepHolding));
                    }
                }
            }
            FailFastDecision::FailJob(message) => {
                self.root.record_fail_fast(message);
                self.stop_all_ranks(StopReason::UniformFailures);
            }
        }
    }

    fn on_message(&mut self, from: usize, message: ToRoot) {
        let state = &mut self.ranks[from];
        self.assignments.touch_rank(from);
        if std::mem::take(&mut state.lost) && !state.ended {
            info!(event = "rank_responsive", rank = from, "rank {from} responsive again");
            self.send_to(from, ToWorker::Revoke);
        }
        match message {
            ToRoot::Report(report) => self.on_report(from, report),
            ToRoot::EndpointTimeline(timeline) => self.timeline.merge(timeline),
            ToRoot::EngineEnded(exit, tally) => self.on_engine_end(from, &exit, tally),
            ToRoot::UniformFailures(count, message) => {
                let held = HeldFailures { count, message, told_to_hold: false };
                self.ranks[from].held_failures = Some(held);
            }
            ToRoot::ShutdownRequested(request) => {
                let signal = match request {
                    ShutdownRequest::Now => "SIGINT or SIGTERM received (a second signal aborts)",
                    ShutdownRequest::Soon => "SIGUSR1 received (a second signal aborts)",
                };
                self.begin_drain(self.deadline.after_signal(request, Instant::now()), signal);
            }
        }
    }

    fn on_engine_end(&mut self, from: usize, exit: &EngineExit, tally: Tally) {
        let state = &mut self.ranks[from];
        state.progress = EngineProgress { tally, ..EngineProgress::default() };
        self.ended_count += usize::from(!std::mem::replace(&mut state.ended, true));
        self.assignments.deregister_rank(from);
        if let Some(cause) = exit_cause(exit) {
            self.root.record_stop(cause);
        }
        let Some(reason) = early_end_reason(exit) else { return };
        warn!(event = "rank_stopped_early", rank = from, "rank {from} stopped early: {reason}");
    }

    fn on_report(&mut self, from: usize, report: WorkerReport) {
        let WorkerReport {
            progress,
            settled,
            returned,
            prompts_wanted,
            idle_capacity,
            typical_latency,
        } = report;
        if !self.ranks[from].ended {
            self.assignments.set_rank_models(from, progress.models_up);
            self.ranks[from].progress = progress;
        }
        let redundant = self.assignments.record_report(from, &settled, &returned, typical_latency);
        for (rank, rows) in redundant {
            self.send_to(rank, ToWorker::Redundant(rows));
        }
        let lease = if self.stopping || self.drain_until.is_some() || self.ranks[from].ended {
            None
        } else {
            self.assignments.handle_demand(from, prompts_wanted, idle_capacity)
        };
        match lease {
            Some(lease) => self.send_lease(from, lease),
            // An acknowledgement: without it the rank would consider rank 0 lost.
            None => self.send_to(from, ToWorker::Grant(self.assignments.grant_status(from))),
        }
    }

    fn send_lease(&mut self, rank: usize, lease: WorkLease) {
        if self.ranks[rank].lacks_input
            && lease.rows.text.is_none()
            && let Some(fetcher) = &self.text_fetcher
        {
            let (lease, rest) = lease.split_at_bytes(MAX_LEASE_TEXT_BYTES);
            self.assignments.return_places(rank, &rest);
            if fetcher.send((rank, lease)).is_err() {
                self.stop_all_ranks(StopReason::InputUnreadable);
            }
            return self.send_to(rank, ToWorker::Grant(self.assignments.grant_status(rank)));
        }
        let places = lease.places.clone();
        let grant = LeaseGrant { lease: Some(lease), ..self.assignments.grant_status(rank) };
        if !self.try_send_to(rank, ToWorker::Grant(grant)) {
            self.assignments.return_places(rank, &places);
        }
    }

    fn on_text_fetched(&mut self, rank: usize, lease: Result<WorkLease, String>) {
        match lease {
            Ok(lease) => self.send_lease(rank, lease),
            Err(reason) => {
                error!(
                    event = "input_unreadable",
                    rank, "cannot read the input for rank {rank}: {reason}"
                );
                self.stop_all_ranks(StopReason::InputUnreadable);
            }
        }
    }

    /// Begins the drain when the time left is less than a prompt takes, and ends the work when the time is over.
    fn check_deadline(&mut self) {
        let now = Instant::now();
        let drain_time = self.assignments.slowest_typical_latency() * DRAIN_LATENCY_FACTOR;
        match (self.drain_until, self.deadline.at) {
            (Some(_), _) if self.assignments.leased_count() == 0 => {
                self.stop_all_ranks(StopReason::Drained);
            }
            (Some(end), _) if now >= end => self.stop_all_ranks(StopReason::TimeOver),
            (None, Some(end)) if now + drain_time >= end => self.begin_drain(end, "deadline near"),
            _ => {}
        }
    }

    /// Stops grants and new requests; requests in flight have until `end`.
    fn begin_drain(&mut self, end: Instant, reason: &str) {
        if self.drain_until.is_some_and(|before| before <= end) || self.stopping {
            return;
        }
        let seconds = end.saturating_duration_since(Instant::now()).as_secs_f64();
        let in_flight = total_progress(&self.ranks, self.root).in_flight;
        warn!(
            event = "drain_started",
            left_s = seconds,
            in_flight,
            "stopping: {reason}; waiting up to {seconds:.0} s for {in_flight} sequences in flight"
        );
        if self.drain_until.replace(end).is_none() {
            for rank in 0..self.ranks.len() {
                self.send_to(rank, ToWorker::Drain);
            }
        }
    }

    /// Stops all engines, once.
    fn stop_all_ranks(&mut self, reason: StopReason) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        info!(event = reason.event(), "{reason}");
        if let Some(cause) = reason.cause() {
            self.root.record_stop(cause);
        }
        for rank in 0..self.ranks.len() {
            self.send_to(rank, ToWorker::Engine(EngineCommand::Stop));
        }
    }

    fn send_to(&mut self, rank: usize, message: ToWorker) {
        self.try_send_to(rank, message);
    }

    /// Returns false if the message cannot be sent.
    fn try_send_to(&mut self, rank: usize, message: ToWorker) -> bool {
        if let ToWorker::Grant(grant) = &message {
            self.ranks[rank].told_exhausted = grant.exhausted;
        }
        if rank == 0 {
            self.lease_client.on_message(message);
            return true;
        }
        let sent = self.mailbox.comm_mut().send_value(rank, MessageTag::Job, &message);
        sent.inspect_err(|error| {
            warn!(event = "send_failed", rank, "cannot send to rank {rank}: {error}");
        })
        .is_ok()
    }
}
