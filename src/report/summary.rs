//! How a run went, in numbers: `RUN/summary.json`, and what the page is drawn from.
//!
//! Owns what is worth telling of a run's files taken together. Counts are the manifest's. Draws nothing and reads nothing.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::{
    endpoint_load::EndpointLoad,
    reduce_levels::{ReduceSource, ReduceSummary},
    reduce_starts::{ReduceStartWork, ReduceStarts},
    throughput::{ThroughputHistory, ThroughputPhase, ThroughputPoint},
};
use crate::output::RunPhase as Life;
use crate::{
    domain::{FailureKind, Merge, Tally},
    metrics::{AnswerStats, FailureStats, HistogramBin, LogHistogram},
    output::{
        LostRank, Manifest, PromptCounts, RunSample, RunState, StartRecord, StartTimeline,
        unix_seconds,
    },
};

/// What a summary is made of.
#[derive(Clone, Copy, Debug)]
pub struct SummarySources<'a> {
    /// The run.
    pub manifest: &'a Manifest,
    /// How it went, by rank 0.
    pub samples: &'a [RunSample],
    /// How it went, by the ranks.
    pub timelines: &'a [StartTimeline],
    /// What its lines measure.
    pub measured: &'a AnswerStats,
    /// Is somebody at work on it?
    pub is_active: bool,
    /// Of a reduce, whose leaves the above are: what lies above them.
    pub reduce: Option<&'a ReduceSource>,
}

/// The whole file. Times are in seconds, moments in seconds since 1970; what is not known is null.
#[derive(Clone, Debug, Serialize)]
pub struct RunSummary {
    /// Of this format: 1.
    pub version: u32,
    /// The program that wrote it.
    pub program: String,
    /// When.
    pub written: u64,
    /// Of the run, as the manifest has it.
    pub output: String,
    /// Likewise.
    pub input: Vec<String>,
    /// How it stands, as `status` has it.
    pub state: Life,
    /// Likewise.
    pub model: Option<String>,
    /// Likewise.
    pub api: Option<String>,
    /// The manifest's counts.
    pub counts: PromptCounts,
    /// Working seconds of all starts, also of those that were killed as far as that is known.
    pub seconds: f64,
    /// HTTP requests, likewise.
    pub requests: u64,
    /// Prompts that were sent again after a fault, likewise.
    pub retried: u64,
    /// How fast it was.
    pub rates: ThroughputRates,
    /// Tokens of what is answered, all together.
    pub tokens: TokenTotals,
    /// Of answered prompts, from sending the request to its answer, in seconds.
    pub latency_s: DistributionSummary,
    /// Tokens of prompts that are answered.
    pub prompt_tokens: DistributionSummary,
    /// Tokens of answers.
    pub completion_tokens: DistributionSummary,
    /// Why answers ended, and how many did so.
    pub finish_reasons: BTreeMap<String, u64>,
    /// By kind.
    pub failures: BTreeMap<String, Failure>,
    /// Who was asked.
    pub endpoints: EndpointLoad,
    /// The slowest answers, the slowest first.
    pub slowest: Vec<SlowAnswer>,
    /// Each start.
    pub starts: Vec<Start>,
    /// Starts of which no record was kept.
    pub unrecorded: u32,
    /// Of a reduce: the tree above. All other numbers are its leaves' then, but for starts, times away and the course, which
    /// are of all its passes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reduce: Option<ReduceSummary>,
    /// How it went over time, in order.
    pub course: Vec<ThroughputPoint>,
    /// Every setting.
    pub settings: BTreeMap<String, SettingValue>,
    /// Lines that are no answers.
    pub damaged: u64,
}

