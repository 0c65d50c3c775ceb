//! `aurora-swarm report`.

use clap::Args;

use crate::job::{self, JobError, JobVerdict};

/// How a run went, as a page and as numbers, again from its files
///
/// Every run and every reduce writes both when it ends: FILE.run/report.html, which needs no network, and
/// FILE.run/summary.json. This makes them anew, also while the run goes on, after it was killed, and from a login node.
#[derive(Args)]
#[command(after_help = "Examples:\n  aurora-swarm report answers.jsonl\n  \
    aurora-swarm report answers.jsonl.run && jq .rates answers.jsonl.run/summary.json")]
pub(super) struct ReportArgs {
    /// The run: its --output FILE, or its folder
    run: String,
}

impl ReportArgs {
    /// Local.
    pub(super) fn run(self) -> Result<JobVerdict, JobError> {
        job::report_run(&self.run)
    }
}
