//! The HTTP client: the only file that knows reqwest, and so the only one that moves bytes to a server and back.
//!
//! Owns connections and the rules for them: HTTP/1.1 (vLLM's server speaks nothing else), never through a proxy
//! (compute nodes set one, and loopback traffic must not meet it), idle connections dropped before the server drops
//! them, no redirects (a superfluous slash in a URL is a mistake to report, not to follow). Request bodies are built in
//! `request.rs`, replies are parsed in `reply.rs`.
#![expect(clippy::disallowed_types, reason = "the owner of reqwest")]

use std::{
    collections::HashMap,
    error::Error as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    domain::{Url, clean_line},
    settings::ApiKey,
};

/// vLLM closes a connection after 5 s without traffic, and a request written at that moment gets no answer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// Longest time in which a request on a stale connection fails; a later failure is a real one.
const STALE_DETECT_LIMIT: Duration = Duration::from_millis(100);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes reserved at most for a response before any of its body has arrived.
const MAX_ANNOUNCED_BYTES: usize = 1 << 20;

/// Pool of HTTP connections to servers. Cheap to clone; clones share the connections.
#[derive(Clone, Debug)]
pub(crate) struct HttpClient {
    inner: reqwest::Client,
    key: Option<ApiKey>,
    /// Parsed target URLs, by path and server: parsing the same text a million times would take seconds.
    target_urls: Arc<Mutex<HashMap<&'static str, HashMap<Url, reqwest::Url>>>>,
}

/// What a response may take: a server that sends without end, or not at all, costs no more than this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ResponseBounds {
    /// Time from sending the request to the last byte.
    pub time: Duration,
    /// Size of the body in bytes.
    pub bytes: usize,
}

/// Complete HTTP response of a server, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HttpResponse {
    /// HTTP status code of the response.
    pub status: u16,
    /// Delay that the server asks for before the next request (`Retry-After`, in seconds).
    pub retry_after: Option<Duration>,
    /// URL that a redirect names.
    pub redirect: Option<String>,
    /// Response body, read to its end.
    pub body: Vec<u8>,
}

/// Reason why a request got no HTTP response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TransportError {
    /// The connection was refused, or the host cannot be reached or resolved.
    #[error("cannot connect ({0})")]
    Connect(String),
    /// No complete response arrived within the request's timeout.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The connection ended before the response was complete.
    #[error("connection closed ({0})")]
    ConnectionLost(String),
    /// The response body exceeds the limit of its route, in bytes.
    #[error("response larger than {0} bytes")]
    ResponseTooLarge(usize),
    /// The request could not be built, so nothing was sent.
    #[error("invalid request ({0})")]
    InvalidRequest(String),
}

