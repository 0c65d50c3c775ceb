//! The status of a run: one line for people, JSON for scripts, and the repeated form of `status --follow`.
//!
//! Owns the wording and the order of facts when a terminal is narrow. Reads no files: the values come from
//! `job/commands/status.rs`, which also decides when a followed run has ended.

use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use super::terminal::{join_fitting, terminal_width};
use crate::{
    domain::clean_line,
    output::{LostRank, PromptCounts, ReduceProgress, RunActivity, RunPhase},
    report::format::{format_duration, format_flaws, pluralize},
};

/// Status of a run. The field names are the keys of `status --json`, a contract with scripts.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct StatusView {
    /// Phase of the run, see [`RunPhase`].
    pub state: RunPhase,
    /// Current step of the session; null if no session is active.
    pub doing: Option<RunActivity>,
    /// Counts of prompts by outcome.
    #[serde(flatten)]
    pub counts: PromptCounts,
    /// Failed prompts of earlier sessions that the session sends again; 0 if no session is active.
    pub resent: u64,
    /// Outcomes per second over the last minute, while prompts are sent.
    pub prompts_per_s: Option<f64>,
    /// Completion tokens per second over the last minute, while prompts are sent.
    pub tokens_per_s: Option<f64>,
    /// Estimated seconds until no prompt remains, at the rate of the last minute.
    pub left_s: Option<f64>,
    /// Sequences in flight at the servers, while prompts are sent.
    pub in_flight: Option<u64>,
    /// Servers that answer, while prompts are sent.
    pub endpoints_up: Option<u64>,
    /// Number of the latest session, from 1.
    pub starts: u32,
    /// Ranks of the latest session.
    pub ranks: usize,
    /// Ranks that were lost before the latest session ended.
    pub lost: Vec<LostRank>,
    /// Node-local folder (`--local-shards`) that may hold answers not collected yet.
    pub away: Option<String>,
    /// Progress of the tree above the leaves, for a reduce; all other counts are the leaves'.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reduce: Option<ReduceProgress>,
    /// Host of rank 0 in the latest session.
    pub host: String,
    /// Process id of rank 0 in the latest session.
    pub pid: u32,
    /// Batch job of the latest session.
    pub job: Option<String>,
    /// Model that the prompts are sent to.
    pub model: Option<String>,
    /// Route of text prompts, "completions" or "chat".
    pub api: Option<String>,
    /// Path of the gathered answers.
    pub output: String,
    /// Path of the run folder.
    pub folder: String,
    /// Start of the latest session, in seconds since 1970.
    pub began: u64,
    /// Seconds of all sessions that were shut down in order.
    pub seconds: f64,
    /// HTTP requests of all sessions that were shut down in order.
    pub requests: u64,
    /// Age of the counts in seconds.
    pub written_s_ago: u64,
    /// Age of the heartbeat in seconds; null if no session is active.
    pub heartbeat_s_ago: Option<u64>,
}

impl StatusView {
    /// Returns the JSON of `status --json`, indented or on one line.
    #[must_use]
    pub(crate) fn to_json(&self, one_line: bool) -> String {
        let json = if one_line { serde_json::to_string } else { serde_json::to_string_pretty };
        json(self).unwrap_or_default()
    }

    /// Returns all facts on one line of any width.
    #[must_use]
    pub(crate) fn status_line(&self) -> String {
        self.fit_to_width(usize::MAX)
    }

    /// Returns the facts that fit into this number of columns.
    fn fit_to_width(&self, columns: usize) -> String {
        let head = format!("{}: ", self.state.as_str());
        clean_line(&join_fitting(&head, &self.status_parts(), columns)).into_owned()
    }

    /// Lists the facts, the most important first: a narrow terminal drops from the end.
    fn status_parts(&self) -> Vec<String> {
        let PromptCounts { submitted, answered, failed, open, flaws } = self.counts;
        let mut parts = Vec::new();
        if self.state != RunPhase::Begins {
            let done = answered + failed;
            // Rounded down: 100 % means that no prompt remains.
            let share = (1000.0 * done as f64 / submitted.max(1) as f64).floor() / 10.0;
            parts.push(format!("{done} of {submitted} done ({share:.1} %)"));
        }
        parts.extend(self.doing.filter(|it| *it != RunActivity::Asking).map(|it| it.to_string()));
        if self.resent > 0 {
            let verb = if self.resent == 1 { "is" } else { "are" };
            let prompts = pluralize(self.resent, "failed prompt");
            parts.push(format!("{prompts} {verb} being sent again"));
        }
        parts.extend(self.prompts_per_s.map(|rate| format!("{rate:.1} prompts/s")));
        parts.extend(self.left_s.map(|left| format!("{} left", format_duration(left))));
        if self.state != RunPhase::Begins {
            let flaws = match format_flaws(flaws) {
                none if none.is_empty() => none,
                flaws => format!(" ({flaws})"),
            };
            parts.push(format!("{answered} answered{flaws}"));
            parts.extend([format!("{failed} failed"), format!("{open} open")]);
        }
        parts.extend(self.in_flight.map(|many| format!("{many} in flight")));
        parts.extend(self.endpoints_up.map(|many| pluralize(many, "endpoint") + " up"));
        if !self.lost.is_empty() {
            parts.push(pluralize(self.lost.len() as u64, "rank") + " lost");
        }
        let on = match self.ranks {
            0 => String::new(),
            ranks => format!(" on {}", pluralize(ranks as u64, "rank")),
        };
        parts.push(format!("session {}{on}", self.starts));
        parts.extend(self.model.as_ref().map(|model| format!("model {model}")));
        parts
    }
}

