//! Progress of a run: a bar for a single process on a terminal, else a line every few seconds.
//!
//! Owns the wording and the fit: the most important facts first, and a narrow terminal drops the rest. Throughput is that
//! of the last minute, so that it shows the present state and not the time before an endpoint failed. The history for
//! `status` and the report is written by `output/samples.rs`.

use std::{
    collections::VecDeque,
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle as BarStyle};
use serde_json::{Map, Value, json};

use super::{
    log::{self, suspend_bar},
    terminal::{join_fitting, terminal_width},
};
use crate::report::format::{
    format_count, format_duration, format_flaws, format_number, pluralize,
};
use crate::{domain::Tally, settings::ProgressStyle};

/// Display of a run's progress on standard error.
#[derive(Debug)]
pub(crate) struct ProgressView {
    bar: Option<ProgressBar>,
    log_lines: bool,
    /// Name of the reduce pass, if any.
    pass_name: Option<String>,
    total: u64,
    done_before: u64,
    last_line: Instant,
    /// Deadline from the walltime, if any.
    deadline: Option<Instant>,
    /// Samples of the last minute, the oldest first.
    samples: VecDeque<ProgressSample>,
}

/// Work done in this session by a point in time.
#[derive(Clone, Copy, Debug)]
struct ProgressSample {
    at: Instant,
    settled: u64,
    tokens: u64,
}

/// Facts shown in one update.
#[derive(Clone, Debug, Default, PartialEq)]
struct ProgressSnapshot {
    pass_name: Option<String>,
    done: u64,
    total: u64,
    failed: u64,
    /// Flaws among the answers of this session, as text.
    flaws: String,
    in_flight: u64,
    endpoints_up: u64,
    /// Prompts and tokens per second; `None` before the first outcome.
    throughput: Option<(f64, f64)>,
    walltime_left_s: Option<f64>,
}

/// Time between two progress lines.
const LOG_LINE_INTERVAL: Duration = Duration::from_secs(10);
/// Time over which throughput is measured. Ranks report every five seconds, so it has to be much longer than that.
const THROUGHPUT_WINDOW: Duration = Duration::from_secs(60);
/// Time without an outcome after which the throughput falls to zero.
const STALL_TIMEOUT: Duration = Duration::from_secs(12);
const BAR_COLUMNS: usize = 16;

impl ProgressView {
    /// Returns the display for a run of `all` prompts, `before` of which were finished earlier. A bar is drawn only by a
    /// single process on a terminal: under mpiexec it would litter a log.
    #[must_use]
    pub(crate) fn new(
        style: ProgressStyle,
        ranks: usize,
        (all, before): (u64, u64),
        what: Option<String>,
        deadline: Option<Instant>,
    ) -> Self {
        let is_watched = ranks == 1 && std::io::stderr().is_terminal() && !log::is_json_log();
        let bar = match style {
            ProgressStyle::Bar => true,
            ProgressStyle::Auto => is_watched && !log::is_quiet(),
            ProgressStyle::Lines | ProgressStyle::None => false,
        };
        let lines = match style {
            ProgressStyle::Lines => true,
            ProgressStyle::Auto => !bar && !log::is_quiet(),
            ProgressStyle::Bar | ProgressStyle::None => false,
        };
        let now = Instant::now();
        let bar = bar.then(|| create_bar(all));
        log::set_active_bar(bar.clone());
        let samples = VecDeque::from([ProgressSample { at: now, settled: 0, tokens: 0 }]);
        Self {
            bar,
            log_lines: lines,
            pass_name: what,
            total: all,
            done_before: before,
            last_line: now,
            deadline,
            samples,
        }
    }

    /// Redraws the bar, or prints a progress line if one is due.
    pub(crate) fn update_display(&mut self, tally: &Tally, in_flight: u64, endpoints_up: u64) {
        let now = Instant::now();
        let is_due = self.log_lines && now - self.last_line >= LOG_LINE_INTERVAL;
        if self.bar.is_none() && !is_due {
            return;
        }
        let snapshot = self.take_snapshot(now, tally, in_flight, endpoints_up);
        if let Some(bar) = &self.bar {
            bar.set_position(snapshot.done);
            let room = terminal_width(&std::io::stderr()).saturating_sub(BAR_COLUMNS + 1);
            bar.set_message(join_fitting("", &snapshot.status_parts(), room));
        }
        if is_due {
            self.last_line = now;
            if log::is_json_log() {
                log::write_json_line(
                    "info",
                    "progress",
                    &snapshot.status_line(),
                    snapshot.json_fields(),
                );
            } else {
                let is_terminal = std::io::stderr().is_terminal();
                let room =
                    if is_terminal { terminal_width(&std::io::stderr()) } else { usize::MAX };
                suspend_bar(|| {
                    eprintln!(
                        "{}",
                        join_fitting(log::PROGRESS_PREFIX, &snapshot.status_parts(), room)
                    )
                });
            }
        }
    }

