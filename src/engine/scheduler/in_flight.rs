//! Requests under way: what is sent, and what is kept of it meanwhile.
//!
//! Owns how a batch becomes a request (as it is, rendered here, or both ways as a canary) and the futures that wait for
//! replies. Decides nothing: which batch goes where was decided before.

use std::{
    pin::Pin,
    time::{Duration, Instant},
};

use futures_util::future::{AbortHandle, abortable};

use crate::engine::{EnginePolicy, policy::TEMPLATE_KWARGS, queue::Batch};
use crate::{
    domain::{ProbeResult, Prompt, Route, Url},
    endpoint::{
        BatchParams, CanaryResult, HttpClient, InferenceRequest, RequestFault, ServerLoad,
        ServerReply, fetch_server_load, messages_json, probe_server, send_canary, send_request,
    },
};

/// Waits for something to come back.
pub(crate) type RequestFuture = Pin<Box<dyn Future<Output = RequestCompletion>>>;

/// What came back.
pub(crate) enum RequestCompletion {
    Reply {
        id: u64,
        result: Result<ServerReply, RequestFault>,
        canary: Option<CanaryResult>,
    },
    /// Nobody wanted it any more.
    Cancelled {
        id: u64,
    },
    Probe {
        server: usize,
        probe: ProbeResult,
    },
    Load {
        server: usize,
        load: Option<ServerLoad>,
    },
}

/// A request under way.
pub(crate) struct InFlightRequest {
    pub(crate) server: usize,
    pub(crate) batch: Batch,
    pub(crate) sent_at: Instant,
    /// Sequences in flight at its endpoint, its own included.
    pub(crate) concurrency_at_send: usize,
    pub(crate) timeout: Duration,
    /// The limit is tighter than what was asked for.
    pub(crate) timeout_tightened: bool,
    /// It is a conversation that goes both ways.
    pub(crate) is_canary: bool,
    pub(crate) abort_handle: AbortHandle,
}

/// How a batch goes out.
pub(crate) enum RequestPayload {
    Request(InferenceRequest),
    /// A conversation both ways, with the text that it is here.
    Canary(String),
}

/// A list of conversations as texts; those that cannot be rendered here are given back.
pub(crate) fn render_batch(
    policy: &EnginePolicy,
    batch: &mut Batch,
) -> (Option<InferenceRequest>, Option<Batch>) {
    let kwargs = batch.params.params.get(TEMPLATE_KWARGS).map(str::to_owned);
    let mut texts = Vec::with_capacity(batch.tasks.len());
    let (mut kept, mut left) = (Vec::with_capacity(batch.tasks.len()), Vec::new());
    for task in std::mem::take(&mut batch.tasks) {
        match render_conversation(policy, &task.prompt, kwargs.as_deref()) {
            Some(text) => {
                texts.push(text);
                kept.push(task);
            }
            None => left.push(task),
        }
    }
    batch.tasks = kept;
    let question = (!texts.is_empty()).then(|| {
        let shared = EnginePolicy::rendered_params(&batch.params);
        InferenceRequest::from_texts(&shared, texts.iter().map(String::as_str))
    });
    let left = (!left.is_empty()).then(|| {
        let shared = BatchParams { allow_lists: false, ..(*batch.params).clone() };
        Batch { params: shared.into(), tasks: left }
    });
    (question, left)
}

/// One conversation as a text.
pub(crate) fn render_conversation(
    policy: &EnginePolicy,
    prompt: &Prompt,
    kwargs: Option<&str>,
) -> Option<String> {
    let renderer = policy.renderer.as_ref()?;
    renderer.0.render(&messages_json(&prompt.input, policy.system_prompt.as_deref()), kwargs)
}

/// A batch as it is.
pub(crate) fn build_request(policy: &EnginePolicy, batch: &Batch) -> InferenceRequest {
    let system = policy.system_prompt.as_deref().filter(|_| batch.params.route == Route::Chat);
    InferenceRequest::new(&batch.params, batch.tasks.iter().map(|task| &task.prompt), system)
}

/// Sends it.
pub(crate) fn start_request(
    client: &HttpClient,
    url: &Url,
    policy: &EnginePolicy,
    id: u64,
    outgoing: RequestPayload,
    batch: &Batch,
    limit: Duration,
) -> (RequestFuture, AbortHandle) {
    let (client, url) = (client.clone(), url.clone());
    match outgoing {
        RequestPayload::Request(question) => {
            let (asking, cancel) =
                abortable(async move { send_request(&client, &url, question, limit).await });
            let flight = Box::pin(async move {
                match asking.await {
                    Ok(result) => RequestCompletion::Reply { id, result, canary: None },
                    Err(_) => RequestCompletion::Cancelled { id },
                }
            });
            (flight, cancel)
        }
        RequestPayload::Canary(text) => {
            let (shared, system) = (batch.params.clone(), policy.system_prompt.clone());
            let prompt = batch.tasks[0].prompt.clone();
            let (asking, cancel) = abortable(async move {
                let system = system.as_deref();
                send_canary(&client, &url, &shared, &prompt, system, text, limit).await
            });
            let flight = Box::pin(async move {
                match asking.await {
                    Ok((result, canary)) => {
                        RequestCompletion::Reply { id, result, canary: Some(canary) }
                    }
                    Err(_) => RequestCompletion::Cancelled { id },
                }
            });
            (flight, cancel)
        }
    }
}

/// Asks whether it is ready.
pub(crate) fn probe_readiness(client: &HttpClient, url: &Url, server: usize) -> RequestFuture {
    let (client, url) = (client.clone(), url.clone());
    Box::pin(async move {
        RequestCompletion::Probe { server, probe: probe_server(&client, &url).await }
    })
}

/// Asks how much it has to do.
pub(crate) fn poll_load(client: &HttpClient, url: &Url, server: usize) -> RequestFuture {
    let (client, url) = (client.clone(), url.clone());
    Box::pin(async move {
        RequestCompletion::Load { server, load: fetch_server_load(&client, &url).await }
    })
}
