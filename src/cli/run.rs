//! `aurora-swarm run`.

use clap::Args;

use super::{flags, new_invocation};
use crate::{
    comm::Comm,
    job::{self, Invocation, JobError, JobVerdict},
    serve::IdleSupervisor,
    settings::{Environment, SettingsLayer},
};

/// Answer a set of prompts
///
/// Rank 0 reads the input over and deals it, every rank asks the servers of its own node, and the answers come together
/// in one file, in input order. The same command again goes on where it stopped, on any number of ranks.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    mpiexec -n 4 --ppn 1 aurora-swarm run prompts.jsonl --output answers.jsonl \\\n      \
        --base-port 8000 --endpoints-per-node 12\n  \
    aurora-swarm run reviews.csv --template 'Sum up: {{text}}' --output sums.jsonl --max-tokens 64\n\n\
    Exit codes: 0 all answered, 2 usage, 3 some prompts failed, 5 settings or input, 6 no endpoint was ready,\n\
    75 stopped early (run it again); 70 is a bug, 71 is MPI.")]
pub(super) struct RunArgs {
    #[command(flatten)]
    line: flags::JobArgs,
}

impl RunArgs {
    pub(super) fn config_path(&self) -> Option<&str> {
        self.line.running.config.as_deref()
    }

    /// Collective.
    pub(super) fn run(
        self,
        comm: &mut dyn Comm,
        flags: SettingsLayer,
        environment: Environment,
        guard: Option<IdleSupervisor>,
    ) -> Result<JobVerdict, JobError> {
        let flags::JobArgs { inputs, running, .. } = self.line;
        let given = Invocation { guard, ..new_invocation(running.config, flags, environment) };
        job::run(comm, given, &inputs)
    }
}
