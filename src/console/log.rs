//! The log: `tracing` events on standard error, as text or JSON, and the messages that are printed beside it.
//!
//! Owns standard error as a whole. In JSON mode every line on it is JSON; while a bar is drawn, lines go above it; a single
//! process on a terminal writes neither the date nor its rank. Every event of this program has a field `event`, a stable
//! name for scripts and dashboards, which only the JSON form shows. Errors may carry advice as a second line, `hint: …`:
//! printed errors keep it on its own line, log lines append it in brackets.
//! `AURORA_SWARM_LOG` takes the usual filters (`debug`, `aurora_swarm::comm=trace`).

use std::{
    fmt,
    io::{self, IsTerminal},
    sync::{Mutex, OnceLock, PoisonError},
    time::SystemTime,
};

use indicatif::ProgressBar;
use serde_json::{Map, Value};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::{
    domain::clean_for_terminal,
    settings::{Environment, LogFormat},
};

/// Rank and host; they are known only after MPI has started, when lines may have been written already.
static LOG_IDENTITY: OnceLock<(usize, String)> = OnceLock::new();

static LOG_MODE: OnceLock<LogMode> = OnceLock::new();

static ACTIVE_BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Field that holds the stable name of an event.
const EVENT_FIELD: &str = "event";
/// Start of a line of advice in the text of an error.
const HINT_PREFIX: &str = "hint: ";
/// Start of a progress line.
pub(super) const PROGRESS_PREFIX: &str = "progress: ";

const RESET: &str = "\x1b[0m";
const BOLD_RED: &str = "\x1b[1;31m";
const RED: &str = "\x1b[31m";
const YELLOW: &str = "\x1b[33m";
const CYAN: &str = "\x1b[36m";

/// Form of the lines on standard error.
#[derive(Clone, Copy, Debug)]
struct LogMode {
    format: LogFormat,
    /// Only warnings and errors are logged, and no progress is shown.
    is_quiet: bool,
    is_terminal: bool,
    has_colours: bool,
}

/// Error in the value of `AURORA_SWARM_LOG`.
#[derive(Debug, thiserror::Error)]
#[error(
    "AURORA_SWARM_LOG={filter} is not a valid log filter\n\
     hint: use off, error, warn, info, debug or trace, or MODULE=LEVEL such as aurora_swarm::comm=trace"
)]
pub(crate) struct LogFilterError {
    filter: String,
}

pub(super) fn is_json_log() -> bool {
    LOG_MODE.get().is_some_and(|mode| mode.format == LogFormat::Json)
}

pub(super) fn is_quiet() -> bool {
    LOG_MODE.get().is_some_and(|mode| mode.is_quiet)
}

/// Sets the bar that lines are printed above, or none.
pub(super) fn set_active_bar(bar: Option<ProgressBar>) {
    *ACTIVE_BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}

/// Runs a write to standard error while the bar is hidden.
pub(super) fn suspend_bar<T>(write: impl FnOnce() -> T) -> T {
    let bar = ACTIVE_BAR.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// Prints an error with its hints on lines of their own.
pub(super) fn print_error_text(text: &str) {
    if is_json_log() {
        write_json_line("error", "aurora_swarm", &inline_hints(text), event_fields("error"));
        return;
    }
    let has_colours = LOG_MODE.get().is_some_and(|mode| mode.has_colours);
    let (error, hint) = if has_colours {
        (format!("{BOLD_RED}error:{RESET} "), format!("\n{CYAN}hint:{RESET} "))
    } else {
        ("error: ".to_owned(), format!("\n{HINT_PREFIX}"))
    };
    let text = clean_for_terminal(text).replace(&format!("\n{HINT_PREFIX}"), &hint);
    suspend_bar(|| eprintln!("{error}{text}"));
}

/// Prints a progress line, which has no level and is not filtered with the log.
pub(super) fn print_progress_text(text: &str) {
    if is_json_log() {
        write_json_line("info", "aurora_swarm", text, event_fields("progress_note"));
    } else {
        let text = clean_for_terminal(text);
        suspend_bar(|| eprintln!("{PROGRESS_PREFIX}{text}"));
    }
}

/// Returns the fields of a line that has only the name of its event.
fn event_fields(event: &str) -> Map<String, Value> {
    Map::from_iter([(EVENT_FIELD.to_owned(), event.into())])
}

/// Writes a line of a JSON log.
pub(super) fn write_json_line(
    level: &str,
    target: &str,
    message: &str,
    fields: Map<String, Value>,
) {
    let line = build_json_line(level, target, message.into(), fields);
    suspend_bar(|| eprintln!("{line}"));
}

fn build_json_line(
    level: &str,
    target: &str,
    message: String,
    fields: Map<String, Value>,
) -> Value {
    let now = humantime::format_rfc3339_millis(SystemTime::now());
    let mut line = Map::new();
    line.insert("time".into(), now.to_string().into());
    line.insert("level".into(), level.into());
    if let Some((rank, host)) = LOG_IDENTITY.get() {
        line.insert("rank".into(), (*rank).into());
        line.insert("host".into(), host.as_str().into());
    }
    line.insert("target".into(), target.into());
    line.insert("message".into(), message.into());
    line.extend(fields);
    Value::Object(line)
}

/// Moves hints from lines of their own into brackets, so that a log line stays one line.
fn inline_hints(text: &str) -> String {
    let separator = format!("\n{HINT_PREFIX}");
    let mut parts = text.split(separator.as_str());
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, hint| format!("{text} (hint: {hint})"))
}

/// Writer of the log: standard error, above the bar.
struct StderrWriter;

