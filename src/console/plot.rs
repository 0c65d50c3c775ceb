//! A sweep as a picture, in SVG and PNG: the only place that draws.
//!
//! The font comes with the program, so that compute nodes need none. Decides nothing but where things go.

use plotters::{
    coord::{Shift, types::RangedCoordf64},
    prelude::*,
    style::{
        FontStyle, register_font,
        text_anchor::{HPos, Pos, VPos},
    },
};

use super::bench::{best_label, describe_cell, format_figure, pluralize_plain};
use crate::{
    bench::{RepeatSpread, SweepReport, SweepRow},
    settings::AutoOrCount,
};

type PlotArea<'a, B> = DrawingArea<B, Shift>;
/// A figure of a cell.
type CellMetric<'o> = &'o dyn Fn(&SweepRow) -> Option<RepeatSpread>;
type SweepChart<'a, B> = ChartContext<'a, B, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

const IMAGE_SIZE: (u32, u32) = (1200, 820);
const FONT_FAMILY: &str = "sans-serif";
const LEGEND_WIDTH: i32 = 210;
const GREY: RGBColor = RGBColor(90, 90, 90);
const LIGHT_GREY: RGBColor = RGBColor(222, 222, 222);
/// Told apart by colour-blind people, too (Okabe and Ito).
const SERIES_COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(230, 159, 0),
    RGBColor(0, 0, 0),
];

/// The plots by the endings of their files.
///
/// # Errors
/// Where the picture cannot be drawn, in words.
pub fn sweep_plots(report: &SweepReport) -> Result<Vec<(&'static str, Vec<u8>)>, String> {
    for style in [FontStyle::Normal, FontStyle::Bold] {
        register_font(FONT_FAMILY, style, epaint_default_fonts::HACK_REGULAR)
            .map_err(|_| "the font cannot be used".to_owned())?;
    }
    let picture = SweepPlot::from_report(report);
    let mut svg = String::new();
    picture
        .draw_plot(&SVGBackend::with_string(&mut svg, IMAGE_SIZE).into_drawing_area())
        .map_err(error_text)?;
    let (width, height) = IMAGE_SIZE;
    let mut pixels = vec![0; (width * height * 3) as usize];
    picture
        .draw_plot(&BitMapBackend::with_buffer(&mut pixels, IMAGE_SIZE).into_drawing_area())
        .map_err(error_text)?;
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(error_text)?;
    writer.write_image_data(&pixels).map_err(error_text)?;
    writer.finish().map_err(error_text)?;
    Ok(vec![("svg", svg.into_bytes()), ("png", png)])
}

fn error_text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// What is drawn where: one axis has places for the sizes of which there are more, each of the others is a line.
struct SweepPlot<'r> {
    report: &'r SweepReport,
    x_is_batch: bool,
    x_values: Vec<AutoOrCount>,
    series_values: Vec<AutoOrCount>,
}

impl<'r> SweepPlot<'r> {
    fn from_report(report: &'r SweepReport) -> Self {
        let batches = sort_unique(report.cells.iter().map(|row| row.cell.batch));
        let windows = sort_unique(report.cells.iter().map(|row| row.cell.window));
        let by_batch = batches.len() >= windows.len();
        let (places, lines) = if by_batch { (batches, windows) } else { (windows, batches) };
        Self { report, x_is_batch: by_batch, x_values: places, series_values: lines }
    }

    fn draw_plot<B: DrawingBackend>(
        &self,
        area: &PlotArea<'_, B>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        area.fill(&WHITE)?;
        self.draw_title(area)?;
        let (_, below) = area.split_vertically(78);
        let (charts, legend) = below.split_horizontally(IMAGE_SIZE.0 as i32 - LEGEND_WIDTH);
        let (above, below) = charts.split_vertically(390);
        let tokens = self.has_cell(|row| row.figures.is_some_and(|it| it.tokens_per_s.most > 0.0));
        let unit = if tokens { "tokens of answers a second" } else { "prompts a second" };
        let speed = |row: &SweepRow| row.figures.map(|it| it.compared_throughput());
        let p50 = |row: &SweepRow| row.figures.map(|it| it.p50_s);
        let p99 = |row: &SweepRow| row.figures.map(|it| it.p99_s);
        let mut chart = self.draw_axes(&above, unit, &[&speed], false)?;
        self.draw_lines(&mut chart, &speed, false, true)?;
        self.draw_failures(&mut chart)?;
        self.draw_best(&mut chart, &speed)?;
        let mut chart = self.draw_axes(&below, "latency of a prompt, s", &[&p50, &p99], true)?;
        self.draw_lines(&mut chart, &p99, true, false)?;
        self.draw_lines(&mut chart, &p50, false, true)?;
        self.draw_failures(&mut chart)?;
        self.draw_legend(&legend)?;
        area.present()
    }

