//! How ranks talk while they work: what each tells rank 0, and what rank 0 makes of it.
//!
//! Owns the letters, who counts as alive, and what rank 0 decides for all: whether the job itself is wrong, and when it is
//! over. Knows nothing of prompts or endpoints.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::{JobError, root::Root};
use crate::{
    comm::{Comm, Event, Letter, Post, Tag, Typed},
    domain::{FailureKind, Merge, Tally},
    engine::{Ended, Progress, Running, Word},
    report::ProgressView,
    settings::Settings,
};

/// How the middle ended, seen from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// All ranks have ended their work.
    Together,
    /// Some have not, and were not heard of (rank 0 only).
    RanksLost,
}

/// What ranks write to each other.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Message {
    /// To rank 0: how it goes.
    Progress(Progress),
    /// To rank 0: this rank's work has ended.
    Ended(Ended, Tally),
    /// To rank 0: so many first outcomes are all the same failure, with these words; nothing is sent meanwhile.
    AllAlike(u64, String),
    /// From rank 0: heard.
    Noted,
    /// From rank 0: those failures are the prompts' own.
    GoOn,
    /// From rank 0: stop.
    Stop,
    /// From rank 0: everybody's work has ended.
    Over,
}

/// A rank writes at least so often.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// Nobody is silent for so long who is alive.
const SILENCE: Duration = Duration::from_secs(60);
/// How long rank 0 waits for the roll-call's answers.
pub(super) const ROLL_CALL: Duration = Duration::from_secs(30);
/// So many first outcomes of all ranks that are the same failure mean that the job is wrong.
pub(super) const ALIKE: usize = 100;
/// How often the manifest says how it stands.
const MANIFEST_EVERY: Duration = Duration::from_secs(10);
/// A rank whose end is rank 0's to bring about; bounded, in case rank 0 is lost.
pub(super) fn wait_to_be_ended(comm: &dyn Comm) -> ! {
    std::thread::sleep(SILENCE);
    comm.abort(super::STOPPED_EARLY)
}

/// Ranks other than 0: pass on what the engine says, until rank 0 says that it is over.
pub(super) fn report_until_over(
    mut post: Post<'_, Word>,
    rank: usize,
    engine: Option<&Running>,
) -> Result<Over, JobError> {
    let mut latest = Progress::default();
    let mut next = Instant::now() + REPORT_EVERY;
    let mut heard = Instant::now();
    loop {
        match post.wait(next) {
            Event::Word(Word::Progress(progress)) => {
                // The first answer is news: others may wait to hear whether there is any.
                if progress.tally.answered > 0 && latest.tally.answered == 0 {
                    next = Instant::now();
                }
                latest = progress;
            }
            Event::Word(Word::AllAlike(count, words)) => {
                post.comm().send_value(0, Tag::Job, &Message::AllAlike(count, words))?;
            }
            Event::Word(Word::Ended(ended, tally)) => {
                complain(&ended);
                latest.tally = tally.clone();
                (latest.in_flight, latest.up) = (0, 0);
                post.comm().send_value(0, Tag::Job, &Message::Ended(ended, tally))?;
            }
            Event::Letter(letter) => {
                heard = Instant::now();
                match (read(&letter), engine) {
                    (Some(Message::Over), _) => return Ok(Over::Together),
                    (Some(Message::GoOn), Some(engine)) => engine.go_on(),
                    (Some(Message::Stop), Some(engine)) => engine.stop(),
                    _ => {}
                }
            }
            Event::Quiet => {}
        }
        if Instant::now() >= next {
            next = Instant::now() + REPORT_EVERY;
            post.comm().send_value(0, Tag::Job, &Message::Progress(latest.clone()))?;
        }
        if heard.elapsed() > SILENCE * 2 {
            error!(rank, "rank 0 has not been heard of for {:?}: this rank ends", heard.elapsed());
            wait_to_be_ended(post.comm());
        }
    }
}

fn read(letter: &Letter) -> Option<Message> {
    let message = crate::comm::decode(letter);
    message.inspect_err(|error| warn!("{error}")).ok()
}

fn complain(ended: &Ended) {
    match ended {
        Ended::Finished | Ended::Stopped | Ended::NotWritten => {} // the last was told where it happened
        Ended::NobodyLeft => {
            warn!(
                "this rank's endpoints have answered nothing for as long as --ready-timeout bears: its open prompts stay open"
            )
        }
        Ended::NotRead(why) => error!("the input cannot be read on: {why}"),
        Ended::NotStarted(why) => error!("this rank cannot work: {why}"),
    }
}

/// Rank 0's side.
pub(super) struct Listener<'c, 'r> {
    post: Post<'c, Word>,
    ranks: Vec<Heard>,
    root: &'r mut Root,
    view: ProgressView,
    next_manifest: Instant,
    engine: Option<&'r Running>,
    /// Something was answered, if not now then before.
    answered: bool,
}

/// What is known of a rank.
struct Heard {
    last: Instant,
    progress: Progress,
    ended: bool,
    /// How many first outcomes are all the same failure, and the words of it.
    alike: Option<(u64, String)>,
}

