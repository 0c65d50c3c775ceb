//! Section on throughput, requests in flight and endpoints over time, with all sessions on one axis.
//!
//! The points are computed in `report/throughput.rs`.

use super::charts::{ChartBand, ChartMark, StepChart, StepSeries, time_ticks};
use crate::report::format::{format_seconds, format_tick_time};
use crate::report::{
    summary::RunSummary,
    throughput::{ThroughputPhase, ThroughputPoint},
};

pub(super) fn throughput_section(summary: &RunSummary) -> String {
    let points = layout_points(&summary.course);
    let wide = points.last().map_or(0.0, |(_, to, _)| *to);
    let mut html = String::from(r#"<section id="timeline"><h2>Throughput over time</h2>"#);
    if wide <= 0.0 {
        return html
            + r#"<p class="note">Too little data to draw: nothing was sent, or the run was over at once.</p></section>"#;
    }
    let rates = &summary.rates;
    html.push_str(&format!(
        r#"<p class="note">Working time only: the time between sessions, and the time before a session sends prompts, are left out. The ramp (<b>{}</b>) lasts until 70 % of a session's typical load is in flight. The tail (<b>{}</b>) begins when concurrency limits are not filled to 70 % any more. Between them lies the steady phase (<b>{}</b>).{}</p>"#,
        format_seconds(rates.ramp_s), format_seconds(rates.tail_s), format_seconds(rates.steady_s), missing_starts_note(summary),
    ));
    if summary.reduce.is_some() {
        html.push_str(r#"<p class="note">Leaves come first, then each level (L1, L2, …). The durations above are the leaves'.</p>"#);
    }
    html.push_str(r#"<div class="key"><span><i class="band" style="background:var(--ramp)"></i>ramp</span><span><i class="band" style="background:var(--tail)"></i>tail</span></div>"#);
    let (bands, marks) = (phase_bands(&points), start_marks(&points));
    let series = |value: fn(&ThroughputPoint) -> Option<f64>| -> Vec<(f64, f64, f64)> {
        points.iter().filter_map(|(from, to, point)| Some((*from, *to, value(point)?))).collect()
    };
    let ticks = || time_ticks(wide, 6).into_iter().map(|at| (at, format_tick_time(at))).collect();
    let draw =
        |title: &str, unit: &str, pixels: u32, marks: &[ChartMark], series: &[StepSeries<'_>]| {
            StepChart {
                title,
                unit,
                height_px: pixels,
                x_max: wide,
                ticks: ticks(),
                bands: &bands,
                marks,
                series,
                as_bars: false,
            }
            .draw_chart()
        };
    let prompts = series(|it| (it.duration_s() > 0.0).then(|| it.prompts / it.duration_s()));
    let unit = match (marks.is_empty(), summary.reduce.is_some()) {
        (true, _) => "",
        (false, false) => "a session starts at each numbered line",
        (false, true) => "a session starts at each numbered line, a level of the tree at each L",
    };
    html.push_str(&draw(
        "Prompts per second",
        unit,
        150,
        &marks,
        &[StepSeries { steps: &prompts, class: "blue", filled: true }],
    ));
    let tokens = series(|it| (it.duration_s() > 0.0).then(|| it.tokens / it.duration_s()));
    if tokens.iter().any(|it| it.2 > 0.0) {
        html.push_str(&draw(
            "Completion tokens per second",
            "",
            110,
            &[],
            &[StepSeries { steps: &tokens, class: "green", filled: true }],
        ));
    }
    let (in_flight, windows) = (series(|it| Some(it.in_flight)), series(|it| it.window));
    let both = [
        StepSeries { steps: &windows, class: "orange dash", filled: false },
        StepSeries { steps: &in_flight, class: "purple", filled: true },
    ];
    html.push_str(&draw(
        "In flight",
        "sequences; the dashed line is the sum of the concurrency limits",
        110,
        &[],
        &both,
    ));
    let up = series(|it| Some(it.endpoints_up));
    html.push_str(&draw(
        "Endpoints up",
        "",
        60,
        &[],
        &[StepSeries { steps: &up, class: "blue", filled: true }],
    ));
    html + "</section>"
}

/// Names the sessions that were killed before their first sample.
fn missing_starts_note(summary: &RunSummary) -> String {
    let drawn = |start: u32| summary.course.iter().any(|it| it.start == start);
    let missing = summary.starts.iter().filter(|it| it.end == "killed" && !drawn(it.start));
    let missing: Vec<String> = missing.map(|it| it.start.to_string()).collect();
    match missing.len() {
        0 => String::new(),
        1 => format!(" Session {} was killed before its first sample.", missing.concat()),
        _ => format!(" Sessions {} were killed before their first samples.", missing.join(", ")),
    }
}

/// Places the points on one axis of working time: the gaps between sessions are left out.
fn layout_points(course: &[ThroughputPoint]) -> Vec<(f64, f64, ThroughputPoint)> {
    let mut end = 0.0;
    course
        .iter()
        .map(|point| {
            let from = end;
            end += point.duration_s().max(0.0);
            (from, end, *point)
        })
        .collect()
}

fn phase_bands(points: &[(f64, f64, ThroughputPoint)]) -> Vec<ChartBand> {
    let class = |phase| match phase {
        ThroughputPhase::Ramp => Some("ramp"),
        ThroughputPhase::Tail => Some("tail"),
        ThroughputPhase::Steady => None,
    };
    let mut bands: Vec<ChartBand> = Vec::new();
    for (from, to, point) in points {
        let Some(class) = class(point.phase) else { continue };
        match bands.last_mut().filter(|last| last.class == class && last.to == *from) {
            Some(last) => last.to = *to,
            None => bands.push(ChartBand { from: *from, to: *to, class }),
        }
    }
    bands
}

/// Marks the beginnings of sessions, and of the levels of a reduce, if there are several.
fn start_marks(points: &[(f64, f64, ThroughputPoint)]) -> Vec<ChartMark> {
    let mut marks: Vec<ChartMark> = Vec::new();
    let mut last = None;
    for (from, _, point) in points {
        let before = last.replace((point.start, point.level));
        let name = match before {
            Some((start, level)) if (start, level) == (point.start, point.level) => continue,
            Some((start, _)) if start == point.start => format!("L{}", point.level),
            _ if point.level > 0 => format!("{} L{}", point.start, point.level),
            _ => point.start.to_string(),
        };
        marks.push(ChartMark { at: *from, name });
    }
    if marks.len() > 1 { marks } else { Vec::new() }
}