    fn has_cell(&self, is: impl Fn(&SweepRow) -> bool) -> bool {
        self.report.cells.iter().any(is)
    }

    fn draw_title<B: DrawingBackend>(
        &self,
        area: &PlotArea<'_, B>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let it = &self.report.conditions;
        let model = it.model.as_deref().unwrap_or("several models");
        let title = format!(
            "{model}: {} on {}",
            pluralize_plain(it.endpoints, "endpoint"),
            pluralize_plain(it.ranks as u64, "rank")
        );
        area.draw_text(&title, &text_style(26, &BLACK), (24, 16))?;
        let best = self.report.best.and_then(|at| self.report.cells[at].figures);
        let lengths = best.map_or(String::new(), |best| {
            let (prompt, answer) =
                (format_figure(best.prompt_tokens), format_figure(best.answer_tokens));
            format!("prompts of {prompt} tokens, answers of {answer}; ")
        });
        let repeats = it.repeats;
        let incomplete =
            it.incomplete.as_ref().map_or(String::new(), |why| format!("; incomplete: {why}"));
        let line = format!(
            "{lengths}points are medians of {repeats} repeats, bars go from the least to the most{incomplete}"
        );
        area.draw_text(&line, &text_style(17, &GREY), (24, 50))
    }

    /// Axes with units, from 0 up to the most of these figures.
    fn draw_axes<'a, B: DrawingBackend>(
        &self,
        area: &'a PlotArea<'_, B>,
        unit: &str,
        figures: &[CellMetric<'_>],
        last: bool,
    ) -> Result<SweepChart<'a, B>, DrawingAreaErrorKind<B::ErrorType>> {
        let all = figures.iter().flat_map(|of| self.report.cells.iter().filter_map(of));
        let most = all.map(|it| it.most).fold(0.0, f64::max);
        let most = if most > 0.0 { most * 1.15 } else { 1.0 };
        let ends = self.x_values.len() as f64 - 0.5;
        let mut chart = ChartBuilder::on(area)
            .margin(14)
            .set_label_area_size(LabelAreaPosition::Left, 92)
            .set_label_area_size(LabelAreaPosition::Bottom, if last { 58 } else { 34 })
            .build_cartesian_2d(-0.5..ends, 0.0..most)?;
        let axis = if self.x_is_batch {
            "batch size, prompts a request"
        } else {
            "window, sequences in flight"
        };
        let mut mesh = chart.configure_mesh();
        mesh.disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(LIGHT_GREY)
            .axis_style(GREY)
            .x_labels(0)
            .y_labels(8)
            .y_desc(unit)
            .axis_desc_style(text_style(18, &BLACK))
            .label_style(text_style(16, &GREY))
            .y_label_formatter(&|y| trim_figure(*y));
        mesh.draw()?;
        let centre = Pos::new(HPos::Center, VPos::Top);
        let style = text_style(16, &GREY).pos(centre);
        for (at, place) in self.x_values.iter().enumerate() {
            let (x, y) = chart.plotting_area().map_coordinate(&(at as f64, 0.0));
            let (left, top) = area.get_base_pixel();
            area.draw_text(&place.to_string(), &style, (x - left, y - top + 12))?;
        }
        if last {
            let middle = (self.x_values.len() as f64 - 1.0) / 2.0;
            let (x, y) = chart.plotting_area().map_coordinate(&(middle, 0.0));
            let (left, top) = area.get_base_pixel();
            area.draw_text(axis, &text_style(18, &BLACK).pos(centre), (x - left, y - top + 34))?;
        }
        Ok(chart)
    }

    /// A line for each of the other sizes.
    fn draw_lines<B: DrawingBackend>(
        &self,
        chart: &mut SweepChart<'_, B>,
        of: CellMetric<'_>,
        dashed: bool,
        bars: bool,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        for (number, &line) in self.series_values.iter().enumerate() {
            let colour = SERIES_COLOURS[number % SERIES_COLOURS.len()];
            let shift = self.series_offset(number);
            let points = self.x_values.iter().enumerate().filter_map(|(at, &place)| {
                Some((at as f64 + shift, of(self.find_row(place, line)?)?))
            });
            let points: Vec<(f64, RepeatSpread)> = points.collect();
            let middles = || points.iter().map(|(x, it)| (*x, it.median));
            if dashed {
                chart.draw_series(DashedLineSeries::new(
                    middles(),
                    7,
                    5,
                    colour.stroke_width(2),
                ))?;
                chart
                    .draw_series(middles().map(|at| Circle::new(at, 4, colour.stroke_width(2))))?;
            } else {
                chart.draw_series(LineSeries::new(middles(), colour.stroke_width(2)))?;
                chart.draw_series(middles().map(|at| Circle::new(at, 4, colour.filled())))?;
            }
            if bars {
                let bar = |&(x, it): &(f64, RepeatSpread)| {
                    ErrorBar::new_vertical(x, it.least, it.median, it.most, colour.filled(), 9)
                };
                chart.draw_series(points.iter().map(bar))?;
            }
        }
        Ok(())
    }

    /// Cells without figures stand at the bottom.
    fn draw_failures<B: DrawingBackend>(
        &self,
        chart: &mut SweepChart<'_, B>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        for (number, &line) in self.series_values.iter().enumerate() {
            let colour = SERIES_COLOURS[number % SERIES_COLOURS.len()];
            let is_one = |&&place: &&AutoOrCount| {
                self.find_row(place, line).is_some_and(|row| row.figures.is_none())
            };
            let failed: Vec<f64> = self
                .x_values
                .iter()
                .enumerate()
                .filter(|(_, place)| is_one(place))
                .map(|(at, _)| at as f64 + self.series_offset(number))
                .collect();
            chart.draw_series(
                failed.into_iter().map(|x| Cross::new((x, 0.0), 6, colour.stroke_width(3))),
            )?;
        }
        Ok(())
    }

    fn draw_best<B: DrawingBackend>(
        &self,
        chart: &mut SweepChart<'_, B>,
        of: CellMetric<'_>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let Some(row) = self.report.best.map(|at| &self.report.cells[at]) else { return Ok(()) };
        let (place, line) = self.x_and_series(row);
        let at = self.x_values.iter().position(|it| *it == place);
        let number = self.series_values.iter().position(|it| *it == line);
        let (Some(at), Some(number), Some(it)) = (at, number, of(row)) else { return Ok(()) };
        let centre = (at as f64 + self.series_offset(number), it.median);
        chart.draw_series([Circle::new(centre, 11, BLACK.stroke_width(2))])?;
        let word = best_label(&self.report.conditions);
        let label = format!("{word}: {}: {}", describe_cell(row.cell), format_figure(it.median));
        // Towards the middle, so that it stays inside.
        let (side, shift) =
            if at * 2 >= self.x_values.len() { (HPos::Right, 12) } else { (HPos::Left, -12) };
        let style = text_style(18, &BLACK).pos(Pos::new(side, VPos::Bottom));
        chart.draw_series([EmptyElement::at(centre) + Text::new(label, (shift, -16), style)])?;
        Ok(())
    }

    fn draw_legend<B: DrawingBackend>(
        &self,
        area: &PlotArea<'_, B>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>> {
        let what = if self.x_is_batch { "window" } else { "batch size" };
        let left = Pos::new(HPos::Left, VPos::Center);
        let mut y = 24;
        area.draw_text(what, &text_style(18, &BLACK).pos(left), (8, y))?;
        for (number, line) in self.series_values.iter().enumerate() {
            y += 26;
            let colour = SERIES_COLOURS[number % SERIES_COLOURS.len()];
            area.draw(&PathElement::new([(8, y), (44, y)], colour.stroke_width(2)))?;
            area.draw(&Circle::new((26, y), 4, colour.filled()))?;
            area.draw_text(&line.to_string(), &text_style(16, &BLACK).pos(left), (54, y))?;
        }
        y += 40;
        if self.has_cell(|row| row.figures.is_none()) {
            area.draw(&Cross::new((26, y), 6, GREY.stroke_width(3)))?;
            let why =
                if self.report.conditions.incomplete.is_some() { "not measured" } else { "failed" };
            area.draw_text(why, &text_style(16, &BLACK).pos(left), (54, y))?;
        }
        let mut y = 414;
        area.draw(&PathElement::new([(8, y), (44, y)], GREY.stroke_width(2)))?;
        area.draw(&Circle::new((26, y), 4, GREY.filled()))?;
        area.draw_text("median (p50)", &text_style(16, &BLACK).pos(left), (54, y))?;
        y += 26;
        for from in [8, 20, 32] {
            area.draw(&PathElement::new([(from, y), (from + 7, y)], GREY.stroke_width(2)))?;
        }
        area.draw(&Circle::new((26, y), 4, GREY.stroke_width(2)))?;
        area.draw_text("99 of 100 (p99)", &text_style(16, &BLACK).pos(left), (54, y))
    }

    /// Lines stand a little beside each other, so that bars can be told apart.
    fn series_offset(&self, number: usize) -> f64 {
        (number as f64 - (self.series_values.len() as f64 - 1.0) / 2.0) * 0.06
    }

    fn x_and_series(&self, row: &SweepRow) -> (AutoOrCount, AutoOrCount) {
        let (batch, window) = (row.cell.batch, row.cell.window);
        if self.x_is_batch { (batch, window) } else { (window, batch) }
    }

    fn find_row(&self, place: AutoOrCount, line: AutoOrCount) -> Option<&SweepRow> {
        self.report.cells.iter().find(|row| self.x_and_series(row) == (place, line))
    }
}

