//! The protocol with one server: requests, replies, faults, the readiness probe and load metrics.
//!
//! Owns the wire format: how a request is written, what a reply or an error means, and when a server is ready. HTTP
//! itself is in a single file, `http.rs`. Knows nothing of ranks or files; how many requests are in flight, retries,
//! hedged requests and back-pressure are the scheduler's (`engine/`), and server processes are started in `serve/`.
//! Built for vLLM: features that other OpenAI-compatible servers lack are found by probing and not used.

mod canary;
mod fault;
mod http;
mod probe;
mod probe_reply;
mod reply;
mod reply_body;
mod reply_shape;
mod request;
mod server_metrics;
mod thinking;
mod wire;

pub(crate) use canary::{CanaryResult, send_canary};
pub(crate) use fault::RequestFault;
pub(crate) use http::{HttpClient, TransportError};
pub(crate) use probe::{ServerProber, probe_again};
pub(crate) use reply::{ReplyAnswers, ServerReply};
pub(crate) use request::{
    BatchParams, InferenceRequest, continue_conversation, messages_json, send_request,
};
pub(crate) use server_metrics::{ServerLoad, fetch_server_load};
