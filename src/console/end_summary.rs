//! The end table of a run and of a reduce: counts, throughput, failures by kind, paths of the results, and the next step.
//!
//! Owns the wording and the fit: one fact per line, at most 80 columns. Paths and messages are not shortened. The numbers
//! of a reduce's levels come from [`report`](crate::report); the machine-readable form is `summary.json`.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt::{self, Write},
};

use comfy_table::{CellAlignment, LineStyle, Table, presets::UTF8_HORIZONTAL_ONLY};

use super::next_step::{EndState, StopCause, next_steps};
use crate::report::{
    format::{
        format_count, format_elapsed, format_flaws, format_number, format_percent, pluralize,
    },
    reduce_levels::{ReduceSummary, truncation_text},
};
use crate::{
    domain::{FailureKind, Tally, clean_line},
    metrics::{FailureStats, InvalidStats},
    output::{PromptCounts, ReduceProgress},
};

/// Facts shown in the end table of a run, or of one pass of a reduce.
#[derive(Debug)]
pub(crate) struct EndSummary<'a> {
    /// Name of the first row: "prompts", or the name of a reduce pass.
    pub label: Cow<'a, str>,
    /// Counts of the whole run, over all sessions.
    pub counts: &'a PromptCounts,
    /// Work done in this session alone.
    pub tally: &'a Tally,
    /// Failures of the whole run by kind; `None` if the answers were not measured (no report was written).
    pub failures: Option<&'a BTreeMap<String, FailureStats>>,
    /// Answers of the whole run that were not valid; `None` if the answers were not measured.
    pub invalid: Option<&'a InvalidStats>,
    /// Seconds of this session, including the wait for servers.
    pub seconds: f64,
    /// Seconds of these in which the session waited for servers.
    pub waited: f64,
    pub ranks: usize,
    /// Number of this session, from 1.
    pub starts: u32,
    /// Path of the gathered answers; `None` if they were not gathered.
    pub output: Option<&'a str>,
    /// Path of the aggregates; `None` without `--aggregate`.
    pub aggregate: Option<&'a str>,
    /// Path of `report.html`; `None` if it was not written.
    pub report: Option<&'a str>,
    /// Path of the run folder.
    pub folder: &'a str,
    /// True for a pass of a reduce that is followed by another table, which names the paths.
    pub is_intermediate: bool,
    /// Reason why the session stopped early, if the same command alone does not help.
    pub stop: Option<StopCause>,
}

/// Seconds of waiting for servers that the table tells, at least.
const MIN_TOLD_WAIT: f64 = 1.0;
/// Failed ids named per failure kind.
const MAX_LISTED_IDS: usize = 3;
/// Length at which a named id is cut, in characters.
const MAX_ID_CHARS: usize = 24;
/// Length at which a reason is cut, in characters.
const MAX_REASON_CHARS: usize = 160;

impl fmt::Display for EndSummary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (counts, tally) = (self.counts, self.tally);
        writeln!(f, "{}", self.counts_table().trim_fmt())?;
        if tally.settled_count() == 0 && counts.open == 0 && counts.submitted > 0 {
            writeln!(f, "already complete: nothing was sent")?;
        }
        self.write_failures(f)?;
        self.write_invalid_answers(f)?;
        if !self.is_intermediate {
            let paths = [
                ("answers", self.output),
                ("aggregates", self.aggregate),
                ("report", self.report),
                ("run folder", Some(self.folder)),
            ];
            for (what, path) in paths {
                if let Some(path) = path {
                    writeln!(f, "{what}: {path}")?;
                }
            }
        }
        if counts.open == 0 && self.is_intermediate {
            return Ok(());
        }
        next_steps(&self.end_state()).iter().try_for_each(|step| writeln!(f, "next: {step}"))
    }
}

