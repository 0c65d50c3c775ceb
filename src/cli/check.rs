//! `aurora-swarm check`.

use clap::Args;

use super::{code_of, flags, given};
use crate::{
    comm::Comm,
    job::{self, Given, JobError, Verdict},
    serve::Guard,
    settings::{Environment, Layer},
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
pub(super) struct Check {
    /// The report as JSON
    #[arg(long, help_heading = flags::NOT_SETTINGS)]
    json: bool,
    #[command(flatten)]
    _endpoints: flags::Endpoints,
    #[command(flatten)]
    running: flags::Running,
}

impl Check {
    pub(super) fn config(&self) -> Option<&str> {
        self.running.config.as_deref()
    }

    /// Collective.
    pub(super) fn run(
        self,
        comm: &mut dyn Comm,
        flags: Layer,
        environment: Environment,
        guard: Option<Guard>,
    ) -> Result<Verdict, JobError> {
        let given = Given { guard, ..given(self.running.config, flags, environment) };
        job::check(comm, given, self.json, code_of)
    }
}