/// How fast a run was.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ThroughputRates {
    /// Over all working seconds of starts that asked anything.
    pub prompts_per_s: Option<f64>,
    /// Likewise.
    pub tokens_per_s: Option<f64>,
    /// While endpoints had ample work.
    pub steady_prompts_per_s: Option<f64>,
    /// Likewise.
    pub steady_tokens_per_s: Option<f64>,
    /// Seconds before, while and after endpoints had ample work, of all starts.
    pub ramp_s: f64,
    /// Likewise.
    pub steady_s: f64,
    /// Likewise.
    pub tail_s: f64,
}

/// Tokens.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct TokenTotals {
    /// Of prompts that are answered.
    pub prompt: u64,
    /// Of answers.
    pub completion: u64,
    /// Answers whose count is a share of their list's.
    pub estimated: u64,
    /// Answers without a count.
    pub uncounted: u64,
}

/// How numbers are spread: quantiles are within a thirtieth.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DistributionSummary {
    /// How many there are.
    pub count: u64,
    /// Null where there are none, as all below.
    pub min: Option<f64>,
    /// Exact.
    pub mean: Option<f64>,
    /// The middle.
    pub p50: Option<f64>,
    /// The slowest or longest tenth begins here.
    pub p90: Option<f64>,
    /// The hundredth.
    pub p99: Option<f64>,
    /// Exact.
    pub max: Option<f64>,
    /// Bars that touch.
    pub histogram: Vec<DistributionBin>,
}

/// Numbers from `from` on and below `to`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct DistributionBin {
    /// See above.
    pub from: f64,
    /// See above.
    pub to: f64,
    /// How many.
    pub count: u64,
}

/// Failures of a kind.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// How many.
    pub count: u64,
    /// Does a resumed run ask them again?
    pub passes: bool,
    /// The first in the input's order.
    pub first: Vec<FailedPrompt>,
}

/// One that failed.
#[derive(Clone, Debug, Serialize)]
pub struct FailedPrompt {
    /// Its id.
    pub id: Value,
    /// Its place in the input.
    pub index: u64,
    /// Why.
    pub message: String,
    /// The HTTP status, where there was one.
    pub status: Option<u16>,
}

/// A slow answer.
#[derive(Clone, Debug, Serialize)]
pub struct SlowAnswer {
    /// Its prompt's id.
    pub id: Value,
    /// Its prompt's place in the input.
    pub index: u64,
    /// How slow.
    pub latency_s: f64,
    /// Who answered.
    pub endpoint: String,
}

/// One start.
#[derive(Clone, Debug, Serialize)]
pub struct Start {
    /// Its number, from 1.
    pub start: u32,
    /// When it began.
    pub began: u64,
    /// When it ended in order; null where it was killed or is at work.
    pub ended: Option<u64>,
    /// In a word: finished, stopped, killed, running.
    pub end: &'static str,
    /// How long it worked.
    pub seconds: f64,
    /// Its ranks.
    pub ranks: usize,
    /// Where its rank 0 ran.
    pub host: String,
    /// Its batch job.
    pub job: Option<String>,
    /// Done before it.
    pub done_before: u64,
    /// What it answered.
    pub answered: u64,
    /// What failed in it.
    pub failed: u64,
    /// Its HTTP requests.
    pub requests: u64,
    /// Prompts that it sent again.
    pub retried: u64,
    /// Its tokens.
    pub completion_tokens: u64,
    /// Its ranks that were lost.
    pub lost: Vec<LostRank>,
    /// How often an endpoint went away in it; null where that was not watched.
    pub times_away: Option<u64>,
    /// What had changed with it and was accepted, as sentences.
    pub changes: Vec<String>,
    /// Of a reduce: what it did above the leaves, if it came to that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub above: Option<ReduceStartWork>,
}

/// A setting.
#[derive(Clone, Debug, Serialize)]
pub struct SettingValue {
    /// Its value.
    pub value: Value,
    /// Where it came from.
    pub origin: String,
}