impl EndSummary<'_> {
    /// Returns the seconds that count for the speed: those in which servers were there.
    fn working_seconds(&self) -> f64 {
        (self.seconds - self.waited).max(0.001)
    }

    fn end_state(&self) -> EndState {
        let (counts, tally) = (self.counts, self.tally);
        let pace = tally.settled_count() as f64 / self.working_seconds();
        let failures = match self.failures {
            Some(all) => all.iter().map(|(kind, stats)| (kind.clone(), stats.count)).collect(),
            None => tally.failed.iter().map(|(kind, count)| (kind_name(*kind), *count)).collect(),
        };
        let mut state = EndState {
            open: counts.open,
            left_s: (tally.settled_count() > 0).then(|| counts.open as f64 / pace),
            failures,
            cut: counts.flaws.cut,
            stop: self.stop,
        };
        // Failures of earlier sessions are not known by kind if the answers were not measured.
        let known: u64 = state.failures.values().sum();
        if counts.failed > known {
            state.failures.insert("unknown".into(), counts.failed - known);
        }
        state
    }
}

fn kind_name(kind: FailureKind) -> String {
    serde_json::to_value(kind)
        .ok()
        .and_then(|name| name.as_str().map(str::to_owned))
        .unwrap_or_default()
}

impl EndSummary<'_> {
    fn counts_table(&self) -> Table {
        let (counts, tally) = (self.counts, self.tally);
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
        let mut row = |name: &str, value: String| {
            table.add_row([name.to_owned(), value]);
        };
        let share = |part: u64| match part {
            0 => "0".to_owned(),
            part => {
                format!(
                    "{}  ({})",
                    format_count(part),
                    format_percent(part as f64 / counts.submitted as f64)
                )
            }
        };
        row(&self.label, format_count(counts.submitted));
        let flaws = format_flaws(counts.flaws);
        let flaws = if flaws.is_empty() { flaws } else { format!(": {flaws}") };
        row("answered", share(counts.answered) + &flaws);
        row("failed", share(counts.failed));
        row("open", share(counts.open));
        let (done, seconds) = (tally.settled_count(), self.working_seconds());
        let start = match self.starts {
            0 | 1 => "time".to_owned(),
            _ if done == 0 => "time".to_owned(),
            starts => format!("session {starts}"),
        };
        let ranks = pluralize(self.ranks as u64, "rank");
        let time = format_elapsed(self.seconds);
        row(
            &start,
            match self.starts {
                0 | 1 => format!("{time} on {ranks}"),
                _ if done == 0 => format!("{time} on {ranks}"),
                _ => format!("{} in {time} on {ranks}", pluralize(done, "prompt")),
            },
        );
        if self.waited >= MIN_TOLD_WAIT {
            row("waited", format!("{} of it for servers", format_elapsed(self.waited)));
        }
        if done > 0 {
            let rate = |count: u64| format_number(count as f64 / seconds);
            let (prompts, tokens) = (rate(done), rate(tally.completion_tokens));
            row("speed", format!("{prompts} prompts/s, {tokens} tokens/s"));
        }
        if tally.requests > 0 {
            let again = match tally.retried {
                0 => String::new(),
                again => format!(", {} retried", pluralize(again, "prompt")),
            };
            row("requests", format_count(tally.requests) + &again);
        }
        table
    }

    /// Writes a line per failure kind: of the whole run if the answers were measured, else of this session.
    fn write_failures(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(all) = self.failures else {
            return self.tally.failed.iter().try_for_each(|(kind, many)| {
                writeln!(f, "failed: {many} {}", describe_failure_kind(*kind))
            });
        };
        for (kind, stats) in all {
            let known = serde_json::from_value::<FailureKind>(kind.as_str().into());
            let words = known.map_or(kind.clone(), |kind| describe_failure_kind(kind).to_owned());
            let examples = stats.examples.iter().take(MAX_LISTED_IDS);
            let mut ids = examples.map(|(_, it)| shorten_id(&it.id)).collect::<Vec<_>>().join(", ");
            if stats.count > MAX_LISTED_IDS as u64 {
                ids.push_str(", …");
            }
            let which = if stats.count == 1 { "id" } else { "ids" };
            writeln!(f, "failed: {} {words} ({which} {ids})", format_count(stats.count))?;
        }
        Ok(())
    }
}

