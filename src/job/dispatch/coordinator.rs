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
    assignments::Book,
    lease_client::{Hand, Said},
    protocol::{Grant, Lease, Message, Over, Report, read},
};
use crate::job::{root::Root, setup::deadline::Limit};
use crate::{
    comm::{Event, Post, Tag, Typed},
    console::ProgressView,
    domain::{FailureKind, Merge, Timeline},
    engine::{Ended, Progress},
    output::Counts,
    settings::Settings,
};

/// How often the manifest says how it stands.
const MANIFEST_EVERY: Duration = Duration::from_secs(5);
/// More often at first: a start that is killed early has a history as well.
const MANIFEST_FIRST: Duration = Duration::from_secs(1);
/// Rows travel in letters of about so many bytes.
const TEXT: u64 = 32 << 20;
/// Prompts are given so many times what one usually takes at the slowest rank, so that most get through.
const PROMPTS_TAKE: u32 = 2;
/// How often all ranks are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How often the progress is shown; the bar decides itself when.
const SHOW_EVERY: Duration = Duration::from_millis(500);

/// Rank 0's side.
pub(crate) struct Listener<'c, 'r> {
    post: Post<'c, Said>,
    hand: Hand,
    pub(crate) book: Book,
    pub(crate) ranks: Vec<Heard>,
    /// So many of them have ended their work.
    ended: usize,
    pub(crate) root: &'r mut Root,
    view: ProgressView,
    /// Reads rows for ranks that cannot open the input.
    fetch: Option<mpsc::Sender<(usize, Lease)>>,
    before: Counts,
    /// Something was answered, if not now then before.
    pub(crate) answered: bool,
    silence: Duration,
    patience: Duration,
    /// No endpoint of any rank is up since.
    nobody_since: Option<Instant>,
    limit: Limit,
    /// Nothing is granted any more; when what is under way then is ended too.
    draining: Option<Instant>,
    /// Everybody was told to stop.
    stopping: bool,
    looked: Instant,
    /// What endpoints did over time, of the ranks that have ended.
    watched: Timeline,
    began: Instant,
}

/// What is known of a rank.
pub(crate) struct Heard {
    pub(crate) progress: Progress,
    pub(crate) ended: bool,
    pub(crate) lost: bool,
    /// It cannot open the input.
    blind: bool,
    /// It was told last that nobody has more.
    knows_end: bool,
    /// How many first outcomes are all the same failure, and the words of it; and whether it was told to go further.
    pub(crate) alike: Option<(u64, String, bool)>,
}

impl<'c, 'r> Listener<'c, 'r> {
    /// `up` says how many endpoints each rank had when all began, `blind` who cannot open the input.
    pub(crate) fn new(
        post: Post<'c, Said>,
        hand: Hand,
        book: Book,
        root: &'r mut Root,
        settings: &Settings,
        (up, blind, limit): (&[u64], &[bool], Limit),
        fetch: Option<mpsc::Sender<(usize, Lease)>>,
    ) -> Self {
        let now = Instant::now();
        let heard = |(rank, &up): (usize, &u64)| Heard {
            progress: Progress { up, ..Progress::default() },
            ended: false,
            lost: false,
            blind: blind.get(rank).copied().unwrap_or(false),
            knows_end: false,
            alike: None,
        };
        let before = root.counts();
        // (failed ones that are asked again are not done)
        let done = before.submitted.saturating_sub(book.open());
        Self {
            post,
            hand,
            book,
            ranks: up.iter().enumerate().map(heard).collect(),
            ended: 0,
            view: ProgressView::new(
                settings.progress,
                up.len(),
                (before.submitted, done),
                root.what(),
                limit.at,
            ),
            root,
            fetch,
            answered: before.answered > 0,
            before,
            silence: settings.rank_silence.get(),
            patience: settings.ready_timeout.get(),
            nobody_since: None,
            limit,
            draining: None,
            stopping: false,
            looked: now,
            watched: Timeline::default(),
            began: now,
        }
    }

    /// Until all have ended their work, or nobody is left who could.
    pub(crate) fn listen(mut self) -> (Over, Hand) {
        let (mut look, mut show) = (Instant::now(), Instant::now());
        // At once as well: a pace has two ends.
        let mut manifest = Instant::now();
        let over = loop {
            match self.post.wait(self.hand.due().min(look)) {
                Event::Word(Said::Fetched(rank, lease)) => self.fetched(rank, lease),
                Event::Word(said) => self.hand.said(said),
                Event::Letter(letter) => {
                    if let Some(message) = read(&letter) {
                        self.heard(letter.from, message);
                    }
                }
                Event::Quiet => {}
            }
            let now = Instant::now();
            for message in self.hand.letters(now) {
                self.heard(0, message);
            }
            if self.hand.is_in_a_hurry() {
                self.root.stopped();
                self.post.comm().abort(crate::job::STOPPED_EARLY);
            }
            if self.book.open() == 0 {
                self.stop("every prompt has its outcome");
            }
            if self.ended == self.ranks.len() {
                break Over::Together;
            }
            if now < look {
                continue;
            }
            look = now + LOOK_EVERY;
            self.look();
            if now >= show {
                show = now + SHOW_EVERY;
                let progress = self.sum();
                self.view.show(&progress.tally, progress.in_flight, progress.up);
                if now >= manifest {
                    let early = now - self.began < 2 * MANIFEST_EVERY;
                    manifest = now + if early { MANIFEST_FIRST } else { MANIFEST_EVERY };
                    self.root.note(
                        &self.before,
                        &progress,
                        self.ranks.iter().filter(|it| it.lost).count(),
                    );
                }
            }
            if self.ranks.iter().all(|rank| rank.ended || rank.lost) {
                break Over::RanksLost;
            }
        };
        self.end(over);
        (over, self.hand)
    }

