//! `aurora-swarm status`.

use clap::Args;

use crate::{
    job::{self, FollowOptions, JobError, JobVerdict},
    settings::HumanDuration,
};

/// Show the state of a run from its files, also from a login node
#[derive(Args)]
#[command(after_help = "\
Examples:
  aurora-swarm status answers.jsonl
  aurora-swarm status answers.jsonl --follow
  aurora-swarm status answers.jsonl --exit-code && echo complete

Exit codes:
  0   the state was shown; with --exit-code: all prompts answered
  2   wrong command line
  3   with --exit-code: finished, some prompts failed
  5   no run found
  75  with --exit-code: prompts remain")]
pub(super) struct StatusArgs {
    /// The run: its --output FILE, or its folder
    run: String,
    /// Print JSON; with --follow one object per line
    #[arg(long)]
    json: bool,
    /// Recount answers from disk
    #[arg(long)]
    verify: bool,
    /// Exit with the code of the run
    #[arg(long)]
    exit_code: bool,
    /// Keep watching until the run ends: one line on a terminal, else a line per change
    #[arg(long, short)]
    follow: bool,
    /// Interval of --follow
    #[arg(long, value_name = "TIME", default_value = "2s", requires = "follow")]
    every: HumanDuration,
    /// Longest wait of --follow for a run that has not started
    #[arg(long, value_name = "TIME", default_value = "10m", requires = "follow")]
    wait: HumanDuration,
}

impl StatusArgs {
    pub(super) fn run(self) -> Result<JobVerdict, JobError> {
        let verdict = if self.follow {
            let options = FollowOptions {
                interval: self.every.to_duration(),
                start_timeout: self.wait.to_duration(),
            };
            job::follow_status(&self.run, self.json, self.verify, options)?
        } else {
            job::show_status(&self.run, self.json, self.verify)?
        };
        Ok(if self.exit_code { verdict } else { JobVerdict::Done })
    }
}
