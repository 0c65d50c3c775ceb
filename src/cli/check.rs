//! `aurora-swarm check`.

use clap::Args;

use super::{flags, new_invocation};
use crate::{
    comm::Comm,
    job::{self, Invocation, JobError, JobVerdict},
    serve::IdleSupervisor,
    settings::{Environment, SettingsLayer},
};

/// Are MPI, the nodes and the servers in order?
///
/// Every rank asks the servers it drives and rank 0 prints a table: host, endpoint, state, model, context length,
/// version, routes; and the MPI library with its thread level. Exit code 6 if no server is ready. With --serve it starts
/// them first, and ends them again; their logs are in check.servers.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    mpiexec -n 4 aurora-swarm check --base-port 8000 --endpoints-per-node 12\n  \
    aurora-swarm check --endpoint http://127.0.0.1:8000 --json")]
pub(super) struct CheckArgs {
    /// The report as JSON
    #[arg(long, help_heading = flags::NON_SETTING_HEADING)]
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
        let given = Invocation { guard, ..new_invocation(self.running.config, flags, environment) };
        job::run_check(comm, given, self.json)
    }
}
