//! `aurora-swarm guard`: what a rank that has servers to start runs beside itself. Not for people.

use clap::Args;

use crate::{serve, settings::Environment};

/// Starts and ends a rank's servers, as told on standard input.
#[derive(Args)]
pub(super) struct GuardArgs {
    /// Become the server that this shell command starts
    #[arg(long = "become", value_name = "COMMAND", allow_hyphen_values = true, help_heading = super::flags::NON_SETTING_HEADING)]
    server: Option<String>,
}

impl GuardArgs {
    /// Local. The exit code.
    pub(super) fn run(self, environment: Environment) -> u8 {
        match self.server {
            Some(command) => serve::exec_server(&command),
            None => serve::run_supervisor(environment),
        }
    }
}
