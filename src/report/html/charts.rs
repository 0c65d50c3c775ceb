//! Axes, step charts over time, and histograms: pure functions from numbers to SVG.
//!
//! Written by hand because marks stretch with the window while labels keep the size of text, and because colours are the
//! page's, light or dark. A plotting library fixes both in its output, and brings fonts along.

use std::fmt::Write;

use crate::report::format::{escape_html, format_number, format_tick};

/// Width of a chart in SVG units; it is stretched to the width of the page.
const VIEW_WIDTH: f64 = 1000.0;
const VIEW_HEIGHT: f64 = 100.0;

/// Values over intervals of the axis, drawn as steps.
pub(super) struct StepSeries<'a> {
    /// Begin, end and value of each step.
    pub(super) steps: &'a [(f64, f64, f64)],
    pub(super) class: &'a str,
    pub(super) filled: bool,
}

/// Shaded interval of the axis.
pub(super) struct ChartBand {
    pub(super) from: f64,
    pub(super) to: f64,
    pub(super) class: &'static str,
}

/// Vertical line with a label above.
pub(super) struct ChartMark {
    pub(super) at: f64,
    pub(super) name: String,
}

/// A chart of steps or bars. All positions are in units of the axis.
pub(super) struct StepChart<'a> {
    pub(super) title: &'a str,
    pub(super) unit: &'a str,
    /// Sentence for screen readers, which cannot see the drawing.
    pub(super) description: String,
    pub(super) height_px: u32,
    /// End of the axis, which begins at 0.
    pub(super) x_max: f64,
    /// Positions and labels of the ticks.
    pub(super) ticks: Vec<(f64, String)>,
    pub(super) bands: &'a [ChartBand],
    pub(super) marks: &'a [ChartMark],
    pub(super) series: &'a [StepSeries<'a>],
    /// True for bars instead of a line.
    pub(super) as_bars: bool,
}

