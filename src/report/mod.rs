//! What people see: the only place that prints.
//!
//! Owns standard output (results: tables, JSON) and standard error (the log, complaints). Decides nothing: it is handed
//! values and makes them readable.
#![expect(clippy::disallowed_macros, reason = "the owner of stdout and stderr")]

mod check;
mod log;

pub use check::{CheckReport, CheckedRank};
pub use log::{start_log, this_is_rank};

use std::io::Write;

/// To standard output, whole. A reader who has gone (`| head`) is no error.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// An error for the user, to standard error, with what caused it.
pub fn complain(error: &dyn std::error::Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    eprintln!("aurora-swarm: {text}");
}
