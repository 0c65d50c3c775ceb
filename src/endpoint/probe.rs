//! The readiness probe: finds out whether a server is ready, and its models, version and routes.
//!
//! A server is ready when it lists a model. `/health` alone says little (a draining vLLM still answers 200) and other
//! servers do not have it; where it exists it must be healthy too. Waiting for servers is `job/setup/readiness.rs`, and
//! probing a suspended endpoint again is `engine/ready_checker.rs`.

use std::time::Duration;

use super::{HttpClient, TransportError, http::ResponseBounds, wire};
use crate::domain::{ProbeResult, ServedModel, ServerInfo, ServerRoutes, Url};

/// Timeout of each request of a probe: a server that loads a model may be slow to answer, a dead one is not worth more.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
/// Size of a reply to a probe. The longest that real servers send is the description of their routes, under 1 MiB, and
/// `/metrics` with a few thousand series; every endpoint of a rank may be probed at the same time.
const PROBE_BOUNDS: ResponseBounds = ResponseBounds { time: PROBE_TIMEOUT, bytes: 8 << 20 };

/// Probes a server once, with requests for its health, models, version and routes.
pub(crate) async fn probe_server(client: &HttpClient, url: &Url) -> ProbeResult {
    match query_server(client, url).await {
        Ok(info) => ProbeResult::Ready(info),
        Err(reason) => ProbeResult::NotReady(reason),
    }
}

async fn query_server(client: &HttpClient, url: &Url) -> Result<ServerInfo, String> {
    let get = |path: &'static str| client.get(url, path, PROBE_BOUNDS);
    let at_route = |what: &str, error: TransportError| format!("{what}: {error}");
    let health = get("/health").await.map_err(|error| at_route("GET /health", error))?;
    // Servers other than vLLM may lack the route.
    if !matches!(health.status, 200 | 404 | 405) {
        return Err(format!(
            "GET /health answered {}: {}",
            health.status,
            wire::error_message(&health.body)
        ));
    }
    let models = get("/v1/models").await.map_err(|error| at_route("GET /v1/models", error))?;
    if models.status != 200 {
        return Err(format!(
            "GET /v1/models answered {}: {}",
            models.status,
            wire::error_message(&models.body)
        ));
    }
    let models: wire::ModelList = serde_json::from_slice(&models.body)
        .map_err(|error| format!("GET /v1/models: not a list of models ({error})"))?;
    if models.data.is_empty() {
        return Err("no model is loaded yet".into());
    }
    let model = |entry: wire::ModelEntry| ServedModel {
        id: entry.id,
        max_model_len: entry.max_model_len,
        root: entry.root,
        parent: entry.parent,
    };
    let version = get("/version").await.ok().filter(|response| response.status == 200);
    let version = version
        .and_then(|response| serde_json::from_slice::<wire::VersionResponse>(&response.body).ok());
    let models: Vec<ServedModel> = models.data.into_iter().map(model).collect();
    let routes = discover_routes(client, url).await.map_err(|error| error.to_string())?;
    // The first model stands for all: a vLLM serves one model and adapters of it.
    let chat_template = has_chat_template(client, url, &models[0].id, routes).await?;
    Ok(ServerInfo {
        models,
        version: version.map(|version| version.version),
        chat_template,
        routes,
    })
}

/// Tells whether the model accepts conversations: one without a chat template refuses them. `/tokenize` finds that out
/// for free; a server without that route is asked for one token. A server that dies meanwhile is an error and not a
/// "no", since the route of a whole run depends on this.
async fn has_chat_template(
    client: &HttpClient,
    url: &Url,
    model: &str,
    routes: ServerRoutes,
) -> Result<bool, String> {
    if !routes.chat {
        return Ok(false);
    }
    let model = serde_json::to_string(model).unwrap_or_default();
    let body = format!(
        "{{\"model\":{model},\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}],\"max_tokens\":1}}"
    );
    let path = if routes.tokenize { "/tokenize" } else { "/v1/chat/completions" };
    match client.post_json(url, path, body.into_bytes(), PROBE_BOUNDS).await {
        Ok(response) if response.status == 503 => Err(format!("POST {path} answered 503")),
        Ok(response) => Ok(response.status == 200),
        Err(error) => Err(format!("POST {path}: {error}")),
    }
}

/// Finds the routes of a server. vLLM lists them; other servers get a POST to each path, with a body that is not a
/// valid request on any of them.
async fn discover_routes(client: &HttpClient, url: &Url) -> Result<ServerRoutes, TransportError> {
    let openapi = Some(client.get(url, "/openapi.json", PROBE_BOUNDS).await?)
        .filter(|response| response.status == 200);
    // Metrics are optional: without them the server is still ready.
    let metrics = client
        .get(url, "/metrics", PROBE_BOUNDS)
        .await
        .is_ok_and(|response| response.status == 200);
    if let Some(openapi) =
        openapi.and_then(|response| serde_json::from_slice::<wire::OpenApi>(&response.body).ok())
    {
        let has = |path: &str| openapi.paths.contains_key(path);
        return Ok(ServerRoutes {
            completions: has("/v1/completions"),
            chat: has("/v1/chat/completions"),
            chat_batch: has("/v1/chat/completions/batch"),
            tokenize: has("/tokenize"),
            metrics,
        });
    }
    let mut exists = [false; 4];
    let paths =
        ["/v1/completions", "/v1/chat/completions", "/v1/chat/completions/batch", "/tokenize"];
    for (exists, path) in exists.iter_mut().zip(paths) {
        let answer = client.post_json(url, path, b"{}".to_vec(), PROBE_BOUNDS).await?;
        *exists = !matches!(answer.status, 404 | 405 | 501);
    }
    let [completions, chat, chat_batch, tokenize] = exists;
    Ok(ServerRoutes { completions, chat, chat_batch, tokenize, metrics })
}
