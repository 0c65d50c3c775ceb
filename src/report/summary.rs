//! The summary of a run: the keys of `RUN/summary.json`, which the page is drawn from.
//!
//! Owns which numbers are computed from the manifest, the samples, the timelines and the measured answers, and their JSON
//! keys. Counts are the manifest's. The page is in `report/html`; the files are read in `job/root/report.rs`.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{
    distribution::{
        DistributionSummary, FailureSummary, InvalidSummary, active_seconds, failure_summaries,
        invalid_summary, parse_id, summarize_distribution,
    },
    endpoint_load::EndpointLoad,
    format::pluralize,
    reduce_levels::{LevelSummary, ReduceSource, ReduceSummary},
    reduce_starts::{ReduceStartWork, ReduceStarts},
    throughput::{ThroughputHistory, ThroughputPhase, ThroughputPoint},
};
use crate::{
    domain::{Merge, Tally},
    metrics::AnswerStats,
    output::{
        LostRank, Manifest, PromptCounts, RunPhase, RunSample, RunState, StartRecord,
        StartTimeline, unix_seconds,
    },
};

/// Inputs of a summary.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SummarySources<'a> {
    pub manifest: &'a Manifest,
    /// Samples that rank 0 took every few seconds.
    pub samples: &'a [RunSample],
    /// Timelines merged from all ranks, one or more per session that ended in order.
    pub timelines: &'a [StartTimeline],
    /// Measurements of the answer lines.
    pub stats: &'a AnswerStats,
    /// True if a session is active.
    pub is_active: bool,
    /// Levels above the leaves, for a reduce; the other inputs are the leaves' then.
    pub reduce: Option<&'a ReduceSource>,
}

/// Content of `summary.json`. Durations are in seconds, points in time in seconds since 1970, and unknown values null.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RunSummary {
    pub schema_version: u32,
    /// Name and version of the program.
    pub program: String,
    /// Time of writing.
    pub written: u64,
    /// Path of the answers, as in the manifest.
    pub output: String,
    /// Paths of the input files, as in the manifest.
    pub input: Vec<String>,
    /// Phase of the run, as in `status`.
    pub state: RunPhase,
    /// Model, as in the manifest.
    pub model: Option<String>,
    /// All models, as in the manifest: left out if there is one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<String>,
    /// Route of text prompts, as in the manifest.
    pub api: Option<String>,
    /// Counts, as in the manifest.
    pub counts: PromptCounts,
    /// Seconds that all sessions worked; of a killed session, until its last sample.
    pub active_s: f64,
    /// HTTP requests of all sessions.
    pub requests: u64,
    /// Prompts that all sessions sent again after a fault.
    pub retried: u64,
    /// Throughput, overall and in the steady phase.
    pub rates: ThroughputRates,
    /// Token totals of answered prompts.
    pub tokens: TokenTotals,
    /// Latency of answered prompts, from sending the request to its answer, in seconds.
    pub latency_s: DistributionSummary,
    /// Prompt tokens of answered prompts.
    pub prompt_tokens: DistributionSummary,
    /// Completion tokens per answer.
    pub completion_tokens: DistributionSummary,
    /// Number of answers by finish reason.
    pub finish_reasons: BTreeMap<String, u64>,
    pub failures: BTreeMap<String, FailureSummary>,
    /// Answers that were not valid and were asked for again.
    pub invalid_answers: InvalidSummary,
    /// Utilisation, stragglers and outages of endpoints.
    pub endpoints: EndpointLoad,
    /// Answers with the longest latency, the longest first.
    pub slowest_answers: Vec<SlowAnswer>,
    /// Sessions of the run, in order.
    pub sessions: Vec<SessionSummary>,
    /// Number of sessions without a record (killed before the first manifest, or of an old version).
    pub unrecorded_sessions: u32,
    /// Tree of a reduce. All other numbers are its leaves' then, except sessions, outages and the timeline, which cover all
    /// passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reduce: Option<ReduceSummary>,
    /// Throughput over time, in order.
    pub timeline: Vec<ThroughputPoint>,
    /// Values and origins of all settings.
    pub settings: BTreeMap<String, SettingValue>,
    /// Lines of shard files that could not be parsed.
    pub unreadable_lines: u64,
}

/// Throughput of a run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct ThroughputRates {
    /// Outcomes per second over the working time of all sessions that sent prompts.
    pub overall_prompts_per_s: Option<f64>,
    /// Completion tokens per second over the same time.
    pub overall_tokens_per_s: Option<f64>,
    /// Outcomes per second in the steady phase, while endpoints had ample work.
    pub steady_prompts_per_s: Option<f64>,
    /// Completion tokens per second in the steady phase.
    pub steady_tokens_per_s: Option<f64>,
    /// Seconds of ramp-up of all sessions, before endpoints had ample work.
    pub ramp_s: f64,
    /// Seconds of the steady phase of all sessions.
    pub steady_s: f64,
    /// Seconds of the tail of all sessions, after endpoints ran out of ample work.
    pub tail_s: f64,
}