impl EndSummary<'_> {
    /// Writes a line about answers that were not valid: of the whole run with the first reason, else of this session.
    fn write_invalid_answers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(invalid) = self.invalid else {
            return match self.tally.invalid_answers {
                0 => Ok(()),
                answers => {
                    writeln!(f, "invalid: {}", invalid_text(answers, self.tally.invalid_tokens))
                }
            };
        };
        if invalid.answers == 0 {
            return Ok(());
        }
        let prompts = pluralize(invalid.prompts.count, "prompt");
        let spent = invalid_text(invalid.answers, invalid.completion_tokens);
        writeln!(f, "invalid: {spent}, of {prompts}")?;
        match invalid.prompts.examples.values().next() {
            Some(first) => {
                let reason = shorten_text(&first.message, MAX_REASON_CHARS);
                writeln!(f, "first reason (id {}): {reason}", shorten_id(&first.id))
            }
            None => Ok(()),
        }
    }
}

fn invalid_text(answers: u64, tokens: u64) -> String {
    format!("{} with {}", pluralize(answers, "answer"), pluralize(tokens, "token"))
}

/// Returns an id without JSON quotes and control characters, cut to [`MAX_ID_CHARS`].
fn shorten_id(json: &str) -> String {
    let text = serde_json::from_str::<String>(json).unwrap_or_else(|_| json.to_owned());
    shorten_text(&text, MAX_ID_CHARS)
}

/// Returns a text without control characters, cut to a number of characters.
fn shorten_text(text: &str, max_chars: usize) -> String {
    let mut short: String = clean_line(text).chars().take(max_chars).collect();
    if text.chars().nth(max_chars).is_some() {
        short.push('…');
    }
    short
}

fn describe_failure_kind(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::EmptyPrompt => "with an empty prompt",
        FailureKind::TooLong => "longer than the model's context",
        FailureKind::BadRow => "with an invalid row",
        FailureKind::Refused => "rejected by the server",
        FailureKind::BadRequest => "with a request parameter that the server rejects",
        FailureKind::Exhausted => {
            "without an answer after all attempts (retried by the same command)"
        }
        FailureKind::Invalid => "without a valid answer after all attempts",
    }
}

/// Facts shown in the end table of a reduce: a row per level, the text, truncation, and the paths.
#[derive(Debug)]
pub(crate) struct ReduceEndSummary<'a> {
    /// Numbers of each level and of the whole tree.
    pub tree: &'a ReduceSummary,
    /// Path of the root's text.
    pub output: &'a str,
    /// Path of `report.html`; `None` if it was not written.
    pub report: Option<&'a str>,
    /// Path of the run folder of the leaves, which also holds `tree.jsonl`.
    pub folder: &'a str,
}

impl fmt::Display for ReduceEndSummary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tree = self.tree;
        writeln!(f, "{}", self.levels_table().trim_fmt())?;
        if let Some(text) = truncation_text(&tree.loss, tree.levels[0].nodes) {
            writeln!(f, "{text}")?;
        }
        if tree.loss.missing > 0 {
            writeln!(f, "{} missing in the text", leaf_count_text(tree.loss.missing))?;
        }
        match tree.text {
            true => writeln!(f, "text: {}", self.output)?,
            false => writeln!(f, "no text was written: nothing was left to combine")?,
        }
        writeln!(f, "tree: {}/tree.jsonl", self.folder)?;
        if let Some(report) = self.report {
            writeln!(f, "report: {report}")?;
        }
        writeln!(f, "run folder: {}", self.folder)?;
        if tree.loss.cut > 0 {
            writeln!(
                f,
                "next: a smaller --fan-in truncates less; --accept-changes keeps the leaves then"
            )?;
        }
        if tree.loss.missing > 0 {
            writeln!(
                f,
                "next: see tree.jsonl for the reasons; --retry-failed resends failed prompts"
            )?;
        }
        Ok(())
    }
}