    fn take_snapshot(
        &mut self,
        now: Instant,
        tally: &Tally,
        in_flight: u64,
        endpoints_up: u64,
    ) -> ProgressSnapshot {
        let sample = ProgressSample {
            at: now,
            settled: tally.settled_count(),
            tokens: tally.completion_tokens,
        };
        // Ranks report every few seconds. A sample between two reports would make the throughput sink and leap, so samples
        // are taken at reports, or after a stall.
        let has_news = self.samples.back().is_none_or(|last| sample.settled > last.settled);
        if has_news || self.samples.back().is_some_and(|last| now - last.at >= STALL_TIMEOUT) {
            self.samples.push_back(sample);
        }
        // Two samples always stay, so that a run slower than one outcome per minute still has a rate.
        while self.samples.len() > 2 && now - self.samples[1].at >= THROUGHPUT_WINDOW {
            self.samples.pop_front();
        }
        let first = self.samples.front().copied().unwrap_or(sample);
        let last = self.samples.back().copied().unwrap_or(sample);
        ProgressSnapshot {
            pass_name: self.pass_name.clone(),
            done: (self.done_before + tally.settled_count()).min(self.total),
            total: self.total,
            failed: tally.failed_count(),
            flaws: format_flaws(tally.flaws),
            in_flight,
            endpoints_up,
            throughput: throughput_between(first, last),
            walltime_left_s: self
                .deadline
                .map(|deadline| deadline.saturating_duration_since(now).as_secs_f64()),
        }
    }

