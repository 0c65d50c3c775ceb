//! The end of a run: counts, speed, where things lie, what to do next.

use std::fmt;

use comfy_table::{Table, presets::UTF8_HORIZONTAL_ONLY};

use super::progress::readable;
use crate::{
    domain::{FailureKind, Tally},
    output::{Counts, TreeStands},
};

/// What the last table is made of.
#[derive(Debug)]
pub struct Finish<'a> {
    /// Of the whole run.
    pub counts: &'a Counts,
    /// Of this start.
    pub tally: &'a Tally,
    /// Of this start.
    pub seconds: f64,
    /// Of this start.
    pub ranks: usize,
    /// The gathered answers, where there are any.
    pub output: Option<&'a str>,
    /// What they come to together, where that was asked for.
    pub aggregate: Option<&'a str>,
    /// Is a report written into it?
    pub report: bool,
    /// The run folder.
    pub folder: &'a str,
}

impl fmt::Display for Finish<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (counts, tally) = (self.counts, self.tally);
        let mut table = Table::new();
        table.load_style(UTF8_HORIZONTAL_ONLY);
        table.set_header([
            "prompts",
            "answered",
            "failed",
            "open",
            "this start",
            "prompts/s",
            "tokens/s",
            "requests",
            "ranks",
        ]);
        let per_second = |count: u64| format!("{:.1}", count as f64 / self.seconds.max(0.001));
        table.add_row([
            counts.submitted.to_string(),
            counts.answered.to_string(),
            counts.failed.to_string(),
            counts.open.to_string(),
            format!("{} in {:.1} s", tally.settled(), self.seconds),
            per_second(tally.settled()),
            per_second(tally.completion_tokens),
            tally.requests.to_string(),
            self.ranks.to_string(),
        ]);
        writeln!(f, "{table}")?;
        if tally.settled() == 0 && counts.open == 0 && counts.submitted > 0 {
            writeln!(f, "the run was finished before: nothing was asked")?;
        }
        for (kind, count) in &tally.failed {
            writeln!(f, "failed: {count} {}", words(*kind))?;
        }
        if let Some(output) = self.output {
            writeln!(f, "answers: {output}")?;
        }
        if let Some(aggregate) = self.aggregate {
            writeln!(f, "aggregates: {aggregate}")?;
        }
        writeln!(f, "run folder: {}", self.folder)?;
        if self.report {
            writeln!(f, "report: {}/report.html", self.folder)?;
        }
        if counts.open > 0 {
            let pace = tally.settled() as f64 / self.seconds.max(0.001);
            let left = if tally.settled() > 0 {
                format!(" (at this pace {} more)", readable(counts.open as f64 / pace))
            } else {
                String::new()
            };
            writeln!(
                f,
                "{} prompts are open: start the same command again to go on{left}",
                counts.open
            )?;
        } else if counts.failed > 0 {
            writeln!(
                f,
                "failed prompts have their reason in the answers; --retry-failed asks them again"
            )?;
        }
        Ok(())
    }
}

fn words(kind: FailureKind) -> &'static str {
    match kind {
        FailureKind::EmptyPrompt => "with an empty prompt",
        FailureKind::TooLong => "longer than the model's context",
        FailureKind::BadRow => "with a row that cannot be read",
        FailureKind::Refused => "refused by the server",
        FailureKind::BadRequest => "with a request parameter that the server refuses",
        FailureKind::Exhausted => {
            "without an answer in all their tries (the same command asks them again)"
        }
    }
}

/// What the tree of a reduce came to, in one line.
#[must_use]
pub fn tree_line(tree: &TreeStands, output: &str) -> String {
    let levels = tree.levels;
    match (tree.text, tree.missing) {
        (false, _) => {
            format!("these are the leaves; {levels} levels above them, and no text was left\n")
        }
        (true, 0) => format!("these are the leaves; {levels} levels above them, text: {output}\n"),
        (true, missing) => format!(
            "these are the leaves; {levels} levels above them, {missing} leaves are missing in the text: {output}\n"
        ),
    }
}
