//! `aurora-swarm check`.

use clap::Args;

use super::{code_of, flags, given};
use crate::{
    comm::Comm,
    job::{self, JobError, Verdict},
    settings::{Environment, Layer},
};

/// Are MPI, the nodes and the servers in order?
///
/// Every rank asks the servers it drives and rank 0 prints a table: host, endpoint, state, model, context length,
/// version, routes; and the MPI library with its thread level. Exit code 6 if no server is ready.
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
    /// Collective.
    pub(super) fn run(
        self,
        comm: &mut dyn Comm,
        flags: Layer,
        environment: Environment,
    ) -> Result<Verdict, JobError> {
        job::check(comm, given(self.running.config, flags, environment), self.json, code_of)
    }
}
