//! Levels of a reduce: the numbers of each level from the leaves up, and their totals. Part of the summary.
//!
//! Owns the definition of a level's numbers. Each level is a pass with its own manifest, which has its counts; how its
//! groups were built comes from its node files. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::distribution::{
    DistributionSummary, FailureSummary, active_seconds, failure_summaries, summarize_distribution,
};
use super::format::{format_count, format_percent};
use crate::{
    domain::{FlawCounts, Merge, Tally},
    metrics::AnswerStats,
    output::{Manifest, PromptCounts, ReduceProgress, RunSample, StartTimeline, TreeLoss},
};

/// Inputs of a reduce's summary, above the leaves.
#[derive(Debug)]
pub(crate) struct ReduceSource {
    pub fan_in: u64,
    /// Progress of the tree, from the manifest.
    pub progress: ReduceProgress,
    /// Leaves without a text, because they failed or their answer is blank; `None` until level 1 is built.
    pub leaves_failed: Option<u64>,
    /// Levels from 1 on, including those not started.
    pub levels: Vec<ReduceLevelSource>,
}

/// Inputs of one level.
#[derive(Debug, Default)]
pub(crate) struct ReduceLevelSource {
    /// Number of the level, from 1.
    pub level: u32,
    /// Number of groups, by the shape of the tree.
    pub nodes: u64,
    /// Counts of its groups, once they are built.
    pub groups: Option<GroupCounts>,
    /// Pass over the groups with a prompt, if it started.
    pub run: Option<LevelRun>,
}

/// Counts of a level's groups.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct GroupCounts {
    /// Groups of two or more texts, which take a prompt each.
    pub prompted: u64,
    /// Groups of one text, which is passed up.
    pub passed_up: u64,
    /// Groups without a text.
    pub empty: u64,
    /// Groups with texts that were truncated to fit the context.
    pub cut: u64,
    /// Prompted groups that have no text in the end; `None` until the next level is built.
    pub failed: Option<u64>,
    /// Seconds that building the groups took.
    pub build_s: f64,
}

/// Inputs of the pass over one level.
#[derive(Debug)]
pub(crate) struct LevelRun {
    /// Manifest of the level's run.
    pub manifest: Manifest,
    /// Samples of the level's run.
    pub samples: Vec<RunSample>,
    /// Timelines of the level's run.
    pub timelines: Vec<StartTimeline>,
    /// Measurements of the level's answers.
    pub stats: AnswerStats,
}

/// Summary of a reduce: the leaves and the levels above them.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ReduceSummary {
    pub fan_in: u64,
    /// True if the root has a text.
    pub text: bool,
    /// What of the leaves is missing in the text; 0 until the tree is complete.
    #[serde(flatten)]
    pub loss: TreeLoss,
    /// Share of the texts that was left out, from 0 to 1.
    pub left_out_share: f64,
    /// Counts over all passes that were started.
    pub counts: PromptCounts,
    /// Seconds of all passes and of building their prompts.
    pub active_s: f64,
    /// HTTP requests over all passes.
    pub requests: u64,
    /// Tokens of all generated texts.
    pub completion_tokens: u64,
    /// Outcomes per second over that time.
    pub prompts_per_s: Option<f64>,
    /// Completion tokens per second over that time.
    pub tokens_per_s: Option<f64>,
    /// Levels from the leaves (level 0) up.
    pub levels: Vec<LevelSummary>,
}

/// Summary of one level.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct LevelSummary {
    /// Number of the level; 0 for the leaves.
    pub level: u32,
    /// Number of leaves or groups.
    pub nodes: u64,
    /// State: finished, stopped or waiting.
    pub state: &'static str,
    /// Counts of its prompts, from its manifest: one prompt per group of two or more texts.
    pub counts: PromptCounts,
    /// Groups of one text, passed up without a prompt.
    pub passed: u64,
    /// Groups without a text below them.
    pub empty: u64,
    /// Groups with texts that were truncated to fit the model's context.
    pub cut: u64,
    /// Prompts without a text, because they failed or their answer is blank. Null until the level above is built.
    pub failed: Option<u64>,
    /// Seconds of its pass, over all sessions that sent prompts.
    pub active_s: f64,
    /// Seconds that building its prompts took.
    pub build_s: f64,
    /// HTTP requests of its pass.
    pub requests: u64,
    /// Tokens of its generated texts.
    pub completion_tokens: u64,
    /// Outcomes per second of its pass.
    pub prompts_per_s: Option<f64>,
    /// Completion tokens per second of its pass.
    pub tokens_per_s: Option<f64>,
    /// Latency of its answers, as in the run's summary.
    pub latency_s: DistributionSummary,
    /// Failures of its prompts by kind, as in the run's summary.
    pub failures: BTreeMap<String, FailureSummary>,
}