    pub(crate) fn clear_bar(&self) {
        log::set_active_bar(None);
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Returns prompts and tokens per second between two samples, `None` if they are too close.
fn throughput_between(first: ProgressSample, last: ProgressSample) -> Option<(f64, f64)> {
    let seconds = (last.at - first.at).as_secs_f64();
    let rate = |from: u64, to: u64| to.saturating_sub(from) as f64 / seconds;
    // Two samples closer than that would give a rate of thousands after the first outcome.
    (seconds >= 0.5 && last.settled > 0)
        .then(|| (rate(first.settled, last.settled), rate(first.tokens, last.tokens)))
}

impl ProgressSnapshot {
    /// Estimates the seconds until no prompt remains, at the current throughput.
    fn remaining_s(&self) -> Option<f64> {
        let (prompts, _) = self.throughput.filter(|pace| pace.0 > 0.0)?;
        Some(self.total.saturating_sub(self.done) as f64 / prompts)
    }

    /// Lists the facts, the most important first: a narrow terminal drops from the end.
    fn status_parts(&self) -> Vec<String> {
        let of = self.pass_name.as_ref().map_or(String::new(), |what| format!("{what}: "));
        let share = 100.0 * self.done as f64 / self.total.max(1) as f64;
        // Rounded down: 100 % means that no prompt remains.
        let share = (share * 10.0).floor() / 10.0;
        let mut parts = vec![format!(
            "{of}{}/{} done ({share:.1} %)",
            format_count(self.done),
            format_count(self.total)
        )];
        if self.endpoints_up == 0 && self.done < self.total {
            parts.push("no endpoint up".into());
        }
        let failed = format!("{} failed", format_count(self.failed));
        if self.failed > 0 {
            parts.push(failed.clone());
        }
        if !self.flaws.is_empty() {
            parts.push(self.flaws.clone());
        }
        parts.extend(
            self.throughput.map(|(prompts, _)| format!("{} prompts/s", format_number(prompts))),
        );
        parts.extend(self.remaining_s().map(|left| format!("{} left", format_duration(left))));
        if self.failed == 0 {
            parts.push(failed);
        }
        if self.endpoints_up > 0 {
            parts.push(format!("{} up", pluralize(self.endpoints_up, "endpoint")));
        }
        parts.push(format!("{} in flight", format_count(self.in_flight)));
        parts.extend(
            self.throughput.map(|(_, tokens)| format!("{} tokens/s", format_number(tokens))),
        );
        parts.extend(
            self.walltime_left_s.map(|left| format!("{} of walltime left", format_duration(left))),
        );
        parts
    }

    fn status_line(&self) -> String {
        self.status_parts().join(", ")
    }

    /// Returns the fields of a progress line in a JSON log.
    fn json_fields(&self) -> Map<String, Value> {
        let round = |it: f64| (it * 1000.0).round() / 1000.0;
        let fields = json!({
            "event": "progress",
            "pass": self.pass_name,
            "done": self.done,
            "submitted": self.total,
            "failed": self.failed,
            "in_flight": self.in_flight,
            "endpoints_up": self.endpoints_up,
            "prompts_per_s": self.throughput.map(|it| round(it.0)),
            "tokens_per_s": self.throughput.map(|it| round(it.1)),
            "left_s": self.remaining_s().map(round),
            "walltime_left_s": self.walltime_left_s.map(round),
        });
        let Value::Object(mut fields) = fields else { return Map::new() };
        if self.pass_name.is_none() {
            fields.remove("pass");
        }
        fields
    }
}

fn create_bar(all: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::stderr_with_hz(4));
    let style = BarStyle::with_template(&format!("{{bar:{BAR_COLUMNS}}} {{msg}}"));
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example_snapshot() -> ProgressSnapshot {
        ProgressSnapshot {
            flaws: String::new(),
            pass_name: None,
            done: 1850,
            total: 3000,
            failed: 7,
            in_flight: 57,
            endpoints_up: 3,
            throughput: Some((184.42, 7535.1)),
            walltime_left_s: Some(12_345.0),
        }
    }

    #[test]
    fn a_progress_line_has_the_most_important_facts_first_and_drops_the_last_if_narrow() {
        assert_eq!(
            example_snapshot().status_line(),
            "1,850/3,000 done (61.6 %), 7 failed, 184 prompts/s, 7s left, 3 endpoints up, 57 in flight, 7,535 tokens/s, \
             3h 25m of walltime left"
        );
        let bar = join_fitting("", &example_snapshot().status_parts(), 79 - BAR_COLUMNS - 1);
        assert_eq!(bar, "1,850/3,000 done (61.6 %), 7 failed, 184 prompts/s, 7s left");
        let level = ProgressSnapshot {
            pass_name: Some("level 2".into()),
            endpoints_up: 1,
            walltime_left_s: None,
            ..example_snapshot()
        };
        assert!(
            level.status_line().starts_with("level 2: 1,850/3,000 done"),
            "{}",
            level.status_line()
        );
        assert!(level.status_line().contains(", 1 endpoint up,"), "{}", level.status_line());
    }

    #[test]
    fn unknown_rates_and_times_are_left_out() {
        let nothing = ProgressSnapshot {
            done: 0,
            failed: 0,
            endpoints_up: 0,
            throughput: None,
            walltime_left_s: None,
            ..example_snapshot()
        };
        assert_eq!(
            nothing.status_line(),
            "0/3,000 done (0.0 %), no endpoint up, 0 failed, 57 in flight"
        );
        let finished = ProgressSnapshot { done: 3000, ..nothing };
        assert_eq!(
            finished.status_line(),
            "3,000/3,000 done (100.0 %), 0 failed, 57 in flight",
            "no endpoint is needed any more"
        );
        let stands_still = ProgressSnapshot { throughput: Some((0.0, 0.0)), ..example_snapshot() };
        assert!(!stands_still.status_line().contains(" left, "), "{}", stands_still.status_line());
        let nearly = ProgressSnapshot { done: 2_999_999, total: 3_000_000, ..example_snapshot() };
        assert!(nearly.status_line().contains("(99.9 %)"), "{}", nearly.status_line());
    }

    #[test]
    fn throughput_is_that_of_the_last_minute() {
        let mut view = ProgressView::new(ProgressStyle::None, 2, (1000, 100), None, None);
        let began = view.samples[0].at;
        let mut last = ProgressSnapshot::default();
        for second in 1..=200 {
            // Fast at first, and then not at all.
            let answered = second.min(80) * 5;
            let tally = Tally { answered, ..Tally::default() };
            last = view.take_snapshot(began + Duration::from_secs(second), &tally, 9, 0);
        }
        assert_eq!((last.done, last.throughput), (500, Some((0.0, 0.0))));
        assert_eq!(last.remaining_s(), None);
        assert!(view.samples.len() < 70, "{}", view.samples.len());
    }
}
