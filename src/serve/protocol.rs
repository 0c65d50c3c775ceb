//! The protocol between rank and supervisor: one command and then events, as JSON lines over pipes.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// Server to be started, with all placeholders filled in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerSpec {
    /// Port the server listens on.
    pub port: u16,
    /// Shell command that starts the server.
    pub command: String,
    /// Environment variables in addition to the inherited ones.
    pub variables: Vec<(String, String)>,
    /// Log file for its output.
    pub log: PathBuf,
    /// Delay of its first start.
    pub delay: Duration,
}

/// The only message from the rank to the supervisor; after it the pipe stays open until the servers have to stop.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct StartServers {
    pub(super) servers: Vec<ServerSpec>,
    pub(super) limits: WatchLimits,
}

/// Times after which a server is restarted though it runs.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct WatchLimits {
    /// Time without progress.
    pub hang: Option<Duration>,
    /// Time since its start.
    pub max_age: Option<Duration>,
}

/// Message from the supervisor to the rank. Servers are identified by their ports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum SupervisorEvent {
    /// Reply to [`StartServers`]: other processes listen on these ports, so no server is started there.
    Taken { ports: Vec<u16> },
    /// The process of a server was started.
    Started { port: u16, pid: i32 },
    /// The server accepts connections; with the time since its start.
    Listens { port: u16, elapsed_s: f64 },
    /// The server makes no progress and is killed.
    Hangs { port: u16, reason: String },
    /// The server has reached its greatest age and is stopped.
    Recycled { port: u16, age_s: f64 },
    /// The server exited and will be restarted.
    Ended { port: u16, reason: String, tail: String, restart_in_s: f64 },
    /// The restart waits for these processes of the previous start, which are killed but not gone yet.
    Waits { port: u16, pids: Vec<i32> },
    /// The server exited and will not be restarted.
    GivenUp { port: u16, reason: String, tail: String },
    /// These processes could not be killed.
    Left { pids: Vec<i32> },
}
