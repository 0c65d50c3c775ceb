//! Rank 0 while all work: it hears every rank, keeps the ledger, and decides for all.
//!
//! Owns who counts as alive and when it is over. Who works on what is the book's, whether the job itself is wrong `wrong`'s;
//! knows nothing of endpoints but how many are up.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use tracing::{error, info, warn};

use super::{
    assignments::Assignments,
    lease_client::{LeaseClient, LocalEvent},
    protocol::{DispatchMessage, LeaseGrant, WorkEnd, WorkLease, WorkerReport, decode_message},
};
use crate::job::{root::RootRun, setup::deadline::Deadline};
use crate::{
    comm::{Mailbox, MailboxEvent, MessageTag, TypedComm},
    console::ProgressView,
    domain::{FailureKind, Merge, Timeline},
    engine::{EngineExit, EngineProgress},
    output::PromptCounts,
    settings::Settings,
};

/// How often the manifest says how it stands.
const MANIFEST_INTERVAL: Duration = Duration::from_secs(5);
/// More often at first: a start that is killed early has a history as well.
const EARLY_MANIFEST_INTERVAL: Duration = Duration::from_secs(1);
/// Rows travel in letters of about so many bytes.
const MAX_LEASE_TEXT_BYTES: u64 = 32 << 20;
/// Prompts are given so many times what one usually takes at the slowest rank, so that most get through.
const DRAIN_LATENCY_FACTOR: u32 = 2;
/// How often all ranks are looked at.
const TICK_INTERVAL: Duration = Duration::from_millis(100);
/// How often the progress is shown; the bar decides itself when.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// Rank 0's side.
pub(crate) struct Coordinator<'c, 'r> {
    mailbox: Mailbox<'c, LocalEvent>,
    lease_client: LeaseClient,
    pub(crate) assignments: Assignments,
    pub(crate) ranks: Vec<RankState>,
    /// So many of them have ended their work.
    ended_count: usize,
    pub(crate) root: &'r mut RootRun,
    progress_view: ProgressView,
    /// Reads rows for ranks that cannot open the input.
    text_fetcher: Option<mpsc::Sender<(usize, WorkLease)>>,
    counts_before: PromptCounts,
    /// Something was answered, if not now then before.
    pub(crate) any_answered: bool,
    rank_silence: Duration,
    ready_timeout: Duration,
    /// No endpoint of any rank is up since.
    no_endpoint_since: Option<Instant>,
    deadline: Deadline,
    /// Nothing is granted any more; when what is under way then is ended too.
    drain_until: Option<Instant>,
    /// Everybody was told to stop.
    stopping: bool,
    last_tick: Instant,
    /// What endpoints did over time, of the ranks that have ended.
    timeline: Timeline,
    started_at: Instant,
}

/// What is known of a rank.
pub(crate) struct RankState {
    pub(crate) progress: EngineProgress,
    pub(crate) ended: bool,
    pub(crate) lost: bool,
    /// It cannot open the input.
    lacks_input: bool,
    /// It was told last that nobody has more.
    told_exhausted: bool,
    /// How many first outcomes are all the same failure, and the words of it; and whether it was told to go further.
    pub(crate) uniform_failures: Option<(u64, String, bool)>,
}

impl<'c, 'r> Coordinator<'c, 'r> {
    /// `up` says how many endpoints each rank had when all began, `blind` who cannot open the input.
    pub(crate) fn new(
        post: Mailbox<'c, LocalEvent>,
        hand: LeaseClient,
        book: Assignments,
        root: &'r mut RootRun,
        settings: &Settings,
        (up, blind, limit): (&[u64], &[bool], Deadline),
        fetch: Option<mpsc::Sender<(usize, WorkLease)>>,
    ) -> Self {
        let now = Instant::now();
        let heard = |(rank, &up): (usize, &u64)| RankState {
            progress: EngineProgress { endpoints_up: up, ..EngineProgress::default() },
            ended: false,
            lost: false,
            lacks_input: blind.get(rank).copied().unwrap_or(false),
            told_exhausted: false,
            uniform_failures: None,
        };
        let before = root.prompt_counts();
        // (failed ones that are asked again are not done)
        let done = before.submitted.saturating_sub(book.open_count());
        Self {
            mailbox: post,
            lease_client: hand,
            assignments: book,
            ranks: up.iter().enumerate().map(heard).collect(),
            ended_count: 0,
            progress_view: ProgressView::new(
                settings.progress,
                up.len(),
                (before.submitted, done),
                root.pass_name(),
                limit.at,
            ),
            root,
            text_fetcher: fetch,
            any_answered: before.answered > 0,
            counts_before: before,
            rank_silence: settings.rank_silence.to_duration(),
            ready_timeout: settings.ready_timeout.to_duration(),
            no_endpoint_since: None,
            deadline: limit,
            drain_until: None,
            stopping: false,
            last_tick: now,
            timeline: Timeline::default(),
            started_at: now,
        }
    }