impl io::Write for StderrWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A whole event at once: the formatter hands over complete lines, so ranks on one terminal do not interleave within a line.
        suspend_bar(|| io::stderr().write_all(bytes)).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Sets the rank and host that log lines carry from now on.
pub(crate) fn set_log_identity(rank: usize, host: &str) {
    let _ = LOG_IDENTITY.set((rank, host.to_owned()));
}

/// Starts the log. Reads the variables `AURORA_SWARM_LOG` and `NO_COLOR`.
///
/// # Errors
/// Fails if `AURORA_SWARM_LOG` is not a valid filter.
pub(crate) fn init_logging(
    format: LogFormat,
    is_quiet: bool,
    environment: &Environment,
) -> Result<(), LogFilterError> {
    // The terminal is checked once: ranks under mpiexec write to a pipe, and must not colour lines that end in a file.
    let is_terminal = io::stderr().is_terminal();
    let has_colours = is_terminal && environment.get("NO_COLOR").is_none_or(str::is_empty);
    let mode = LogMode { format, is_quiet, is_terminal, has_colours };
    // A second start (tests in one process) keeps the first.
    let _ = LOG_MODE.set(mode);
    let filter = match environment.get("AURORA_SWARM_LOG").filter(|text| !text.is_empty()) {
        Some(text) => parse_filter(text)?,
        None => EnvFilter::new(if is_quiet { "warn" } else { "info" }),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| StderrWriter);
    // A library user may have installed a subscriber of its own, which wins.
    let _ = builder.event_format(LogFormatter { mode }).try_init();
    Ok(())
}

/// Parses a log filter. A word on its own has to be a level or a module of this program: the parser of `tracing` takes any
/// other word for a module too, so that a mistyped level would silence the log.
fn parse_filter(text: &str) -> Result<EnvFilter, LogFilterError> {
    let error = || LogFilterError { filter: text.to_owned() };
    let is_known = |directive: &str| {
        directive.contains(['=', '['])
            || directive.starts_with("aurora_swarm")
            || directive.parse::<tracing::level_filters::LevelFilter>().is_ok()
    };
    if !text.split(',').map(str::trim).all(is_known) {
        return Err(error());
    }
    EnvFilter::try_new(text).map_err(|_| error())
}

struct LogFormatter {
    mode: LogMode,
}

impl LogFormatter {
    fn write_level(&self, out: &mut Writer<'_>, level: Level) -> fmt::Result {
        let colour = match level {
            Level::ERROR => RED,
            Level::WARN => YELLOW,
            _ => "",
        };
        if self.mode.has_colours && !colour.is_empty() {
            write!(out, "{colour}{level:<5}{RESET} ")
        } else {
            write!(out, "{level:<5} ")
        }
    }
}

impl<S, N> FormatEvent<S, N> for LogFormatter
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut out: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = EventFields::default();
        event.record(&mut fields);
        let level = event.metadata().level();
        if self.mode.format == LogFormat::Json {
            let level = level.as_str().to_lowercase();
            let (target, message) = (event.metadata().target(), fields.message);
            return writeln!(out, "{}", build_json_line(&level, target, message, fields.others));
        }
        let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        if self.mode.is_terminal {
            // The time of day out of 2026-11-21T14:38:48.123Z.
            write!(out, "{} ", now.get(11..19).unwrap_or(&now))?;
            self.write_level(&mut out, *level)?;
        } else {
            write!(out, "{now} ")?;
            self.write_level(&mut out, *level)?;
            if let Some((rank, host)) = LOG_IDENTITY.get() {
                write!(out, "[{rank} {host}] ")?;
            }
        }
        // Indented, so that no line break in a server's words can begin a line that looks like one of the log.
        write!(out, "{}", fields.message.replace('\n', "\n  "))?;
        // The message of a named event is complete; its fields repeat the values for programs that read JSON.
        if !fields.others.contains_key(EVENT_FIELD) {
            for (name, value) in &fields.others {
                write!(out, " {name}={value}")?;
            }
        }
        writeln!(out)
    }
}

#[derive(Default)]
struct EventFields {
    message: String,
    others: Map<String, Value>,
}

impl EventFields {
    fn store_field(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::String(text)) => {
                self.message = inline_hints(&clean_for_terminal(&text));
            }
            (name, Value::String(text)) => {
                self.others.insert(name.into(), inline_hints(&clean_for_terminal(&text)).into());
            }
            (name, value) => {
                self.others.insert(name.into(), value);
            }
        }
    }
}

impl Visit for EventFields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.store_field(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.store_field(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.store_field(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.store_field(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // Fields are seconds and rates: more than three decimals are noise.
        self.store_field(field, ((value * 1000.0).round() / 1000.0).into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.store_field(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_made_of_levels_and_modules() {
        for valid in
            ["debug", "WARN", "off", "aurora_swarm::comm=trace", "info,hyper=warn", "aurora_swarm"]
        {
            assert!(parse_filter(valid).is_ok(), "{valid}");
        }
        for invalid in ["verbose", "info,loud", "aurora_swarm=loud"] {
            let error = parse_filter(invalid).expect_err("it is not a filter").to_string();
            assert!(error.contains(invalid) && error.contains("\nhint: "), "{error}");
        }
    }

    #[test]
    fn hints_stay_on_the_line_of_their_log_event() {
        assert_eq!(inline_hints("disk full"), "disk full");
        assert_eq!(inline_hints("disk full\nhint: free space"), "disk full (hint: free space)");
        assert_eq!(inline_hints("a\n  b\nhint: c\nhint: d"), "a\n  b (hint: c) (hint: d)");
    }
}
