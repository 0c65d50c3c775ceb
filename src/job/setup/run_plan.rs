//! The plan of a run, which rank 0 broadcasts to all ranks, and the names within the run folder.
//!
//! The settings and the placement of a rank are in `context`; the prompts of a rank come later, as leases.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    chat_template::ChatTemplate,
    domain::Route,
    input::{InputRules, InputSource},
    output::{AnswerFormat, PromptCounts, RunIdentity},
    settings::AggregateSpec,
};

/// The facts about a run that every rank needs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RunPlan {
    pub(crate) source: InputSource,
    pub(crate) rules: InputRules,
    pub(crate) folder: PathBuf,
    pub(crate) output: PathBuf,
    /// Id and time of the run, for outputs that name them.
    pub(crate) identity: RunIdentity,
    /// Format of the gathered answers; `None` if they are not gathered.
    pub(crate) format: Option<AnswerFormat>,
    /// True if answers keep the servers' replies as they were sent, for an output that passes them on.
    pub(crate) keep_bodies: bool,
    /// Aggregates to compute from all answers.
    pub(crate) aggregate: Vec<AggregateSpec>,
    pub(crate) start: u32,
    /// Path pattern of the node-local folder for shard files, if they are not written to `folder`; each rank fills in the
    /// placeholders.
    pub(crate) local_shards: Option<String>,
    /// Text that rank 0 writes into the run folder, so that other ranks can check that they see the same folder.
    pub(crate) folder_token: String,
    /// True if answers are measured for a report.
    pub(crate) report: bool,
}

/// The outputs to make from all answer lines.
pub(crate) struct RequestedOutputs<'a> {
    /// Format of the output file; `None` writes none.
    pub(crate) format: Option<AnswerFormat>,
    pub(crate) aggregate: &'a [AggregateSpec],
    /// True if answers are measured for a report.
    pub(crate) report: bool,
    /// Id and time of the run, for outputs that name them.
    pub(crate) identity: RunIdentity,
}

impl RunPlan {
    /// Returns the outputs to make. While prompts remain, answers are only measured.
    pub(crate) fn requested_outputs(&self, counts: &PromptCounts) -> RequestedOutputs<'_> {
        let is_complete = counts.open == 0;
        RequestedOutputs {
            format: self.format.filter(|_| is_complete),
            aggregate: if is_complete { &self.aggregate } else { &[] },
            report: self.report,
            identity: self.identity.clone(),
        }
    }
}

impl RequestedOutputs<'_> {
    /// Returns outputs without files beside the report.
    pub(crate) fn only_report(report: bool) -> Self {
        Self { format: None, aggregate: &[], report, identity: RunIdentity::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.format.is_none() && self.aggregate.is_empty() && !self.report
    }
}

/// The number of passes a job makes, which decides when servers stop and whether answers are indexed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PassMode {
    /// One pass; its answers are indexed only if an output file or aggregate needs them.
    Single,
    /// Several passes, each over the answers of the one before.
    Multiple,
    /// One pass per call of a library program; servers are kept for the next call.
    OnDemand,
}

/// The model and route that prompts are sent to, and the number of endpoints per rank.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ModelSelection {
    pub(crate) model: String,
    pub(crate) text_route: Route,
    pub(crate) context_len: Option<u64>,
    /// Template for rendering conversations here, so that they can be sent in batches.
    pub(crate) chat_template: Option<ChatTemplate>,
    /// Number of ready endpoints that serve the model, per rank.
    pub(crate) ready_counts: Vec<u64>,
    /// Number of endpoints, ready or not, per rank.
    pub(crate) endpoint_counts: Vec<u64>,
}

impl ModelSelection {
    /// Returns the route of texts as the value of `--api`.
    pub(crate) fn api_name(&self) -> &'static str {
        match self.text_route {
            Route::Completions => "completions",
            Route::Chat => "chat",
        }
    }
}

pub(crate) const SHARDS_FOLDER: &str = "shards";
/// Folder for the logs of the servers that the job starts.
pub(crate) const SERVER_LOG_FOLDER: &str = "servers";
pub(crate) const TOKEN_FILE: &str = "token";

/// Returns the name of the folder for input that ranks cannot read by ranges, and that a session therefore copies.
pub(crate) fn spool_folder_name(start: u32) -> String {
    format!("input-{start:04}")
}

/// Returns the run folder of an output: `answers.jsonl` → `answers.jsonl.run`.
pub(crate) fn run_folder(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".run");
    name.into()
}
