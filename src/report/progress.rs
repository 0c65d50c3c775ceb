//! Progress while a run works: a bar for somebody who watches, a line every so often for a log.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle as BarStyle};

use crate::{domain::Tally, settings::ProgressStyle};

/// How a run goes, shown.
#[derive(Debug)]
pub struct ProgressView {
    bar: Option<ProgressBar>,
    lines: bool,
    all: u64,
    before: u64,
    began: Instant,
    last_line: Instant,
    shown: u64,
    /// When the walltime ends the work.
    ends: Option<Instant>,
}

/// A log line at least so far apart.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl ProgressView {
    /// For a run of `all` prompts, `before` of which were done before. A bar only for one process on a terminal: under
    /// mpiexec it would be garbage in a log.
    #[must_use]
    pub fn new(
        style: ProgressStyle,
        ranks: usize,
        (all, before): (u64, u64),
        ends: Option<Instant>,
    ) -> Self {
        let watched = ranks == 1 && std::io::stderr().is_terminal();
        let bar = match style {
            ProgressStyle::Bar => true,
            ProgressStyle::Auto => watched,
            ProgressStyle::Lines | ProgressStyle::None => false,
        };
        let lines =
            matches!((style, bar), (ProgressStyle::Lines, _) | (ProgressStyle::Auto, false));
        let now = Instant::now();
        Self {
            bar: bar.then(|| new_bar(all)),
            lines,
            all,
            before,
            began: now,
            last_line: now,
            shown: 0,
            ends,
        }
    }

    /// How it stands now.
    pub fn show(&mut self, tally: &Tally, in_flight: u64, up: u64) {
        let done = self.before + tally.settled();
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            bar.set_message(format!(
                "{} failed, {in_flight} in flight, {up} endpoints",
                tally.failed()
            ));
        }
        if self.lines && self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            self.line(tally, in_flight, up);
        }
        self.shown = done;
    }

    fn line(&self, tally: &Tally, in_flight: u64, up: u64) {
        let seconds = self.began.elapsed().as_secs_f64();
        let rate = tally.settled() as f64 / seconds;
        let left = self.all.saturating_sub(self.before + tally.settled());
        let eta = if rate > 0.0 { left as f64 / rate } else { 0.0 };
        super::say(&format!(
            "{}/{} done, {rate:.1} prompts/s, {:.0} tokens/s, {in_flight} in flight, {} failed, {up} endpoints up, {} left{}",
            self.before + tally.settled(),
            self.all,
            tally.completion_tokens as f64 / seconds,
            tally.failed(),
            readable(eta),
            self.ends.map_or(String::new(), |ends| {
                let left = ends.saturating_duration_since(Instant::now());
                format!(", {} of walltime", readable(left.as_secs_f64()))
            }),
        ));
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(all: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::stderr_with_hz(4));
    let style = BarStyle::with_template("{bar:30} {pos}/{len} {per_sec} {eta} left  {msg}");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

pub(super) fn readable(seconds: f64) -> String {
    let period = Duration::try_from_secs_f64(seconds.ceil()).unwrap_or(Duration::MAX);
    if period > Duration::from_secs(100 * 86400) {
        "very long".into()
    } else {
        humantime::format_duration(period).to_string()
    }
}
