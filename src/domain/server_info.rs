//! Server information: what a probe reports about a server.

use serde::{Deserialize, Serialize};

use super::Url;

/// A server with the result of its probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EndpointStatus {
    /// URL of the probed server.
    pub url: Url,
    /// Result of its last probe.
    pub probe: ProbeResult,
}

/// Capabilities that a ready server reports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerInfo {
    /// Models that it serves, at least one.
    pub models: Vec<ServedModel>,
    /// vLLM's version, if the server reports it.
    pub version: Option<String>,
    /// Whether its model has a chat template and so accepts conversations.
    pub chat_template: bool,
    /// Routes that the server offers.
    pub routes: ServerRoutes,
}

/// A model that a server serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServedModel {
    /// Name that requests must use.
    pub id: String,
    /// Maximum length of prompt and answer together in tokens, if the server reports it.
    pub max_model_len: Option<u64>,
    /// Folder or hub name of the model, if the server reports it.
    pub root: Option<String>,
    /// Name of the base model, if this is an adapter of it.
    pub parent: Option<String>,
}

impl ServerInfo {
    /// Returns a model's maximum length of prompt and answer together in tokens, if the server reports it. That of an
    /// adapter is its base model's.
    pub(crate) fn max_model_len(&self, name: &str) -> Option<u64> {
        let find = |name: &str| self.models.iter().find(|served| served.id == name);
        let model = find(name)?;
        model.max_model_len.or_else(|| find(model.parent.as_deref()?)?.max_model_len)
    }
}

/// Routes that a server offers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerRoutes {
    /// Whether the route `/v1/completions` exists.
    pub completions: bool,
    /// Whether the route `/v1/chat/completions` exists.
    pub chat: bool,
    /// `/v1/chat/completions/batch`: several conversations per request.
    pub chat_batch: bool,
    /// Whether the route `/tokenize` exists.
    pub tokenize: bool,
    /// `/metrics`: numbers of running and waiting prompts.
    pub metrics: bool,
}

/// Result of probing a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProbeResult {
    /// The server can be used.
    Ready(ServerInfo),
    /// The server cannot be used, with the reason.
    NotReady(String),
}
