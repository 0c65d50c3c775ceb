//! What people see: the only place that prints.
//!
//! Owns standard output (results: tables, JSON) and standard error (the log, complaints). Decides nothing: it is handed
//! values and makes them readable.
#![expect(clippy::disallowed_macros, reason = "the owner of stdout and stderr")]

mod bench;
mod check;
mod end_summary;
mod log;
mod plan;
#[cfg(feature = "plot")]
mod plot;
#[cfg(not(feature = "plot"))]
#[path = "no_plot.rs"]
mod plot;
mod progress;
mod status;

pub use bench::{compare_table, models_table, sweep_table};
pub use check::{CheckReport, CheckedRank};
pub use end_summary::{EndSummary, ReduceEndSummary, reduce_summary_line};
pub use log::{init_logging, set_log_identity};
pub use plan::{PlanView, PlannedAction};
pub use plot::sweep_plots;
pub use progress::ProgressView;
pub use status::{StatusFollower, StatusView};

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write},
    sync::atomic::{AtomicBool, Ordering},
};

use crate::domain::{EndpointStatus, ProbeResult};

/// Results are somebody else's to print.
static STDOUT_SILENCED: AtomicBool = AtomicBool::new(false);

/// From here on nothing goes to standard output: the program that uses this library has it for itself.
pub fn silence_stdout() {
    STDOUT_SILENCED.store(true, Ordering::Relaxed);
}

/// To standard output, whole. A reader who has gone (`| head`) is no error.
pub fn print_stdout(text: &str) {
    if STDOUT_SILENCED.load(Ordering::Relaxed) {
        return;
    }
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// A table that is wider than the terminal breaks its cells, not its lines.
fn fit_table_width(table: &mut comfy_table::Table) {
    if let Some(columns) = stdout_columns() {
        table.set_width(u16::try_from(columns).unwrap_or(u16::MAX));
    }
}

/// Of standard output, if that is a terminal.
fn stdout_columns() -> Option<usize> {
    let out = std::io::stdout();
    status::known_terminal_width(&out).filter(|_| out.is_terminal())
}

/// An error for the user, to standard error, with what caused it.
pub fn print_error(error: &dyn std::error::Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    log::write_message("error", &text);
}

/// A line of progress: not the log's, so that it has no level and is not silenced with it.
pub fn print_notice(line: &str) {
    log::write_message("info", line);
}

/// Why a run does not begin: the endpoints that are not ready, the first of them with their reasons.
pub fn print_unready_endpoints(all: &[&EndpointStatus], least: u64) {
    let not_ready: Vec<(&EndpointStatus, &str)> = all
        .iter()
        .filter_map(|it| match &it.probe {
            ProbeResult::NotReady(why) => Some((*it, why.as_str())),
            ProbeResult::Ready(_) => None,
        })
        .collect();
    let ready = all.len() - not_ready.len();
    let mut text = format!(
        "{ready} of {} endpoints are ready, and at least {} {} needed",
        all.len(),
        least.max(1),
        if least <= 1 { "is" } else { "are" },
    );
    for (endpoint, why) in not_ready.iter().take(10) {
        let _ = write!(text, "\n  {}: {why}", endpoint.url);
    }
    if not_ready.len() > 10 {
        let _ = write!(text, "\n  and {} more", not_ready.len() - 10);
    }
    text.push_str(
        "\n  nothing was asked; `aurora-swarm check` with the same options shows every rank's endpoints",
    );
    log::write_message("error", &text);
}
