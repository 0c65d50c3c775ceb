//! How a reduce went, in numbers: its levels one by one, its leaves the first, and all of them together. Part of the summary.
//!
//! Owns what a level's numbers are. Each level is a pass, so its counts are its own manifest's; what is made of its groups is
//! told by its files. Pure.

use std::collections::BTreeMap;

use serde::Serialize;

use super::summary::{
    DistributionSummary, Failure, RunSummary, active_seconds, failures, summarize_distribution,
};
use crate::{
    domain::{Merge, Tally},
    metrics::AnswerStats,
    output::{Manifest, PromptCounts, ReduceProgress, RunSample, StartTimeline},
};

/// What is known of a tree above its leaves.
#[derive(Debug)]
pub struct ReduceSource {
    /// Texts a group.
    pub fan_in: u64,
    /// How it stands.
    pub progress: ReduceProgress,
    /// Leaves without a text: failed ones, and those with a blank answer; none until that is known.
    pub leaves_failed: Option<u64>,
    /// From the first on, also those that nobody has come to yet.
    pub levels: Vec<ReduceLevelSource>,
}

/// What is known of a level.
#[derive(Debug, Default)]
pub struct ReduceLevelSource {
    /// From 1.
    pub level: u32,
    /// Its groups, by the shape of the tree.
    pub nodes: u64,
    /// What they are made of, once they are made.
    pub groups: Option<GroupCounts>,
    /// The pass over those with a prompt, if it began.
    pub run: Option<LevelRun>,
}

/// What a level's groups are made of.
#[derive(Clone, Copy, Debug, Default)]
pub struct GroupCounts {
    /// With two texts and more: a prompt each.
    pub asked: u64,
    /// With one, which is passed up.
    pub passed_up: u64,
    /// With none.
    pub empty: u64,
    /// With texts that were cut to fit.
    pub cut: u64,
    /// Of those that were asked, without a text in the end; none until that is known.
    pub failed: Option<u64>,
    /// How long it took to make them, in seconds.
    pub build_s: f64,
}

/// A pass.
#[derive(Debug)]
pub struct LevelRun {
    /// Its run's.
    pub manifest: Manifest,
    /// Likewise.
    pub samples: Vec<RunSample>,
    /// Likewise.
    pub timelines: Vec<StartTimeline>,
    /// Of its lines.
    pub measured: AnswerStats,
}

/// All of a reduce: the leaves and the levels above them.
#[derive(Clone, Debug, Serialize)]
pub struct ReduceSummary {
    /// Texts a group.
    pub fan_in: u64,
    /// Is there a text at the root?
    pub text: bool,
    /// Leaves that are not in it; 0 until it is known.
    pub missing: u64,
    /// Prompts of all passes that were begun.
    pub counts: PromptCounts,
    /// Working seconds of all passes, and of making their prompts.
    pub seconds: f64,
    /// HTTP requests of all passes.
    pub requests: u64,
    /// Tokens of all texts that were made.
    pub completion_tokens: u64,
    /// Prompts settled over those seconds.
    pub prompts_per_s: Option<f64>,
    /// Likewise.
    pub tokens_per_s: Option<f64>,
    /// The leaves, which are level 0, and those above them.
    pub levels: Vec<LevelSummary>,
}

/// A level.
#[derive(Clone, Debug, Serialize)]
pub struct LevelSummary {
    /// 0 are the leaves.
    pub level: u32,
    /// Leaves or groups.
    pub nodes: u64,
    /// In a word: finished, stopped, waiting.
    pub state: &'static str,
    /// Its prompts, by its run's manifest: one for each group of two texts and more.
    pub counts: PromptCounts,
    /// Groups of one text, which is passed up without a prompt.
    pub passed: u64,
    /// Groups without any text below them.
    pub empty: u64,
    /// Groups with texts that were cut to fit the model's context.
    pub cut: u64,
    /// Prompts without a text: failed ones, and those with a blank answer. Null until the level above is made.
    pub failed: Option<u64>,
    /// Working seconds of its pass, all starts that asked anything.
    pub seconds: f64,
    /// Seconds that making its prompts took.
    pub made_s: f64,
    /// HTTP requests of its pass.
    pub requests: u64,
    /// Tokens of its texts.
    pub completion_tokens: u64,
    /// Over the seconds of its pass.
    pub prompts_per_s: Option<f64>,
    /// Likewise.
    pub tokens_per_s: Option<f64>,
    /// As the summary's.
    pub latency_s: DistributionSummary,
    /// As the summary's.
    pub failures: BTreeMap<String, Failure>,
}