impl ReduceEndSummary<'_> {
    fn levels_table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
        table.set_header(["", "nodes", "sent", "failed", "time", "prompts/s", "tokens/s"]);
        let rate = |it: Option<f64>| it.map_or("–".to_owned(), format_number);
        for it in &self.tree.levels {
            let name = match it.level {
                0 => "leaves".to_owned(),
                level => format!("level {level}"),
            };
            table.add_row([
                name,
                format_count(it.nodes),
                format_count(it.counts.submitted),
                format_count(it.nodes_without_text()),
                format_elapsed(it.total_seconds()),
                rate(it.prompts_per_s),
                rate(it.tokens_per_s),
            ]);
        }
        let all = self.tree;
        table.add_row([
            "total".to_owned(),
            format_count(all.levels.iter().map(|it| it.nodes).sum()),
            format_count(all.counts.submitted),
            format_count(all.levels.iter().map(|it| it.nodes_without_text()).sum()),
            format_elapsed(all.active_s),
            rate(all.prompts_per_s),
            rate(all.tokens_per_s),
        ]);
        table.column_iter_mut().skip(1).for_each(|it| it.set_cell_alignment(CellAlignment::Right));
        table
    }
}

fn leaf_count_text(many: u64) -> String {
    format!("{} {}", format_count(many), if many == 1 { "leaf is" } else { "leaves are" })
}

