//! The tables of `bench sweep`, `bench compare` and `bench models`.
//!
//! Owns columns and wording. Medians and the choice of the best cell come from [`bench`](crate::bench); the chart of a
//! sweep is in `console/plot.rs`.

use comfy_table::{ContentArrangement, LineStyle, Table, presets::UTF8_HORIZONTAL_ONLY};

use super::terminal::fit_table_width;
use crate::bench::{
    BenchCell, BenchConditions, CompareReport, CompareSide, ModelRow, ModelsReport, RepeatSpread,
    RunFigures, SweepReport,
};
use crate::report::format::{format_figure, pluralize};

/// Returns the table of a sweep, its best cell and the conditions of the measurement.
#[must_use]
pub(crate) fn sweep_table(report: &SweepReport) -> String {
    let mut table = new_table([
        "batch",
        "window",
        "tokens/s",
        "prompts/s",
        "p50 s",
        "p99 s",
        "prompts/request",
        "",
    ]);
    for (at, row) in report.cells.iter().enumerate() {
        let BenchCell { batch, window } = row.cell;
        let mut cells = vec![batch.to_string(), window.to_string()];
        match &row.figures {
            Some(it) => cells.extend([
                format_spread(it.tokens_per_s),
                format_spread(it.prompts_per_s),
                format_spread(it.p50_s),
                format_spread(it.p99_s),
                format_figure(it.prompts_per_request),
            ]),
            None => cells.extend(["–"; 5].map(str::to_owned)),
        }
        let mark = match &row.failed {
            Some(why) => why.clone(),
            None => {
                let good = report.as_good.contains(&at).then_some("as good");
                let mark = if report.best == Some(at) {
                    Some(best_label(&report.conditions))
                } else {
                    good
                };
                let fewer = missing_runs_note(row.runs.len(), report.conditions.repeats);
                let marks: Vec<String> = mark.map(str::to_owned).into_iter().chain(fewer).collect();
                marks.join(", ")
            }
        };
        cells.push(mark);
        table.add_row(cells);
    }
    let best = report.best.and_then(|at| report.cells.get(at));
    let mut text = format!("{table}\n");
    match best.and_then(|row| Some((row.cell, row.figures?))) {
        Some((cell, it)) => {
            text += &format!(
                "{}: {}, {} tokens/s, {} prompts/s (--batch-size {} --concurrency {})\n",
                best_label(&report.conditions),
                describe_cell(cell),
                format_figure(it.tokens_per_s.median),
                format_figure(it.prompts_per_s.median),
                cell.batch,
                cell.window
            );
            let good = report.as_good.len();
            if good > 0 {
                text += &format!(
                    "as good (within 2 %): {}, marked above",
                    pluralize(good as u64, "cell")
                );
                text += &match report.soonest.and_then(|at| report.cells.get(at)) {
                    Some(row) => {
                        format!("; lowest p99 latency among these: {}\n", describe_cell(row.cell))
                    }
                    None => "\n".to_owned(),
                };
            }
            text += &describe_lengths(&it);
        }
        None => text += "no cell was measured: see the table for the reasons\n",
    }
    text + &describe_conditions(&report.conditions) + &format_notes(&report.notes)
}

/// Returns the table of a comparison between batched and single requests.
#[must_use]
pub(crate) fn compare_table(report: &CompareReport) -> String {
    let mut table = new_table([
        "",
        "batch",
        "completed",
        "seconds",
        "prompts/s",
        "tokens/s",
        "p50 s",
        "p99 s",
        "requests",
        "",
    ]);
    for (name, side) in [("batched", &report.batched), ("single", &report.single)] {
        let CompareSide {
            cell,
            asked,
            answered,
            completion,
            seconds,
            requests,
            figures,
            failed,
            ..
        } = side;
        let mut cells = vec![
            name.to_owned(),
            cell.batch.to_string(),
            format!("{answered} of {asked} ({:.1} %)", completion * 100.0),
            format_figure(*seconds),
        ];
        match figures {
            Some(it) => cells
                .extend([it.prompts_per_s, it.tokens_per_s, it.p50_s, it.p99_s].map(format_spread)),
            None => cells.extend(["–"; 4].map(str::to_owned)),
        }
        cells.extend([requests.to_string(), failed.clone().unwrap_or_default()]);
        table.add_row(cells);
    }
    let mut text = format!("{table}\n");
    if let Some(it) = report.speed_up {
        text += &format!("speed-up of batched requests: {}×\n", format_spread(it));
    }
    let answers = &report.answers;
    let all = answers.equal + answers.different + answers.unknown;
    text += &format!("answers: {} of {all} equal, {} different", answers.equal, answers.different);
    text += &match answers.unknown {
        0 => "\n".to_owned(),
        unknown => format!(", {unknown} not answered both ways\n"),
    };
    if let Some([prompt, batched, single]) = &answers.example {
        text += &format!(
            "first difference, at the prompt: {}\n  batched: {}\n  single:  {}\n",
            truncate_line(prompt, 80),
            truncate_line(batched, 80),
            truncate_line(single, 80)
        );
    }
    if let Some(it) = &report.batched.figures {
        text += &describe_lengths(it);
    }
    text + &describe_conditions(&report.conditions) + &format_notes(&report.notes)
}

