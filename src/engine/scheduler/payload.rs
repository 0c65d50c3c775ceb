//! Requests as they are sent: how a batch becomes a payload, and the futures that wait for replies.
//!
//! Owns the choice between a plain request, one rendered here, and a canary, which goes both ways. Which batch goes
//! where was decided before; what is kept of a request meanwhile is in `in_flight`.

use std::{borrow::Cow, pin::Pin, time::Duration};

use futures_util::future::{AbortHandle, abortable};

use super::invalid_answer::{InvalidReasons, check_reply};
use crate::{
    domain::{ProbeResult, Prompt, Route, Url},
    endpoint::{
        BatchParams, CanaryResult, HttpClient, InferenceRequest, RequestFault, ServerLoad,
        ServerReply, continue_conversation, fetch_server_load, messages_json, probe_again,
        send_canary, send_request,
    },
    engine::{
        EnginePolicy,
        endpoint_state::{EndpointState, Feature, FeatureUse, ServerFeatures},
        policy::TEMPLATE_KWARGS,
        queue::{Batch, PromptTask},
    },
};

/// A future that ends with a reply or a failure.
pub(crate) type RequestFuture = Pin<Box<dyn Future<Output = RequestCompletion>>>;

/// The end of a request, a probe or a load poll.
pub(crate) enum RequestCompletion {
    Reply {
        id: u64,
        /// The reply, and which of its answers are not valid.
        result: Result<(ServerReply, InvalidReasons), RequestFault>,
        canary: Option<CanaryResult>,
    },
    /// The request was aborted because all its prompts are settled.
    Cancelled {
        id: u64,
    },
    Probe {
        endpoint: usize,
        probe: ProbeResult,
    },
    Load {
        endpoint: usize,
        load: Option<ServerLoad>,
    },
}

/// A batch as it is sent.
pub(crate) enum RequestPayload {
    Request(InferenceRequest),
    /// A conversation both ways, with the text that it is rendered to here.
    Canary {
        params: Box<BatchParams>,
        text: String,
    },
}

/// The use that a request makes of things that only some servers take.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FeatureUses {
    /// Whether the server is asked to keep to the JSON schema of answers.
    pub(crate) schema: bool,
    pub(crate) sequences: FeatureUse,
    /// Token ids that this program requests for itself.
    pub(crate) token_ids: FeatureUse,
}

impl FeatureUses {
    /// Returns the uses by feature.
    pub(crate) fn by_feature(self) -> [(Feature, FeatureUse); 2] {
        [(Feature::TokenIds, self.token_ids), (Feature::Sequences, self.sequences)]
    }
}

/// The payload for a batch.
pub(crate) struct BuiltPayload {
    /// None if no prompt of the batch can be sent this way.
    pub(crate) payload: Option<RequestPayload>,
    pub(crate) uses: FeatureUses,
    /// Conversations that cannot be rendered here: they are to be sent one by one.
    pub(crate) unrenderable: Option<Batch>,
}

/// Builds the payload for a batch. Prompts that are returned as unrenderable are removed from the batch.
pub(crate) fn build_payload(
    policy: &EnginePolicy,
    endpoint: &mut EndpointState,
    batch: &mut Batch,
) -> BuiltPayload {
    let params = batch.params().clone();
    let params = policy.with_schema(&params, endpoint.takes_schema());
    let schema = matches!(params, Cow::Owned(_));
    let (params, uses) = leave_out(params, endpoint.features());
    let mut uses = FeatureUses { schema, ..uses };
    let may_render = batch.params().route == Route::Chat && batch.params().allow_lists;
    if may_render && batch.len() > 1 {
        return BuiltPayload { uses, ..render_batch(policy, &params, batch) };
    }
    let takes_token_ids = endpoint.features().takes(Feature::TokenIds);
    let canary = may_render && takes_token_ids && endpoint.try_take_canary();
    if canary {
        // Both of its requests ask for the ids.
        uses.token_ids = FeatureUse::Used;
    } else if may_render && !takes_token_ids {
        uses.token_ids = FeatureUse::LeftOut;
    }
    let payload = if canary {
        let kwargs = batch.params().params.get(TEMPLATE_KWARGS);
        let text = render_conversation(policy, batch.tasks()[0].prompt(), kwargs);
        if text.is_none() {
            endpoint.cancel_canary();
        }
        let params = Box::new(params.clone().into_owned());
        text.map(|text| RequestPayload::Canary { params, text })
    } else {
        None
    };
    let payload =
        payload.unwrap_or_else(|| RequestPayload::Request(build_request(policy, &params, batch)));
    BuiltPayload { payload: Some(payload), uses, unrenderable: None }
}

/// Removes the parameters that the server does not take, or may not take. Borrowed parameters stay borrowed for a server
/// that takes everything.
fn leave_out<'p>(
    mut params: Cow<'p, BatchParams>,
    features: &ServerFeatures,
) -> (Cow<'p, BatchParams>, FeatureUses) {
    let use_of = |is_needed: bool, feature| match (is_needed, features.takes(feature)) {
        (false, _) => FeatureUse::Unneeded,
        (true, true) => FeatureUse::Used,
        (true, false) => FeatureUse::LeftOut,
    };
    let uses = FeatureUses {
        schema: false,
        sequences: use_of(params.n > 1, Feature::Sequences),
        token_ids: use_of(!params.keep_token_ids, Feature::TokenIds),
    };
    if uses.sequences == FeatureUse::LeftOut {
        let params = params.to_mut();
        params.n = 1;
        params.params.remove("n");
    }
    if uses.token_ids == FeatureUse::LeftOut {
        params.to_mut().params.remove("return_token_ids");
    }
    (params, uses)
}

