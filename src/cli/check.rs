//! `aurora-swarm check`.

use clap::Args;

use super::{flags, new_invocation};
use crate::{
    comm::Comm,
    job::{self, Invocation, JobError, JobVerdict},
    serve::IdleSupervisor,
    settings::{Environment, SettingsLayer},
};

/// Test MPI, nodes and servers
///
/// Each rank probes its own servers, and rank 0 prints a table with host, endpoint, state, model, context length,
/// version and routes, and the MPI library with its thread level. With --serve the servers are started first and ended
/// at the end; their logs are in check.servers.
#[derive(Args)]
#[command(after_help = "\
Examples:
  mpiexec -n 4 aurora-swarm check --base-port 8000 --endpoints-per-node 12
  aurora-swarm check --endpoint http://127.0.0.1:8000 --json

Exit codes:
  0  at least --min-endpoints servers are ready
  2  wrong command line
  5  bad config file or environment
  6  too few servers are ready")]
pub(super) struct CheckArgs {
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    _endpoints: flags::EndpointArgs,
    #[command(flatten)]
    running: flags::RuntimeArgs,
}

impl CheckArgs {
    pub(super) fn config_path(&self) -> Option<&str> {
        self.running.config.as_deref()
    }

    /// Collective.
    pub(super) fn run(
        self,
        comm: &mut dyn Comm,
        flags: SettingsLayer,
        environment: Environment,
        guard: Option<IdleSupervisor>,
    ) -> Result<JobVerdict, JobError> {
        let invocation =
            Invocation { guard, ..new_invocation(self.running.config, flags, environment) };
        job::run_check(comm, invocation, self.json)
    }
}
