//! `aurora-swarm run`.

use clap::Args;

use super::{flags, new_invocation};
use crate::{
    comm::Comm,
    job::{self, Invocation, JobError, JobVerdict},
    serve::IdleSupervisor,
    settings::{Environment, SettingsLayer},
};

/// Send prompts to the servers and write one answer per prompt
///
/// Rank 0 scans the input and hands out work, each rank sends prompts to the servers of its own node, and the answers
/// are gathered into one file in input order. The same command resumes an interrupted run, on any number of ranks.
#[derive(Args)]
#[command(
    override_usage = "aurora-swarm run [OPTIONS] --output <FILE> <INPUT>...",
    after_help = "All options: aurora-swarm run --help    Topics: aurora-swarm help",
    after_long_help = "\
Examples:
  mpiexec -n 4 --ppn 1 aurora-swarm run prompts.jsonl --output answers.jsonl \\
      --base-port 8000 --endpoints-per-node 12
  aurora-swarm run reviews.csv --output summaries.jsonl \\
      --template 'Summarise: {{text}}' --max-tokens 64

Exit codes:
  0   all prompts answered
  2   wrong command line
  3   finished, some prompts failed
  5   bad config file, environment, input or existing output
  6   too few servers were ready
  70  a bug
  71  MPI did not start
  75  stopped early: run the same command again

Keys for servers go into AURORA_SWARM_API_KEY. Topics: aurora-swarm help"
)]
pub(super) struct RunArgs {
    #[command(flatten)]
    job: flags::JobArgs,
}

impl RunArgs {
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
        job::run(comm, invocation, &inputs)
    }
}
