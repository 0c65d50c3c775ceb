//! `aurora-swarm plan`.

use clap::Args;

use super::{flags, given};
use crate::{
    job::{self, JobError, Verdict},
    settings::{Environment, Layer},
};

/// A dry run: what `run` with the same arguments would do
///
/// Reads the input over and prints counts, the first prompt as it would be asked, every setting that is not a default
/// with its origin, and what is done already. Asks no server.
#[derive(Args)]
#[command(
    after_help = "Example:\n  aurora-swarm plan prompts.jsonl --output answers.jsonl --template @ask.txt"
)]
pub(super) struct Plan {
    /// Prompts, as for `run`
    #[arg(required = true, value_name = "INPUT", help_heading = flags::NOT_SETTINGS)]
    inputs: Vec<String>,
    #[command(flatten)]
    _rows: flags::Rows,
    #[command(flatten)]
    _answers: flags::Answers,
    #[command(flatten)]
    _endpoints: flags::Endpoints,
    #[command(flatten)]
    _requests: flags::Requests,
    #[command(flatten)]
    running: flags::Running,
}

impl Plan {
    /// Local.
    pub(super) fn run(self, flags: Layer, environment: Environment) -> Result<Verdict, JobError> {
        job::plan(given(self.running.config, flags, environment), &self.inputs)
    }
}