    fn end(&mut self, over: Over) {
        let progress = self.sum();
        self.view.show(&progress.tally, 0, progress.up);
        self.view.end();
        let lost: Vec<usize> = (0..self.ranks.len())
            .filter(|&rank| self.ranks[rank].lost && !self.ranks[rank].ended)
            .collect();
        // Gathering may take long, and who looks meanwhile shall see that all is answered.
        self.root.note(&self.before, &progress, lost.len());
        self.root.watched(&std::mem::take(&mut self.watched), self.began);
        self.root.add(progress.tally);
        self.root.are_lost(&lost);
        self.root.expects_open(self.book.open());
        for rank in 1..self.ranks.len() {
            self.tell(rank, Message::Over(over));
        }
        info!(ranks = self.ranks.len(), lost = lost.len(), "all ranks have ended their work");
        if self.book.open() > 0 && self.root.wrong.is_none() {
            warn!("{} prompts stay open", self.book.open());
        }
    }

    /// All that depends on time.
    fn look(&mut self) {
        // Who was away (stopped, swapped out) is rank 0 itself: the others' letters are still to be read.
        let away = self.looked.elapsed() > self.silence / 2;
        self.looked = Instant::now();
        if away {
            (0..self.ranks.len())
                .filter(|&rank| !self.ranks[rank].lost)
                .for_each(|rank| self.book.heard(rank));
        }
        for rank in self.book.silent(self.silence) {
            // What has ended its work has nothing to say.
            if !self.ranks[rank].ended {
                warn!(
                    rank,
                    "this rank has not been heard of for {:?}: others get its prompts",
                    self.silence
                );
            }
            self.ranks[rank].lost = true;
            self.ranks[rank].progress.in_flight = 0;
            self.ranks[rank].progress.up = 0;
        }
        if self.stopping {
            return;
        }
        self.mind_the_time();
        if self.draining.is_some() {
            return;
        }
        for (rank, lease) in self.book.look() {
            self.give(rank, lease);
        }
        // Who has ample work asks for none, and would not hear that it is the last.
        if self.book.word().ending {
            for rank in 0..self.ranks.len() {
                if !self.ranks[rank].knows_end {
                    self.tell(rank, Message::Grant(self.book.word()));
                }
            }
        }
        self.decide_on_alike();
        let up: u64 = self.ranks.iter().map(|rank| rank.progress.up).sum();
        self.nobody_since = if up == 0 { self.nobody_since.or(Some(Instant::now())) } else { None };
        if self.nobody_since.is_some_and(|since| since.elapsed() >= self.patience) {
            warn!(
                "no endpoint of any rank has answered for as long as --ready-timeout bears ({:?}): open prompts stay open",
                self.patience
            );
            self.stop("nobody is left to ask");
        }
    }

    fn heard(&mut self, from: usize, message: Message) {
        let heard = &mut self.ranks[from];
        self.book.heard(from);
        if std::mem::take(&mut heard.lost) && !heard.ended {
            info!(rank = from, "this rank is heard of again");
            self.tell(from, Message::Recall);
        }
        match message {
            Message::Report(report) => self.reported(from, report),
            Message::Watched(timeline) => self.watched.merge(timeline),
            Message::Ended(ended, tally) => {
                let heard = &mut self.ranks[from];
                heard.progress = Progress { tally, in_flight: 0, up: 0 };
                self.ended += usize::from(!std::mem::replace(&mut heard.ended, true));
                self.book.gone(from);
                if !matches!(ended, Ended::Finished | Ended::Stopped) {
                    warn!(
                        rank = from,
                        "this rank has ended its work before all was done: {ended:?}"
                    );
                }
            }
            Message::AllAlike(count, words) => {
                self.ranks[from].alike = Some((count, words, false));
            }
            Message::Asked(ask) => {
                let now = Instant::now();
                self.drain(self.limit.after(ask, now), "a signal asks for it");
            }
            Message::Grant(_)
            | Message::Drain
            | Message::Needless(_)
            | Message::Recall
            | Message::GoOn
            | Message::Further
            | Message::Stop
            | Message::Over(_) => warn!(from, "a letter that only rank 0 writes"),
        }
    }