/// Token totals of a run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct TokenTotals {
    /// Prompt tokens of answered prompts.
    pub prompt: u64,
    /// Tokens of answers.
    pub completion: u64,
    /// Answers whose count is estimated from the total of their batch.
    pub estimated: u64,
    /// Answers whose tokens the server did not report.
    pub unreported: u64,
}

/// One of the slowest answers.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SlowAnswer {
    pub id: Value,
    /// Index of its row in the input.
    pub index: u64,
    pub latency_s: f64,
    /// Host and URL of the endpoint.
    pub endpoint: String,
}

/// One session of the run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SessionSummary {
    /// Number of the session, from 1.
    pub session: u32,
    /// Start, in seconds since 1970.
    pub began: u64,
    /// Orderly end, in seconds since 1970; null if the session was killed or is active.
    pub ended: Option<u64>,
    /// Outcome: finished, stopped, killed or running.
    pub outcome: &'static str,
    pub active_s: f64,
    /// Seconds of these in which it waited for servers.
    pub waited_s: f64,
    pub ranks: usize,
    pub host: String,
    pub job: Option<String>,
    /// Prompts finished before this session.
    pub done_before: u64,
    /// Prompts answered in this session.
    pub answered: u64,
    /// Prompts failed in this session.
    pub failed: u64,
    /// HTTP requests of this session.
    pub requests: u64,
    /// Prompts sent again after a fault.
    pub retried: u64,
    /// Completion tokens of this session.
    pub completion_tokens: u64,
    /// Ranks lost during this session.
    pub lost: Vec<LostRank>,
    /// Outages of endpoints in this session; null without a timeline.
    pub n_outages: Option<u64>,
    /// Changes of input or settings accepted at its start, as sentences.
    pub changes: Vec<String>,
    /// Work above the leaves, for a session of a reduce that got there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub above: Option<ReduceStartWork>,
}

/// Value of a setting and its origin.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SettingValue {
    pub value: Value,
    /// Origin: an option, an environment variable, a configuration file or the default.
    pub origin: String,
}

/// Version of the format of `summary.json`.
const SUMMARY_SCHEMA_VERSION: u32 = 2;

impl RunSummary {
    /// Computes the summary of a run.
    #[must_use]
    pub(crate) fn from_sources(sources: &SummarySources<'_>) -> Self {
        let SummarySources { manifest, timelines, stats, reduce, is_active, .. } = *sources;
        let history =
            ThroughputHistory::from_records(&manifest.history, sources.samples, timelines);
        let above = reduce
            .map(|reduce| ReduceStarts::from_levels(&manifest.history, &reduce.levels))
            .unwrap_or_default();
        let observed: Vec<StartTimeline> =
            timelines.iter().chain(&above.timelines).cloned().collect();
        let mut work = Tally::default();
        manifest.history.iter().for_each(|it| work.merge(it.did.clone()));
        let recorded_s: f64 = manifest.history.iter().map(|it| it.seconds).sum();
        let sending_s = active_seconds(&manifest.history);
        let session = |record: &StartRecord| {
            let above = above.work_by_start.get(&record.start);
            session_summary(record, manifest, is_active, &observed, above)
        };
        let mut summary = Self {
            schema_version: SUMMARY_SCHEMA_VERSION,
            program: concat!("aurora-swarm ", env!("CARGO_PKG_VERSION")).into(),
            written: unix_seconds(),
            output: manifest.output.clone(),
            input: manifest.input.clone(),
            state: run_phase(manifest, is_active),
            model: manifest.model.clone(),
            models: manifest.models.clone(),
            api: manifest.api.clone(),
            counts: manifest.counts.clone(),
            // A manifest of an older version has no records, only the sum; a killed session is only in the records.
            active_s: recorded_s.max(manifest.seconds),
            requests: work.requests.max(manifest.requests),
            retried: work.retried,
            rates: throughput_rates(&history, &work, sending_s),
            tokens: TokenTotals {
                prompt: stats.prompt_tokens.sum(),
                completion: stats.completion_tokens.sum(),
                estimated: stats.estimated,
                unreported: stats.answered.saturating_sub(stats.completion_tokens.count()),
            },
            latency_s: summarize_distribution(&stats.latency, 0.001),
            prompt_tokens: summarize_distribution(&stats.prompt_tokens, 1.0),
            completion_tokens: summarize_distribution(&stats.completion_tokens, 1.0),
            finish_reasons: stats.finish_reasons.to_map(),
            failures: failure_summaries(stats),
            invalid_answers: invalid_summary(stats),
            endpoints: EndpointLoad::from_stats(
                &stats.endpoints,
                &observed,
                history.fraction_full_steady,
            ),
            slowest_answers: stats.slowest.iter().map(slow_answer).collect(),
            sessions: manifest.history.iter().map(session).collect(),
            unrecorded_sessions: manifest
                .count_starts_until(manifest.starts)
                .saturating_sub(manifest.history.len() as u32),
            reduce: None,
            timeline: history.merge_levels(above.throughputs),
            settings: setting_values(manifest),
            unreadable_lines: stats.damaged,
        };
        summary.reduce = reduce.map(|reduce| {
            let leaves = leaf_level(&summary, reduce.leaves_failed, &work, sending_s);
            ReduceSummary::from_levels(reduce, leaves)
        });
        summary
    }
}

