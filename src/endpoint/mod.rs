//! One server: a base URL and what it told about itself. The only place that knows HTTP, and in one file of it (`http.rs`).
//!
//! Owns the wire: how a server is asked, what its answers mean, when it is ready. Knows nothing of ranks, of files, or of
//! how many requests there should be at a time. vLLM is what it is built for; what other OpenAI-compatible servers lack is
//! found by probing and done without.

mod canary;
mod fault;
mod http;
mod probe;
mod reply;
mod request;
mod server_metrics;
mod wire;

pub use canary::{CanaryResult, send_canary};
pub use fault::Fault;
pub use http::{Answer, HttpClient, TransportError};
pub use probe::probe_server;
pub use reply::ServerReply;
pub use request::{BatchParams, InferenceRequest, ask, messages_json};
pub use server_metrics::{ServerLoad, fetch_server_load};