    fn reported(&mut self, from: usize, report: Report) {
        let Report { progress, settled, back, want, idle, usual } = report;
        if !self.ranks[from].ended {
            self.ranks[from].progress = progress;
        }
        for (rank, rows) in self.book.reported(from, &settled, &back, usual) {
            self.tell(rank, Message::Needless(rows));
        }
        let lease = if self.stopping || self.draining.is_some() || self.ranks[from].ended {
            None
        } else {
            self.book.asked(from, want, idle)
        };
        match lease {
            Some(lease) => self.give(from, lease),
            // Heard.
            None => self.tell(from, Message::Grant(self.book.word())),
        }
    }

    fn give(&mut self, rank: usize, lease: Lease) {
        if self.ranks[rank].blind
            && lease.rows.text.is_none()
            && let Some(fetch) = &self.fetch
        {
            let (lease, rest) = lease.cut(TEXT);
            self.book.back(rank, &rest);
            if fetch.send((rank, lease)).is_err() {
                self.stop("the input cannot be read for other ranks");
            }
            return self.tell(rank, Message::Grant(self.book.word()));
        }
        let places = lease.places.clone();
        let grant = Grant { lease: Some(lease), ..self.book.word() };
        if !self.reaches(rank, Message::Grant(grant)) {
            self.book.back(rank, &places);
        }
    }

    fn fetched(&mut self, rank: usize, lease: Result<Lease, String>) {
        match lease {
            Ok(lease) => self.give(rank, lease),
            Err(why) => {
                error!("the input cannot be read on for rank {rank}: {why}");
                self.stop("the input cannot be read");
            }
        }
    }

    /// Begins to end when what is left of the walltime is less than prompts take, and ends when it is over.
    fn mind_the_time(&mut self) {
        let now = Instant::now();
        match (self.draining, self.limit.at) {
            (Some(_), _) if self.book.leased() == 0 => self.stop("nothing is under way any more"),
            (Some(end), _) if now >= end => self.stop("the time is over"),
            (None, Some(end)) if now + self.book.slowest() * PROMPTS_TAKE >= end => {
                self.drain(end, "the walltime comes to its end");
            }
            _ => {}
        }
    }

    /// Nothing is granted or sent any more; what is under way has until `end`.
    fn drain(&mut self, end: Instant, why: &str) {
        if self.draining.is_some_and(|before| before <= end) || self.stopping {
            return;
        }
        let seconds = end.saturating_duration_since(Instant::now()).as_secs_f64();
        warn!("{why}: no more prompts are sent, and those under way have {seconds:.0} s left");
        if self.draining.replace(end).is_none() {
            for rank in 0..self.ranks.len() {
                self.tell(rank, Message::Drain);
            }
        }
    }

    /// Tells everybody to stop, once.
    pub(crate) fn stop(&mut self, why: &str) {
        if std::mem::replace(&mut self.stopping, true) {
            return;
        }
        info!("the work ends: {why}");
        for rank in 0..self.ranks.len() {
            self.tell(rank, Message::Stop);
        }
    }

    fn sum(&self) -> Progress {
        let mut sum = Progress::default();
        let bad = self.root.bad.len() as u64;
        if bad > 0 {
            sum.tally.failed.insert(FailureKind::BadRow, bad);
        }
        for rank in &self.ranks {
            sum.tally.merge(rank.progress.tally.clone());
            sum.in_flight += rank.progress.in_flight;
            sum.up += rank.progress.up;
        }
        sum
    }

    pub(crate) fn tell(&mut self, rank: usize, message: Message) {
        self.reaches(rank, message);
    }

    /// Tells a rank; false where that cannot be.
    fn reaches(&mut self, rank: usize, message: Message) -> bool {
        if let Message::Grant(grant) = &message {
            self.ranks[rank].knows_end = grant.ending;
        }
        if rank == 0 {
            self.hand.hear(message);
            return true;
        }
        let sent = self.post.comm().send_value(rank, Tag::Job, &message);
        sent.inspect_err(|error| warn!(rank, "{error}")).is_ok()
    }
}

/// A thread that reads rows for ranks that cannot, until nobody asks any more.
pub(crate) fn fetcher(
    source: crate::input::Source,
    tell: mpsc::Sender<Said>,
) -> Option<mpsc::Sender<(usize, Lease)>> {
    let (asks, asked) = mpsc::channel::<(usize, Lease)>();
    let read = move || {
        for (rank, lease) in asked {
            let rows = lease.rows.with_text(&source).map_err(|error| error.to_string());
            let lease = rows.map(|rows| Lease { places: lease.places, rows });
            if tell.send(Said::Fetched(rank, lease)).is_err() {
                return; // the job is ending
            }
        }
    };
    let thread = std::thread::Builder::new().name("fetcher".into()).spawn(read);
    thread.map(|_| asks).map_err(|error| error!("no thread can be started: {error}")).ok()
}
