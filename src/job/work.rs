//! The middle of a run: every rank works on its share and rank 0 listens. Two worlds meet here, over channels.
//!
//! No collective between the scatter and the end, since a rank may be lost meanwhile: ranks send letters, every 5 s at
//! least, and rank 0 knows from them who lives. A rank that nobody has heard of for a minute is counted lost.

use std::sync::mpsc;

use super::{
    JobError,
    agree::Common,
    brief::{Brief, Choice, SHARDS, Share},
    conversations::renderer,
    root::Root,
    talk::{ALIKE, Listener, Over, report_until_over},
};
use crate::{
    comm::{Comm, Post},
    domain::{
        Failure, FailureKind, Id, Input, Outcome, Params, Probe, Prompt, Settled, Surveyed, Tally,
    },
    engine::{self, Count, Ended, Endpoint, Policy, Running, Size, Word, Work},
    prompts::{BadRow, Reader},
    settings::{Amount, Settings, UsageCount},
    shards::{Header, LineStyle, ShardWriter},
};

/// A rank asks after so many, however many ranks there are.
const ALIKE_LEAST: usize = 8;

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
        Some(root) => Listener::new(post, size, root, &common.settings, engine.as_ref()).listen(),
        None => report_until_over(post, rank, engine.as_ref())?,
    };
    if let Some(engine) = engine {
        engine.stop();
        engine.join();
    }
    Ok(over)
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
    let size = choice.weights.len();
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
    let endpoint = |it: Surveyed| {
        let ready = match it.probe {
            Probe::Ready(facts) if facts.models.iter().any(|it| it.id == choice.model) => {
                Some(facts.routes)
            }
            Probe::Ready(_) | Probe::NotReady(_) => None,
        };
        Endpoint { url: it.url, ready }
    };
    let work = Work {
        policy: policy(settings, choice, size)?,
        endpoints: ready.into_iter().map(endpoint).collect(),
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

fn policy(settings: &Settings, choice: &Choice, ranks: usize) -> Result<Policy, String> {
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
        alike: ALIKE.div_ceil(ranks).max(ALIKE_LEAST),
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
    };
    Settled { prompt, outcome: Outcome::Failed(failure), endpoint: None, latency: 0.0, attempts: 0 }
}
