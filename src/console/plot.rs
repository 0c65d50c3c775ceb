//! The chart of `bench sweep` as an SVG file: throughput above, latency below.
//!
//! The size with more values (batch or window) is the horizontal axis, and each value of the other one is a line. Ticks,
//! number formats and escaping are those of the report's charts. A file of its own has its labels as SVG text, though,
//! while those of the page are HTML.

use std::fmt::Write;

use super::bench::{best_label, describe_cell};
use crate::{
    bench::{RepeatSpread, SweepReport, SweepRow},
    report::{
        axis_ticks,
        format::{escape_html, format_figure, format_tick, pluralize},
    },
    settings::AutoOrCount,
};

/// Returns a figure of a cell, if it was measured.
type CellMetric<'o> = &'o dyn Fn(&SweepRow) -> Option<RepeatSpread>;

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 820.0;
/// Left and right end of both plots.
const PLOT_SPAN: (f64, f64) = (106.0, 976.0);
const LEGEND_X: f64 = 998.0;
const BLACK: &str = "#000000";
const GREY: &str = "#5a5a5a";
const LIGHT_GREY: &str = "#dedede";
/// Colours that colour-blind readers can tell apart (Okabe and Ito).
const SERIES_COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", BLACK];

/// Draws the chart of a sweep.
#[must_use]
pub(crate) fn sweep_chart(report: &SweepReport) -> String {
    SweepChart::from_report(report).draw_svg()
}

struct SweepChart<'r> {
    report: &'r SweepReport,
    x_is_batch: bool,
    x_values: Vec<AutoOrCount>,
    series_values: Vec<AutoOrCount>,
}

/// Position and scale of one of the two plots.
struct PlotFrame {
    top: f64,
    bottom: f64,
    /// Number of values on the horizontal axis; each is in the middle of its slot.
    slots: usize,
    y_ticks: Vec<f64>,
}

impl PlotFrame {
    fn x(&self, slot: f64) -> f64 {
        let (left, right) = PLOT_SPAN;
        left + (slot + 0.5) / self.slots.max(1) as f64 * (right - left)
    }

    fn y(&self, value: f64) -> f64 {
        let y_max = self.y_ticks.last().copied().unwrap_or(1.0);
        self.bottom - value / y_max * (self.bottom - self.top)
    }
}

impl<'r> SweepChart<'r> {
    fn from_report(report: &'r SweepReport) -> Self {
        let batches = sort_unique(report.cells.iter().map(|row| row.cell.batch));
        let windows = sort_unique(report.cells.iter().map(|row| row.cell.window));
        let x_is_batch = batches.len() >= windows.len();
        let (x_values, series_values) =
            if x_is_batch { (batches, windows) } else { (windows, batches) };
        Self { report, x_is_batch, x_values, series_values }
    }

