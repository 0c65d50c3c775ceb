//! How a run stands: in a line, as JSON, and again and again for somebody who follows it.
//!
//! Owns what is said and how it fits a terminal. Does not read files, and does not know when a run has ended.

use std::{
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
};

use serde::Serialize;

use super::progress::format_duration;
use crate::output::{LostRank, PromptCounts, ReduceProgress, RunActivity, RunPhase};
use crate::report::format::pluralize;

/// How a run stands, for people and for scripts.
#[derive(Clone, Debug, Serialize)]
pub struct StatusView {
    /// See [`Phase`].
    pub state: RunPhase,
    /// At what, where somebody is at work.
    pub doing: Option<RunActivity>,
    /// What became of the prompts.
    #[serde(flatten)]
    pub counts: PromptCounts,
    /// In the last minute, while prompts are asked.
    pub prompts_per_s: Option<f64>,
    /// Likewise.
    pub tokens_per_s: Option<f64>,
    /// Seconds that the open prompts take at that pace.
    pub left_s: Option<f64>,
    /// Sequences at the servers, while prompts are asked.
    pub in_flight: Option<u64>,
    /// Servers that answer, while prompts are asked.
    pub endpoints_up: Option<u64>,
    /// How often the run was started.
    pub starts: u32,
    /// Ranks of the last start.
    pub ranks: usize,
    /// Those that were not there at its end.
    pub lost: Vec<LostRank>,
    /// The folder of its nodes where more answers may be.
    pub away: Option<String>,
    /// Of a reduce, whose leaves the other counts are of: how the tree above them stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reduce: Option<ReduceProgress>,
    /// Where rank 0 of the last start runs or ran.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// Its batch job.
    pub job: Option<String>,
    /// Who is asked.
    pub model: Option<String>,
    /// The route of texts.
    pub api: Option<String>,
    /// Where the answers go.
    pub output: String,
    /// The run folder.
    pub folder: String,
    /// When the last start began, in seconds since 1970.
    pub began: u64,
    /// Working seconds of all starts that ended in order.
    pub seconds: f64,
    /// HTTP requests of all starts that ended in order.
    pub requests: u64,
    /// Seconds since the counts were written.
    pub written_s_ago: u64,
    /// Seconds since the last sign of life, where somebody is at work.
    pub heartbeat_s_ago: Option<u64>,
}

impl StatusView {
    /// For scripts: over several lines, or all in one.
    #[must_use]
    pub fn json(&self, one_line: bool) -> String {
        let json = if one_line { serde_json::to_string } else { serde_json::to_string_pretty };
        json(self).unwrap_or_default()
    }

    /// For people.
    #[must_use]
    pub fn line(&self) -> String {
        self.fit_to_width(usize::MAX)
    }

    /// For people, in so many columns.
    fn fit_to_width(&self, columns: usize) -> String {
        join_fitting(&format!("{}: ", self.state.word()), &self.status_parts(), columns)
    }

    /// What there is to say, the most telling first.
    fn status_parts(&self) -> Vec<String> {
        let PromptCounts { submitted, answered, failed, open } = self.counts;
        let mut parts = Vec::new();
        if self.state != RunPhase::Begins {
            let done = answered + failed;
            // Not 100 before it is all.
            let share = (1000.0 * done as f64 / submitted.max(1) as f64).floor() / 10.0;
            parts.push(format!("{done} of {submitted} done ({share:.1} %)"));
        }
        parts.extend(self.doing.filter(|it| *it != RunActivity::Asking).map(|it| it.to_string()));
        parts.extend(self.prompts_per_s.map(|rate| format!("{rate:.1} prompts/s")));
        parts.extend(self.left_s.map(|left| format!("{} left", format_duration(left))));
        if self.state != RunPhase::Begins {
            let counts = [(answered, "answered"), (failed, "failed"), (open, "open")];
            parts.extend(counts.map(|(count, what)| format!("{count} {what}")));
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
        parts.push(format!("start {}{on}", self.starts));
        parts.extend(self.model.as_ref().map(|model| format!("model {model}")));
        parts
    }
}

/// As many parts as have room, in their order; what has none is left out, and nothing is cut but a lone first part.
pub(super) fn join_fitting(head: &str, parts: &[String], columns: usize) -> String {
    let width = |text: &str| text.chars().count();
    let mut line = head.to_owned();
    let mut empty = true;
    for part in parts {
        let between = if empty { "" } else { ", " };
        if width(&line) + width(between) + width(part) <= columns {
            line = line + between + part;
            empty = false;
        }
    }
    if empty {
        line.extend(parts.first().map(String::as_str));
    }
    line.chars().take(columns).collect()
}

/// Standard output for somebody who follows a run: on a terminal one line that is drawn again, else a line for each change.
#[derive(Debug)]
pub struct StatusFollower {
    json: bool,
    redraws: bool,
    /// What was said last.
    said: String,
}

impl StatusFollower {
    /// As text or as JSON.
    #[must_use]
    pub fn new(json: bool) -> Self {
        let redraws = !json && io::stdout().is_terminal();
        Self { json, redraws, said: String::new() }
    }

