//! The middle of a run: every rank works on its share and rank 0 listens. Two worlds meet here, over channels.
//!
//! No collective between the scatter and the end, since a rank may be lost meanwhile: ranks send letters, every 5 s at
//! least, and rank 0 knows from them who lives. A rank that nobody has heard of for a minute is counted lost.

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tracing::{error, info, warn};

use super::{
    JobError,
    agree::Common,
    brief::{Brief, Choice, SHARDS, Share},
    root::Root,
};
use crate::{
    comm::{Comm, Event, Letter, Post, Tag, Typed},
    domain::{
        Failure, FailureKind, Id, Input, Merge, Outcome, Params, Probe, Prompt, Settled, Surveyed,
        Tally,
    },
    engine::{self, Ended, Policy, Progress, Running, Word, Work},
    prompts::{BadRow, Reader},
    report::ProgressView,
    settings::{Settings, UsageCount},
    shards::{Header, LineStyle, ShardWriter},
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
    /// From rank 0: heard.
    Noted,
    /// From rank 0: everybody's work has ended.
    Over,
}

/// A rank writes at least so often.
const REPORT_EVERY: Duration = Duration::from_secs(5);
/// Nobody is silent for so long who is alive.
const SILENCE: Duration = Duration::from_secs(60);
/// How long rank 0 waits for the roll-call's answers.
pub(super) const ROLL_CALL: Duration = Duration::from_secs(30);
/// How often the manifest says how it stands.
const MANIFEST_EVERY: Duration = Duration::from_secs(10);

/// In effect collective, by letters. Works on this rank's share until all ranks' work has ended.
pub(super) fn work(
    comm: &mut dyn Comm,
    common: &Common,
    brief: &Brief,
    choice: &Choice,
    ready: Vec<Surveyed>,
    share: Share,
    root: Option<&mut Root>,
) -> Result<Over, JobError> {
    let (tell, words) = mpsc::channel();
    let bad = root.as_ref().map(|root| root.bad.clone()).unwrap_or_default();
    let engine = begin(common, brief, choice, ready, share, bad, tell.clone());
    let engine = engine.unwrap_or_else(|why| {
        // A rank that cannot begin is a value in a report, not an error that leaves the others waiting.
        let _ = tell.send(Word::Ended(Ended::NotStarted(why), Tally::default()));
        None
    });
    drop(tell);
    let (rank, size) = (comm.rank(), comm.size());
    let post = Post::new(comm, words);
    let over = match root {
        Some(root) => Listener::new(post, size, root, &common.settings).listen(),
        None => report_until_over(post, rank)?,
    };
    if let Some(engine) = engine {
        engine.stop();
        engine.join();
    }
    Ok(over)
}

/// A rank whose end is rank 0's to bring about; bounded, in case rank 0 is lost.
pub(super) fn wait_to_be_ended(comm: &dyn Comm) -> ! {
    std::thread::sleep(SILENCE);
    comm.abort(super::STOPPED_EARLY)
}

/// The engine, unless this rank has nothing to do.
fn begin(
    common: &Common,
    brief: &Brief,
    choice: &Choice,
    ready: Vec<Surveyed>,
    share: Share,
    bad: Vec<BadRow>,
    tell: mpsc::Sender<Word>,
) -> Result<Option<Running>, String> {
    if share.is_empty() && bad.is_empty() {
        let _ = tell.send(Word::Ended(Ended::Finished, Tally::default()));
        return Ok(None);
    }
    let Common { settings, key, place, .. } = common;
    let header = Header::new(brief.start, place.rank, &place.node.host, &brief.source.fingerprint);
    let style = LineStyle {
        echo: !settings.no_echo,
        model: choice.model.clone(),
        text_route: choice.text_route,
        rank: place.rank,
        host: place.node.host.clone(),
    };
    let folder = brief.folder.join(SHARDS);
    let mut shard =
        ShardWriter::create(&folder, &header, style).map_err(|error| error.to_string())?;
    if !bad.is_empty() {
        let failed: Vec<Settled> = bad.into_iter().map(as_failed).collect();
        shard.append(&failed).map_err(|error| error.to_string())?;
    }
    let served = |it: &Surveyed| match &it.probe {
        Probe::Ready(facts) => facts.models.iter().any(|model| model.id == choice.model),
        Probe::NotReady(_) => false,
    };
    let work = Work {
        policy: policy(settings, choice),
        endpoints: ready.into_iter().map(|it| (it.url.clone(), served(&it))).collect(),
        key: key.clone(),
        prompts: Reader::new(&brief.source, &brief.rules, share),
        sink: move |outcomes: Vec<Settled>| {
            shard.append(&outcomes).map_err(|error| error.to_string())
        },
    };
    engine::start(work, tell)
        .map(Some)
        .map_err(|error| format!("no thread can be started: {error}"))
}

