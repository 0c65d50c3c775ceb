//! `aurora-swarm plan`.

use clap::Args;

use super::{flags, new_invocation};
use crate::{
    job::{self, JobError, JobVerdict},
    settings::{Environment, SettingsLayer},
};

/// Show what `run` would do, without running
///
/// Scans the input and prints counts, the first prompt as it would be sent, each setting that is not a default with its
/// origin, and the state of an existing run. Sends nothing to servers.
#[derive(Args)]
#[command(
    after_help = "All options: aurora-swarm plan --help",
    after_long_help = "\
Example:
  aurora-swarm plan prompts.jsonl --output answers.jsonl --template @ask.txt

Exit codes:
  0  run would start
  2  wrong command line
  5  run would be refused"
)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    job: flags::JobArgs,
}

impl PlanArgs {
    pub(super) fn run(
        self,
        flags: SettingsLayer,
        environment: Environment,
    ) -> Result<JobVerdict, JobError> {
        let flags::JobArgs { inputs, running, .. } = self.job;
        job::plan_run(new_invocation(running.config, flags, environment), &inputs)
    }
}