/// Returns one line about the tree of a reduce, for commands that show only its leaves (`status`, `merge`).
#[must_use]
pub(crate) fn reduce_summary_line(tree: &ReduceProgress, output: &str) -> String {
    let levels = pluralize(u64::from(tree.levels), "level");
    let mut line = format!("counts are of the leaves; {levels} above them, ");
    let _ = match (tree.text, tree.loss.missing) {
        (false, _) => write!(line, "and no text was left"),
        (true, 0) => write!(line, "text: {output}"),
        (true, missing) => {
            write!(line, "{} missing in the text: {output}", leaf_count_text(missing))
        }
    };
    if tree.loss.cut > 0 {
        let _ = write!(line, ", {} truncated", leaf_count_text(tree.loss.cut));
    }
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{domain::FlawCounts, metrics::FailureExample};

    fn end_summary<'a>(counts: &'a PromptCounts, tally: &'a Tally) -> EndSummary<'a> {
        EndSummary {
            label: "prompts".into(),
            counts,
            tally,
            failures: None,
            invalid: None,
            seconds: 12.34,
            waited: 0.2,
            ranks: 4,
            starts: 1,
            output: Some("answers.jsonl"),
            aggregate: None,
            report: Some("answers.jsonl.run/report.html"),
            folder: "answers.jsonl.run",
            is_intermediate: false,
            stop: None,
        }
    }

    fn max_line_width(text: &str) -> usize {
        text.lines().map(|line| line.chars().count()).max().unwrap_or(0)
    }

    #[test]
    fn the_end_table_fits_80_columns_for_a_run_of_any_size() {
        let all = 120_000_000_000;
        let counts = PromptCounts::new(all, all / 2, all / 3);
        let tally = Tally {
            answered: all / 2,
            completion_tokens: 4000 * all,
            requests: all,
            retried: all / 7,
            ..Tally::default()
        };
        let text =
            EndSummary { starts: 1000, ranks: 12_000, ..end_summary(&counts, &tally) }.to_string();
        assert!(max_line_width(&text) <= 80, "{text}");
        let table = EndSummary { starts: 1000, ranks: 12_000, ..end_summary(&counts, &tally) }
            .counts_table();
        assert!(max_line_width(&table.to_string()) <= 80, "{table}");
    }

    #[test]
    fn the_wait_for_servers_does_not_count_for_the_speed() {
        let tally = Tally { answered: 500, requests: 500, ..Tally::default() };
        let counts = PromptCounts::new(500, 500, 0);
        let waited = EndSummary { seconds: 90.0, waited: 80.0, ..end_summary(&counts, &tally) };
        let text = waited.to_string();
        assert!(text.contains("50.0 prompts/s") && text.contains("for servers"), "{text}");
        assert!(!end_summary(&counts, &tally).to_string().contains("for servers"), "a moment");
    }

    #[test]
    fn nouns_agree_with_counts_and_the_next_step_fits_the_failures() {
        let (counts, tally) =
            (PromptCounts::new(3, 2, 0), Tally { answered: 2, ..Tally::default() });
        let text =
            EndSummary { ranks: 1, output: None, ..end_summary(&counts, &tally) }.to_string();
        assert!(text.contains("12.3 s on 1 rank\n"), "{text}");
        assert!(
            text.contains("next: run the same command again (1 prompt open, about 7s left)"),
            "{text}"
        );
        assert!(!text.contains("answers:"), "{text}");
        let (counts, tally) = (PromptCounts::new(2, 1, 1), Tally::default());
        let text = end_summary(&counts, &tally).to_string();
        assert!(text.contains("already complete: nothing was sent"), "{text}");
        assert!(text.contains("--retry-failed"), "{text}");
        let failed = |kind: &str| {
            BTreeMap::from([(
                kind.to_owned(),
                FailureStats { count: 1, ..FailureStats::default() },
            )])
        };
        let says = |kinds: &BTreeMap<String, FailureStats>| {
            EndSummary { failures: Some(kinds), ..end_summary(&counts, &tally) }.to_string()
        };
        assert!(says(&failed("bad_row")).contains("--accept-changes"));
        assert!(says(&failed("refused")).contains("--retry-failed"));
        assert!(!text.contains("speed"), "nothing has a speed:\n{text}");
    }

    #[test]
    fn flawed_answers_are_told_beside_the_answered_ones() {
        let flaws = FlawCounts { cut: 2, blank: 1, refused: 0 };
        let counts = PromptCounts { flaws, ..PromptCounts::new(20, 20, 0) };
        let text = end_summary(&counts, &Tally::default()).to_string();
        assert!(text.contains("20  (100 %): 2 cut, 1 blank"), "{text}");
        let all = 10_000_000;
        let flaws = FlawCounts { cut: all, blank: all, refused: 0 };
        let counts = PromptCounts { flaws, ..PromptCounts::new(all, all, 0) };
        let text = end_summary(&counts, &Tally::default()).to_string();
        assert!(max_line_width(&text) <= 80, "{text}");
    }

    #[test]
    fn invalid_answers_are_told_with_their_tokens_and_the_first_reason() {
        let counts = PromptCounts::new(9, 9, 0);
        let tally =
            Tally { answered: 9, invalid_answers: 1, invalid_tokens: 5, ..Tally::default() };
        let text = end_summary(&counts, &tally).to_string();
        assert!(text.contains("invalid: 1 answer with 5 tokens\n"), "{text}");
        let first = FailureExample { id: "7".into(), message: "it is empty".into(), status: None };
        let prompts = FailureStats { count: 3, examples: [(7, first)].into() };
        let stats = InvalidStats { answers: 4, completion_tokens: 1200, prompts };
        let text = EndSummary { invalid: Some(&stats), ..end_summary(&counts, &tally) }.to_string();
        assert!(text.contains("invalid: 4 answers with 1,200 tokens, of 3 prompts\n"), "{text}");
        assert!(text.contains("first reason (id 7): it is empty\n"), "{text}");
        let none = InvalidStats::default();
        let text = EndSummary { invalid: Some(&none), ..end_summary(&counts, &Tally::default()) }
            .to_string();
        assert!(!text.contains("invalid"), "{text}");
    }

    #[test]
    fn failures_are_listed_by_kind_with_their_first_ids() {
        let first =
            |id: &str| FailureExample { id: id.into(), message: String::new(), status: None };
        let ids = [(3, "\"q3\""), (4, "4"), (9, "\"a long id that nobody would read to its end\"")];
        let stats =
            FailureStats { count: 12, examples: ids.map(|(at, id)| (at, first(id))).into() };
        let failures = BTreeMap::from([("too_long".to_owned(), stats)]);
        let (counts, tally) =
            (PromptCounts::new(20, 8, 12), Tally { answered: 8, ..Tally::default() });
        let text =
            EndSummary { failures: Some(&failures), ..end_summary(&counts, &tally) }.to_string();
        assert!(
            text.contains("failed: 12 longer than the model's context (ids q3, 4, a long id that nobody wo…, …)"),
            "{text}"
        );
    }
}
