//! `aurora-swarm reduce`.

use clap::Args;

use super::{flags, new_invocation};
use crate::{
    comm::Comm,
    job::{self, Invocation, JobError, JobVerdict},
    serve::IdleSupervisor,
    settings::{Environment, SettingsLayer},
};

/// Answer a set of prompts, and make one text of the answers
///
/// The answers are the leaves of a tree: groups of --fan-in of them are put into a prompt that makes one text of each
/// group, and so on until one is left. The tree is the same on any number of ranks; each level is a run of its own, so
/// that the same command again goes on at the level where it stopped.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    mpiexec -n 4 --ppn 1 aurora-swarm reduce papers.jsonl --output summary.txt \\\n      \
        --template 'Sum up: {{text}}' --reduce-template @merge.txt --fan-in 16 --base-port 8000\n  \
    aurora-swarm reduce prompts.jsonl --output summary.txt\n\n\
    Exit codes: 0 all is in the text, 2 usage, 3 some leaves are missing in it, 5 settings or input, 6 no endpoint was\n\
    ready, 75 stopped early (run it again); 70 is a bug, 71 is MPI.")]
pub(super) struct ReduceArgs {
    #[command(flatten)]
    tree: flags::TreeArgs,
    #[command(flatten)]
    line: flags::JobArgs,
}

impl ReduceArgs {
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
        job::run_reduce(comm, given, &inputs)
    }
}