impl<'c, 'r> Listener<'c, 'r> {
    pub(super) fn new(
        post: Post<'c, Word>,
        size: usize,
        root: &'r mut Root,
        settings: &Settings,
        engine: Option<&'r Running>,
    ) -> Self {
        let now = Instant::now();
        let heard =
            || Heard { last: now, progress: Progress::default(), ended: false, alike: None };
        let before = root.counts();
        let view = ProgressView::new(
            settings.progress,
            size,
            before.submitted,
            before.answered + before.failed,
        );
        Self {
            post,
            ranks: (0..size).map(|_| heard()).collect(),
            root,
            view,
            next_manifest: now + MANIFEST_EVERY,
            engine,
            answered: before.answered > 0,
        }
    }

    pub(super) fn listen(mut self) -> Over {
        let before = self.root.counts();
        while !self.ranks.iter().all(|rank| rank.ended) {
            let until = Instant::now() + Duration::from_millis(500);
            match self.post.wait(until) {
                Event::Word(Word::Progress(progress)) => self.heard(0, Message::Progress(progress)),
                Event::Word(Word::AllAlike(count, words)) => {
                    self.heard(0, Message::AllAlike(count, words));
                }
                Event::Word(Word::Ended(ended, tally)) => {
                    complain(&ended);
                    self.heard(0, Message::Ended(ended, tally));
                }
                Event::Letter(letter) => {
                    if let Some(message) = read(&letter) {
                        self.heard(letter.from, message);
                    }
                }
                Event::Quiet => {}
            }
            self.ranks[0].last = Instant::now();
            self.decide_on_alike();
            let progress = self.sum();
            self.view.show(&progress.tally, progress.in_flight, progress.up);
            if Instant::now() >= self.next_manifest {
                self.next_manifest += MANIFEST_EVERY;
                self.root.note(&before, &progress.tally);
            }
            if self.only_lost_are_left() {
                self.view.end();
                return Over::RanksLost;
            }
        }
        let progress = self.sum();
        self.view.show(&progress.tally, 0, progress.up);
        self.view.end();
        self.root.add(progress.tally);
        for rank in 1..self.ranks.len() {
            if let Err(error) = self.post.comm().send_value(rank, Tag::Job, &Message::Over) {
                warn!(rank, "{error}");
            }
        }
        info!(ranks = self.ranks.len(), "all ranks have ended their work");
        Over::Together
    }

    fn heard(&mut self, from: usize, message: Message) {
        let heard = &mut self.ranks[from];
        heard.last = Instant::now();
        match message {
            Message::Progress(progress) => {
                heard.progress = progress;
                if from > 0 {
                    let _ = self.post.comm().send_value(from, Tag::Job, &Message::Noted);
                }
            }
            Message::Ended(_, tally) => {
                heard.progress = Progress { tally, in_flight: 0, up: 0 };
                heard.ended = true;
            }
            Message::AllAlike(count, words) => heard.alike = Some((count, words)),
            Message::Noted | Message::GoOn | Message::Stop | Message::Over => {
                warn!(from, "a letter that only rank 0 writes")
            }
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

    /// Ranks whose first outcomes are all the same failure wait for a word. Once anybody has answered anything, failures
    /// are the prompts' own; if all who have work say the same, and there are enough of them, the job is wrong.
    fn decide_on_alike(&mut self) {
        if self.ranks.iter().all(|rank| rank.alike.is_none()) {
            return;
        }
        self.answered |= self.ranks.iter().any(|rank| rank.progress.tally.answered > 0);
        let decided =
            |rank: &Heard| rank.ended || rank.alike.is_some() || rank.last.elapsed() > SILENCE;
        if !self.answered && !self.ranks.iter().all(decided) {
            return;
        }
        let count: u64 = self.ranks.iter().filter_map(|rank| Some(rank.alike.as_ref()?.0)).sum();
        let wrong = !self.answered && count >= ALIKE as u64;
        for rank in 0..self.ranks.len() {
            let alike = self.ranks[rank].alike.take();
            if wrong && let Some((_, words)) = alike {
                self.root.wrong.get_or_insert(words);
                self.tell(rank, &Message::Stop);
            } else if alike.is_some() {
                self.tell(rank, &Message::GoOn);
            }
        }
    }

    fn tell(&mut self, rank: usize, message: &Message) {
        match (rank, message, self.engine) {
            (0, Message::Stop, Some(engine)) => engine.stop(),
            (0, Message::GoOn, Some(engine)) => engine.go_on(),
            (0, ..) => {}
            _ => {
                if let Err(error) = self.post.comm().send_value(rank, Tag::Job, message) {
                    warn!(rank, "{error}");
                }
            }
        }
    }

    /// Everybody else has ended, and these were silent for too long.
    fn only_lost_are_left(&self) -> bool {
        let mut open = self.ranks.iter().filter(|rank| !rank.ended).peekable();
        open.peek().is_some() && open.all(|rank| rank.last.elapsed() > SILENCE)
    }
}