/// Returns the leaves as level 0 of a tree. `work` and `sending_s` are those of the sessions that sent prompts.
fn leaf_level(
    leaves: &RunSummary,
    failed: Option<u64>,
    work: &Tally,
    sending_s: f64,
) -> LevelSummary {
    let counts = leaves.counts.clone();
    let rate = |count: u64| (sending_s > 0.0).then(|| count as f64 / sending_s);
    LevelSummary {
        level: 0,
        nodes: counts.submitted,
        state: if counts.open == 0 { "finished" } else { "stopped" },
        passed: 0,
        empty: 0,
        cut: 0,
        failed,
        active_s: sending_s,
        build_s: 0.0,
        requests: leaves.requests,
        completion_tokens: leaves.tokens.completion,
        prompts_per_s: rate(work.settled_count()),
        tokens_per_s: rate(work.completion_tokens),
        latency_s: leaves.latency_s.clone(),
        failures: leaves.failures.clone(),
        counts,
    }
}

fn throughput_rates(history: &ThroughputHistory, work: &Tally, sending_s: f64) -> ThroughputRates {
    let overall = |count: u64| (sending_s > 0.0).then(|| count as f64 / sending_s);
    let [ramp, steady, tail] =
        [ThroughputPhase::Ramp, ThroughputPhase::Steady, ThroughputPhase::Tail]
            .map(|phase| history.phase_totals(phase));
    ThroughputRates {
        overall_prompts_per_s: overall(work.settled_count()),
        overall_tokens_per_s: overall(work.completion_tokens),
        steady_prompts_per_s: steady.prompts_per_s(),
        steady_tokens_per_s: steady.tokens_per_s(),
        ramp_s: ramp.seconds,
        steady_s: steady.seconds,
        tail_s: tail.seconds,
    }
}

fn slow_answer((millis, index, id, endpoint): (u64, u64, &str, &str)) -> SlowAnswer {
    SlowAnswer {
        id: parse_id(id),
        index,
        latency_s: millis as f64 / 1000.0,
        endpoint: endpoint.into(),
    }
}

/// Returns the phase: a manifest in state `running` without an active session belongs to a killed session.
fn run_phase(manifest: &Manifest, is_active: bool) -> RunPhase {
    match manifest.state {
        RunState::Running if is_active => RunPhase::Running,
        RunState::Running => RunPhase::Lost,
        RunState::Stopped => RunPhase::Stopped,
        RunState::Finished => RunPhase::Finished,
    }
}

fn session_summary(
    record: &StartRecord,
    manifest: &Manifest,
    is_active: bool,
    timelines: &[StartTimeline],
    above: Option<&ReduceStartWork>,
) -> SessionSummary {
    let StartRecord { start, began, ended, seconds, waited, ranks, did, before, finished, .. } =
        record;
    let is_running = is_active && *start == manifest.starts && manifest.state == RunState::Running;
    let own_timelines = || timelines.iter().filter(|it| it.start == *start);
    let changes = manifest.changes.iter().filter(|it| it.start == *start).flat_map(|change| {
        let input = change.input.as_ref().map(|it| {
            format!(
                "input changed: {} kept, {} new, {} dropped",
                pluralize(it.kept, "answer"),
                pluralize(it.new, "row"),
                pluralize(it.gone, "answer")
            )
        });
        change.settings.iter().cloned().chain(input)
    });
    SessionSummary {
        session: *start,
        began: *began,
        ended: *ended,
        outcome: match (ended, finished) {
            (Some(_), true) => "finished",
            (Some(_), false) => "stopped",
            (None, _) if is_running => "running",
            (None, _) => "killed",
        },
        active_s: *seconds,
        waited_s: *waited,
        ranks: *ranks,
        host: record.host.clone(),
        job: record.job.clone(),
        done_before: before.answered + before.failed,
        answered: did.answered,
        failed: did.failed_count(),
        requests: did.requests,
        retried: did.retried,
        completion_tokens: did.completion_tokens,
        lost: record.lost.clone(),
        n_outages: own_timelines()
            .next()
            .map(|_| own_timelines().map(|it| it.timeline.away.times).sum()),
        changes: changes.collect(),
        above: above.cloned(),
    }
}

fn setting_values(manifest: &Manifest) -> BTreeMap<String, SettingValue> {
    let all = manifest.settings.as_object().into_iter().flatten();
    let origin =
        |key: &String| manifest.origins.get(key).cloned().unwrap_or_else(|| "default".into());
    all.map(|(key, value)| {
        (key.clone(), SettingValue { value: value.clone(), origin: origin(key) })
    })
    .collect()
}