    /// Until all have ended their work, or nobody is left who could.
    pub(crate) fn run_until_end(mut self) -> (WorkEnd, LeaseClient) {
        let (mut look, mut show) = (Instant::now(), Instant::now());
        // At once as well: a pace has two ends.
        let mut manifest = Instant::now();
        let over = loop {
            match self.mailbox.wait_until(self.lease_client.next_report_time().min(look)) {
                MailboxEvent::Local(LocalEvent::TextFetched(rank, lease)) => {
                    self.on_text_fetched(rank, lease)
                }
                MailboxEvent::Local(said) => self.lease_client.on_local_event(said),
                MailboxEvent::Message(letter) => {
                    if let Some(message) = decode_message(&letter) {
                        self.on_message(letter.from, message);
                    }
                }
                MailboxEvent::TimedOut => {}
            }
            let now = Instant::now();
            for message in self.lease_client.take_due_messages(now) {
                self.on_message(0, message);
            }
            if self.lease_client.is_shutdown_forced() {
                self.root.mark_stopped();
                self.mailbox.comm_mut().abort(crate::job::EXIT_STOPPED_EARLY);
            }
            if self.assignments.open_count() == 0 {
                self.stop_all_ranks("every prompt has its outcome");
            }
            if self.ended_count == self.ranks.len() {
                break WorkEnd::AllRanksEnded;
            }
            if now < look {
                continue;
            }
            look = now + TICK_INTERVAL;
            self.run_tick();
            if now >= show {
                show = now + PROGRESS_INTERVAL;
                let progress = self.total_progress();
                self.progress_view.update_display(
                    &progress.tally,
                    progress.in_flight,
                    progress.endpoints_up,
                );
                if now >= manifest {
                    let early = now - self.started_at < 2 * MANIFEST_INTERVAL;
                    manifest =
                        now + if early { EARLY_MANIFEST_INTERVAL } else { MANIFEST_INTERVAL };
                    self.root.record_progress(
                        &self.counts_before,
                        &progress,
                        self.ranks.iter().filter(|it| it.lost).count(),
                    );
                }
            }
            if self.ranks.iter().all(|rank| rank.ended || rank.lost) {
                break WorkEnd::RanksLost;
            }
        };
        self.finish_work(over);
        (over, self.lease_client)
    }

    fn finish_work(&mut self, over: WorkEnd) {
        let progress = self.total_progress();
        self.progress_view.update_display(&progress.tally, 0, progress.endpoints_up);
        self.progress_view.clear_bar();
        let lost: Vec<usize> = (0..self.ranks.len())
            .filter(|&rank| self.ranks[rank].lost && !self.ranks[rank].ended)
            .collect();
        // Gathering may take long, and who looks meanwhile shall see that all is answered.
        self.root.record_progress(&self.counts_before, &progress, lost.len());
        self.root.save_timeline(&std::mem::take(&mut self.timeline), self.started_at);
        self.root.add_tally(progress.tally);
        self.root.set_lost_ranks(&lost);
        self.root.expect_open(self.assignments.open_count());
        for rank in 1..self.ranks.len() {
            self.send_to(rank, DispatchMessage::WorkEnd(over));
        }
        info!(ranks = self.ranks.len(), lost = lost.len(), "all ranks have ended their work");
        if self.assignments.open_count() > 0 && self.root.fail_fast_reason.is_none() {
            warn!("{} prompts stay open", self.assignments.open_count());
        }
    }

