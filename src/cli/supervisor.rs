//! `aurora-swarm guard`: the hidden command that a rank runs beside itself to supervise its servers.
//!
//! Supervision itself is in `serve`.

use clap::Args;

use crate::{serve, settings::Environment};

/// Start and end a rank's servers on commands from standard input.
#[derive(Args)]
pub(super) struct GuardArgs {
    /// Become the server that this shell command starts
    #[arg(long = "become", value_name = "COMMAND", allow_hyphen_values = true)]
    server: Option<String>,
}

impl GuardArgs {
    /// Runs until standard input closes, or becomes the server, and returns the exit code. Local.
    pub(super) fn run(self, environment: Environment) -> u8 {
        match self.server {
            Some(command) => serve::exec_server(&command),
            None => serve::run_supervisor(environment),
        }
    }
}
