//! Everything that users see on a terminal: the log, errors, progress, tables and the status line.
//!
//! The only module that prints. Owns standard output (tables and JSON) and standard error (the log and messages beside
//! it). Decides nothing: it formats the values that it is given. The files `report.html` and `summary.json` are in
//! [`report`](crate::report).
#![expect(clippy::disallowed_macros, reason = "the owner of stdout and stderr")]

mod bench;
mod check;
mod end_summary;
mod log;
mod next_step;
mod plan;
mod plot;
mod progress;
mod readiness;
mod status;
mod terminal;

pub(crate) use bench::{compare_table, models_table, sweep_table};
pub(crate) use check::{CheckReport, CheckedRank};
pub(crate) use end_summary::{EndSummary, ReduceEndSummary, reduce_summary_line};
pub(crate) use log::{init_logging, set_log_identity};
pub(crate) use next_step::StopCause;
pub(crate) use plan::{PlanView, PlannedAction};
pub(crate) use plot::sweep_chart;
pub(crate) use progress::ProgressView;
pub(crate) use readiness::{describe_unready, report_waiting};
pub(crate) use status::{StatusFollower, StatusView};

use std::{
    error::Error,
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
};

use crate::domain::{ReadinessCounts, clean_for_terminal};

/// Set if standard output belongs to the program that uses this library.
static STDOUT_SILENCED: AtomicBool = AtomicBool::new(false);

/// Stops all output to standard output, which belongs to the program that uses this library.
pub(crate) fn silence_stdout() {
    STDOUT_SILENCED.store(true, Ordering::Relaxed);
}

/// Writes to standard output. A closed pipe (`| head`) is not an error.
pub(crate) fn print_stdout(text: &str) {
    if STDOUT_SILENCED.load(Ordering::Relaxed) {
        return;
    }
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(clean_for_terminal(text).as_bytes()).and_then(|()| out.flush());
}

/// Prints an error with its causes, and its hints on lines of their own, to standard error.
pub(crate) fn print_error(error: &dyn Error) {
    log::print_error_text(&error_text(error));
}

/// Joins an error and its causes with colons; hints follow at the end, each on its own line.
fn error_text(error: &dyn Error) -> String {
    let whole = error.to_string();
    let mut parts = whole.split("\nhint: ");
    let mut text = parts.next().unwrap_or_default().to_owned();
    let mut hints: Vec<String> = parts.map(str::to_owned).collect();
    let mut cause = error.source();
    while let Some(error) = cause {
        let whole = error.to_string();
        let mut parts = whole.split("\nhint: ");
        let detail = parts.next().unwrap_or_default();
        // Many Display texts quote their cause already.
        if !text.contains(detail) {
            text = format!("{text}: {detail}");
        }
        for hint in
            parts.filter(|hint| !hints.iter().any(|known| known == hint)).collect::<Vec<_>>()
        {
            hints.push(hint.to_owned());
        }
        cause = error.source();
    }
    hints.iter().for_each(|hint| text = format!("{text}\nhint: {hint}"));
    text
}

/// Prints a progress line to standard error. It has no level, so the log's filter does not affect it.
pub(crate) fn print_progress(line: &str) {
    log::print_progress_text(line);
}

/// Prints the error that too few servers are ready, with the reasons and the servers of each.
pub(crate) fn print_unready_endpoints(counts: &ReadinessCounts, required: u64) {
    log::print_error_text(&describe_unready(counts, required));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start\nhint: free the port")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("port 8000 is taken\nhint: see --base-port")]
    struct Inner;

    #[test]
    fn hints_of_an_error_and_its_causes_come_last() {
        let text = error_text(&Outer(Inner));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            ["cannot start: port 8000 is taken", "hint: free the port", "hint: see --base-port"]
        );
    }
}