    /// All that depends on time.
    fn run_tick(&mut self) {
        // Who was away (stopped, swapped out) is rank 0 itself: the others' letters are still to be read.
        let away = self.last_tick.elapsed() > self.rank_silence / 2;
        self.last_tick = Instant::now();
        if away {
            (0..self.ranks.len())
                .filter(|&rank| !self.ranks[rank].lost)
                .for_each(|rank| self.assignments.touch_rank(rank));
        }
        for rank in self.assignments.expire_silent(self.rank_silence) {
            // What has ended its work has nothing to say.
            if !self.ranks[rank].ended {
                warn!(
                    rank,
                    "this rank has not been heard of for {:?}: others get its prompts",
                    self.rank_silence
                );
            }
            self.ranks[rank].lost = true;
            self.ranks[rank].progress.in_flight = 0;
            self.ranks[rank].progress.endpoints_up = 0;
        }
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
        // Who has ample work asks for none, and would not hear that it is the last.
        if self.assignments.grant_status().exhausted {
            for rank in 0..self.ranks.len() {
                if !self.ranks[rank].told_exhausted {
                    self.send_to(rank, DispatchMessage::Grant(self.assignments.grant_status()));
                }
            }
        }
        self.decide_fail_fast();
        let up: u64 = self.ranks.iter().map(|rank| rank.progress.endpoints_up).sum();
        self.no_endpoint_since =
            if up == 0 { self.no_endpoint_since.or(Some(Instant::now())) } else { None };
        if self.no_endpoint_since.is_some_and(|since| since.elapsed() >= self.ready_timeout) {
            warn!(
                "no endpoint of any rank has answered for as long as --ready-timeout bears ({:?}): open prompts stay open",
                self.ready_timeout
            );
            self.stop_all_ranks("nobody is left to ask");
        }
    }

    fn on_message(&mut self, from: usize, message: DispatchMessage) {
        let heard = &mut self.ranks[from];
        self.assignments.touch_rank(from);
        if std::mem::take(&mut heard.lost) && !heard.ended {
            info!(rank = from, "this rank is heard of again");
            self.send_to(from, DispatchMessage::Revoke);
        }
        match message {
            DispatchMessage::Report(report) => self.on_report(from, report),
            DispatchMessage::EndpointTimeline(timeline) => self.timeline.merge(timeline),
            DispatchMessage::EngineEnded(ended, tally) => {
                let heard = &mut self.ranks[from];
                heard.progress = EngineProgress { tally, in_flight: 0, endpoints_up: 0 };
                self.ended_count += usize::from(!std::mem::replace(&mut heard.ended, true));
                self.assignments.deregister_rank(from);
                if !matches!(ended, EngineExit::Finished | EngineExit::Stopped) {
                    warn!(
                        rank = from,
                        "this rank has ended its work before all was done: {ended:?}"
                    );
                }
            }
            DispatchMessage::UniformFailures(count, words) => {
                self.ranks[from].uniform_failures = Some((count, words, false));
            }
            DispatchMessage::ShutdownRequested(ask) => {
                let now = Instant::now();
                self.begin_drain(self.deadline.after_signal(ask, now), "a signal asks for it");
            }
            DispatchMessage::Grant(_)
            | DispatchMessage::Drain
            | DispatchMessage::Redundant(_)
            | DispatchMessage::Revoke
            | DispatchMessage::Proceed
            | DispatchMessage::KeepHolding
            | DispatchMessage::Stop
            | DispatchMessage::WorkEnd(_) => warn!(from, "a letter that only rank 0 writes"),
        }
    }

    fn on_report(&mut self, from: usize, report: WorkerReport) {
        let WorkerReport {
            progress,
            settled,
            returned: back,
            prompts_wanted: want,
            idle_capacity: idle,
            typical_latency: usual,
        } = report;
        if !self.ranks[from].ended {
            self.ranks[from].progress = progress;
        }
        for (rank, rows) in self.assignments.record_report(from, &settled, &back, usual) {
            self.send_to(rank, DispatchMessage::Redundant(rows));
        }
        let lease = if self.stopping || self.drain_until.is_some() || self.ranks[from].ended {
            None
        } else {
            self.assignments.handle_demand(from, want, idle)
        };
        match lease {
            Some(lease) => self.send_lease(from, lease),
            // Heard.
            None => self.send_to(from, DispatchMessage::Grant(self.assignments.grant_status())),
        }
    }