impl StepChart<'_> {
    pub(super) fn draw_chart(&self) -> String {
        let most = self.series.iter().flat_map(|it| it.steps).map(|it| it.2).fold(0.0, f64::max);
        let y_ticks = axis_ticks(most, 4);
        let y_max = y_ticks.last().copied().unwrap_or(1.0);
        let (svg, labels) = (self.draw_svg(&y_ticks, y_max), self.draw_labels(&y_ticks, y_max));
        let (title, unit) = (escape_html(self.title), escape_html(self.unit));
        let (description, height_px) = (escape_html(&self.description), self.height_px);
        let marked = if self.marks.is_empty() { "" } else { " marked" };
        format!(
            r#"<figure><figcaption>{title} <span>{unit}</span></figcaption><div class="plot{marked}" style="--h:{height_px}px"><svg viewBox="0 0 {VIEW_WIDTH} {VIEW_HEIGHT}" preserveAspectRatio="none" role="img" aria-label="{description}">{svg}</svg>{labels}</div></figure>"#
        )
    }

    /// Returns a position on the axis as a share of its length.
    fn x_share(&self, at: f64) -> f64 {
        (at / self.x_max.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0)
    }

    /// Draws everything that stretches with the page: bands, grid, series and the lines of marks.
    fn draw_svg(&self, y_ticks: &[f64], y_max: f64) -> String {
        let x = |at: f64| self.x_share(at);
        let y = |at: f64| (1.0 - (at / y_max).clamp(0.0, 1.0)) * VIEW_HEIGHT;
        let mut svg = String::new();
        for band in self.bands {
            let (from, to) = (x(band.from) * VIEW_WIDTH, x(band.to) * VIEW_WIDTH);
            let _ = write!(
                svg,
                r#"<rect class="{}" x="{from:.1}" y="0" width="{:.1}" height="{VIEW_HEIGHT}"/>"#,
                band.class,
                to - from
            );
        }
        for tick in y_ticks {
            let (class, at) = (if *tick > 0.0 { "grid" } else { "base" }, y(*tick));
            let _ = write!(svg, r#"<path class="{class}" d="M0 {at:.1}H{VIEW_WIDTH}"/>"#);
        }
        for series in self.series {
            let steps = series
                .steps
                .iter()
                .map(|&(from, to, height)| (x(from) * VIEW_WIDTH, x(to) * VIEW_WIDTH, y(height)));
            svg.push_str(&if self.as_bars {
                draw_bars(steps, series.class)
            } else {
                draw_steps(steps, series)
            });
        }
        for mark in self.marks {
            let _ = write!(
                svg,
                r#"<path class="cut" d="M{:.1} 0V{VIEW_HEIGHT}"/>"#,
                x(mark.at) * VIEW_WIDTH
            );
        }
        svg
    }

    /// Draws the labels, which are HTML so that they keep the size of text.
    fn draw_labels(&self, y_ticks: &[f64], y_max: f64) -> String {
        let x = |at: f64| self.x_share(at);
        let mut labels = String::new();
        for tick in y_ticks {
            let bottom = tick / y_max * f64::from(self.height_px) + 20.0;
            let _ = write!(
                labels,
                r#"<span class="y" style="bottom:{bottom:.1}px">{}</span>"#,
                format_tick(*tick)
            );
        }
        labels.push_str(&draw_mark_labels(self.marks, x));
        let mut ticks = String::new();
        for (at, name) in &self.ticks {
            let _ = write!(
                ticks,
                r#"<span class="x" style="left:{:.2}%">{}</span>"#,
                x(*at) * 100.0,
                escape_html(name)
            );
        }
        format!(r#"{labels}<div class="xs">{ticks}</div>"#)
    }
}

/// Draws the labels of marks, without those that would overlap the one before.
fn draw_mark_labels(marks: &[ChartMark], x: impl Fn(f64) -> f64) -> String {
    const LETTER_WIDTH: f64 = 0.022; // as a share of a phone's width
    let (mut text, mut free) = (String::new(), 0.0);
    for mark in marks {
        let (at, half) = (x(mark.at), LETTER_WIDTH * mark.name.chars().count() as f64 / 2.0);
        let (side, from, to) = match at {
            at if at < half => ("m left", at, at + 2.0 * half),
            at if at > 1.0 - half => ("m right", at - 2.0 * half, at),
            at => ("m", at - half, at + half),
        };
        if from >= free {
            free = to + LETTER_WIDTH;
            let _ = write!(
                text,
                r#"<span class="{side}" style="left:{:.2}%">{}</span>"#,
                at * 100.0,
                escape_html(&mark.name)
            );
        }
    }
    text
}

/// Draws a line of steps and the area below it. Intervals without a value are gaps.
fn draw_steps(steps: impl Iterator<Item = (f64, f64, f64)>, series: &StepSeries<'_>) -> String {
    let (mut line, mut area) = (String::new(), String::new());
    let mut last: Option<f64> = None;
    for (from, to, height) in steps {
        match last {
            Some(last) if (from - last).abs() < 0.05 => {
                let _ = write!(line, "L{from:.1} {height:.2}H{to:.1}");
            }
            _ => {
                let _ = write!(line, "M{from:.1} {height:.2}H{to:.1}");
            }
        }
        let _ = write!(area, "M{from:.1} {VIEW_HEIGHT}V{height:.2}H{to:.1}V{VIEW_HEIGHT}z");
        last = Some(to);
    }
    let class = series.class;
    let area = if series.filled {
        format!(r#"<path class="area {class}" d="{area}"/>"#)
    } else {
        String::new()
    };
    format!(r#"{area}<path class="rise {class}" d="{line}"/>"#)
}

fn draw_bars(steps: impl Iterator<Item = (f64, f64, f64)>, class: &str) -> String {
    let mut line = String::new();
    for (from, to, height) in steps.filter(|it| it.2 < VIEW_HEIGHT) {
        // A bin that is not empty must stay visible.
        let (gap, height) = ((to - from) * 0.06, height.min(VIEW_HEIGHT - 0.8));
        let _ = write!(
            line,
            "M{:.1} {VIEW_HEIGHT}V{height:.2}H{:.1}V{VIEW_HEIGHT}z",
            from + gap,
            to - gap
        );
    }
    format!(r#"<path class="bar {class}" d="{line}"/>"#)
}

/// Describes a series in a sentence for screen readers: its range, and its median over the length of the axis.
pub(super) fn describe_series(title: &str, steps: &[(f64, f64, f64)]) -> String {
    let mut values: Vec<(f64, f64)> =
        steps.iter().map(|(from, to, value)| (*value, to - from)).collect();
    values.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (Some(first), Some(last)) = (values.first(), values.last()) else {
        return format!("{title}: no data");
    };
    let half = values.iter().map(|(_, length)| length).sum::<f64>() / 2.0;
    let mut before = 0.0;
    let median = values.iter().find(|(_, length)| {
        before += length;
        before >= half
    });
    format!(
        "{title}: minimum {}, median {}, maximum {}",
        format_number(first.0),
        format_number(median.unwrap_or(last).0),
        format_number(last.0)
    )
}

/// Returns round numbers from 0 to at least `most`, in about this number of steps.
pub(crate) fn axis_ticks(most: f64, steps: u32) -> Vec<f64> {
    if !(most.is_finite() && most > 0.0) {
        return vec![0.0, 1.0];
    }
    let rough = most / f64::from(steps);
    let power = 10f64.powf(rough.log10().floor());
    let round = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|it| it * power >= rough * 0.999);
    let step = round.unwrap_or(10.0) * power;
    (0..=steps + 1)
        .map(|it| f64::from(it) * step)
        .take_while(|it| *it < most + step * 0.999)
        .collect()
}

/// Returns at most `most + 1` round times from 0 to `seconds`.
pub(super) fn time_ticks(seconds: f64, most: u32) -> Vec<f64> {
    const TICK_STEPS_S: [f64; 26] = [
        0.05,
        0.1,
        0.2,
        0.5,
        1.0,
        2.0,
        5.0,
        10.0,
        15.0,
        30.0,
        60.0,
        120.0,
        300.0,
        600.0,
        900.0,
        1800.0,
        3600.0,
        7200.0,
        10_800.0,
        21_600.0,
        43_200.0,
        86_400.0,
        172_800.0,
        432_000.0,
        864_000.0,
        4_320_000.0,
    ];
    let fits = TICK_STEPS_S.into_iter().find(|step| seconds / step <= f64::from(most));
    let step = fits.unwrap_or(seconds / f64::from(most));
    (0..=most).map(|it| f64::from(it) * step).take_while(|it| *it <= seconds * 1.0001).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn axis_ticks_reach_just_above_the_largest_value(most in prop_oneof![1e-3..10.0f64, 1.0..1e9f64]) {
            let ticks = axis_ticks(most, 4);
            let top = ticks.last().copied().expect("some");
            prop_assert!(top >= most * 0.999 && top <= most * 2.1 , "{ticks:?}");
            prop_assert!((3..=6).contains(&ticks.len()), "{ticks:?}");
        }

        #[test]
        fn there_are_a_few_time_ticks_for_any_duration(seconds in prop_oneof![0.2..100.0f64, 1.0..1e7f64]) {
            let moments = time_ticks(seconds, 6);
            prop_assert!((2..=7).contains(&moments.len()), "{seconds} {moments:?}");
            prop_assert!(moments.iter().all(|it| *it <= seconds * 1.001));
        }

        #[test]
        fn charts_have_finite_coordinates_and_no_markup_from_data(steps in prop::collection::vec((0.0..9.0f64, 0.0..9.0f64, 0.0..1e9f64), 0..9), x_max in 0.0..9.0f64) {
            let series = [StepSeries { steps: &steps, class: "blue", filled: true }];
            for bars in [false, true] {
                let plot = StepChart {
                    title: "<b>", unit: "", description: describe_series("<b>", &steps), height_px: 100, x_max, ticks: vec![(1.0, "<".into())], bands: &[],
                    marks: &[ChartMark { at: 3.0, name: "'".into() }], series: &series, as_bars: bars,
                };
                let drawn = plot.draw_chart();
                prop_assert!(!drawn.contains("NaN") && !drawn.contains("inf") && !drawn.contains("<b>"));
            }
        }
    }
}
