//! What all ranks are told of a run, and where its parts lie.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    domain::Route,
    input::{ChatTemplate, InputRules, InputSource},
    output::{AnswerFormat, Heartbeat, PromptCounts},
    settings::AggregateSpec,
    site::is_program_running,
};

/// What every rank has to know of the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RunPlan {
    pub(crate) source: InputSource,
    pub(crate) rules: InputRules,
    pub(crate) folder: PathBuf,
    pub(crate) output: PathBuf,
    pub(crate) format: Option<AnswerFormat>,
    /// What is made of all answers together.
    pub(crate) aggregate: Vec<AggregateSpec>,
    pub(crate) start: u32,
    /// Where ranks keep what they write until the end, if not in `folder`: placeholders are each rank's to fill in.
    pub(crate) local_shards: Option<String>,
    /// Written by rank 0 into the folder, looked for by the others.
    pub(crate) folder_token: String,
    /// Are lines measured, for a report?
    pub(crate) report: bool,
}

/// What is made of all lines.
pub(crate) struct RequestedOutputs<'a> {
    /// The answers' file.
    pub(crate) format: Option<AnswerFormat>,
    pub(crate) aggregate: &'a [AggregateSpec],
    /// Are they measured?
    pub(crate) report: bool,
}

impl RunPlan {
    /// What is made of all lines: where prompts are open, they are measured at most.
    pub(crate) fn requested_outputs(&self, counts: &PromptCounts) -> RequestedOutputs<'_> {
        let whole = counts.open == 0;
        RequestedOutputs {
            format: self.format.filter(|_| whole),
            aggregate: if whole { &self.aggregate } else { &[] },
            report: self.report,
        }
    }
}

impl RequestedOutputs<'_> {
    /// Nothing at all?
    pub(crate) fn is_empty(&self) -> bool {
        self.format.is_none() && self.aggregate.is_empty() && !self.report
    }
}

/// What is asked of the endpoints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ModelSelection {
    pub(crate) model: String,
    pub(crate) text_route: Route,
    pub(crate) context_len: Option<u64>,
    /// Conversations are rendered with this, so that they can ride in lists.
    pub(crate) chat_template: Option<ChatTemplate>,
    /// Ready endpoints that serve the model, by rank.
    pub(crate) ready_counts: Vec<u64>,
    /// All endpoints, ready or not, by rank.
    pub(crate) endpoint_counts: Vec<u64>,
}

impl ModelSelection {
    /// The route of texts, as people say it.
    pub(crate) fn api_name(&self) -> &'static str {
        match self.text_route {
            Route::Completions => "completions",
            Route::Chat => "chat",
        }
    }
}

pub(crate) const SHARDS_FOLDER: &str = "shards";
/// Where the logs of servers lie that the job started.
pub(crate) const SERVER_LOG_FOLDER: &str = "servers";
pub(crate) const TOKEN_FILE: &str = "token";

/// Where a start lays out input that ranks could not read by ranges.
pub(crate) fn spool_folder_name(start: u32) -> String {
    format!("input-{start:04}")
}

/// `answers.jsonl` → `answers.jsonl.run`
pub(crate) fn run_folder(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".run");
    name.into()
}

/// Who works on the run of this folder, if anybody does: a fresh heartbeat says so, and on this host its process too.
pub(crate) fn live_heartbeat(folder: &Path, host: &str) -> Option<Heartbeat> {
    /// Seconds; a heartbeat comes every five.
    const HEARTBEAT_MAX_AGE: u64 = 60;
    let beat = Heartbeat::read(folder).filter(|beat| beat.age_s() < HEARTBEAT_MAX_AGE)?;
    (beat.host != host || is_program_running(beat.pid)).then_some(beat)
}
