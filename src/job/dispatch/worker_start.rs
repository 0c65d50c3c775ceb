//! The middle of a run: every rank works on what it is given and rank 0 listens. Two worlds meet here, over channels.
//!
//! No collective between the scatter and the end, since a rank may be lost meanwhile: ranks send letters, every few seconds
//! at least, and rank 0 knows from them who lives. Owns how the engine, its reader and the shard file are put together.

use std::sync::mpsc;

use super::{
    assignments::Book,
    coordinator::{Listener, fetcher},
    fail_fast::ALIKE,
    lease_client::{Hand, Rhythm, Said},
    protocol::{Grant, Message, Over},
    worker::report_until_over,
};
use crate::job::{
    JobError,
    collect::local_shards::Folders,
    context::{Common, Tap},
    root::Root,
    setup::{
        chat_template::renderer,
        deadline::Limit,
        run_plan::{Brief, Choice},
    },
};
use crate::{
    comm::{Comm, Post},
    domain::{
        Failure, FailureKind, Id, Input, Outcome, Params, Probe, Prompt, RowHash, Seat, Settled,
        Surveyed, Tally,
    },
    engine::{self, Count, Ended, Endpoint, Policy, Running, Size, Word, Work},
    input::{self, BadRow, Reader},
    settings::{Amount, Settings, UsageCount},
    shards::{Header, LineStyle, ShardWriter, write_line},
    site::Signals,
};

/// A rank asks after so many, however many ranks have endpoints.
const ALIKE_LEAST: usize = 8;

/// What a rank begins with.
pub(crate) struct Start<'r> {
    /// Its endpoints.
    pub(crate) ready: Vec<Surveyed>,
    pub(crate) first: Grant,
    /// On rank 0.
    pub(crate) lead: Option<Lead<'r>>,
}

/// What rank 0 has besides.
pub(crate) struct Lead<'r> {
    pub(crate) root: &'r mut Root,
    pub(crate) book: Book,
    /// Who cannot open the input.
    pub(crate) blind: Vec<bool>,
    pub(crate) limit: Limit,
}

/// In effect collective, by letters. Works on what this rank is given, until all ranks' work has ended.
pub(crate) fn work(
    comm: &mut dyn Comm,
    common: &Common,
    (brief, folders): (&Brief, &Folders),
    choice: &Choice,
    Start { ready, first, lead }: Start<'_>,
    signals: &Signals,
) -> Result<Over, JobError> {
    let (tell, words) = mpsc::channel();
    let (leases, leased) = mpsc::channel();
    let bad = lead.as_ref().map(|lead| lead.root.bad.clone()).unwrap_or_default();
    let engine = begin(common, (brief, folders), choice, ready, leased, bad, tell.clone());
    let engine = engine.unwrap_or_else(|why| {
        // A rank that cannot begin is a value in a report, not an error that leaves the others waiting.
        let _ = tell.send(Said::Word(Word::Ended(Ended::NotStarted(why), Tally::default())));
        None
    });
    let (rank, size, silence) = (comm.rank(), comm.size(), common.settings.rank_silence.get());
    let mut hand = Hand::new(engine, Some(leases), Rhythm::of(rank, size, silence));
    hand.hear(Message::Grant(first));
    let asked = tell.clone();
    signals.tell(Some(Box::new(move |ask| {
        let _ = asked.send(Said::Asked(ask)); // nobody listens: the job is ending
    })));
    let post = Post::new(comm, words);
    let (over, hand) = match lead {
        Some(Lead { root, book, blind, limit }) => {
            let any = blind.contains(&true);
            let fetch = any.then(|| fetcher(brief.source.clone(), tell.clone())).flatten();
            let knows = (choice.weights.as_slice(), blind.as_slice(), limit);
            Listener::new(post, hand, book, root, &common.settings, knows, fetch).listen()
        }
        None => report_until_over(post, rank, hand, silence)?,
    };
    signals.tell(None);
    hand.end();
    Ok(over)
}

