//! Routes: which request goes where.
//!
//! It owns paths and methods, keys and content types, and the framework's answers to what it
//! does not know.

pub mod generate;
pub mod plain;
pub mod tokenize;

use crate::body::Reply;
use crate::endpoint::Endpoint;
use crate::profile::Flavor;
use crate::script::Script;
use crate::seen::Tally;
use crate::wire::fields::Shape;
use crate::wire::refusal::Refusal;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::{
    ALLOW, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, LOCATION, SERVER, VARY,
};
use hyper::{Request, Response, StatusCode};
use std::sync::Arc;

/// The connection is to end without a further byte.
#[derive(Debug)]
pub struct Vanish;

impl std::fmt::Display for Vanish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the server went away as the script says")
    }
}

impl std::error::Error for Vanish {}

/// What every handler gives.
pub type Answered = Result<Response<Reply>, Vanish>;

const GETS: [&str; 8] = [
    "/health",
    "/ping",
    "/version",
    "/v1/models",
    "/metrics",
    "/load",
    "/openapi.json",
    "/sim/seen",
];
const POSTS: [&str; 9] = [
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/tokenize",
    "/detokenize",
    "/v1/completions/render",
    "/v1/chat/completions/render",
    "/inference/v1/generate",
    "/sim/script",
];

/// The method a path is served by on this endpoint; none for an unknown path.
fn method_of(endpoint: &Endpoint, path: &str) -> Option<&'static str> {
    let missing = match endpoint.profile.flavor {
        Flavor::Vllm => false,
        Flavor::Older => path == "/v1/chat/completions/batch",
        Flavor::Bare => {
            let known = ["/v1/completions", "/v1/chat/completions", "/v1/models"];
            !known.contains(&path) && !path.starts_with("/sim/")
        }
    };
    match path {
        _ if missing => None,
        path if GETS.contains(&path) => Some("GET"),
        path if POSTS.contains(&path) => Some("POST"),
        _ => None,
    }
}

/// The paths a probe finds in `/openapi.json`.
pub fn served_paths(endpoint: &Endpoint) -> impl Iterator<Item = (&'static str, &'static str)> {
    let paths = GETS.iter().chain(&POSTS).filter(|path| !path.starts_with("/sim/"));
    paths.filter_map(|path| Some((*path, method_of(endpoint, path)?)))
}

/// Answers a request.
pub async fn answer(endpoint: Arc<Endpoint>, request: Request<Incoming>) -> Answered {
    let mut response = dispatch(&endpoint, request).await?;
    let status = response.status();
    let counter = match status.as_u16() {
        400..500 => Some(&endpoint.tally.refused_4xx),
        500.. => Some(&endpoint.tally.failed_5xx),
        _ => None,
    };
    if let Some(counter) = counter {
        Tally::add(counter, 1);
    }
    let headers = response.headers_mut();
    headers.insert(SERVER, HeaderValue::from_static("uvicorn"));
    headers.insert(VARY, HeaderValue::from_static("Origin"));
    Ok(response)
}

async fn dispatch(endpoint: &Arc<Endpoint>, request: Request<Incoming>) -> Answered {
    let path = request.uri().path();
    let Some(method) = method_of(endpoint, path) else {
        return Ok(unknown(endpoint, &request));
    };
    if request.method().as_str() != method {
        let mut response = refused(&Refusal::detail(405, "Method Not Allowed"));
        response.headers_mut().insert(ALLOW, HeaderValue::from_static(method));
        return Ok(response);
    }
    if path.starts_with("/v1/") && !has_key(endpoint, &request) {
        return Ok(refused(&Refusal::unauthorized()));
    }
    match path {
        "/v1/completions" => generate::answer(endpoint, Shape::Completion, request).await,
        "/v1/chat/completions" => generate::answer(endpoint, Shape::Chat, request).await,
        "/v1/chat/completions/batch" => generate::answer(endpoint, Shape::ChatBatch, request).await,
        "/tokenize" => Ok(tokenize::tokenize(endpoint, &read(request.into_body()).await?)),
        "/detokenize" => Ok(tokenize::detokenize(&read(request.into_body()).await?)),
        "/sim/script" => Ok(set_script(endpoint, &read(request.into_body()).await?)),
        _ if method == "POST" => Ok(refused(&Refusal::scale_out())),
        path => plain::get(endpoint, path),
    }
}

fn unknown(endpoint: &Endpoint, request: &Request<Incoming>) -> Response<Reply> {
    let path = request.uri().path();
    let trimmed = path.trim_end_matches('/');
    if trimmed != path && method_of(endpoint, trimmed).is_some() {
        let host = request.headers().get(HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
        if let Ok(to) = HeaderValue::from_str(&format!("http://{host}{trimmed}")) {
            let mut response = empty(307);
            response.headers_mut().insert(LOCATION, to);
            return response;
        }
    }
    refused(&Refusal::detail(404, "Not Found"))
}

fn has_key(endpoint: &Endpoint, request: &Request<Incoming>) -> bool {
    let Some(key) = &endpoint.profile.api_key else { return true };
    let given = request.headers().get(AUTHORIZATION).and_then(|h| h.to_str().ok());
    given.and_then(|g| g.strip_prefix("Bearer ")).is_some_and(|given| given == key)
}

/// Whether the body claims to be JSON.
fn is_json(request: &Request<Incoming>) -> bool {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|h| h.to_str().ok());
    let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default();
    kind.trim().eq_ignore_ascii_case("application/json")
}

/// The whole body; a client that goes in its middle gets nothing.
async fn read(body: Incoming) -> Result<Bytes, Vanish> {
    body.collect().await.map(|body| body.to_bytes()).map_err(|_| Vanish)
}

fn set_script(endpoint: &Endpoint, body: &[u8]) -> Response<Reply> {
    match serde_json::from_slice::<Script>(body) {
        Ok(script) => {
            endpoint.set_script(script);
            json(200, "{}")
        }
        Err(error) => refused(&Refusal::bad(&format!("This is no script: {error}."))),
    }
}

/// A refusal as a response.
pub fn refused(refusal: &Refusal) -> Response<Reply> {
    json(refusal.status, refusal.body.clone())
}

/// A JSON response.
pub fn json(status: u16, body: impl Into<Bytes>) -> Response<Reply> {
    whole(status, "application/json", body.into())
}

/// A response without a body and its type.
pub fn empty(status: u16) -> Response<Reply> {
    let mut response = Response::new(Reply::whole(Bytes::new()));
    *response.status_mut() = status_of(status);
    response
}

/// A response of a type.
pub fn whole(status: u16, kind: &'static str, body: Bytes) -> Response<Reply> {
    typed(status, kind, Reply::whole(body))
}

/// A response of a type with any body.
pub fn typed(status: u16, kind: &'static str, body: Reply) -> Response<Reply> {
    let mut response = Response::new(body);
    *response.status_mut() = status_of(status);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn status_of(status: u16) -> StatusCode {
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
