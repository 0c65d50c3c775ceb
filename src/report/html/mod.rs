//! The page `RUN/report.html`: one file without scripts that needs no network.
//!
//! Owns the order of sections: key numbers, throughput over time, endpoints, distributions, failures, sessions, settings.
//! All text from data goes through [`escape_html`]. Colours follow the system, light or dark, and are safe for colour-blind
//! readers (the palette of Okabe and Ito, and viridis). The numbers are computed in `report/summary.rs`.

mod charts;
mod heatmap;
mod reduce_tree;
mod tables;
mod throughput;

use std::fmt::Write;

use super::format::{
    escape_html, format_count, format_flaws, format_number, format_percent, format_seconds,
    format_tick, format_tick_time, format_timestamp, pluralize,
};
use super::{distribution::DistributionSummary, summary::RunSummary};
use crate::output::{PromptCounts, StartTimeline};
pub(crate) use charts::axis_ticks;
use charts::{ChartMark, StepChart, StepSeries};

/// Shortest steady phase, in seconds, whose rate is shown.
const MIN_STEADY_S: f64 = 2.0;
/// Number of sessions, the latest ones, whose heat maps are drawn.
const MAX_HEATMAPS: usize = 3;

/// Renders the page of a run.
#[must_use]
pub(crate) fn render_report(summary: &RunSummary, timelines: &[StartTimeline]) -> String {
    let name = summary.output.rsplit('/').next().unwrap_or_default();
    let mut body = String::new();
    body.push_str(&page_header(summary, name));
    body.push_str(&metric_tiles(summary));
    body.push_str(&reduce_tree::reduce_section(summary));
    body.push_str(&throughput::throughput_section(summary));
    body.push_str(&endpoints_section(summary, timelines));
    body.push_str(&distributions_section(summary));
    body.push_str(&tables::failures_section(summary));
    body.push_str(&tables::slowest_section(summary));
    body.push_str(&tables::sessions_section(summary));
    body.push_str(&tables::settings_section(summary));
    let (title, style) = (escape_html(name), include_str!("style.css"));
    let (program, written) = (escape_html(&summary.program), format_timestamp(summary.written));
    format!(
        r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark"><title>{title} – run report</title>
<style>{style}</style></head><body><main>
{body}
<footer>Written by {program} on {written}. The same numbers for scripts are in <code>summary.json</code> beside this file. Percentiles are accurate to ±1 %; counts, sums, means, minima and maxima are exact.</footer>
</main></body></html>
"#
    )
}

fn page_header(summary: &RunSummary, name: &str) -> String {
    let state = match summary.sessions.last() {
        Some(session) => session.outcome,
        None => "finished",
    };
    let mut facts = Vec::new();
    facts.extend(summary.model.as_ref().map(|it| format!("model <b>{}</b>", escape_html(it))));
    facts.extend(summary.api.as_ref().map(|api| match &**api {
        "chat" => "chat completions".to_owned(),
        other => escape_html(other),
    }));
    facts.push(format!(
        "{} from {}",
        pluralize(summary.counts.submitted, "prompt"),
        escape_html(&summary.input.join(", "))
    ));
    let job = summary.sessions.last().and_then(|it| it.job.as_ref());
    facts.extend(job.map(|job| format!("job {}", escape_html(job))));
    facts.extend(
        summary.sessions.first().map(|it| format!("started {}", format_timestamp(it.began))),
    );
    format!(
        r#"<header><div class="top"><h1>{}</h1><span class="state {state}" id="state">{state}</span></div><p class="soft">{}</p></header>"#,
        escape_html(name),
        facts.join(" · "),
    )
}

/// A key number at the top of the page.
struct MetricTile<'a> {
    id: &'a str,
    name: &'a str,
    /// Plain number for scripts and tests, in `data-value`.
    value: String,
    shown: String,
    caption: String,
    is_bad: bool,
}

