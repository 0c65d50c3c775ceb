//! Requests under way: what is sent, and what is kept of it meanwhile.
//!
//! Owns how a batch becomes a request (as it is, rendered here, or both ways as a canary) and the futures that wait for
//! replies. Decides nothing: which batch goes where was decided before.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use futures_util::future::{AbortHandle, abortable};

use crate::engine::{Policy, policy::TEMPLATE_ARGUMENTS, queue::Batch};
use crate::{
    domain::{Probe, Prompt, Route, Url},
    endpoint::{
        Canary, Client, Fault, Load, Question, Reply, Shared, ask, ask_both_ways, conversation,
        load, probe,
    },
};

/// Waits for something to come back.
pub(crate) type Flight = Pin<Box<dyn Future<Output = Landed>>>;

/// What came back.
pub(crate) enum Landed {
    Reply {
        id: u64,
        result: Result<Reply, Fault>,
        canary: Option<Canary>,
    },
    /// Nobody wanted it any more.
    Cancelled {
        id: u64,
    },
    Probe {
        server: usize,
        probe: Probe,
    },
    Load {
        server: usize,
        load: Option<Load>,
    },
}

/// A request under way.
pub(crate) struct UnderWay {
    pub(crate) server: usize,
    pub(crate) batch: Batch,
    pub(crate) sent: Instant,
    /// Sequences in flight at its endpoint, its own included.
    pub(crate) level: usize,
    pub(crate) limit: Duration,
    /// The limit is tighter than what was asked for.
    pub(crate) tight: bool,
    /// It is a conversation that goes both ways.
    pub(crate) canary: bool,
    pub(crate) cancel: AbortHandle,
}

/// How a batch goes out.
pub(crate) enum Outgoing {
    Question(Question),
    /// A conversation both ways, with the text that it is here.
    Canary(String),
}

/// A list of conversations as texts; those that cannot be rendered here are given back.
pub(crate) fn rendered(policy: &Policy, batch: &mut Batch) -> (Option<Question>, Option<Batch>) {
    let kwargs = batch.shared.params.get(TEMPLATE_ARGUMENTS).map(str::to_owned);
    let mut texts = Vec::with_capacity(batch.tasks.len());
    let (mut kept, mut left) = (Vec::with_capacity(batch.tasks.len()), Vec::new());
    for task in std::mem::take(&mut batch.tasks) {
        match text(policy, &task.prompt, kwargs.as_deref()) {
            Some(text) => {
                texts.push(text);
                kept.push(task);
            }
            None => left.push(task),
        }
    }
    batch.tasks = kept;
    let question = (!texts.is_empty()).then(|| {
        let shared = Policy::rendered(&batch.shared);
        Question::of_texts(&shared, texts.iter().map(String::as_str))
    });
    let left = (!left.is_empty()).then(|| {
        let shared = Shared { lists: false, ..(*batch.shared).clone() };
        Batch { shared: shared.into(), tasks: left }
    });
    (question, left)
}

/// One conversation as a text.
pub(crate) fn text(policy: &Policy, prompt: &Prompt, kwargs: Option<&str>) -> Option<String> {
    let renderer = policy.renderer.as_ref()?;
    renderer.0.render(&conversation(&prompt.input, policy.system.as_deref()), kwargs)
}

/// A batch as it is.
pub(crate) fn plain(policy: &Policy, batch: &Batch) -> Question {
    let system = policy.system.as_deref().filter(|_| batch.shared.route == Route::Chat);
    Question::new(&batch.shared, batch.tasks.iter().map(|task| &task.prompt), system)
}

/// Sends it.
pub(crate) fn request(
    client: &Client,
    url: &Url,
    policy: &Policy,
    id: u64,
    outgoing: Outgoing,
    batch: &Batch,
    limit: Duration,
) -> (Flight, AbortHandle) {
    let (client, url) = (client.clone(), url.clone());
    match outgoing {
        Outgoing::Question(question) => {
            let (asking, cancel) =
                abortable(async move { ask(&client, &url, question, limit).await });
            let flight = Box::pin(async move {
                match asking.await {
                    Ok(result) => Landed::Reply { id, result, canary: None },
                    Err(_) => Landed::Cancelled { id },
                }
            });
            (flight, cancel)
        }
        Outgoing::Canary(text) => {
            let (shared, system) = (batch.shared.clone(), policy.system.clone());
            let prompt = batch.tasks[0].prompt.clone();
            let (asking, cancel) = abortable(async move {
                let system = system.as_deref();
                ask_both_ways(&client, &url, &shared, &prompt, system, text, limit).await
            });
            let flight = Box::pin(async move {
                match asking.await {
                    Ok((result, canary)) => Landed::Reply { id, result, canary: Some(canary) },
                    Err(_) => Landed::Cancelled { id },
                }
            });
            (flight, cancel)
        }
    }
}

/// Asks whether it is ready.
pub(crate) fn asks_ready(client: &Client, url: &Url, server: usize) -> Flight {
    let (client, url) = (client.clone(), url.clone());
    Box::pin(async move { Landed::Probe { server, probe: probe(&client, &url).await } })
}

/// Asks how much it has to do.
pub(crate) fn asks_load(client: &Client, url: &Url, server: usize) -> Flight {
    let (client, url) = (client.clone(), url.clone());
    Box::pin(async move { Landed::Load { server, load: load(&client, &url).await } })
}
