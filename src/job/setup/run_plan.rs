//! The plan of a run, which rank 0 broadcasts to all ranks, and the names within the run folder.
//!
//! The settings and the placement of a rank are in `context`; the prompts of a rank come later, as leases.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{
    chat_template::ChatTemplate,
    domain::{JobModel, JobModels, ModelNumber, ModelSet, Route},
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
    /// The job's own model, to which prompts are sent whose rows name none.
    pub(crate) model: String,
    /// The job's models: its own, and those that rows name.
    pub(crate) models: Vec<JobModel>,
    /// Whether prompts may use the job's own model that name none. False if all rows name one of several models.
    pub(crate) is_own_usable: bool,
    /// The sets of models that ready endpoints serve, each set once.
    pub(crate) served_sets: Vec<ModelSet>,
    /// The models that the ready endpoints of each rank serve.
    pub(crate) rank_models: Vec<ModelSet>,
    pub(crate) text_route: Route,
    /// Context length of the job's own model.
    pub(crate) context_len: Option<u64>,
    /// Template of the job's own model for rendering conversations here, so that they can be sent in batches.
    pub(crate) chat_template: Option<ChatTemplate>,
    /// Number of ready endpoints that serve one of the models, per rank.
    pub(crate) ready_counts: Vec<u64>,
    /// Number of endpoints, ready or not, per rank.
    pub(crate) endpoint_counts: Vec<u64>,
}

impl ModelSelection {
    /// Whether all models that rows of the input name are among the job's, and its own is chosen if rows name none.
    pub(crate) fn covers(&self, source: &InputSource) -> bool {
        let is_known = |name: &String| self.models.iter().any(|model| model.name == *name);
        source.models.iter().all(is_known) && (self.is_own_usable || !source.any_unnamed)
    }

    /// Groups models that prompts need: two are in one group if every endpoint serves both or neither, so that their
    /// prompts are interchangeable for the distribution of work.
    pub(crate) fn group_models(&self, needed: &ModelSet) -> Vec<ModelSet> {
        let served = self.served_sets.iter().fold(ModelSet::default(), |all, set| all.union(set));
        let mut groups: BTreeMap<Vec<bool>, ModelSet> = BTreeMap::new();
        for model in served.intersection(needed).members() {
            let served_by = self.served_sets.iter().map(|set| set.contains(model)).collect();
            groups.entry(served_by).or_default().insert(model);
        }
        groups.into_values().collect()
    }

    /// Returns the job's numbers of prompts that name no model, and then of these models.
    pub(crate) fn numbers_of<'n>(&self, names: impl Iterator<Item = &'n str>) -> Vec<ModelNumber> {
        let models = JobModels::new(self.models.clone());
        let number = |name| models.number_of(Some(name)).unwrap_or_default();
        std::iter::once(0).chain(names.map(number)).collect()
    }

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_that_the_same_endpoints_serve_form_a_group() {
        let set = |numbers: &[ModelNumber]| numbers.iter().copied().collect::<ModelSet>();
        let groups = |served_sets: Vec<ModelSet>, needed: &[ModelNumber]| {
            let selection = ModelSelection {
                model: "a".into(),
                models: Vec::new(),
                is_own_usable: true,
                served_sets,
                rank_models: Vec::new(),
                text_route: Route::Chat,
                context_len: None,
                chat_template: None,
                ready_counts: Vec::new(),
                endpoint_counts: Vec::new(),
            };
            selection.group_models(&set(needed))
        };
        assert_eq!(groups(vec![set(&[0, 1, 2])], &[0, 1, 2]), [set(&[0, 1, 2])]);
        let served = vec![set(&[0, 1, 2]), set(&[0, 1]), set(&[3])];
        let all = [set(&[3]), set(&[2]), set(&[0, 1])];
        assert_eq!(groups(served.clone(), &[0, 1, 2, 3]), all);
        assert_eq!(groups(served, &[1, 3]), [set(&[3]), set(&[1])], "the others are done");
        assert!(groups(Vec::new(), &[0]).is_empty());
    }
}
