//! The one file that knows reqwest: bytes to a server and back.
//!
//! Owns connections and the rules for them: HTTP/1.1 (vLLM's server speaks nothing else), never through a proxy (compute
//! nodes set one, and loopback traffic must not meet it), idle connections dropped before the server drops them, no
//! redirects (a slash too many is a mistake to show, not to follow).
#![expect(clippy::disallowed_types, reason = "the owner of reqwest")]

use std::{
    collections::HashMap,
    error::Error as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{domain::Url, settings::ApiKey};

/// vLLM closes a connection that was idle for 5 s; a request written at that moment gets no answer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// What a stale connection takes to show it, at most.
const STALE_DETECT_LIMIT: Duration = Duration::from_millis(100);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections to servers. Cheap to clone; clones share connections.
#[derive(Clone, Debug)]
pub struct HttpClient {
    inner: reqwest::Client,
    key: Option<ApiKey>,
    /// Where requests go, taken apart once: a million times the same text is a few seconds.
    target_urls: Arc<Mutex<HashMap<&'static str, HashMap<Url, reqwest::Url>>>>,
}

/// What a server answered, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// When it wants to be asked again (`Retry-After`, in seconds).
    pub retry_after: Option<Duration>,
    /// The whole body.
    pub body: Vec<u8>,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// Nobody listens there, or the host is not to be reached.
    #[error("cannot connect ({0})")]
    Connect(String),
    /// Nothing came in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The connection ended before the answer did.
    #[error("the connection was cut ({0})")]
    ConnectionLost(String),
    /// The request could not be made at all.
    #[error("the request cannot be sent ({0})")]
    InvalidRequest(String),
}

impl HttpClient {
    /// A client that sends `key`, where there is one, as a bearer token.
    ///
    /// # Errors
    /// Where the HTTP library cannot start.
    pub fn new(key: Option<ApiKey>) -> Result<Self, TransportError> {
        let inner = reqwest::Client::builder()
            .no_proxy()
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("aurora-swarm/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| TransportError::InvalidRequest(innermost_message(&error)))?;
        Ok(Self { inner, key, target_urls: Arc::default() })
    }

    /// `GET url/path`.
    ///
    /// # Errors
    /// Where there is no whole answer within `limit`.
    pub async fn get(
        &self,
        url: &Url,
        path: &'static str,
        limit: Duration,
    ) -> Result<Answer, TransportError> {
        self.ask(self.inner.get(self.target_url(url, path)?), limit).await
    }

    /// `POST url/path` with a JSON body.
    ///
    /// # Errors
    /// Where there is no whole answer within `limit`.
    pub async fn post(
        &self,
        url: &Url,
        path: &'static str,
        json: Vec<u8>,
        limit: Duration,
    ) -> Result<Answer, TransportError> {
        let request = self.inner.post(self.target_url(url, path)?);
        self.ask(request.header("content-type", "application/json").body(json), limit).await
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

    async fn ask(
        &self,
        mut request: reqwest::RequestBuilder,
        limit: Duration,
    ) -> Result<Answer, TransportError> {
        if let Some(key) = &self.key {
            request = request.bearer_auth(key.expose_secret());
        }
        let trouble = |error: reqwest::Error| classify_error(&error, limit);
        let request = request.timeout(limit);
        // The body is shared, so this copies no more than the head.
        let again = request.try_clone();
        let sent = Instant::now();
        let answer = match (request.send().await, again) {
            // A connection that the server closed while it was idle ends at once and without a byte: that is nobody's
            // failure, and a new one is free.
            (Err(error), Some(again))
                if is_stale_connection(&error) && sent.elapsed() < STALE_DETECT_LIMIT =>
            {
                again.send().await.map_err(trouble)?
            }
            (answer, _) => answer.map_err(trouble)?,
        };
        let status = answer.status().as_u16();
        let after = answer.headers().get("retry-after").and_then(|value| value.to_str().ok());
        let retry_after = after.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        let body = answer.bytes().await.map_err(trouble)?.into();
        Ok(Answer { status, retry_after, body })
    }
}

fn is_stale_connection(error: &reqwest::Error) -> bool {
    error.is_request() && !error.is_connect() && !error.is_timeout()
}

fn classify_error(error: &reqwest::Error, limit: Duration) -> TransportError {
    if error.is_builder() {
        TransportError::InvalidRequest(innermost_message(error))
    } else if error.is_connect() {
        TransportError::Connect(innermost_message(error))
    } else if error.is_timeout() {
        TransportError::Timeout(limit)
    } else {
        TransportError::ConnectionLost(innermost_message(error))
    }
}

/// The last error of the chain: the system's own words, without the URL that everybody prints already.
fn innermost_message(error: &reqwest::Error) -> String {
    let mut last: Option<&dyn std::error::Error> = error.source();
    while let Some(next) = last.and_then(std::error::Error::source) {
        last = Some(next);
    }
    last.map_or_else(|| "no reason given".into(), ToString::to_string)
}
