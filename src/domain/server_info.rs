//! What is known of a server once it was asked.

use serde::{Deserialize, Serialize};

use super::Url;

/// A server and what came of asking it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// Which server.
    pub url: Url,
    /// What it said.
    pub probe: ProbeResult,
}

/// What a ready server told about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerInfo {
    /// The models it serves, at least one.
    pub models: Vec<ServedModel>,
    /// vLLM's version, where it says one.
    pub version: Option<String>,
    /// Does its model take conversations, that is, has it a chat template?
    pub chat_template: bool,
    /// What it can be asked.
    pub routes: ServerRoutes,
}

/// A served model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedModel {
    /// The name requests have to give.
    pub id: String,
    /// The longest prompt and answer together, in tokens; not every server says.
    pub max_model_len: Option<u64>,
    /// The model's folder or hub name, where the server says so.
    pub root: Option<String>,
}

/// Which routes there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerRoutes {
    /// `/v1/completions`
    pub completions: bool,
    /// `/v1/chat/completions`
    pub chat: bool,
    /// `/v1/chat/completions/batch`: several conversations in one request.
    pub chat_batch: bool,
    /// `/tokenize`
    pub tokenize: bool,
    /// `/metrics`: how many prompts run and wait.
    pub metrics: bool,
}

/// What came of asking a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeResult {
    /// It can be used.
    Ready(ServerInfo),
    /// It cannot, and why.
    NotReady(String),
}
