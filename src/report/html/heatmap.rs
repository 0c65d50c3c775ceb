//! Heat map of requests in flight against the concurrency limit, a row per endpoint and a column per time bucket.
//!
//! Neighbouring endpoints share rows beyond 200, so the map is readable with 12,000 of them. The buckets and rows are
//! those of [`Timeline`].

use std::fmt::Write;

use super::{charts::time_ticks, tables::html_table};
use crate::report::format::{
    escape_html, format_count, format_number, format_percent, format_seconds, format_tick_time,
    pluralize, shorten_endpoint,
};
use crate::{
    metrics::timeline::{TimeBucket, Timeline, TimelineRow},
    output::StartTimeline,
};

/// Number of rows up to which each is labelled.
const MAX_NAMED_ROWS: usize = 40;
/// Share of a row's height that marks some of its endpoints as down.
const FOOT_HEIGHT: f64 = 0.35;
/// Share of a bucket's time that a row must be up not to be coloured as down.
const UP_THRESHOLD: f64 = 0.5;

/// Draws the map of one session, and a table of the same values for those who cannot hover over it.
pub(super) fn draw_heatmap(StartTimeline { timeline, offset, start }: &StartTimeline) -> String {
    let rows: Vec<&TimelineRow> = timeline.iter_rows().map(|(_, row)| row).collect();
    let (columns, row_count) = (timeline.bucket_count(), rows.len());
    let row_height_px = match row_count {
        0..=12 => 20.0,
        13..=40 => 14.0,
        41..=100 => 6.0,
        _ => 3.0,
    };
    let height_px = row_height_px * row_count as f64;
    let bucket_s = timeline.bucket_millis() as f64 / 1000.0;
    let length_s = bucket_s * columns as f64;
    let ticks: String = time_ticks(length_s, 5)
        .iter()
        .map(|at| {
            let (left, label) = (at / length_s * 100.0, format_tick_time(*at));
            format!(r#"<span class="x" style="left:{left:.2}%">{label}</span>"#)
        })
        .collect();
    let shared = if timeline.endpoint_count() > row_count as u64 {
        " (neighbours share a row; an orange foot marks rows with some endpoints down)"
    } else {
        ""
    };
    let endpoints = pluralize(timeline.endpoint_count(), "endpoint");
    let whole = timeline.grand_total();
    let utilisation = format_share(whole.in_flight, whole.window);
    format!(
        r#"<figure><figcaption>Session {start} <span>{endpoints} in {}{shared}, from {} after its start; {} per column</span></figcaption><div class="heat" style="--h:{height_px}px;--r:{row_height_px}px"><div class="names">{}</div><div><svg viewBox="0 0 {columns} {row_count}" preserveAspectRatio="none" role="img" aria-label="Heat map of {endpoints} over {}: mean utilisation {utilisation}">{}</svg><div class="xs">{ticks}</div></div></div><details><summary>Values by row</summary>{}</details></figure>"#,
        pluralize(row_count as u64, "row"),
        format_seconds(*offset),
        format_seconds(bucket_s),
        row_labels(&rows),
        format_seconds(length_s),
        draw_cells(&rows, timeline),
        values_table(&rows),
    )
}

/// Draws the cells as one path per colour, the feet of rows with some endpoints down, and the tooltips.
fn draw_cells(rows: &[&TimelineRow], timeline: &Timeline) -> String {
    let columns = timeline.bucket_count();
    // One path per colour instead of one rectangle per cell: 24,000 cells stay below half a megabyte.
    let mut levels = [const { String::new() }; COLOUR_COUNT];
    for (at, row) in rows.iter().enumerate() {
        each_level_run(row, timeline, |from, to, level| {
            let _ = write!(levels[level], "M{from} {at}h{}v1h-{}z", to - from, to - from);
        });
    }
    let mut svg = String::new();
    for (level, path) in levels.iter().enumerate().filter(|(_, path)| !path.is_empty()) {
        let _ = write!(svg, r#"<path class="{}" d="{path}"/>"#, level_class(level));
    }
    let mut feet = String::new();
    for (at, row) in rows.iter().enumerate().filter(|(_, row)| row.endpoints > 1) {
        each_partial_downtime(row, columns, |from, to| {
            let (width, top) = (to - from, at as f64 + 1.0 - FOOT_HEIGHT);
            let _ = write!(feet, "M{from} {top}h{width}v{FOOT_HEIGHT}h-{width}z");
        });
    }
    if !feet.is_empty() {
        let _ = write!(svg, r#"<path class="hd" d="{feet}"/>"#);
    }
    for (at, row) in rows.iter().enumerate() {
        let _ = write!(
            svg,
            r#"<rect class="over" x="0" y="{at}" width="{columns}" height="1"><title>{}</title></rect>"#,
            escape_html(&row_tooltip(row))
        );
    }
    svg
}

/// Draws the values of the tooltips as a table.
fn values_table(rows: &[&TimelineRow]) -> String {
    let heads = [
        ("w", "endpoint"),
        ("n", "mean in flight"),
        ("n", "mean limit"),
        ("n", "limit full"),
        ("n", "prompts"),
        ("n", "down"),
    ];
    let cells = |row: &&TimelineRow| {
        let [in_flight, limit, full, prompts, down] = row_values(row);
        let name = escape_html(&shorten_name(&row.display_name()));
        vec![name, in_flight, limit, full, prompts, down]
    };
    html_table(&heads, rows.iter().map(cells))
}

pub(super) fn heatmap_legend() -> String {
    let steps: String = (0..=FULL_LEVEL)
        .map(|it| format!(r#"<rect class="h{it}" x="{it}" y="0" width="1" height="1"/>"#))
        .collect();
    format!(
        r#"<div class="key"><span class="scale">idle <svg viewBox="0 0 {FILL_LEVELS} 1" preserveAspectRatio="none" aria-hidden="true">{steps}</svg> limit full</span><span><i style="background:#d55e00"></i>down</span><span><i style="background:var(--track)"></i>unassigned</span></div>"#
    )
}

fn row_labels(rows: &[&TimelineRow]) -> String {
    if rows.len() <= MAX_NAMED_ROWS {
        let name = |row: &&TimelineRow| {
            format!(
                r#"<div class="one" title="{0}">{0}</div>"#,
                escape_html(&shorten_name(&row.display_name()))
            )
        };
        return rows.iter().map(name).collect();
    }
    let end = |row: Option<&&TimelineRow>| {
        let name = row.map(|row| row.display_name()).unwrap_or_default();
        escape_html(&shorten_endpoint(name.split(" … ").next().unwrap_or_default()))
    };
    format!(
        r#"<div class="ends" style="height:var(--h)"><span>{}</span><span>{}</span></div>"#,
        end(rows.first()),
        end(rows.last())
    )
}

/// Shortens the name of a row, which names one endpoint or the first and the last of several.
fn shorten_name(name: &str) -> String {
    match name.split_once(" … ") {
        Some((first, last)) => format!("{} … {}", shorten_endpoint(first), shorten_endpoint(last)),
        None => shorten_endpoint(name),
    }
}

/// Returns the tooltip of a row: load, utilisation, prompts and downtime.
fn row_tooltip(row: &TimelineRow) -> String {
    let [in_flight, limit, full, prompts, down] = row_values(row);
    format!(
        "{}: mean {in_flight} in flight of {limit}, limit full {full} of the time, {prompts} prompts, down for {down}",
        row.display_name(),
    )
}

/// Returns mean in flight, mean limit, share of time with a full limit, prompts, and downtime.
fn row_values(row: &TimelineRow) -> [String; 5] {
    let whole = row.row_total();
    let mean = |sum: u64| format_number(sum as f64 / whole.up.max(1) as f64);
    let down_s = (whole.watched - whole.up.min(whole.watched)) as f64 / 1000.0;
    [
        mean(whole.in_flight),
        mean(whole.window),
        format_share(whole.full, whole.up),
        format_count(whole.settled),
        format_seconds(down_s),
    ]
}

fn format_share(part: u64, whole: u64) -> String {
    if whole == 0 { "–".into() } else { format_percent((part as f64 / whole as f64).min(1.0)) }
}

/// Highest level of the colour scale, which has tenths of the concurrency limit; [`DOWN_LEVEL`] follows it.
const FULL_LEVEL: usize = 10;
const DOWN_LEVEL: usize = FULL_LEVEL + 1;
const COLOUR_COUNT: usize = DOWN_LEVEL + 1;
const FILL_LEVELS: usize = FULL_LEVEL + 1;

fn level_class(level: usize) -> String {
    if level == DOWN_LEVEL { "hd".into() } else { format!("h{level}") }
}

/// Returns the colour level of a bucket, `None` if no rank drove the endpoint.
fn fill_level(bucket: TimeBucket) -> Option<usize> {
    if bucket.watched == 0 {
        return None;
    }
    if (bucket.up as f64) < UP_THRESHOLD * bucket.watched as f64 {
        return Some(DOWN_LEVEL);
    }
    // Integer arithmetic, so that all machines round alike.
    let tenths =
        (bucket.in_flight * FULL_LEVEL as u64 + bucket.window / 2).checked_div(bucket.window);
    Some(usize::try_from(tenths.unwrap_or(0)).unwrap_or(FULL_LEVEL).min(FULL_LEVEL))
}

/// Calls `each` with the intervals in which some of a row's endpoints are down, but not enough to colour it.
fn each_partial_downtime(row: &TimelineRow, columns: usize, mut each: impl FnMut(usize, usize)) {
    let some = |at: usize| {
        row.pieces
            .get(at)
            .is_some_and(|it| it.up < it.watched && fill_level(*it) != Some(DOWN_LEVEL))
    };
    let mut from = None;
    for at in 0..=columns {
        match (from, at < columns && some(at)) {
            (None, true) => from = Some(at),
            (Some(begun), false) => {
                each(begun, at);
                from = None;
            }
            _ => {}
        }
    }
}

/// Calls `each` with runs of adjacent buckets of the same level.
fn each_level_run(
    row: &TimelineRow,
    timeline: &Timeline,
    mut each: impl FnMut(usize, usize, usize),
) {
    let of = |at: usize| row.pieces.get(at).copied().and_then(fill_level);
    let mut from = 0;
    for at in 1..=timeline.bucket_count() {
        if at == timeline.bucket_count() || of(at) != of(from) {
            if let Some(level) = of(from) {
                each(from, at, level);
            }
            from = at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::timeline::{EndpointSnapshot, TimelineSlot};

    fn example_timeline(endpoints: u64, seconds: u64) -> StartTimeline {
        let mut timeline = Timeline::default();
        for number in 0..endpoints {
            let seat = TimelineSlot::for_endpoint(
                number,
                endpoints,
                format!("x{} http://127.0.0.1:{}", number / 12, 8000 + number % 12),
            );
            timeline.register_endpoint(&seat);
            for at in 0..seconds {
                let stood = EndpointSnapshot {
                    in_flight: (number * 7 + at) % 65,
                    window: 64,
                    is_up: number % 50 != 3 || at < 9,
                    is_full: false,
                };
                timeline.record_interval(&seat, at * 1000, (at + 1) * 1000, stood);
            }
        }
        StartTimeline { start: 1, offset: 0.0, timeline }
    }

    #[test]
    fn a_map_of_12000_endpoints_is_no_larger_than_one_of_200() {
        let (some, many) = (
            draw_heatmap(&example_timeline(200, 100)),
            draw_heatmap(&example_timeline(12_000, 100)),
        );
        assert!(many.len() < 500_000, "{}", many.len());
        assert!(many.len() < some.len() + some.len() / 4, "{} {}", many.len(), some.len());
        assert!(many.contains("12,000 endpoints in 200 rows"));
        assert!(many.contains(r#"<path class="hd""#), "the few that are down are seen");
        let mut down = Vec::new();
        let all = example_timeline(12_000, 100).timeline;
        let (_, row) = all.iter_rows().next().expect("a row");
        each_partial_downtime(row, all.bucket_count(), |from, to| down.push((from, to)));
        assert_eq!(down, [(9, 100)], "from when they went away");
    }

    #[test]
    fn every_bucket_is_drawn_once_in_the_colour_of_its_load() {
        let timeline = example_timeline(4, 100).timeline;
        for (_, row) in timeline.iter_rows() {
            let mut drawn = 0;
            each_level_run(row, &timeline, |from, to, level| {
                drawn += to - from;
                assert!(level < COLOUR_COUNT);
            });
            assert_eq!(drawn, row.pieces.len());
        }
        let piece = |in_flight, up| TimeBucket {
            watched: 10,
            up,
            in_flight,
            window: 100,
            ..TimeBucket::default()
        };
        assert_eq!(fill_level(piece(100, 10)), Some(FULL_LEVEL));
        assert_eq!((fill_level(piece(50, 10)), fill_level(piece(0, 10))), (Some(5), Some(0)));
        assert_eq!(
            (fill_level(piece(50, 1)), fill_level(TimeBucket::default())),
            (Some(DOWN_LEVEL), None)
        );
    }
}