/// Bars of a histogram, at most.
const HISTOGRAM_BINS: usize = 40;
impl RunSummary {
    /// Of a run.
    #[must_use]
    pub fn of(sources: &SummarySources<'_>) -> Self {
        let SummarySources { manifest, timelines, measured, reduce: tree, .. } = *sources;
        let course = ThroughputHistory::of(&manifest.history, sources.samples, timelines);
        let above =
            tree.map(|tree| ReduceStarts::of(&manifest.history, &tree.levels)).unwrap_or_default();
        let watched: Vec<StartTimeline> =
            timelines.iter().chain(&above.timelines).cloned().collect();
        let mut all = Tally::default();
        manifest.history.iter().for_each(|it| all.merge(it.did.clone()));
        let recorded: f64 = manifest.history.iter().map(|it| it.seconds).sum();
        let seconds = recorded.max(manifest.seconds);
        let asking = active_seconds(&manifest.history);
        let completion = measured.completion_tokens.sum();
        let per = |count: u64, seconds: f64| (seconds > 0.0).then(|| count as f64 / seconds);
        let [ramp, steady, tail] =
            [ThroughputPhase::Ramp, ThroughputPhase::Steady, ThroughputPhase::Tail]
                .map(|phase| course.phase_totals(phase));
        let latency = summarize_distribution(&measured.latency, 0.001);
        let mut summary = Self {
            version: 1,
            program: concat!("aurora-swarm ", env!("CARGO_PKG_VERSION")).into(),
            written: unix_seconds(),
            output: manifest.output.clone(),
            input: manifest.input.clone(),
            state: run_phase(manifest, sources.is_active),
            model: manifest.model.clone(),
            api: manifest.api.clone(),
            counts: manifest.counts.clone(),
            seconds,
            requests: all.requests.max(manifest.requests),
            retried: all.retried,
            rates: ThroughputRates {
                prompts_per_s: per(all.settled(), asking),
                tokens_per_s: per(all.completion_tokens, asking),
                steady_prompts_per_s: steady.prompts_per_s(),
                steady_tokens_per_s: steady.tokens_per_s(),
                ramp_s: ramp.seconds,
                steady_s: steady.seconds,
                tail_s: tail.seconds,
            },
            tokens: TokenTotals {
                prompt: measured.prompt_tokens.sum(),
                completion,
                estimated: measured.estimated,
                uncounted: measured.answered.saturating_sub(measured.completion_tokens.count()),
            },
            latency_s: latency,
            prompt_tokens: summarize_distribution(&measured.prompt_tokens, 1.0),
            completion_tokens: summarize_distribution(&measured.completion_tokens, 1.0),
            finish_reasons: measured.finish.clone(),
            failures: failures(measured),
            endpoints: EndpointLoad::of(&measured.endpoints, &watched, &course),
            slowest: measured.slowest.iter().map(slow_answer).collect(),
            starts: manifest
                .history
                .iter()
                .map(|it| {
                    start(
                        it,
                        manifest,
                        sources.is_active,
                        &watched,
                        above.work_by_start.get(&it.start),
                    )
                })
                .collect(),
            unrecorded: manifest
                .count_starts_until(manifest.starts)
                .saturating_sub(manifest.history.len() as u32),
            reduce: None,
            course: course.merge_levels(above.throughputs),
            settings: setting_values(manifest),
            damaged: measured.damaged,
        };
        summary.reduce = tree.map(|tree| ReduceSummary::of(tree, &summary, (&all, asking)));
        summary
    }
}

pub(super) fn failures(measured: &AnswerStats) -> BTreeMap<String, Failure> {
    measured.failures.iter().map(|(kind, its)| (kind.clone(), failure(kind, its))).collect()
}

pub(super) fn summarize_distribution(scale: &LogHistogram, unit: f64) -> DistributionSummary {
    let scaled = |number: u64| number as f64 * unit;
    let bar = |HistogramBin { from, to, count }| DistributionBin {
        from: scaled(from),
        to: scaled(to),
        count,
    };
    DistributionSummary {
        count: scale.count(),
        min: scale.ends().map(|ends| scaled(ends.0)),
        mean: scale.mean().map(|mean| mean * unit),
        p50: scale.at(0.5).map(scaled),
        p90: scale.at(0.9).map(scaled),
        p99: scale.at(0.99).map(scaled),
        max: scale.ends().map(|ends| scaled(ends.1)),
        histogram: scale.to_bins(HISTOGRAM_BINS).into_iter().map(bar).collect(),
    }
}