impl HttpClient {
    /// Creates a client that sends the key, if there is one, as a bearer token.
    ///
    /// # Errors
    /// Fails if the HTTP library cannot be initialized.
    pub(crate) fn new(key: Option<ApiKey>) -> Result<Self, TransportError> {
        let inner = reqwest::Client::builder()
            .no_proxy()
            .http1_only()
            // A request is a single write: Nagle's algorithm could only delay it.
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            // The library's 30 s would end requests whose connection a busy server has not accepted yet: 39 of 4,000
            // with 2,048 connections to one vLLM. The request's own limit holds, and keep-alive finds dead hosts.
            .tcp_user_timeout(None::<Duration>)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("aurora-swarm/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| TransportError::InvalidRequest(innermost_message(&error)))?;
        Ok(Self { inner, key, target_urls: Arc::default() })
    }

    /// Sends `GET url/path` and reads the whole response.
    ///
    /// # Errors
    /// Fails if no complete response within the bounds arrives.
    pub(crate) async fn get(
        &self,
        url: &Url,
        path: &'static str,
        bounds: ResponseBounds,
    ) -> Result<HttpResponse, TransportError> {
        self.execute_request(self.inner.get(self.target_url(url, path)?), bounds).await
    }

    /// Sends `POST url/path` with a JSON body and reads the whole response.
    ///
    /// # Errors
    /// Fails if no complete response within the bounds arrives.
    pub(crate) async fn post_json(
        &self,
        url: &Url,
        path: &'static str,
        json: Vec<u8>,
        bounds: ResponseBounds,
    ) -> Result<HttpResponse, TransportError> {
        let request = self.inner.post(self.target_url(url, path)?);
        self.execute_request(request.header("content-type", "application/json").body(json), bounds)
            .await
    }

    fn target_url(&self, url: &Url, path: &'static str) -> Result<reqwest::Url, TransportError> {
        let mut targets = self.target_urls.lock().unwrap_or_else(PoisonError::into_inner);
        let targets = targets.entry(path).or_default();
        if let Some(target) = targets.get(url) {
            return Ok(target.clone());
        }
        let target = reqwest::Url::parse(&format!("{url}{path}"))
            .map_err(|error| TransportError::InvalidRequest(error.to_string()))?;
        targets.insert(url.clone(), target.clone());
        Ok(target)
    }

    async fn execute_request(
        &self,
        mut request: reqwest::RequestBuilder,
        bounds: ResponseBounds,
    ) -> Result<HttpResponse, TransportError> {
        if let Some(key) = &self.key {
            request = request.bearer_auth(key.expose_secret());
        }
        let request = request.timeout(bounds.time);
        // The body is reference-counted, so the clone copies only the request's head.
        let retry = request.try_clone();
        let started = Instant::now();
        let to_transport_error =
            |error: reqwest::Error| classify_error(&error, started.elapsed(), bounds.time);
        let mut answer = match (request.send().await, retry) {
            // A connection that the server closed while it was idle fails at once and without a byte. That is no fault
            // of the server, and retrying on a new connection costs nothing.
            (Err(error), Some(retry))
                if is_stale_connection(&error) && started.elapsed() < STALE_DETECT_LIMIT =>
            {
                retry.send().await.map_err(to_transport_error)?
            }
            (answer, _) => answer.map_err(to_transport_error)?,
        };
        let status = answer.status().as_u16();
        let retry_after_header =
            answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let retry_after =
            retry_after_header.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let location = answer.headers().get("location").filter(|_| (300..400).contains(&status));
        let redirect = location
            .and_then(|value| answer.url().join(value.to_str().ok()?).ok())
            .map(|target| clean_line(target.as_str()).into_owned());
        // Most servers say the length, which saves growing the buffer; a false one costs no memory.
        let announced = answer.content_length().and_then(|length| usize::try_from(length).ok());
        let mut body = Vec::with_capacity(announced.unwrap_or(0).min(MAX_ANNOUNCED_BYTES));
        while let Some(chunk) = answer.chunk().await.map_err(to_transport_error)? {
            if body.len() + chunk.len() > bounds.bytes {
                // Dropping the response closes its connection, whatever the server still sends.
                return Err(TransportError::ResponseTooLarge(bounds.bytes));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(HttpResponse { status, retry_after, redirect, body })
    }
}

fn is_stale_connection(error: &reqwest::Error) -> bool {
    error.is_request() && !error.is_connect() && !error.is_timeout()
}

fn classify_error(error: &reqwest::Error, elapsed: Duration, limit: Duration) -> TransportError {
    if error.is_builder() {
        TransportError::InvalidRequest(innermost_message(error))
    } else if error.is_connect() {
        TransportError::Connect(innermost_message(error))
    } else if error.is_timeout() && elapsed >= limit {
        // (before that it is the operating system that gave the connection up)
        TransportError::Timeout(limit)
    } else {
        TransportError::ConnectionLost(innermost_message(error))
    }
}

/// Returns the last error of the chain: the operating system's message, without the URL, which callers print already.
fn innermost_message(error: &reqwest::Error) -> String {
    let mut last: Option<&dyn std::error::Error> = error.source();
    while let Some(next) = last.and_then(std::error::Error::source) {
        last = Some(next);
    }
    last.map_or_else(|| "no reason given".into(), ToString::to_string)
}
