//! Server information: what a probe reports about a server.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Merge, Route, Url};

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
    /// Whether the models that the job asks for have a chat template and so accept conversations. None if none of them
    /// was asked, since the job names none of several.
    pub chat_template: Option<bool>,
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

impl ServedModel {
    /// Returns a model of which the server tells nothing but that it answers to this name, if that.
    pub(crate) fn unlisted(name: &str) -> Self {
        Self { id: name.to_owned(), max_model_len: None, root: None, parent: None }
    }
}

impl ServerInfo {
    /// Returns a model's maximum length of prompt and answer together in tokens, if the server reports it. That of an
    /// adapter is its base model's.
    pub(crate) fn max_model_len(&self, name: &str) -> Option<u64> {
        let model = self.find_model(name)?;
        model.max_model_len.or_else(|| self.find_model(model.parent.as_deref()?)?.max_model_len)
    }

    /// Returns the model of this name.
    pub(crate) fn find_model(&self, name: &str) -> Option<&ServedModel> {
        self.models.iter().find(|served| served.id == name)
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

/// What a job needs of its servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProbeTarget {
    /// Names of the models that the job may ask for; empty if it takes the one that is served.
    pub models: Vec<String>,
    /// Route of the job's texts, if the settings choose it.
    pub route: Option<Route>,
}

/// Result of probing a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProbeResult {
    /// The server can be used.
    Ready(ServerInfo),
    /// The server cannot be used yet, with the reason.
    NotReady(String),
    /// The job cannot use the server as it is, however long it waits, with the reason and a hint.
    Unusable(String),
}

impl ProbeResult {
    /// Returns what a ready server can do.
    pub(crate) fn ready_info(&self) -> Option<&ServerInfo> {
        match self {
            Self::Ready(info) => Some(info),
            Self::NotReady(_) | Self::Unusable(_) => None,
        }
    }

    /// Returns why the server cannot be used.
    pub(crate) fn unready_reason(&self) -> Option<&str> {
        match self {
            Self::Ready(_) => None,
            Self::NotReady(reason) | Self::Unusable(reason) => Some(reason),
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self, Self::Ready(_))
    }

    /// Returns whether waiting for the server is in vain.
    pub(crate) fn is_unusable(&self) -> bool {
        matches!(self, Self::Unusable(_))
    }
}

/// How many servers are ready, and why the others are not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReadinessCounts {
    pub ready: u64,
    pub all: u64,
    /// The servers that are not ready, by the reason.
    pub unready: BTreeMap<String, UnreadyGroup>,
}

/// Servers that are not ready for the same reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UnreadyGroup {
    pub count: u64,
    /// The first of them, as messages name it.
    pub first: String,
    /// Whether waiting for them is in vain.
    pub is_unusable: bool,
}

impl ReadinessCounts {
    /// Counts these servers; `host` is named beside URLs that hold on this node only.
    pub(crate) fn of_statuses<'s>(
        statuses: impl IntoIterator<Item = &'s EndpointStatus>,
        host: Option<&str>,
    ) -> Self {
        let mut counts = Self::default();
        for EndpointStatus { url, probe } in statuses {
            counts.all += 1;
            let Some(reason) = probe.unready_reason() else {
                counts.ready += 1;
                continue;
            };
            let is_unusable = probe.is_unusable();
            let first = match host {
                Some(host) => format!("{url} on {host}"),
                None => url.to_string(),
            };
            let group = UnreadyGroup { count: 1, first, is_unusable };
            Merge::merge(&mut counts.unready, BTreeMap::from([(reason.to_owned(), group)]));
        }
        counts
    }

    /// Returns whether all servers that are not ready are of no use to the job as it is.
    pub(crate) fn are_all_unusable(&self) -> bool {
        !self.unready.is_empty() && self.unready.values().all(|group| group.is_unusable)
    }
}

impl Merge for ReadinessCounts {
    fn merge(&mut self, other: Self) {
        self.ready += other.ready;
        self.all += other.all;
        Merge::merge(&mut self.unready, other.unready);
    }
}

impl Merge for UnreadyGroup {
    fn merge(&mut self, other: Self) {
        self.count += other.count;
    }
}