impl LevelSummary {
    /// Nodes that were asked for and have no text, as far as that is known.
    #[must_use]
    pub fn nodes_without_text(&self) -> u64 {
        self.failed.unwrap_or(self.counts.failed)
    }

    /// With what came before its pass.
    #[must_use]
    pub fn total_seconds(&self) -> f64 {
        self.seconds + self.made_s
    }

    /// The leaves, by the summary of their run.
    fn from_leaves(
        leaves: &RunSummary,
        failed: Option<u64>,
        (did, seconds): (&Tally, f64),
    ) -> Self {
        let counts = leaves.counts.clone();
        let per = |count: u64| (seconds > 0.0).then(|| count as f64 / seconds);
        Self {
            level: 0,
            nodes: counts.submitted,
            state: if counts.open == 0 { "finished" } else { "stopped" },
            passed: 0,
            empty: 0,
            cut: 0,
            failed,
            seconds,
            made_s: 0.0,
            requests: leaves.requests,
            completion_tokens: leaves.tokens.completion,
            prompts_per_s: per(did.settled()),
            tokens_per_s: per(did.completion_tokens),
            latency_s: leaves.latency_s.clone(),
            failures: leaves.failures.clone(),
            counts,
        }
    }

    fn of(source: &ReduceLevelSource) -> Self {
        let groups = source.groups.unwrap_or_default();
        let mut did = Tally::default();
        let (mut seconds, mut requests) = (0.0, 0);
        let ran = source.run.as_ref();
        if let Some(LevelRun { manifest, .. }) = ran {
            manifest.history.iter().for_each(|it| did.merge(it.did.clone()));
            seconds = active_seconds(&manifest.history);
            requests = did.requests.max(manifest.requests);
        }
        let counts = match ran {
            Some(ran) => ran.manifest.counts.clone(),
            None => PromptCounts::new(groups.asked, 0, 0),
        };
        let per = |count: u64| (seconds > 0.0 && count > 0).then(|| count as f64 / seconds);
        let measured = ran.map(|it| &it.measured);
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
            seconds,
            made_s: groups.build_s,
            requests,
            completion_tokens: measured.map_or(0, |it| it.completion_tokens.sum()),
            prompts_per_s: per(did.settled()),
            tokens_per_s: per(did.completion_tokens),
            latency_s: measured
                .map(|it| summarize_distribution(&it.latency, 0.001))
                .unwrap_or_default(),
            failures: measured.map(failures).unwrap_or_default(),
            counts,
        }
    }
}

impl ReduceSummary {
    /// Of a tree over these leaves.
    pub(crate) fn of(
        tree: &ReduceSource,
        leaves: &RunSummary,
        (did, seconds): (&Tally, f64),
    ) -> Self {
        let mut levels =
            vec![LevelSummary::from_leaves(leaves, tree.leaves_failed, (did, seconds))];
        levels.extend(tree.levels.iter().map(LevelSummary::of));
        let sum = |of: fn(&LevelSummary) -> u64| levels.iter().map(of).sum::<u64>();
        let seconds: f64 = levels.iter().map(LevelSummary::total_seconds).sum();
        let (answered, failed) = (sum(|it| it.counts.answered), sum(|it| it.counts.failed));
        let completion_tokens = sum(|it| it.completion_tokens);
        let per = |count: u64| (seconds > 0.0).then(|| count as f64 / seconds);
        Self {
            fan_in: tree.fan_in,
            text: tree.progress.text,
            missing: tree.progress.missing,
            counts: PromptCounts::new(sum(|it| it.counts.submitted), answered, failed),
            seconds,
            requests: sum(|it| it.requests),
            completion_tokens,
            prompts_per_s: per(answered + failed),
            tokens_per_s: per(completion_tokens),
            levels,
        }
    }
}
