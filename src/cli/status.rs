//! `aurora-swarm status`.

use clap::Args;

use crate::{
    job::{self, FollowOptions, JobError, JobVerdict},
    settings::HumanDuration,
};

/// How a run stands, from its files; also while it runs, and from a login node
#[derive(Args)]
#[command(after_help = "Examples:\n  aurora-swarm status answers.jsonl\n  \
    aurora-swarm status answers.jsonl --follow\n  \
    aurora-swarm status answers.jsonl --exit-code && echo complete")]
pub(super) struct StatusArgs {
    /// The run: its --output FILE, or its folder
    run: String,
    /// As JSON; with --follow an object a line
    #[arg(long)]
    json: bool,
    /// Count again from the shard files
    #[arg(long)]
    verify: bool,
    /// Exit as the run would: 0 all answered, 3 some failed, 75 prompts open
    #[arg(long)]
    exit_code: bool,
    /// Again and again until the run has ended: on a terminal in one line, else a line for each change
    #[arg(long, short)]
    follow: bool,
    /// How often --follow looks
    #[arg(long, value_name = "TIME", default_value = "2s", requires = "follow")]
    every: HumanDuration,
    /// How long --follow waits for a run that has not begun
    #[arg(long, value_name = "TIME", default_value = "10m", requires = "follow")]
    wait: HumanDuration,
}

impl StatusArgs {
    /// Local.
    pub(super) fn run(self) -> Result<JobVerdict, JobError> {
        let verdict = if self.follow {
            let pursuit = FollowOptions {
                interval: self.every.to_duration(),
                start_timeout: self.wait.to_duration(),
            };
            job::follow_status(&self.run, self.json, self.verify, pursuit)?
        } else {
            job::show_status(&self.run, self.json, self.verify)?
        };
        Ok(if self.exit_code { verdict } else { JobVerdict::Done })
    }
}