/// Standard output of `status --follow`: on a terminal one line that is redrawn, else a line per change.
#[derive(Debug)]
pub(crate) struct StatusFollower {
    json: bool,
    redraws: bool,
    /// Text of the latest update, to print only changes.
    last_output: String,
}

impl StatusFollower {
    /// Returns a follower that prints text, or one JSON object per line.
    #[must_use]
    pub(crate) fn new(json: bool) -> Self {
        // JSON is never redrawn: its readers want each object on a line of its own, also on a terminal.
        let redraws = !json && io::stdout().is_terminal();
        Self { json, redraws, last_output: String::new() }
    }

    /// Shows the current status. Returns false once standard output is closed.
    pub(crate) fn show_update(&mut self, view: &StatusView) -> bool {
        let text = if self.redraws {
            view.fit_to_width(terminal_width(&io::stdout()))
        } else {
            view.status_line()
        };
        let news = text != self.last_output;
        if !news && !self.redraws {
            return true;
        }
        let written = match (self.json, self.redraws) {
            (true, _) => write_stdout(&format!("{}\n", view.to_json(true))),
            (false, true) => write_stdout(&format!("\r{text}\x1b[K")),
            (false, false) => write_stdout(&format!("{text}\n")),
        };
        self.last_output = text;
        written.is_ok()
    }

    /// Replaces the redrawn line by the final status in full width.
    pub(crate) fn finish_line(&self, view: &StatusView) {
        if self.redraws {
            let _ = write_stdout(&format!("\r\x1b[K{}\n", view.status_line()));
        }
    }
}

fn write_stdout(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::FlawCounts;

    fn example_view() -> StatusView {
        StatusView {
            state: RunPhase::Running,
            doing: Some(RunActivity::Asking),
            counts: PromptCounts::new(10_000, 5_190, 10),
            resent: 0,
            prompts_per_s: Some(34.21),
            tokens_per_s: Some(400.0),
            left_s: Some(140.2),
            in_flight: Some(64),
            endpoints_up: Some(4),
            starts: 2,
            ranks: 4,
            lost: Vec::new(),
            away: None,
            reduce: None,
            host: "n1".into(),
            pid: 7,
            job: None,
            model: Some("m".into()),
            api: None,
            output: "answers.jsonl".into(),
            folder: "answers.jsonl.run".into(),
            began: 0,
            seconds: 0.0,
            requests: 0,
            written_s_ago: 1,
            heartbeat_s_ago: Some(1),
        }
    }

    #[test]
    fn the_status_line_has_the_most_important_facts_first_and_drops_what_does_not_fit() {
        let view = example_view();
        assert_eq!(
            view.status_line(),
            "running: 5200 of 10000 done (52.0 %), 34.2 prompts/s, 2m 21s left, 5190 answered, 10 failed, 4800 open, \
             64 in flight, 4 endpoints up, session 2 on 4 ranks, model m"
        );
        assert_eq!(
            view.fit_to_width(79),
            "running: 5200 of 10000 done (52.0 %), 34.2 prompts/s, 2m 21s left, 10 failed"
        );
        assert_eq!(view.fit_to_width(40), "running: 5200 of 10000 done (52.0 %)");
        assert_eq!(view.fit_to_width(12), "running: 520");
    }

    #[test]
    fn flawed_answers_are_told_beside_the_answered_ones() {
        let mut view = example_view();
        view.counts.flaws = FlawCounts { cut: 12, blank: 3, refused: 0 };
        let line = view.status_line();
        assert!(line.contains("5190 answered (12 cut, 3 blank), 10 failed"), "{line}");
        let json: serde_json::Value = serde_json::from_str(&view.to_json(true)).expect("JSON");
        assert_eq!(
            (&json["cut"], &json["blank"], &json["refused"]),
            (&12.into(), &3.into(), &0.into())
        );
    }

    #[test]
    fn failed_prompts_that_are_sent_again_are_told_and_not_done() {
        let mut view = example_view();
        (view.prompts_per_s, view.left_s) = (None, None);
        (view.counts, view.resent) = (PromptCounts::new(31, 30, 1).with_resent(1), 1);
        assert!(
            view.status_line().starts_with(
                "running: 30 of 31 done (96.7 %), 1 failed prompt is being sent again, 30 answered, 0 failed, 1 open"
            ),
            "{}",
            view.status_line()
        );
        view.resent = 2;
        assert!(view.status_line().contains("2 failed prompts are being sent again"));
    }

    #[test]
    fn a_run_without_counts_shows_its_current_step() {
        let mut view = example_view();
        view.state = RunPhase::Begins;
        view.doing = Some(RunActivity::ReadingInput);
        (view.prompts_per_s, view.left_s) = (None, None);
        (view.in_flight, view.endpoints_up, view.model) = (None, None, None);
        (view.starts, view.ranks) = (1, 0);
        assert_eq!(view.status_line(), "begins: scanning the input, session 1");
    }

    #[test]
    fn the_percentage_is_100_only_when_every_prompt_is_done() {
        let mut view = example_view();
        view.counts = PromptCounts::new(10_000, 9_999, 0);
        assert!(view.status_line().contains("(99.9 %)"), "{}", view.status_line());
    }
}