/// Renders conversations to the texts of one request.
fn render_batch(policy: &EnginePolicy, sent: &BatchParams, batch: &mut Batch) -> BuiltPayload {
    let params = batch.params().clone();
    let kwargs = params.params.get(TEMPLATE_KWARGS);
    let mut texts = Vec::with_capacity(batch.len());
    let mut unrenderable = Vec::new();
    let is_renderable = |task: &PromptTask| {
        let text = render_conversation(policy, task.prompt(), kwargs);
        let is_some = text.is_some();
        texts.extend(text);
        is_some
    };
    // The batch keeps the prompts whose texts are sent, in the same order: replies are matched by position.
    batch.partition_tasks(is_renderable, &mut unrenderable);
    let payload = (!texts.is_empty()).then(|| {
        let rendered = EnginePolicy::rendered_params(sent);
        let texts = texts.iter().map(String::as_str);
        RequestPayload::Request(InferenceRequest::from_texts(&rendered, texts))
    });
    let unrenderable = (!unrenderable.is_empty()).then(|| {
        let single = BatchParams { allow_lists: false, ..(*params).clone() };
        Batch::new(single.into(), unrenderable)
    });
    BuiltPayload { payload, uses: FeatureUses::default(), unrenderable }
}

fn render_conversation(
    policy: &EnginePolicy,
    prompt: &Prompt,
    kwargs: Option<&str>,
) -> Option<String> {
    let renderer = policy.renderer.as_ref()?;
    renderer.0.render(&messages_json(prompt, policy.system_prompt.as_deref()), kwargs)
}

fn build_request(policy: &EnginePolicy, params: &BatchParams, batch: &Batch) -> InferenceRequest {
    let system = policy.system_prompt.as_deref().filter(|_| params.route == Route::Chat);
    if let [task] = batch.tasks()
        && let Some(follow_up) = task.invalid_tries().and_then(|tries| tries.follow_up())
    {
        let begun = messages_json(task.prompt(), system);
        let conversation = continue_conversation(&begun, &follow_up.answer, &follow_up.message);
        return InferenceRequest::from_conversation(params, &conversation);
    }
    InferenceRequest::new(params, batch.tasks().iter().map(PromptTask::prompt), system)
}

/// The connection that a request uses.
#[derive(Clone, Copy)]
pub(crate) struct RequestTarget<'a> {
    pub(crate) client: &'a HttpClient,
    pub(crate) url: &'a Url,
    pub(crate) timeout: Duration,
}

/// Returns the future that sends the payload of `batch`, and the handle that aborts it: the connection is closed then,
/// and the server stops generating.
pub(crate) fn request_future(
    id: u64,
    payload: RequestPayload,
    batch: &Batch,
    policy: &EnginePolicy,
    target: RequestTarget<'_>,
) -> (RequestFuture, AbortHandle) {
    let (client, url, timeout) = (target.client.clone(), target.url.clone(), target.timeout);
    let check = policy.answer_check.clone();
    match payload {
        RequestPayload::Request(request) => {
            let params = batch.params().clone();
            let (reply, abort_handle) = abortable(async move {
                let reply = send_request(&client, &url, request, &params, timeout).await;
                check_reply(reply, check).await
            });
            let future = Box::pin(async move {
                match reply.await {
                    Ok(result) => RequestCompletion::Reply { id, result, canary: None },
                    Err(_) => RequestCompletion::Cancelled { id },
                }
            });
            (future, abort_handle)
        }
        RequestPayload::Canary { params, text } => {
            let system = policy.system_prompt.clone();
            let prompt = batch.tasks()[0].prompt().clone();
            let (reply, abort_handle) = abortable(async move {
                let system = system.as_deref();
                let (reply, canary) =
                    send_canary(&client, &url, &params, &prompt, system, text, timeout).await;
                (check_reply(reply, check).await, canary)
            });
            let future = Box::pin(async move {
                match reply.await {
                    Ok((result, canary)) => {
                        RequestCompletion::Reply { id, result, canary: Some(canary) }
                    }
                    Err(_) => RequestCompletion::Cancelled { id },
                }
            });
            (future, abort_handle)
        }
    }
}

/// Returns the future that probes whether an endpoint is ready again, and which of these models it serves.
pub(crate) fn probe_readiness(
    client: &HttpClient,
    url: &Url,
    models: Vec<String>,
    endpoint: usize,
) -> RequestFuture {
    let (client, url) = (client.clone(), url.clone());
    Box::pin(async move {
        let probe = probe_again(&client, &url, &models).await;
        RequestCompletion::Probe { endpoint, probe }
    })
}

/// Returns the future that polls the load of an endpoint.
pub(crate) fn poll_load(client: &HttpClient, url: &Url, endpoint: usize) -> RequestFuture {
    let (client, url) = (client.clone(), url.clone());
    Box::pin(async move {
        RequestCompletion::Load { endpoint, load: fetch_server_load(&client, &url).await }
    })
}