fn policy(settings: &Settings, choice: &Choice) -> Policy {
    Policy {
        model: choice.model.clone(),
        text_route: choice.text_route,
        defaults: settings.sampling(),
        system: settings.system.clone(),
        window: settings.concurrency,
        batch: if settings.no_batch { 1 } else { settings.batch_size },
        timeout: settings.timeout.get(),
        timeout_per_sequence: settings.timeout_per_sequence.get(),
        tries: settings.retries,
        context: choice.context,
        buffer: settings.buffer,
        patience: settings.ready_timeout.get(),
        usage: settings.usage == UsageCount::Share,
    }
}

/// A row that cannot be read, as an outcome of its prompt.
fn as_failed(bad: BadRow) -> Settled {
    let id = bad.id.unwrap_or_else(|| Id::of_index(bad.index));
    let failure = Failure { kind: FailureKind::BadRow, message: bad.why, status: None };
    let prompt = Prompt {
        index: bad.index,
        id,
        input: Input::Text(String::new()),
        params: Params::default(),
        route: None,
        priority: 0,
        row: None,
    };
    Settled { prompt, outcome: Outcome::Failed(failure), endpoint: None, latency: 0.0, attempts: 0 }
}

/// Ranks other than 0: pass on what the engine says, until rank 0 says that it is over.
fn report_until_over(mut post: Post<'_, Word>, rank: usize) -> Result<Over, JobError> {
    let mut latest = Progress::default();
    let mut next = Instant::now() + REPORT_EVERY;
    let mut heard = Instant::now();
    loop {
        match post.wait(next) {
            Event::Word(Word::Progress(progress)) => latest = progress,
            Event::Word(Word::Ended(ended, tally)) => {
                complain(&ended);
                latest.tally = tally.clone();
                (latest.in_flight, latest.up) = (0, 0);
                post.comm().send_value(0, Tag::Job, &Message::Ended(ended, tally))?;
            }
            Event::Letter(letter) => {
                heard = Instant::now();
                if matches!(read(&letter), Some(Message::Over)) {
                    return Ok(Over::Together);
                }
            }
            Event::Quiet => {}
        }
        if Instant::now() >= next {
            next += REPORT_EVERY;
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
struct Listener<'c, 'r> {
    post: Post<'c, Word>,
    ranks: Vec<Heard>,
    root: &'r mut Root,
    view: ProgressView,
    next_manifest: Instant,
}

/// What is known of a rank.
struct Heard {
    last: Instant,
    progress: Progress,
    ended: bool,
}

impl<'c, 'r> Listener<'c, 'r> {
    fn new(post: Post<'c, Word>, size: usize, root: &'r mut Root, settings: &Settings) -> Self {
        let now = Instant::now();
        let heard = || Heard { last: now, progress: Progress::default(), ended: false };
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
        }
    }

    fn listen(mut self) -> Over {
        let before = self.root.counts();
        while !self.ranks.iter().all(|rank| rank.ended) {
            let until = Instant::now() + Duration::from_millis(500);
            match self.post.wait(until) {
                Event::Word(Word::Progress(progress)) => self.heard(0, Message::Progress(progress)),
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
            Message::Noted | Message::Over => warn!(from, "a letter that only rank 0 writes"),
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

    /// Everybody else has ended, and these were silent for too long.
    fn only_lost_are_left(&self) -> bool {
        let mut open = self.ranks.iter().filter(|rank| !rank.ended).peekable();
        open.peek().is_some() && open.all(|rank| rank.last.elapsed() > SILENCE)
    }
}
