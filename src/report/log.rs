//! The log: `tracing` to standard error, text or JSON, each line with the rank and the host that wrote it.
//!
//! `AURORA_SWARM_LOG` takes the usual filters (`debug`, `aurora_swarm::comm=trace`).

use std::{fmt, sync::OnceLock, time::SystemTime};

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
static WHO: OnceLock<(usize, String)> = OnceLock::new();

/// From here on log lines carry this rank and host.
pub fn this_is_rank(rank: usize, host: &str) {
    let _ = WHO.set((rank, host.to_owned()));
}

/// Starts the log. `filter` is `AURORA_SWARM_LOG`'s value; what it cannot be read as is taken for `info`.
pub fn start_log(format: LogFormat, quiet: bool, filter: Option<&str>) {
    let usual = if quiet { "warn" } else { "info" };
    let filter = filter.and_then(|it| EnvFilter::try_new(it).ok());
    let filter = filter.unwrap_or_else(|| EnvFilter::new(usual));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start (tests in one process) keeps the first.
    let _ = builder.event_format(Line(format)).try_init();
}

struct Line(LogFormat);

impl<S, N> FormatEvent<S, N> for Line
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
        let mut fields = Fields::default();
        event.record(&mut fields);
        let now = humantime::format_rfc3339_millis(SystemTime::now());
        let level = event.metadata().level();
        match self.0 {
            LogFormat::Text => {
                write!(out, "{now} {level:<5} ")?;
                if let Some((rank, host)) = WHO.get() {
                    write!(out, "[{rank} {host}] ")?;
                }
                write!(out, "{}", fields.message)?;
                for (name, value) in &fields.others {
                    write!(out, " {name}={value}")?;
                }
                writeln!(out)
            }
            LogFormat::Json => {
                let mut line = Map::new();
                line.insert("time".into(), now.to_string().into());
                line.insert("level".into(), level.as_str().to_lowercase().into());
                if let Some((rank, host)) = WHO.get() {
                    line.insert("rank".into(), (*rank).into());
                    line.insert("host".into(), host.as_str().into());
                }
                line.insert("target".into(), event.metadata().target().into());
                line.insert("message".into(), fields.message.into());
                line.extend(fields.others);
                writeln!(out, "{}", Value::Object(line))
            }
        }
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn keep(&mut self, field: &Field, value: Value) {
        match (field.name(), &value) {
            ("message", Value::String(text)) => self.message.clone_from(text),
            (name, _) => drop(self.others.insert(name.into(), value)),
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.keep(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.keep(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.keep(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.keep(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        // Fields are seconds and rates: three digits say what there is to say.
        self.keep(field, ((value * 1000.0).round() / 1000.0).into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.keep(field, value.into());
    }
}
