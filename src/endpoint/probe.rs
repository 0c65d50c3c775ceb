//! The readiness probe: finds out whether a server is ready for the job, and its models, version and routes.
//!
//! A server is ready when it lists a model, or the job names one and the server has no list, and the model that the job
//! asks for does not fail. Owns which requests a probe makes and how often, since some cost a completion: `/health` of a
//! gateway, and asking a model that has no `/tokenize`. What a reply says about a model is in `probe_reply.rs`. Waiting
//! for servers is `job/setup/readiness.rs`, and when a suspended endpoint is probed again is `engine/endpoint_state`.

use std::time::Duration;

use super::{
    HttpClient, TransportError,
    http::{HttpResponse, ResponseBounds},
    probe_reply::{ModelReply, ProbeFailure, describe_refusal, judge_model_reply, refusal_of},
    wire,
};
use crate::domain::{ProbeResult, ProbeTarget, Route, ServedModel, ServerInfo, ServerRoutes, Url};

/// Timeout of each request of a probe: a server that loads a model may be slow to answer, a dead one is not worth more.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Size of a reply to a probe. The longest that real servers send is the description of their routes, a few MiB, and
/// `/metrics` with a few thousand series; every endpoint of a rank may be probed at the same time.
const PROBE_BOUNDS: ResponseBounds = ResponseBounds { time: PROBE_TIMEOUT, bytes: 8 << 20 };
/// The same for a request that generates a token, which waits for its turn.
const GENERATION_BOUNDS: ResponseBounds =
    ResponseBounds { time: Duration::from_secs(60), bytes: 8 << 20 };
/// Models of a server that are asked, at most: those of one server are mostly adapters of one model.
const MAX_ASKED_MODELS: usize = 8;

/// The longest pauses between two probes: after a failed connection, after a reply, and after a request that generates.
const MAX_CONNECT_PAUSE: Duration = Duration::from_secs(1);
const MAX_REPLY_PAUSE: Duration = Duration::from_secs(5);
const MAX_GENERATION_PAUSE: Duration = Duration::from_secs(30);

/// Probes one server until it is ready. Remembers what need not be asked again.
#[derive(Debug)]
pub(crate) struct ServerProber {
    client: HttpClient,
    url: Url,
    target: ProbeTarget,
    routes: Option<ServerRoutes>,
    /// Whether `/health` has been asked and did not say that the server is down.
    is_health_known: bool,
    /// The longest pause after the last probe.
    max_pause: Duration,
}

/// Probes a suspended endpoint: whether it is healthy, and which of these models it serves. Its routes are known, and
/// the next prompt shows whether it generates, so no request costs anything.
pub(crate) async fn probe_again(client: &HttpClient, url: &Url, models: &[String]) -> ProbeResult {
    let checked = async {
        let models = list_models(client, url, models).await?;
        let version = fetch_version(client, url).await;
        if version.is_some() {
            check_health(client, url, true).await?;
        }
        Ok(ServerInfo { models, version, chat_template: None, routes: ServerRoutes::default() })
    };
    to_probe_result(checked.await)
}

fn to_probe_result(checked: Result<ServerInfo, ProbeFailure>) -> ProbeResult {
    match checked {
        Ok(info) => ProbeResult::Ready(info),
        Err(ProbeFailure::Pending(reason)) => ProbeResult::NotReady(reason),
        Err(ProbeFailure::Permanent(reason)) => ProbeResult::Unusable(reason),
    }
}

impl ServerProber {
    pub(crate) fn new(client: HttpClient, url: Url, target: ProbeTarget) -> Self {
        Self {
            client,
            url,
            target,
            routes: None,
            is_health_known: false,
            max_pause: MAX_CONNECT_PAUSE,
        }
    }

    /// Returns the longest pause before the next probe, by what the last one cost.
    pub(crate) fn max_pause(&self) -> Duration {
        self.max_pause
    }

    /// Probes the server once.
    pub(crate) async fn probe(&mut self) -> ProbeResult {
        self.max_pause = MAX_CONNECT_PAUSE;
        to_probe_result(self.query_server().await)
    }