fn failure(kind: &str, its: &FailureStats) -> Failure {
    let known = serde_json::from_value::<FailureKind>(kind.into());
    let first = its.first.iter().map(|(&index, it)| FailedPrompt {
        id: json(&it.id),
        index,
        message: it.message.clone(),
        status: it.status,
    });
    Failure {
        count: its.count,
        passes: known.is_ok_and(FailureKind::is_retryable),
        first: first.collect(),
    }
}

fn slow_answer((millis, index, id, endpoint): (u64, u64, &str, &str)) -> SlowAnswer {
    SlowAnswer { id: json(id), index, latency_s: millis as f64 / 1000.0, endpoint: endpoint.into() }
}

/// An id as the value it is.
fn json(id: &str) -> Value {
    serde_json::from_str(id).unwrap_or_else(|_| id.into())
}

/// Seconds of the starts that asked anything: who only looks once more has not been slow. To the millisecond, since a number
/// that has been in a file need not be the same to its last bit.
pub(super) fn active_seconds(history: &[StartRecord]) -> f64 {
    let asked = history.iter().filter(|it| it.did.settled() > 0);
    (asked.map(|it| it.seconds).sum::<f64>() * 1000.0).round() / 1000.0
}

/// What says that it runs, and where nobody is at work, was killed.
fn run_phase(manifest: &Manifest, alive: bool) -> Life {
    match manifest.state {
        RunState::Running if alive => Life::Running,
        RunState::Running => Life::Lost,
        RunState::Stopped => Life::Stopped,
        RunState::Finished => Life::Finished,
    }
}

fn start(
    record: &StartRecord,
    manifest: &Manifest,
    alive: bool,
    timelines: &[StartTimeline],
    above: Option<&ReduceStartWork>,
) -> Start {
    let StartRecord { start, began, ended, seconds, ranks, did, before, finished, .. } = record;
    let running = alive && *start == manifest.starts && manifest.state == RunState::Running;
    let mine = || timelines.iter().filter(|it| it.start == *start);
    let changes = manifest.changes.iter().filter(|it| it.start == *start).flat_map(|change| {
        let input = change.input.as_ref().map(|it| {
            format!(
                "the input has changed: {} answers kept, {} rows new, {} gone",
                it.kept, it.new, it.gone
            )
        });
        change.settings.iter().cloned().chain(input)
    });
    Start {
        start: *start,
        began: *began,
        ended: *ended,
        end: match (ended, finished) {
            (Some(_), true) => "finished",
            (Some(_), false) => "stopped",
            (None, _) if running => "running",
            (None, _) => "killed",
        },
        seconds: *seconds,
        ranks: *ranks,
        host: record.host.clone(),
        job: record.job.clone(),
        done_before: before.answered + before.failed,
        answered: did.answered,
        failed: did.failed(),
        requests: did.requests,
        retried: did.retried,
        completion_tokens: did.completion_tokens,
        lost: record.lost.clone(),
        times_away: mine().next().map(|_| mine().map(|it| it.timeline.away.times).sum()),
        changes: changes.collect(),
        above: above.cloned(),
    }
}

fn setting_values(manifest: &Manifest) -> BTreeMap<String, SettingValue> {
    let all = manifest.settings.as_object().into_iter().flatten();
    let origin = |key: &String| {
        manifest.origins.get(key).map_or_else(|| "default".into(), ToString::to_string)
    };
    all.map(|(key, value)| {
        (key.clone(), SettingValue { value: value.clone(), origin: origin(key) })
    })
    .collect()
}