    fn send_lease(&mut self, rank: usize, lease: WorkLease) {
        if self.ranks[rank].lacks_input
            && lease.rows.text.is_none()
            && let Some(fetch) = &self.text_fetcher
        {
            let (lease, rest) = lease.split_at_bytes(MAX_LEASE_TEXT_BYTES);
            self.assignments.return_places(rank, &rest);
            if fetch.send((rank, lease)).is_err() {
                self.stop_all_ranks("the input cannot be read for other ranks");
            }
            return self.send_to(rank, DispatchMessage::Grant(self.assignments.grant_status()));
        }
        let places = lease.places.clone();
        let grant = LeaseGrant { lease: Some(lease), ..self.assignments.grant_status() };
        if !self.try_send_to(rank, DispatchMessage::Grant(grant)) {
            self.assignments.return_places(rank, &places);
        }
    }

    fn on_text_fetched(&mut self, rank: usize, lease: Result<WorkLease, String>) {
        match lease {
            Ok(lease) => self.send_lease(rank, lease),
            Err(why) => {
                error!("the input cannot be read on for rank {rank}: {why}");
                self.stop_all_ranks("the input cannot be read");
            }
        }
    }

    /// Begins to end when what is left of the walltime is less than prompts take, and ends when it is over.
    fn check_deadline(&mut self) {
        let now = Instant::now();
        match (self.drain_until, self.deadline.at) {
            (Some(_), _) if self.assignments.leased_count() == 0 => {
                self.stop_all_ranks("nothing is under way any more")
            }
            (Some(end), _) if now >= end => self.stop_all_ranks("the time is over"),
            (None, Some(end))
                if now + self.assignments.slowest_typical_latency() * DRAIN_LATENCY_FACTOR
                    >= end =>
            {
                self.begin_drain(end, "the walltime comes to its end");
            }
            _ => {}
        }
    }

    /// Nothing is granted or sent any more; what is under way has until `end`.
    fn begin_drain(&mut self, end: Instant, why: &str) {
        if self.drain_until.is_some_and(|before| before <= end) || self.stopping {
            return;
        }
        let seconds = end.saturating_duration_since(Instant::now()).as_secs_f64();
        warn!("{why}: no more prompts are sent, and those under way have {seconds:.0} s left");
        if self.drain_until.replace(end).is_none() {
            for rank in 0..self.ranks.len() {
                self.send_to(rank, DispatchMessage::Drain);
            }
        }
    }

    /// Tells everybody to stop, once.
    pub(crate) fn stop_all_ranks(&mut self, why: &str) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        info!("the work ends: {why}");
        for rank in 0..self.ranks.len() {
            self.send_to(rank, DispatchMessage::Stop);
        }
    }

    fn total_progress(&self) -> EngineProgress {
        let mut sum = EngineProgress::default();
        let bad = self.root.bad_rows.len() as u64;
        if bad > 0 {
            sum.tally.failed.insert(FailureKind::BadRow, bad);
        }
        for rank in &self.ranks {
            sum.tally.merge(rank.progress.tally.clone());
            sum.in_flight += rank.progress.in_flight;
            sum.endpoints_up += rank.progress.endpoints_up;
        }
        sum
    }

    pub(crate) fn send_to(&mut self, rank: usize, message: DispatchMessage) {
        self.try_send_to(rank, message);
    }

    /// Tells a rank; false where that cannot be.
    fn try_send_to(&mut self, rank: usize, message: DispatchMessage) -> bool {
        if let DispatchMessage::Grant(grant) = &message {
            self.ranks[rank].told_exhausted = grant.exhausted;
        }
        if rank == 0 {
            self.lease_client.on_message(message);
            return true;
        }
        let sent = self.mailbox.comm_mut().send_value(rank, MessageTag::Job, &message);
        sent.inspect_err(|error| warn!(rank, "{error}")).is_ok()
    }
}

/// A thread that reads rows for ranks that cannot, until nobody asks any more.
pub(crate) fn spawn_text_fetcher(
    source: crate::input::InputSource,
    tell: mpsc::Sender<LocalEvent>,
) -> Option<mpsc::Sender<(usize, WorkLease)>> {
    let (asks, asked) = mpsc::channel::<(usize, WorkLease)>();
    let read = move || {
        for (rank, lease) in asked {
            let rows = lease.rows.with_text(&source).map_err(|error| error.to_string());
            let lease = rows.map(|rows| WorkLease { places: lease.places, rows });
            if tell.send(LocalEvent::TextFetched(rank, lease)).is_err() {
                return; // the job is ending
            }
        }
    };
    let thread = std::thread::Builder::new().name("fetcher".into()).spawn(read);
    thread.map(|_| asks).map_err(|error| error!("no thread can be started: {error}")).ok()
}