    async fn query_server(&mut self) -> Result<ServerInfo, ProbeFailure> {
        let models = list_models(&self.client, &self.url, &self.target.models).await?;
        self.max_pause = MAX_REPLY_PAUSE;
        let version = fetch_version(&self.client, &self.url).await;
        // Of vLLM, `/health` is free and tells a dead engine; that of a gateway may ask every model for a completion.
        if version.is_some() || !self.is_health_known {
            check_health(&self.client, &self.url, version.is_some()).await?;
            self.is_health_known = true;
        }
        let routes = match self.routes {
            Some(routes) => routes,
            None => *self.routes.insert(discover_routes(&self.client, &self.url).await?),
        };
        if !routes.completions && !routes.chat {
            return Err(ProbeFailure::Permanent(
                "it generates no text: it has neither /v1/completions nor /v1/chat/completions\n\
                 hint: a server of embeddings cannot answer prompts; point --endpoint at one that generates"
                    .into(),
            ));
        }
        let chat_template = self.ask_models(&models, routes).await?;
        Ok(ServerInfo { models, version, chat_template, routes })
    }

    /// Asks the models of the job that the server serves. Returns whether all of them accept conversations.
    async fn ask_models(
        &mut self,
        served: &[ServedModel],
        routes: ServerRoutes,
    ) -> Result<Option<bool>, ProbeFailure> {
        let is_served = |name: &&String| served.iter().any(|model| model.id == **name);
        let asked: Vec<String> = match (self.target.models.as_slice(), served) {
            // The job takes the model that is served, or one must be named first.
            ([], [only]) => vec![only.id.clone()],
            ([], _) => Vec::new(),
            (named, _) => named.iter().filter(is_served).take(MAX_ASKED_MODELS).cloned().collect(),
        };
        let mut all = routes.chat.then_some(true).filter(|_| !asked.is_empty());
        for model in asked {
            let accepts = self.ask_model(&model, routes).await?;
            all = all.zip(accepts).map(|(all, accepts)| all && accepts);
        }
        Ok(if routes.chat { all } else { Some(false) })
    }

    /// Asks a model for one token, or its tokenizer where that is free. Returns whether it accepts conversations, if
    /// that was asked.
    async fn ask_model(
        &mut self,
        model: &str,
        routes: ServerRoutes,
    ) -> Result<Option<bool>, ProbeFailure> {
        let model = serde_json::to_string(model).unwrap_or_default();
        let conversation = format!(
            "{{\"model\":{model},\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}],\"max_tokens\":1}}"
        );
        if routes.tokenize && routes.chat {
            let reply = self.post("/tokenize", conversation.clone(), PROBE_BOUNDS).await?;
            match judge_model_reply(&reply, "/tokenize") {
                Ok(ModelReply::Accepted) => return Ok(Some(true)),
                Ok(ModelReply::NoTemplate) => return Ok(Some(false)),
                Ok(ModelReply::Refused | ModelReply::NoRoute) => {}
                Err(failure) => return Err(failure),
            }
        }
        self.max_pause = MAX_GENERATION_PAUSE;
        let uses_chat = routes.chat && self.target.route != Some(Route::Completions);
        let (path, body) = if uses_chat {
            ("/v1/chat/completions", conversation)
        } else {
            let text = format!("{{\"model\":{model},\"prompt\":\"hi\",\"max_tokens\":1}}");
            ("/v1/completions", text)
        };
        let reply = self.post(path, body, GENERATION_BOUNDS).await?;
        // Where the reply decides no route, a server that limits the rate is alive.
        if reply.status == 429 && (self.target.route.is_some() || !routes.chat) {
            return Ok(None);
        }
        let judged = judge_model_reply(&reply, path)?;
        Ok(uses_chat.then_some(matches!(judged, ModelReply::Accepted | ModelReply::Refused)))
    }

    async fn post(
        &self,
        path: &'static str,
        body: String,
        bounds: ResponseBounds,
    ) -> Result<HttpResponse, ProbeFailure> {
        let reply = self.client.post_json(&self.url, path, body.into_bytes(), bounds).await;
        reply.map_err(|error| ProbeFailure::of_transport("POST", path, &error))
    }
}

