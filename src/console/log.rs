//! The log: `tracing` to standard error, text or JSON, each line with the rank and the host that wrote it.
//!
//! Owns standard error as a whole: where the log is JSON, all that is said there is; where a bar is drawn, lines go above it;
//! and a single process on a terminal says neither the date nor who it is.
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
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    EnvFilter,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::settings::LogFormat;

/// Rank and host, known some time after the first lines may have been written.
static LOG_IDENTITY: OnceLock<(usize, String)> = OnceLock::new();

/// Text or JSON, and whether only warnings are wanted.
static LOG_MODE: OnceLock<(LogFormat, bool)> = OnceLock::new();

/// The bar that is drawn, if one is.
static ACTIVE_BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// What lines that are not the log's begin with.
pub(super) const MESSAGE_PREFIX: &str = "aurora-swarm: ";

/// Is the log one of JSON lines?
pub(super) fn is_json_log() -> bool {
    LOG_MODE.get().is_some_and(|how| how.0 == LogFormat::Json)
}

/// Are only warnings and errors wanted?
pub(super) fn is_quiet() -> bool {
    LOG_MODE.get().is_some_and(|how| how.1)
}

/// From here on lines go above this bar.
pub(super) fn set_active_bar(bar: Option<ProgressBar>) {
    *ACTIVE_BAR.lock().unwrap_or_else(PoisonError::into_inner) = bar;
}

/// Writes to standard error without harm to the bar.
pub(super) fn suspend_bar<T>(write: impl FnOnce() -> T) -> T {
    let bar = ACTIVE_BAR.lock().unwrap_or_else(PoisonError::into_inner).clone();
    match bar {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

/// A line that is not the log's, to standard error: as text it has neither level nor time.
pub(super) fn write_message(level: &str, text: &str) {
    if is_json_log() {
        write_json_line(level, "aurora_swarm", text, Map::new());
    } else {
        suspend_bar(|| eprintln!("{MESSAGE_PREFIX}{text}"));
    }
}

/// A line of a JSON log.
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

/// Standard error, above the bar.
struct StderrWriter;

impl io::Write for StderrWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        suspend_bar(|| io::stderr().write_all(bytes)).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// From here on log lines carry this rank and host.
pub fn set_log_identity(rank: usize, host: &str) {
    let _ = LOG_IDENTITY.set((rank, host.to_owned()));
}

/// Starts the log. `filter` is `AURORA_SWARM_LOG`'s value; what it cannot be read as is taken for `info`.
pub fn init_logging(format: LogFormat, quiet: bool, filter: Option<&str>) {
    let usual = if quiet { "warn" } else { "info" };
    let filter = filter.and_then(|it| EnvFilter::try_new(it).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new(usual));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| StderrWriter);
    // A second start (tests in one process) keeps the first.
    let _ = LOG_MODE.set((format, quiet));
    let watched = io::stderr().is_terminal();
    let _ = builder.event_format(LogFormatter { format, is_terminal: watched }).try_init();
}

struct LogFormatter {
    format: LogFormat,
    /// By somebody at a terminal, who knows what day it is and what was started.
    is_terminal: bool,
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
        if self.format == LogFormat::Json {
            let level = level.as_str().to_lowercase();
            let (target, message) = (event.metadata().target(), fields.message);
            return writeln!(out, "{}", build_json_line(&level, target, message, fields.others));
        }
        let now = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        if self.is_terminal {
            // 2026-11-21T14:38:48.123Z
            write!(out, "{} {level:<5} ", now.get(11..19).unwrap_or(&now))?;
        } else {
            write!(out, "{now} {level:<5} ")?;
            if let Some((rank, host)) = LOG_IDENTITY.get() {
                write!(out, "[{rank} {host}] ")?;
            }
        }
        write!(out, "{}", fields.message)?;
        for (name, value) in &fields.others {
            write!(out, " {name}={value}")?;
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
        match (field.name(), &value) {
            ("message", Value::String(text)) => self.message.clone_from(text),
            (name, _) => drop(self.others.insert(name.into(), value)),
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
        // Fields are seconds and rates: three digits say what there is to say.
        self.store_field(field, ((value * 1000.0).round() / 1000.0).into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.store_field(field, value.into());
    }
}
