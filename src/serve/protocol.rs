//! What rank and guard say to each other: JSON, a line each.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// One server to be started, with everything filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSpec {
    /// Where it is to listen.
    pub port: u16,
    /// For the shell.
    pub command: String,
    /// Variables that it has besides what it inherits.
    pub variables: Vec<(String, String)>,
    /// Where its output goes.
    pub log: PathBuf,
    /// When to start it, from the order on.
    pub delay: Duration,
}

/// Rank to guard; there is one, and then the pipe's end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StartServers {
    pub(super) servers: Vec<ServerSpec>,
}

/// Guard to rank. Servers are called by their ports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum SupervisorEvent {
    /// The answer to the order: on these ports somebody else listens, and no server is started there.
    Taken { ports: Vec<u16> },
    /// A server's process was started.
    Started { port: u16, pid: i32 },
    /// It takes connections, so many seconds after its start.
    Listens { port: u16, seconds: f64 },
    /// It has ended and will be started again in so many seconds.
    Ended { port: u16, how: String, tail: String, again_in: f64 },
    /// These processes of its last start are killed and not gone yet: it is started once they are.
    Waits { port: u16, pids: Vec<i32> },
    /// It has ended and will not be started again.
    GivenUp { port: u16, why: String, tail: String },
    /// Processes that could not be ended.
    Left { pids: Vec<i32> },
}