/// The engine, unless this rank has nobody to ask and nothing to write.
fn begin(
    common: &Common,
    (brief, folders): (&Brief, &Folders),
    choice: &Choice,
    ready: Vec<Surveyed>,
    leases: mpsc::Receiver<input::Lease>,
    bad: Vec<BadRow>,
    tell: mpsc::Sender<Said>,
) -> Result<Option<Running>, String> {
    if ready.is_empty() && bad.is_empty() {
        let _ = tell.send(Said::Word(Word::Ended(Ended::Finished, Tally::default())));
        return Ok(None);
    }
    let Common { settings, key, place, .. } = common;
    // Who has nobody to ask sees no failures.
    let askers = choice.weights.iter().filter(|&&weight| weight > 0).count().max(1);
    let header = Header::new(brief.start, place.rank, &place.node.host, &brief.source.fingerprint);
    let style = LineStyle {
        echo: !settings.no_echo,
        model: choice.model.clone(),
        text_route: choice.text_route,
        rank: place.rank,
        host: place.node.host.clone(),
    };
    let tap = common.tap.clone().map(|tap| (tap, style.clone()));
    let mut shard =
        ShardWriter::create(folders.own(), &header, style).map_err(|error| error.to_string())?;
    if !bad.is_empty() {
        let failed: Vec<Settled> = bad.into_iter().map(as_failed).collect();
        shard.append(&failed).map_err(|error| error.to_string())?;
        tell_of(&failed, tap.as_ref());
    }
    let before: u64 = choice.endpoints.iter().take(place.rank).sum();
    let all = choice.endpoints.iter().sum();
    let endpoint = |(number, it): (u64, Surveyed)| {
        let ready = match it.probe {
            Probe::Ready(facts) if facts.models.iter().any(|it| it.id == choice.model) => {
                Some(facts.routes)
            }
            Probe::Ready(_) | Probe::NotReady(_) => None,
        };
        let name = format!("{} {}", place.node.host, it.url);
        Endpoint { seat: Seat::of(before + number, all, name), url: it.url, ready }
    };
    let written = tell.clone();
    let work = Work {
        policy: policy(settings, choice, askers)?,
        endpoints: (0..).zip(ready).map(endpoint).collect(),
        key: key.clone(),
        prompts: Reader::new(&brief.source, &brief.rules, leases.into_iter()),
        sink: move |outcomes: Vec<Settled>| {
            shard.append(&outcomes).map_err(|error| error.to_string())?;
            tell_of(&outcomes, tap.as_ref());
            let rows = outcomes.iter().map(|it| it.prompt.index).collect();
            let _ = written.send(Said::Written(rows)); // nobody listens: the job is ending
            Ok(())
        },
    };
    engine::start(work, move |word| {
        let _ = tell.send(Said::Word(word)); // as above
    })
    .map(Some)
    .map_err(|error| format!("no thread can be started: {error}"))
}

/// Whoever listens gets what is on disk, as it is there.
fn tell_of(outcomes: &[Settled], tap: Option<&(Tap, LineStyle)>) {
    let Some((tap, style)) = tap else { return };
    for settled in outcomes {
        let mut line = Vec::new();
        if write_line(&mut line, settled, style).is_ok() {
            let _ = tap.send(Some(line)); // nobody listens any more
        }
    }
}

pub(crate) fn policy(
    settings: &Settings,
    choice: &Choice,
    askers: usize,
) -> Result<Policy, String> {
    let renderer = choice.chat_template.as_ref().map(renderer).transpose();
    Ok(Policy {
        model: choice.model.clone(),
        text_route: choice.text_route,
        defaults: settings.sampling(),
        system: settings.system.clone(),
        renderer: renderer.map_err(|error| error.to_string())?,
        window: size_of(settings.concurrency),
        batch: if settings.no_batch { Size::Exactly(1) } else { size_of(settings.batch_size) },
        max_wait: settings.max_wait.get(),
        rate_limit: settings.rate_limit,
        timeout: settings.timeout.get(),
        timeout_per_sequence: settings.timeout_per_sequence.get(),
        tries: settings.retries,
        context: choice.context,
        buffer: settings.buffer,
        patience: settings.ready_timeout.get(),
        usage: match settings.usage {
            UsageCount::Off => Count::Off,
            UsageCount::Share => Count::Share,
            UsageCount::Exact => Count::Exact,
        },
        alike: ALIKE.div_ceil(askers).max(ALIKE_LEAST),
    })
}

fn size_of(amount: Amount) -> Size {
    match amount {
        Amount::Auto => Size::Auto,
        Amount::Exactly(size) => Size::Exactly(size),
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
        hash: RowHash::UNKNOWN,
    };
    Settled { prompt, outcome: Outcome::Failed(failure), endpoint: None, latency: 0.0, attempts: 0 }
}
