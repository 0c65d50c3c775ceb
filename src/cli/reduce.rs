//! `aurora-swarm reduce`.

use clap::Args;

use super::{flags, new_invocation};
use crate::{
    comm::Comm,
    job::{self, Invocation, JobError, JobVerdict},
    serve::IdleSupervisor,
    settings::{Environment, SettingsLayer},
};

/// Send prompts to the servers and merge the answers into one text
///
/// The answers are the leaves of a tree: a prompt merges each group of --fan-in answers into one text, and so on until
/// one text is left. The tree is the same on any number of ranks. Each level is a run of its own, so the same command
/// resumes at the level where it stopped.
#[derive(Args)]
#[command(
    override_usage = "aurora-swarm reduce [OPTIONS] --output <FILE> <INPUT>...",
    after_help = "All options: aurora-swarm reduce --help    Manual: aurora-swarm help --topic reduce",
    after_long_help = "\
Examples:
  mpiexec -n 4 --ppn 1 aurora-swarm reduce papers.jsonl --output summary.txt \\
      --template 'Summarise: {{text}}' --reduce-template @merge.txt \\
      --fan-in 16 --base-port 8000
  aurora-swarm reduce prompts.jsonl --output summary.txt

Exit codes:
  0   the text covers all answers
  2   wrong command line
  3   finished, some leaves are missing in the text
  5   bad config file, environment, input or existing output
  6   too few servers were ready
  70  a bug
  71  MPI did not start
  75  stopped early: run the same command again

Manual: aurora-swarm help --topic reduce"
)]
pub(super) struct ReduceArgs {
    #[command(flatten)]
    tree: flags::TreeArgs,
    #[command(flatten)]
    job: flags::JobArgs,
}

impl ReduceArgs {
    pub(super) fn config_path(&self) -> Option<&str> {
        self.job.running.config.as_deref()
    }

    /// Collective.
    pub(super) fn run(
        self,
        comm: &mut dyn Comm,
        flags: SettingsLayer,
        environment: Environment,
        guard: Option<IdleSupervisor>,
    ) -> Result<JobVerdict, JobError> {
        let flags::JobArgs { inputs, running, .. } = self.job;
        let invocation = Invocation { guard, ..new_invocation(running.config, flags, environment) };
        job::run_reduce(comm, invocation, &inputs)
    }
}