impl MetricTile<'_> {
    fn draw_tile(&self) -> String {
        let Self { id, name, value, shown, caption, is_bad } = self;
        let class = if *is_bad { "tile bad" } else { "tile" };
        format!(
            r#"<div class="{class}"><div class="name">{name}</div><b id="{id}" data-value="{value}">{shown}</b><small>{caption}</small></div>"#
        )
    }
}

fn metric_tiles(summary: &RunSummary) -> String {
    let tiles: String = count_tiles(summary)
        .iter()
        .chain(&performance_tiles(summary))
        .map(MetricTile::draw_tile)
        .collect();
    format!(r#"<div class="tiles">{tiles}</div>{}"#, outcome_bar(&summary.counts))
}

fn count_tiles(summary: &RunSummary) -> [MetricTile<'static>; 4] {
    let counts = &summary.counts;
    // The tree of a reduce has its own section; the tiles are the leaves'.
    let name = |run, leaves| if summary.reduce.is_some() { leaves } else { run };
    let share = |part: u64| format_percent(part as f64 / counts.submitted.max(1) as f64);
    let counted = |id, name, value: u64, caption: String, is_bad| MetricTile {
        id,
        name,
        value: value.to_string(),
        shown: format_count(value),
        caption,
        is_bad,
    };
    let sessions = summary.sessions.len() as u64 + u64::from(summary.unrecorded_sessions);
    let next = if counts.open > 0 { "the same command resumes" } else { "nothing remains" };
    [
        counted(
            "answered",
            name("answered", "leaves answered"),
            counts.answered,
            [
                format!("{} of {}", share(counts.answered), format_count(counts.submitted)),
                format_flaws(counts.flaws),
            ]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join("; "),
            false,
        ),
        counted(
            "failed",
            name("failed", "leaves failed"),
            counts.failed,
            share(counts.failed),
            counts.failed > 0,
        ),
        counted("open", name("open", "leaves open"), counts.open, next.into(), counts.open > 0),
        MetricTile {
            id: "active-s",
            name: name("working time", "working time of the leaves"),
            value: format!("{:.3}", summary.active_s),
            shown: format_seconds(summary.active_s),
            caption: format!(
                "{}, {}",
                pluralize(sessions, "session"),
                pluralize(summary.requests, "request")
            ),
            is_bad: false,
        },
    ]
}

fn performance_tiles(summary: &RunSummary) -> [MetricTile<'static>; 4] {
    let (rates, latency, endpoints) = (&summary.rates, &summary.latency_s, &summary.endpoints);
    let or_dash = |value: Option<f64>, format: fn(f64) -> String| value.map_or("–".into(), format);
    let or_empty = |value: Option<f64>| value.map(|it| format!("{it:.3}")).unwrap_or_default();
    // A run that ended before it was steady has only an overall rate.
    let is_steady = rates.steady_s >= MIN_STEADY_S;
    let rate = |id, steady_name, overall_name, steady: Option<f64>, overall: Option<f64>| {
        let value = steady.filter(|_| is_steady).or(overall);
        MetricTile {
            id,
            name: if is_steady { steady_name } else { overall_name },
            value: or_empty(value),
            shown: or_dash(value, format_number),
            caption: overall
                .map_or("unknown".into(), |rate| format!("{} overall", format_number(rate))),
            is_bad: false,
        }
    };
    // A limit that has just been lowered is exceeded for a moment: no more than all of it is shown as used.
    let utilisation = endpoints.utilisation.map(|share| share.min(1.0));
    [
        rate(
            "prompts-per-s",
            "prompts/s, steady",
            "prompts/s",
            rates.steady_prompts_per_s,
            rates.overall_prompts_per_s,
        ),
        rate(
            "tokens-per-s",
            "tokens/s, steady",
            "tokens/s",
            rates.steady_tokens_per_s,
            rates.overall_tokens_per_s,
        ),
        MetricTile {
            id: "latency",
            name: "median latency",
            value: or_empty(latency.p50),
            shown: or_dash(latency.p50, format_seconds),
            caption: format!("p99 {}", or_dash(latency.p99, format_seconds)),
            is_bad: false,
        },
        MetricTile {
            id: "utilisation",
            name: "server utilisation",
            value: or_empty(utilisation),
            shown: or_dash(utilisation, format_percent),
            caption: format!(
                "limit full {} of the steady phase",
                or_dash(endpoints.fraction_full_steady, format_percent)
            ),
            is_bad: false,
        },
    ]
}

/// Draws the bar of outcomes and its legend.
fn outcome_bar(counts: &PromptCounts) -> String {
    let share = |part: u64| 100.0 * part as f64 / counts.submitted.max(1) as f64;
    // A small share of a large run must stay visible.
    let some = |part: u64| if part > 0 { " some" } else { "" };
    let PromptCounts { answered, failed, open, .. } = *counts;
    format!(
        r#"<div class="done" role="img" aria-label="{} answered, {} failed, {} open of {}"><i class="a{}" style="width:{:.3}%"></i><i class="f{}" style="width:{:.3}%"></i></div><div class="key"><span><i style="background:var(--green)"></i>answered</span><span><i style="background:var(--red)"></i>failed</span><span><i style="background:var(--track)"></i>open</span></div>"#,
        format_count(answered),
        format_count(failed),
        format_count(open),
        pluralize(counts.submitted, "prompt"),
        some(answered),
        share(answered),
        some(failed),
        share(failed),
    )
}

fn endpoints_section(summary: &RunSummary, timelines: &[StartTimeline]) -> String {
    let load = &summary.endpoints;
    let known = |share: Option<f64>| share.map_or("–".into(), format_percent);
    let mut html = format!(
        r#"<section id="endpoints"><h2>Endpoints</h2><div class="facts"><div><b>{}</b> <span>used</span></div><div><b>{}</b> <span>of the time up</span></div><div><b>{}</b> <span>of the uptime with the concurrency limit full</span></div><div><b>{}</b> <span>mean utilisation</span></div><div><b id="outages" data-value="{}">{}</b> <span>{}</span></div></div>"#,
        format_count(load.n_used),
        known(load.fraction_up),
        known(load.fraction_full),
        known(load.utilisation.map(|share| share.min(1.0))),
        load.n_outages,
        format_count(load.n_outages),
        if load.n_outages == 1 { "outage" } else { "outages" },
    );
    let last: Vec<String> =
        timelines.iter().rev().take(MAX_HEATMAPS).map(heatmap::draw_heatmap).collect();
    if last.is_empty() {
        html.push_str(r#"<p class="note">There is no heat map: it is recorded when all ranks finish in order, and no session of this run has.</p>"#);
    } else {
        html.push_str(r"<h3>Requests in flight, as a share of the concurrency limit</h3>");
        html.push_str(&heatmap::heatmap_legend());
        last.iter().rev().for_each(|map| html.push_str(map));
        if timelines.len() > MAX_HEATMAPS {
            let _ = write!(
                html,
                r#"<p class="note">The last {MAX_HEATMAPS} of {} sessions are shown.</p>"#,
                timelines.len()
            );
        }
    }
    // Timelines are merged when all ranks finish, so a killed session leaves none.
    let is_unseen = |session: u32| timelines.iter().all(|it| it.start != session);
    let killed =
        summary.sessions.iter().filter(|it| it.outcome == "killed" && is_unseen(it.session));
    let killed: Vec<String> = killed.map(|it| it.session.to_string()).collect();
    if !last.is_empty() && !killed.is_empty() {
        let (s, has) = if killed.len() == 1 {
            ("", "was killed and has")
        } else {
            ("s", "were killed and have")
        };
        let _ = write!(
            html,
            r#"<p class="note">Session{s} {} {has} no heat map.</p>"#,
            killed.join(", ")
        );
    }
    html.push_str(&tables::straggler_table(load));
    html.push_str(&tables::downtime_table(load));
    html + "</section>"
}

fn distributions_section(summary: &RunSummary) -> String {
    let mut html = String::from(r#"<section id="spread"><h2>Latencies and lengths</h2>"#);
    if summary.latency_s.count == 0 {
        return html + r#"<p class="note">No prompt has been answered.</p></section>"#;
    }
    html.push_str(&draw_histogram(
        "Latency",
        "answers by the time from sending the request to its answer",
        "blue",
        &summary.latency_s,
        format_tick_time,
        format_seconds,
    ));
    let tokens: fn(f64) -> String = |it| format!("{} tokens", format_tick(it.round()));
    if summary.completion_tokens.count > 0 {
        html.push_str(r#"<div class="two">"#);
        html.push_str(&draw_histogram(
            "Answer length",
            "answers by number of tokens",
            "green",
            &summary.completion_tokens,
            format_tick,
            tokens,
        ));
        html.push_str(&draw_histogram(
            "Prompt length",
            "prompts by number of tokens",
            "purple",
            &summary.prompt_tokens,
            format_tick,
            tokens,
        ));
        html.push_str("</div>");
    }
    let mut facts = vec![
        format!(
            "<div><b>{}</b> <span>prompt tokens</span></div>",
            format_count(summary.tokens.prompt)
        ),
        format!(
            "<div><b>{}</b> <span>completion tokens</span></div>",
            format_count(summary.tokens.completion)
        ),
    ];
    let reasons = summary.finish_reasons.iter().map(|(reason, number)| {
        format!(
            "<div><b>{}</b> <span>finished with {}</span></div>",
            format_count(*number),
            escape_html(reason)
        )
    });
    facts.extend(reasons);
    let _ = write!(html, r#"<div class="facts" style="margin-top:16px">{}</div>"#, facts.concat());
    if summary.tokens.estimated > 0 {
        let _ = write!(
            html,
            r#"<p class="note">Token counts of {} answers are estimated from the total of their batch; <code>--usage exact</code> counts them.</p>"#,
            format_count(summary.tokens.estimated)
        );
    }
    html + "</section>"
}

fn draw_histogram(
    title: &str,
    unit: &str,
    class: &str,
    spread: &DistributionSummary,
    axis: fn(f64) -> String,
    exact: fn(f64) -> String,
) -> String {
    let bars = &spread.histogram;
    let steps: Vec<(f64, f64, f64)> = (0..)
        .zip(bars)
        .map(|(at, it)| (f64::from(at), f64::from(at + 1), it.count as f64))
        .collect();
    // Bins have equal widths on the page, which makes the axis nearly logarithmic.
    // About six labels fit on a phone.
    let every = bars.len().div_ceil(6).max(1);
    let ticks =
        (0..).zip(bars).step_by(every).map(|(at, it)| (f64::from(at), axis(it.from))).collect();
    let place = |value: f64| {
        let (at, bar) = (0..).zip(bars).find(|(_, it)| value < it.to)?;
        Some(
            f64::from(at)
                + ((value - bar.from) / (bar.to - bar.from).max(f64::MIN_POSITIVE)).clamp(0.0, 1.0),
        )
    };
    let named = [("median", spread.p50), ("p90", spread.p90), ("p99", spread.p99)];
    let marks: Vec<ChartMark> = named
        .into_iter()
        .filter_map(|(name, value)| {
            Some(ChartMark { at: place(value?)?, name: format!("{name}: {}", exact(value?)) })
        })
        .collect();
    let series = [StepSeries { steps: &steps, class, filled: true }];
    let or_dash = |value: Option<f64>| value.map_or("–".into(), exact);
    let description = format!(
        "{title}: {}, median {}, p90 {}, p99 {}, maximum {}",
        pluralize(spread.count, "value"),
        or_dash(spread.p50),
        or_dash(spread.p90),
        or_dash(spread.p99),
        or_dash(spread.max)
    );
    StepChart {
        title,
        unit,
        description,
        height_px: 130,
        x_max: bars.len() as f64,
        ticks,
        bands: &[],
        marks: &marks,
        series: &series,
        as_bars: true,
    }
    .draw_chart()
}