/// Returns the table of a comparison between models.
#[must_use]
pub(crate) fn models_table(report: &ModelsReport) -> String {
    let mut table = new_table([
        "model",
        "endpoints",
        "runs",
        "p50 s",
        "p99 s",
        "tokens/s",
        "prompts/s",
        "sample answer",
    ]);
    for row in &report.models {
        let ModelRow { model, endpoint, endpoints, runs_whole, runs_wanted, .. } = row;
        let place = endpoint.clone().unwrap_or_else(|| endpoints.to_string());
        let mut cells = vec![model.clone(), place, format!("{runs_whole} of {runs_wanted}")];
        match &row.figures {
            Some(it) => cells
                .extend([it.p50_s, it.p99_s, it.tokens_per_s, it.prompts_per_s].map(format_spread)),
            None => cells.extend(["–"; 4].map(str::to_owned)),
        }
        cells.push(match (&row.failed, &row.sample) {
            (Some(why), _) => why.clone(),
            (None, sample) => truncate_line(sample.as_deref().unwrap_or_default(), 60),
        });
        table.add_row(cells);
    }
    format!("{table}\n") + &describe_conditions(&report.conditions) + &format_notes(&report.notes)
}

fn new_table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table
        .load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()))
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    fit_table_width(&mut table);
    table
}

/// Returns the label of the best cell. Another cell may be better if the sweep is incomplete.
pub(super) fn best_label(it: &BenchConditions) -> &'static str {
    if it.incomplete.is_some() { "best so far" } else { "best" }
}

pub(super) fn describe_cell(cell: BenchCell) -> String {
    format!("batch {}, window {}", cell.batch, cell.window)
}

fn describe_lengths(it: &RunFigures) -> String {
    format!(
        "prompts of {} tokens, answers of {} tokens (counted by the servers)\n",
        format_figure(it.prompt_tokens),
        format_figure(it.answer_tokens)
    )
}

fn describe_conditions(it: &BenchConditions) -> String {
    let BenchConditions { ranks, endpoints, model, api, repeats, sampling, incomplete, .. } = it;
    let incomplete = incomplete.as_ref().map_or(String::new(), |why| {
        format!("incomplete: {why}\nhint: run the same command again, with --overwrite or another --output\n")
    });
    let model = model.as_ref().map_or(String::new(), |it| format!("model {it}, "));
    let api = api.as_ref().map_or(String::new(), |it| format!("{it} route, "));
    let apart = if it.caches_apart { ", each with its own prefix cache" } else { "" };
    format!(
        "{model}{api}{} on {}, parameters {sampling}; medians of {} (min–max), after a \
         warm-up that is not counted{apart}\n{incomplete}",
        pluralize(*endpoints, "endpoint"),
        pluralize(*ranks as u64, "rank"),
        pluralize(u64::from(*repeats), "repeat")
    )
}

/// Returns a note if the bench ended before all repeats were measured.
fn missing_runs_note(runs: usize, repeats: u32) -> Option<String> {
    (runs < repeats as usize)
        .then(|| format!("{runs} of {}", pluralize(u64::from(repeats), "repeat")))
}

fn format_notes(notes: &[String]) -> String {
    notes.iter().map(|it| format!("note: {it}\n")).collect()
}

/// Formats a median with its range: `12.0 (11.0–13.0)`.
fn format_spread(it: RepeatSpread) -> String {
    let (least, most) = (format_figure(it.least), format_figure(it.most));
    if least == most {
        format_figure(it.median)
    } else {
        format!("{} ({least}–{most})", format_figure(it.median))
    }
}

/// Joins the text to one line and cuts it to this number of characters.
fn truncate_line(text: &str, most: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= most {
        return line;
    }
    line.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_shows_its_range_unless_it_rounds_to_one_figure() {
        let spread_of = |median, least, most| format_spread(RepeatSpread { median, least, most });
        assert_eq!(spread_of(12.0, 11.0, 13.0), "12.0 (11.0–13.0)");
        assert_eq!(spread_of(12.0, 12.0, 12.01), "12.0");
    }

    #[test]
    fn sample_answers_are_shortened_to_one_line() {
        assert_eq!(truncate_line("a\nb  c", 9), "a b c");
        assert_eq!(truncate_line("abcdefgh", 5), "abcd…");
    }
}