fn text_style<'a>(size: i32, colour: &'a RGBColor) -> TextStyle<'a> {
    (FONT_FAMILY, size - 2).into_font().color(colour)
}

/// As an axis has it: without digits that say nothing.
fn trim_figure(number: f64) -> String {
    let text = format_figure(number);
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// Each once, by size, `auto` last.
fn sort_unique(amounts: impl Iterator<Item = AutoOrCount>) -> Vec<AutoOrCount> {
    let mut all: Vec<AutoOrCount> = amounts.collect();
    all.sort_by_key(|it| match it {
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
            let it = BenchMeasurement {
                asked: answered,
                answered,
                requests: 1,
                seconds: 1.0,
                ..BenchMeasurement::default()
            };
            let failed = cell(batch, window).impossible_reason(1);
            SweepRow::new(cell(batch, window), vec![BenchRun::from_measurement(&it)], failed)
        };
        let rows = windows.iter().flat_map(|&w| batches.iter().map(move |&b| row(b, w)));
        SweepReport::new(
            BenchConditions { model: Some("a<b>&c".into()), ..BenchConditions::default() },
            rows.collect(),
        )
    }

    #[test]
    fn every_size_is_named_and_both_pictures_are_whole() {
        for (batches, windows) in
            [(&[1, 16, 64][..], &[32, 128][..]), (&[4], &[8]), (&[1], &[16, 777]), (&[64], &[8])]
        {
            let plots = sweep_plots(&example_report(batches, windows)).expect("drawn");
            let svg = String::from_utf8(plots[0].1.clone()).expect("text");
            for size in batches.iter().chain(windows) {
                assert!(svg.contains(&format!("\n{size}\n")), "{size} in {svg}");
            }
            assert!(svg.contains("a&lt;b&gt;&amp;c"), "a model's name is no markup");
            assert!(svg.trim_end().ends_with("</svg>"));
            let mut reader =
                png::Decoder::new(std::io::Cursor::new(&plots[1].1)).read_info().expect("a PNG");
            let mut pixels = vec![0; reader.output_buffer_size().expect("a size")];
            let info = reader.next_frame(&mut pixels).expect("its pixels");
            assert_eq!((info.width, info.height), IMAGE_SIZE);
            assert!(pixels.iter().any(|&it| it < 64) && pixels.contains(&255));
        }
    }
}
