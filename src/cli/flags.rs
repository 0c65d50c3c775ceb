//! Groups of arguments that several commands share. Each becomes a setting by its long name; texts stay texts.

use clap::{ArgMatches, Args, builder::PossibleValuesParser};

use crate::settings::LogFormat;

/// The heading of arguments that are no settings.
pub(super) const NOT_SETTINGS: &str = "Command";

/// Where the servers are.
#[derive(Args)]
#[command(next_help_heading = "Endpoints")]
pub(super) struct Endpoints {
    /// A server, as http://host:port; again for more. {rank}, {local_rank} and {host} are filled in
    ///
    /// A loopback address means every node's own server; without any of these options it is http://127.0.0.1:8000.
    #[arg(long, value_name = "URL")]
    endpoint: Vec<String>,
    /// This node's servers are 127.0.0.1:P and the ports after it
    #[arg(long, value_name = "P")]
    base_port: Option<String>,
    /// How many servers each node has, from --base-port on
    #[arg(long, value_name = "K")]
    endpoints_per_node: Option<String>,
    /// Servers from a file: host, port and key=value tags a line
    #[arg(long, value_name = "FILE")]
    hostfile: Option<String>,
    /// Only the hostfile's lines with this tag; again for more
    #[arg(long, value_name = "KEY=VALUE")]
    tag: Vec<String>,
    /// Servers on hosts without a rank: `refuse` (default) or `deal` them over all ranks
    #[arg(long, value_name = "HOW")]
    remote_endpoints: Option<String>,
    /// How long to wait for servers to be ready [default: 60s]
    #[arg(long, value_name = "TIME")]
    ready_timeout: Option<String>,
    /// The served model to use [default: the one that is served]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
}

/// How the program runs.
#[derive(Args)]
#[command(next_help_heading = "Running")]
pub(super) struct Running {
    /// Settings from a TOML file; its keys are the options' names
    #[arg(long, value_name = "FILE.toml", help_heading = NOT_SETTINGS)]
    pub(super) config: Option<String>,
    /// Refuse to start with another number of ranks
    #[arg(long, value_name = "N")]
    expect_ranks: Option<String>,
    /// Log lines as `text` or as `json`
    #[arg(long, value_name = "FORMAT", value_parser = PossibleValuesParser::new(["text", "json"]))]
    log_format: Option<String>,
    /// Only warnings and errors
    #[arg(long, short)]
    quiet: bool,
}

/// The log starts before settings are resolved, since resolving may have something to say: its flags are read at once.
pub(super) fn log_format(given: &ArgMatches) -> LogFormat {
    match given.try_get_one::<String>("log_format") {
        Ok(Some(format)) if format == "json" => LogFormat::Json,
        _ => LogFormat::Text,
    }
}

/// As [`log_format`].
pub(super) fn quiet(given: &ArgMatches) -> bool {
    given.try_get_one::<bool>("quiet").ok().flatten().copied().unwrap_or(false)
}
