//! `aurora-swarm report`.

use clap::Args;

use crate::job::{self, JobError, JobVerdict};

/// Rebuild report.html and summary.json
///
/// Each run and each reduce writes both at its end: FILE.run/report.html, which needs no network, and
/// FILE.run/summary.json. This command rebuilds them from the run's files, also while the run is active, after it was
/// killed, and from a login node.
#[derive(Args)]
#[command(after_help = "\
Examples:
  aurora-swarm report answers.jsonl
  aurora-swarm report answers.jsonl.run && jq .rates answers.jsonl.run/summary.json

Manual: aurora-swarm help --topic report")]
pub(super) struct ReportArgs {
    /// The run: its --output FILE, or its folder
    run: String,
}

impl ReportArgs {
    pub(super) fn run(self) -> Result<JobVerdict, JobError> {
        job::report_run(&self.run)
    }
}