/// Returns the models that the server lists. A server without a list, or with an empty one, has those that the job
/// names.
async fn list_models(
    client: &HttpClient,
    url: &Url,
    named: &[String],
) -> Result<Vec<ServedModel>, ProbeFailure> {
    let path = "/v1/models";
    let reply =
        get(client, url, path).await.map_err(|it| ProbeFailure::of_transport("GET", path, &it))?;
    let listed = match reply.status {
        200 => wire::parse_model_list(&reply.body).map_err(|_| {
            let message = wire::error_message(&reply.body);
            ProbeFailure::Pending(format!("GET {path} answered no list of models: {message}"))
        })?,
        404 | 405 | 501 if !named.is_empty() => Vec::new(),
        404 | 405 | 501 => {
            let refusal = describe_refusal(&reply, "GET", path);
            return Err(ProbeFailure::Pending(format!(
                "{refusal}\nhint: name the model with --model if the server has no list of models"
            )));
        }
        _ => return Err(refusal_of(&reply, "GET", path)),
    };
    match named {
        _ if !listed.is_empty() => Ok(listed),
        [] => Err(ProbeFailure::Pending(
            "it lists no model\nhint: name the model with --model if the server never lists it"
                .into(),
        )),
        named => Ok(named.iter().map(|name| ServedModel::unlisted(name)).collect()),
    }
}

async fn get(
    client: &HttpClient,
    url: &Url,
    path: &'static str,
) -> Result<HttpResponse, TransportError> {
    client.get(url, path, PROBE_BOUNDS).await
}

/// Returns the version, which vLLM reports and other servers do not have.
async fn fetch_version(client: &HttpClient, url: &Url) -> Option<String> {
    let reply = get(client, url, "/version").await.ok().filter(|reply| reply.status == 200)?;
    serde_json::from_slice::<wire::VersionResponse>(&reply.body).ok().map(|it| it.version)
}

/// Checks `/health`. Of a server that is no vLLM only a plain 503 counts: it may lack the route, demand a key for it, or
/// be slow because of a single model behind it.
async fn check_health(client: &HttpClient, url: &Url, is_vllm: bool) -> Result<(), ProbeFailure> {
    let path = "/health";
    match get(client, url, path).await {
        Ok(reply) if matches!(reply.status, 200 | 401 | 403 | 404 | 405) => Ok(()),
        Ok(reply) if is_vllm || reply.status == 503 => Err(refusal_of(&reply, "GET", path)),
        Err(error) if is_vllm => Err(ProbeFailure::of_transport("GET", path, &error)),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Finds the routes of a server. vLLM lists them; other servers get a POST to each path, with a body that is not a
/// valid request on any of them.
async fn discover_routes(client: &HttpClient, url: &Url) -> Result<ServerRoutes, ProbeFailure> {
    let openapi = get(client, url, "/openapi.json").await.ok().filter(|reply| reply.status == 200);
    // Metrics are optional: without them the server is still ready.
    let metrics = get(client, url, "/metrics").await.is_ok_and(|reply| reply.status == 200);
    let openapi =
        openapi.and_then(|reply| serde_json::from_slice::<wire::OpenApi>(&reply.body).ok());
    if let Some(openapi) = openapi {
        let has = |path: &str| openapi.paths.contains_key(path);
        let routes = ServerRoutes {
            completions: has("/v1/completions"),
            chat: has("/v1/chat/completions"),
            chat_batch: has("/v1/chat/completions/batch"),
            tokenize: has("/tokenize"),
            metrics,
        };
        // A page that describes other routes than the server's own, such as a gateway's, says nothing.
        if routes.completions || routes.chat || has("/v1/models") {
            return Ok(routes);
        }
    }
    let mut exists = [false; 4];
    let paths =
        ["/v1/completions", "/v1/chat/completions", "/v1/chat/completions/batch", "/tokenize"];
    for (exists, path) in exists.iter_mut().zip(paths) {
        let reply = client.post_json(url, path, b"{}".to_vec(), PROBE_BOUNDS).await;
        let reply = reply.map_err(|error| ProbeFailure::of_transport("POST", path, &error))?;
        *exists = match reply.status {
            405 | 501 => false,
            // A router may look for the model before the path.
            404 => wire::error_message(&reply.body).to_ascii_lowercase().contains("model"),
            408 | 425 | 429 | 502..=504 => return Err(refusal_of(&reply, "POST", path)),
            200..300 | 400 | 422 => true,
            // Only the routes that answer prompts are asked again with a valid request.
            _ => path == "/v1/completions" || path == "/v1/chat/completions",
        };
    }
    let [completions, chat, chat_batch, tokenize] = exists;
    Ok(ServerRoutes { completions, chat, chat_batch, tokenize, metrics })
}