    /// How it stands now. False where nobody reads any more.
    pub fn show_update(&mut self, view: &StatusView) -> bool {
        let text =
            if self.redraws { view.fit_to_width(columns(&io::stdout())) } else { view.line() };
        let news = text != self.said;
        if !news && !self.redraws {
            return true;
        }
        let written = match (self.json, self.redraws) {
            (true, _) => write(&format!("{}\n", view.json(true))),
            (false, true) => write(&format!("\r{text}\x1b[K")),
            (false, false) => write(&format!("{text}\n")),
        };
        self.said = text;
        written.is_ok()
    }

    /// Nothing more comes: the last word stays, whole.
    pub fn end(&self, view: &StatusView) {
        if self.redraws {
            let _ = write(&format!("\r\x1b[K{}\n", view.line()));
        }
    }
}

fn write(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// Of the terminal; the last one is left free, where some terminals would begin a new line.
pub(super) fn columns(of: &impl AsFd) -> usize {
    known_terminal_width(of).unwrap_or(79)
}

/// The same, if it has a size: one that a launcher has made for its ranks (Open MPI) has none, and nobody sees it.
pub(super) fn known_terminal_width(of: &impl AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(of).ok()?;
    usize::from(size.ws_col).checked_sub(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn view() -> StatusView {
        StatusView {
            state: RunPhase::Running,
            doing: Some(RunActivity::Asking),
            counts: PromptCounts::new(10_000, 5_190, 10),
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
    fn a_line_says_the_most_telling_first_and_what_has_room() {
        let view = view();
        assert_eq!(
            view.line(),
            "running: 5200 of 10000 done (52.0 %), 34.2 prompts/s, 2m 21s left, 5190 answered, 10 failed, 4800 open, \
             64 in flight, 4 endpoints up, start 2 on 4 ranks, model m"
        );
        assert_eq!(
            view.fit_to_width(79),
            "running: 5200 of 10000 done (52.0 %), 34.2 prompts/s, 2m 21s left, 10 failed"
        );
        assert_eq!(view.fit_to_width(40), "running: 5200 of 10000 done (52.0 %)");
        assert_eq!(view.fit_to_width(12), "running: 520");
    }

    #[test]
    fn a_run_that_has_not_counted_says_what_it_does() {
        let mut view = view();
        view.state = RunPhase::Begins;
        view.doing = Some(RunActivity::ReadingInput);
        (view.prompts_per_s, view.left_s) = (None, None);
        (view.in_flight, view.endpoints_up, view.model) = (None, None, None);
        (view.starts, view.ranks) = (1, 0);
        assert_eq!(view.line(), "begins: reading the input over, start 1");
    }

    #[test]
    fn all_but_one_is_not_all() {
        let mut view = view();
        view.counts = PromptCounts::new(10_000, 9_999, 0);
        assert!(view.line().contains("(99.9 %)"), "{}", view.line());
    }

    proptest! {
        #[test]
        fn a_line_is_never_wider_than_its_room(parts in prop::collection::vec("[a-zé ]{0,30}", 0..9), columns in 0usize..200) {
            let line = join_fitting("head: ", &parts, columns);
            prop_assert!(line.chars().count() <= columns);
        }
    }
}