/// Describes how much of the leaves was left out of prompts; `None` if nothing was.
#[must_use]
pub(crate) fn truncation_text(loss: &TreeLoss, leaves: u64) -> Option<String> {
    (loss.cut > 0).then(|| {
        format!(
            "{} of {} {} truncated to fit the model's context ({} of the text left out)",
            format_count(loss.cut),
            format_count(leaves),
            if leaves == 1 { "leaf was" } else { "leaves were" },
            format_percent(loss.left_out_share())
        )
    })
}

impl LevelSummary {
    /// Returns the number of prompted nodes without a text, as far as it is known.
    #[must_use]
    pub(crate) fn nodes_without_text(&self) -> u64 {
        self.failed.unwrap_or(self.counts.failed)
    }

    /// Returns the seconds of its pass and of building its prompts.
    #[must_use]
    pub(crate) fn total_seconds(&self) -> f64 {
        self.active_s + self.build_s
    }

    fn from_source(source: &ReduceLevelSource) -> Self {
        let groups = source.groups.unwrap_or_default();
        let mut work = Tally::default();
        let (mut seconds, mut requests) = (0.0, 0);
        let run = source.run.as_ref();
        if let Some(LevelRun { manifest, .. }) = run {
            manifest.history.iter().for_each(|it| work.merge(it.did.clone()));
            seconds = active_seconds(&manifest.history);
            requests = work.requests.max(manifest.requests);
        }
        // A level that is built but not started has its prompts open.
        let counts = match run {
            Some(run) => run.manifest.counts.clone(),
            None => PromptCounts::new(groups.prompted, 0, 0),
        };
        let per = |count: u64| (seconds > 0.0 && count > 0).then(|| count as f64 / seconds);
        let stats = run.map(|it| &it.stats);
        Self {
            level: source.level,
            nodes: source.nodes,
            state: match (&source.groups, counts.open) {
                (None, _) => "waiting",
                (Some(_), 0) => "finished",
                (Some(_), _) => "stopped",
            },
            passed: groups.passed_up,
            empty: groups.empty,
            cut: groups.cut,
            failed: groups.failed,
            active_s: seconds,
            build_s: groups.build_s,
            requests,
            completion_tokens: stats.map_or(0, |it| it.completion_tokens.sum()),
            prompts_per_s: per(work.settled_count()),
            tokens_per_s: per(work.completion_tokens),
            latency_s: stats
                .map(|it| summarize_distribution(&it.latency, 0.001))
                .unwrap_or_default(),
            failures: stats.map(failure_summaries).unwrap_or_default(),
            counts,
        }
    }
}

impl ReduceSummary {
    /// Computes the summary of the tree over these leaves.
    pub(crate) fn from_levels(source: &ReduceSource, leaves: LevelSummary) -> Self {
        let mut levels = vec![leaves];
        levels.extend(source.levels.iter().map(LevelSummary::from_source));
        let sum = |of: fn(&LevelSummary) -> u64| levels.iter().map(of).sum::<u64>();
        let seconds: f64 = levels.iter().map(LevelSummary::total_seconds).sum();
        let (answered, failed) = (sum(|it| it.counts.answered), sum(|it| it.counts.failed));
        let mut flaws = FlawCounts::default();
        levels.iter().for_each(|level| flaws.merge(level.counts.flaws));
        let counts = PromptCounts::new(sum(|it| it.counts.submitted), answered, failed);
        let completion_tokens = sum(|it| it.completion_tokens);
        let per = |count: u64| (seconds > 0.0).then(|| count as f64 / seconds);
        Self {
            fan_in: source.fan_in,
            text: source.progress.text,
            loss: source.progress.loss,
            left_out_share: source.progress.loss.left_out_share(),
            counts: PromptCounts { flaws, ..counts },
            active_s: seconds,
            requests: sum(|it| it.requests),
            completion_tokens,
            prompts_per_s: per(answered + failed),
            tokens_per_s: per(completion_tokens),
            levels,
        }
    }
}
