//! `aurora-swarm status`.

use clap::Args;

use crate::job::{self, JobError, Verdict};

/// How a run stands, from its files; also while it runs, and from a login node
#[derive(Args)]
#[command(after_help = "Examples:\n  aurora-swarm status answers.jsonl\n  \
    aurora-swarm status answers.jsonl --exit-code && echo complete")]
pub(super) struct Status {
    /// The run: its --output FILE, or its folder
    run: String,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Count again from the shard files
    #[arg(long)]
    verify: bool,
    /// Exit as the run would: 0 all answered, 3 some failed, 75 prompts open
    #[arg(long)]
    exit_code: bool,
}

impl Status {
    /// Local.
    pub(super) fn run(self) -> Result<Verdict, JobError> {
        let verdict = job::status(&self.run, self.json, self.verify)?;
        Ok(if self.exit_code { verdict } else { Verdict::Done })
    }
}
