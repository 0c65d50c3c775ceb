//! `aurora-swarm plan`.

use clap::Args;

use super::{flags, new_invocation};
use crate::{
    job::{self, JobError, JobVerdict},
    settings::{Environment, SettingsLayer},
};

/// A dry run: what `run` with the same arguments would do
///
/// Reads the input over and prints counts, the first prompt as it would be asked, every setting that is not a default
/// with its origin, and what is done already. Asks no server.
#[derive(Args)]
#[command(
    after_help = "Example:\n  aurora-swarm plan prompts.jsonl --output answers.jsonl --template @ask.txt"
)]
pub(super) struct PlanArgs {
    #[command(flatten)]
    line: flags::JobArgs,
}

impl PlanArgs {
    /// Local.
    pub(super) fn run(
        self,
        flags: SettingsLayer,
        environment: Environment,
    ) -> Result<JobVerdict, JobError> {
        let flags::JobArgs { inputs, running, .. } = self.line;
        job::plan_run(new_invocation(running.config, flags, environment), &inputs)
    }
}