    fn draw_svg(&self) -> String {
        let mut svg = format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif"><rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>"#
        );
        let has_tokens =
            self.has_cell(|row| row.figures.is_some_and(|it| it.tokens_per_s.most > 0.0));
        let unit = if has_tokens { "completion tokens per second" } else { "prompts per second" };
        let speed = |row: &SweepRow| row.figures.map(|it| it.compared_throughput());
        let p50 = |row: &SweepRow| row.figures.map(|it| it.p50_s);
        let p99 = |row: &SweepRow| row.figures.map(|it| it.p99_s);
        self.draw_title(&mut svg);
        let frame = self.plot_frame((92.0, 420.0), &[&speed]);
        self.draw_axes(&mut svg, &frame, unit);
        self.draw_lines(&mut svg, &frame, &speed, true);
        self.draw_failures(&mut svg, &frame);
        self.draw_best(&mut svg, &frame, &speed);
        let frame = self.plot_frame((482.0, 748.0), &[&p50, &p99]);
        self.draw_axes(&mut svg, &frame, "latency of a prompt, s");
        self.draw_lines(&mut svg, &frame, &p99, false);
        self.draw_lines(&mut svg, &frame, &p50, true);
        self.draw_failures(&mut svg, &frame);
        let axis = if self.x_is_batch {
            "batch size, prompts per request"
        } else {
            "window, sequences in flight"
        };
        let middle = f64::midpoint(PLOT_SPAN.0, PLOT_SPAN.1);
        draw_text(&mut svg, (middle, frame.bottom + 50.0), 16, "middle", BLACK, axis);
        self.draw_legend(&mut svg);
        svg.push_str("</svg>\n");
        svg
    }

    fn has_cell(&self, is: impl Fn(&SweepRow) -> bool) -> bool {
        self.report.cells.iter().any(is)
    }

    fn draw_title(&self, svg: &mut String) {
        let conditions = &self.report.conditions;
        let model = conditions.model.as_deref().unwrap_or("several models");
        let title = format!(
            "{model}: {} on {}",
            pluralize(conditions.endpoints, "endpoint"),
            pluralize(conditions.ranks as u64, "rank")
        );
        draw_text(svg, (24.0, 38.0), 24, "start", BLACK, &title);
        let best = self.report.best.and_then(|at| self.report.cells[at].figures);
        let lengths = best.map_or(String::new(), |best| {
            let (prompt, answer) =
                (format_figure(best.prompt_tokens), format_figure(best.answer_tokens));
            format!("prompts of {prompt} tokens, answers of {answer} tokens; ")
        });
        let incomplete = conditions
            .incomplete
            .as_ref()
            .map_or(String::new(), |reason| format!("; incomplete: {reason}"));
        let line = format!(
            "{lengths}points are medians of {}, bars show the range{incomplete}",
            pluralize(u64::from(conditions.repeats), "repeat")
        );
        draw_text(svg, (24.0, 64.0), 15, "start", GREY, &line);
    }

    /// Returns a frame whose scale reaches from 0 to above all these figures.
    fn plot_frame(&self, (top, bottom): (f64, f64), metrics: &[CellMetric<'_>]) -> PlotFrame {
        let all = metrics.iter().flat_map(|metric| self.report.cells.iter().filter_map(metric));
        let most = all.map(|spread| spread.most).fold(0.0, f64::max);
        // Headroom for the label of the best cell.
        PlotFrame { top, bottom, slots: self.x_values.len(), y_ticks: axis_ticks(most * 1.1, 6) }
    }

    fn draw_axes(&self, svg: &mut String, frame: &PlotFrame, unit: &str) {
        let (left, right) = PLOT_SPAN;
        for &tick in &frame.y_ticks {
            let (y, colour) = (frame.y(tick), if tick > 0.0 { LIGHT_GREY } else { GREY });
            let _ = write!(svg, r#"<path d="M{left} {y:.1}H{right}" stroke="{colour}"/>"#);
            draw_text(svg, (left - 8.0, y + 5.0), 14, "end", GREY, &format_tick(tick));
        }
        for (slot, value) in self.x_values.iter().enumerate() {
            let at = (frame.x(slot as f64), frame.bottom + 22.0);
            draw_text(svg, at, 14, "middle", GREY, &value.to_string());
        }
        let middle = f64::midpoint(frame.top, frame.bottom);
        let _ = write!(
            svg,
            r#"<text transform="translate(30 {middle}) rotate(-90)" font-size="16" text-anchor="middle">{}</text>"#,
            escape_html(unit)
        );
    }

    /// Draws a line per series: medians with their ranges, or the dashed line of a higher percentile.
    fn draw_lines(
        &self,
        svg: &mut String,
        frame: &PlotFrame,
        metric: CellMetric<'_>,
        is_median: bool,
    ) {
        for (number, &series) in self.series_values.iter().enumerate() {
            let colour = series_colour(number);
            let point = |(slot, &x): (usize, &AutoOrCount)| {
                let spread = metric(self.find_row(x, series)?)?;
                Some((frame.x(slot as f64 + self.series_offset(number)), spread))
            };
            let points: Vec<(f64, RepeatSpread)> =
                self.x_values.iter().enumerate().filter_map(point).collect();
            let path: Vec<String> = points
                .iter()
                .map(|(x, spread)| format!("{x:.1} {:.1}", frame.y(spread.median)))
                .collect();
            let dash = if is_median { "" } else { r#" stroke-dasharray="7 5""# };
            let fill = if is_median { colour } else { "#ffffff" };
            if !path.is_empty() {
                let _ = write!(
                    svg,
                    r#"<path d="M{}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>"#,
                    path.join("L")
                );
            }
            for (x, spread) in &points {
                if is_median {
                    let (low, high) = (frame.y(spread.least), frame.y(spread.most));
                    let _ = write!(
                        svg,
                        r#"<path d="M{x:.1} {low:.1}V{high:.1}M{0:.1} {low:.1}h9M{0:.1} {high:.1}h9" stroke="{colour}"/>"#,
                        x - 4.5
                    );
                }
                draw_point(svg, (*x, frame.y(spread.median)), colour, fill);
            }
        }
    }

    /// Draws crosses on the axis for cells without figures.
    fn draw_failures(&self, svg: &mut String, frame: &PlotFrame) {
        for (number, &series) in self.series_values.iter().enumerate() {
            for (slot, &x) in self.x_values.iter().enumerate() {
                if self.find_row(x, series).is_some_and(|row| row.figures.is_none()) {
                    let x = frame.x(slot as f64 + self.series_offset(number));
                    draw_cross(svg, (x, frame.bottom), series_colour(number));
                }
            }
        }
    }

    fn draw_best(&self, svg: &mut String, frame: &PlotFrame, metric: CellMetric<'_>) {
        let Some(row) = self.report.best.map(|at| &self.report.cells[at]) else { return };
        let (x, series) = self.x_and_series(row);
        let slot = self.x_values.iter().position(|it| *it == x);
        let number = self.series_values.iter().position(|it| *it == series);
        let (Some(slot), Some(number), Some(spread)) = (slot, number, metric(row)) else { return };
        let (x, y) = (frame.x(slot as f64 + self.series_offset(number)), frame.y(spread.median));
        let _ = write!(
            svg,
            r#"<circle cx="{x:.1}" cy="{y:.1}" r="11" fill="none" stroke="{BLACK}" stroke-width="2"/>"#
        );
        let label = format!(
            "{}: {}: {}",
            best_label(&self.report.conditions),
            describe_cell(row.cell),
            format_figure(spread.median)
        );
        // Towards the middle, so that the label stays inside the plot.
        let (anchor, shift) =
            if slot * 2 >= self.x_values.len() { ("end", 12.0) } else { ("start", -12.0) };
        draw_text(svg, (x + shift, y - 18.0), 16, anchor, BLACK, &label);
    }

    fn draw_legend(&self, svg: &mut String) {
        let label_x = LEGEND_X + 46.0;
        let sample = |svg: &mut String, y: f64, colour: &str, fill: &str, dash: &str| {
            let _ = write!(
                svg,
                r#"<path d="M{LEGEND_X} {y}h36" stroke="{colour}" stroke-width="2"{dash}/>"#
            );
            draw_point(svg, (LEGEND_X + 18.0, y), colour, fill);
        };
        let title = if self.x_is_batch { "window" } else { "batch size" };
        let mut y = 102.0;
        draw_text(svg, (LEGEND_X, y + 5.0), 16, "start", BLACK, title);
        for (number, value) in self.series_values.iter().enumerate() {
            y += 26.0;
            let colour = series_colour(number);
            sample(svg, y, colour, colour, "");
            draw_text(svg, (label_x, y + 5.0), 14, "start", BLACK, &value.to_string());
        }
        if self.has_cell(|row| row.figures.is_none()) {
            y += 40.0;
            let is_incomplete = self.report.conditions.incomplete.is_some();
            let label = if is_incomplete { "not measured" } else { "failed" };
            draw_cross(svg, (LEGEND_X + 18.0, y), GREY);
            draw_text(svg, (label_x, y + 5.0), 14, "start", BLACK, label);
        }
        sample(svg, 492.0, GREY, GREY, "");
        draw_text(svg, (label_x, 497.0), 14, "start", BLACK, "median (p50)");
        sample(svg, 518.0, GREY, "#ffffff", r#" stroke-dasharray="7 5""#);
        draw_text(svg, (label_x, 523.0), 14, "start", BLACK, "p99");
    }

    /// Returns the offset of a series within its slot, which keeps the range bars of several series apart.
    fn series_offset(&self, number: usize) -> f64 {
        (number as f64 - (self.series_values.len() as f64 - 1.0) / 2.0) * 0.06
    }

    fn x_and_series(&self, row: &SweepRow) -> (AutoOrCount, AutoOrCount) {
        let (batch, window) = (row.cell.batch, row.cell.window);
        if self.x_is_batch { (batch, window) } else { (window, batch) }
    }

    fn find_row(&self, x: AutoOrCount, series: AutoOrCount) -> Option<&SweepRow> {
        self.report.cells.iter().find(|row| self.x_and_series(row) == (x, series))
    }
}

fn series_colour(number: usize) -> &'static str {
    SERIES_COLOURS[number % SERIES_COLOURS.len()]
}

fn draw_text(
    svg: &mut String,
    (x, y): (f64, f64),
    size: u32,
    anchor: &str,
    colour: &str,
    text: &str,
) {
    let _ = write!(
        svg,
        r#"<text x="{x:.1}" y="{y:.1}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">{}</text>"#,
        escape_html(text)
    );
}

fn draw_point(svg: &mut String, (x, y): (f64, f64), colour: &str, fill: &str) {
    let _ = write!(
        svg,
        r#"<circle cx="{x:.1}" cy="{y:.1}" r="4" fill="{fill}" stroke="{colour}" stroke-width="2"/>"#
    );
}

fn draw_cross(svg: &mut String, (x, y): (f64, f64), colour: &str) {
    let (left, top) = (x - 6.0, y - 6.0);
    let _ = write!(
        svg,
        r#"<path d="M{left:.1} {top:.1}l12 12m-12 0l12 -12" stroke="{colour}" stroke-width="3"/>"#
    );
}

/// Returns each value once, by size, with `auto` last.
fn sort_unique(values: impl Iterator<Item = AutoOrCount>) -> Vec<AutoOrCount> {
    let mut all: Vec<AutoOrCount> = values.collect();
    all.sort_by_key(|value| match value {
        AutoOrCount::Auto => usize::MAX,
        AutoOrCount::Count(size) => *size,
    });
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{BenchCell, BenchConditions, BenchMeasurement, BenchRun};

    fn example_report(batches: &[usize], windows: &[usize]) -> SweepReport {
        let cell = |batch, window| BenchCell {
            batch: AutoOrCount::Count(batch),
            window: AutoOrCount::Count(window),
        };
        let row = |batch: usize, window: usize| {
            let answered = (batch * window) as u64;
            let measured = BenchMeasurement {
                asked: answered,
                answered,
                requests: 1,
                seconds: 1.0,
                ..BenchMeasurement::default()
            };
            let failed = cell(batch, window).impossible_reason(1);
            SweepRow::new(cell(batch, window), vec![BenchRun::from_measurement(&measured)], failed)
        };
        let rows = windows.iter().flat_map(|&w| batches.iter().map(move |&b| row(b, w)));
        SweepReport::new(
            BenchConditions { model: Some("a<b>&c".into()), ..BenchConditions::default() },
            rows.collect(),
        )
    }

    #[test]
    fn every_size_is_labelled_and_no_data_is_markup() {
        for (batches, windows) in
            [(&[1, 16, 64][..], &[32, 128][..]), (&[4], &[8]), (&[1], &[16, 777]), (&[64], &[8])]
        {
            let svg = sweep_chart(&example_report(batches, windows));
            for size in batches.iter().chain(windows) {
                assert!(svg.contains(&format!(">{size}</text>")), "{size} in {svg}");
            }
            assert!(svg.contains("a&lt;b&gt;&amp;c"), "{svg}");
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
