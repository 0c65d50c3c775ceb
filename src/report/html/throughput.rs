//! Section on throughput, requests in flight and endpoints over time, with all sessions on one axis.
//!
//! The points are computed in `report/throughput.rs`.

use super::charts::{ChartBand, ChartMark, StepChart, StepSeries, describe_series, time_ticks};
use crate::report::format::{format_seconds, format_tick_time};
use crate::report::{
    summary::RunSummary,
    throughput::{ThroughputPhase, ThroughputPoint},
};

/// Begin and end on the axis of working time, and the point.
type PlacedPoint = (f64, f64, ThroughputPoint);

/// Common parts of the charts of the section.
struct TimelineCharts {
    points: Vec<PlacedPoint>,
    bands: Vec<ChartBand>,
    x_max: f64,
}

impl TimelineCharts {
    /// Returns the steps of a measurement, without the points that lack it.
    fn steps(&self, value: fn(&ThroughputPoint) -> Option<f64>) -> Vec<(f64, f64, f64)> {
        let step = |(from, to, point): &PlacedPoint| Some((*from, *to, value(point)?));
        self.points.iter().filter_map(step).collect()
    }

    /// Draws a chart; the last of the series is the one that is described.
    fn draw(
        &self,
        (title, unit): (&str, &str),
        height_px: u32,
        marks: &[ChartMark],
        series: &[StepSeries<'_>],
    ) -> String {
        let ticks = time_ticks(self.x_max, 6);
        StepChart {
            title,
            unit,
            description: describe_series(title, series.last().map_or(&[], |it| it.steps)),
            height_px,
            x_max: self.x_max,
            ticks: ticks.into_iter().map(|at| (at, format_tick_time(at))).collect(),
            bands: &self.bands,
            marks,
            series,
            as_bars: false,
        }
        .draw_chart()
    }
}

pub(super) fn throughput_section(summary: &RunSummary) -> String {
    let points = layout_points(&summary.timeline);
    let x_max = points.last().map_or(0.0, |(_, to, _)| *to);
    let mut html = String::from(r#"<section id="timeline"><h2>Throughput over time</h2>"#);
    if x_max <= 0.0 {
        return html
            + r#"<p class="note">Too little data to draw: nothing was sent, or the run was over at once.</p></section>"#;
    }
    html.push_str(&phase_note(summary));
    let marks = start_marks(&points);
    let charts = TimelineCharts { bands: phase_bands(&points), points, x_max };
    let unit = match (marks.is_empty(), summary.reduce.is_some()) {
        (true, _) => "",
        (false, false) => "a session starts at each numbered line",
        (false, true) => "a session starts at each numbered line, a level of the tree at each L",
    };
    let prompts = charts.steps(|it| (it.duration_s() > 0.0).then(|| it.prompts / it.duration_s()));
    let series = [StepSeries { steps: &prompts, class: "blue", filled: true }];
    html.push_str(&charts.draw(("Prompts per second", unit), 150, &marks, &series));
    let tokens = charts.steps(|it| (it.duration_s() > 0.0).then(|| it.tokens / it.duration_s()));
    if tokens.iter().any(|it| it.2 > 0.0) {
        let series = [StepSeries { steps: &tokens, class: "green", filled: true }];
        html.push_str(&charts.draw(("Completion tokens per second", ""), 110, &[], &series));
    }
    let (in_flight, limits) = (charts.steps(|it| Some(it.in_flight)), charts.steps(|it| it.window));
    let series = [
        StepSeries { steps: &limits, class: "orange dash", filled: false },
        StepSeries { steps: &in_flight, class: "purple", filled: true },
    ];
    let unit = "sequences; the dashed line is the sum of the concurrency limits";
    html.push_str(&charts.draw(("Requests in flight", unit), 110, &[], &series));
    let up = charts.steps(|it| Some(it.endpoints_up));
    let series = [StepSeries { steps: &up, class: "blue", filled: true }];
    html.push_str(&charts.draw(("Endpoints up", ""), 60, &[], &series));
    html + "</section>"
}

/// Explains the axis and the phases, with the duration of each.
fn phase_note(summary: &RunSummary) -> String {
    let rates = &summary.rates;
    let mut html = format!(
        r#"<p class="note">Working time only: the time between sessions, and the time before a session sends prompts, are left out. The ramp (<b>{}</b>) lasts until 70 % of a session's typical load is in flight. The tail (<b>{}</b>) begins when concurrency limits are not filled to 70 % any more. Between them lies the steady phase (<b>{}</b>).{}</p>"#,
        format_seconds(rates.ramp_s),
        format_seconds(rates.tail_s),
        format_seconds(rates.steady_s),
        missing_starts_note(summary),
    );
    if summary.reduce.is_some() {
        html.push_str(r#"<p class="note">Leaves come first, then each level (L1, L2, …). The durations above are the leaves'.</p>"#);
    }
    html + r#"<div class="key"><span><i style="background:var(--ramp)"></i>ramp</span><span><i style="background:var(--tail)"></i>tail</span></div>"#
}

/// Names the sessions that were killed before their first sample.
fn missing_starts_note(summary: &RunSummary) -> String {
    let is_drawn = |session: u32| summary.timeline.iter().any(|it| it.session == session);
    let missing =
        summary.sessions.iter().filter(|it| it.outcome == "killed" && !is_drawn(it.session));
    let missing: Vec<String> = missing.map(|it| it.session.to_string()).collect();
    match missing.len() {
        0 => String::new(),
        1 => format!(" Session {} was killed before its first sample.", missing.concat()),
        _ => format!(" Sessions {} were killed before their first samples.", missing.join(", ")),
    }
}

/// Places the points on one axis of working time: the gaps between sessions are left out.
fn layout_points(points: &[ThroughputPoint]) -> Vec<PlacedPoint> {
    let mut end = 0.0;
    points
        .iter()
        .map(|point| {
            let from = end;
            end += point.duration_s().max(0.0);
            (from, end, *point)
        })
        .collect()
}

fn phase_bands(points: &[PlacedPoint]) -> Vec<ChartBand> {
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
fn start_marks(points: &[PlacedPoint]) -> Vec<ChartMark> {
    let mut marks: Vec<ChartMark> = Vec::new();
    let mut last = None;
    for (from, _, point) in points {
        let before = last.replace((point.session, point.level));
        let name = match before {
            Some((session, level)) if (session, level) == (point.session, point.level) => continue,
            Some((session, _)) if session == point.session => format!("L{}", point.level),
            _ if point.level > 0 => format!("{} L{}", point.session, point.level),
            _ => point.session.to_string(),
        };
        marks.push(ChartMark { at: *from, name });
    }
    if marks.len() > 1 { marks } else { Vec::new() }
}
