//! What was meant: every knob with its value and where that value came from.
//!
//! Highest first: flags, `AURORA_SWARM_*` variables, the file of `--config`, defaults. Resolved on rank 0 and broadcast,
//! because environments differ between nodes. A key has one name everywhere: `ready-timeout` is `--ready-timeout`,
//! `AURORA_SWARM_READY_TIMEOUT` and `ready-timeout = "90s"` in the file. 0 is a value, not 'unset'.
//!
//! Owns names, types, defaults, precedence and what goes together with what. Knows nothing of clap, MPI or what a value
//! does; facts of a node (its host, its walltime) are `site`'s.

mod environment;
mod layers;
mod secret;
mod values;

pub use environment::Environment;
pub use layers::{Layer, Origin, Resolved, SettingsError, resolve};
pub use secret::Secret;
pub use values::{LogFormat, Period, RemoteEndpoints};

use serde::{Deserialize, Serialize};

use crate::domain::Url;

/// Every setting. The field names, with `-` for `_`, are the keys.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Servers by their URL; `{rank}`, `{local_rank}` and `{host}` are filled in.
    pub endpoint: Vec<Url>,
    /// First port of this node's servers.
    pub base_port: Option<u16>,
    /// How many servers a node has, on ports from `base_port` on.
    pub endpoints_per_node: Option<u16>,
    /// A file of servers, a line each.
    pub hostfile: Option<String>,
    /// Only the hostfile's lines with all of these `key=value` tags.
    pub tag: Vec<String>,
    /// What to do with servers on hosts that no rank runs on.
    pub remote_endpoints: RemoteEndpoints,
    /// How long to wait for servers to answer.
    pub ready_timeout: Period,
    /// The served model to use; none: the one model that is served.
    pub model: Option<String>,
    /// Refuse to start with another number of ranks.
    pub expect_ranks: Option<usize>,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Only warnings and errors in the log.
    pub quiet: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            endpoint: Vec::new(),
            base_port: None,
            endpoints_per_node: None,
            hostfile: None,
            tag: Vec::new(),
            remote_endpoints: RemoteEndpoints::Refuse,
            ready_timeout: Period::seconds(60),
            model: None,
            expect_ranks: None,
            log_format: LogFormat::Text,
            quiet: false,
        }
    }
}

impl Settings {
    /// What no single value can show to be wrong.
    ///
    /// # Errors
    /// A sentence that names the keys.
    pub(crate) fn check(&self) -> Result<(), String> {
        let ways = [
            (!self.endpoint.is_empty(), "endpoint"),
            (self.base_port.is_some() || self.endpoints_per_node.is_some(), "base-port"),
            (self.hostfile.is_some(), "hostfile"),
        ];
        let named: Vec<_> =
            ways.iter().filter(|(given, _)| *given).map(|&(_, name)| name).collect();
        if let [first, second, ..] = named[..] {
            return Err(format!(
                "{first} and {second} both say where the servers are: give one of them"
            ));
        }
        match (self.base_port, self.endpoints_per_node) {
            (None, Some(_)) => {
                return Err("endpoints-per-node needs base-port, the first port".into());
            }
            (Some(_), Some(0)) => return Err("endpoints-per-node is 0: nothing to ask".into()),
            (Some(port), Some(count)) if u32::from(port) + u32::from(count) > 65_536 => {
                return Err(format!("{count} ports from {port} on go beyond 65535"));
            }
            _ => {}
        }
        if !self.tag.is_empty() && self.hostfile.is_none() {
            return Err("tag selects lines of a hostfile, and there is no hostfile".into());
        }
        if let Some(tag) = self.tag.iter().find(|tag| !tag.contains('=')) {
            return Err(format!("tag {tag:?} is not of the form key=value"));
        }
        Ok(())
    }
}
