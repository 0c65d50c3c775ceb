//! How a start ends, on rank 0: what the manifest comes to say, and the last word.

use std::path::Path;

use tracing::warn;

use super::RootRun;
use super::report::report_page_path;
use crate::{
    console::{self, EndSummary},
    input::InputSource,
    job::{
        JobError, JobVerdict,
        collect::{
            aggregate::{aggregate_file_names, aggregate_report_path, remove_stale_aggregates},
            completion::CompletionState,
            gather::gather_solo,
            local_shards::{self, ShardFolders},
        },
        resume::existing_run,
        setup::run_plan::RunPlan,
    },
    metrics::AnswerStats,
    output::{PromptCounts, RunState},
};

impl RootRun {
    /// The end without an end: what is counted so far is left as it is.
    pub(in crate::job) fn mark_stopped(&mut self) {
        self.manifest.state = RunState::Stopped;
        if let Err(error) = self.manifest.write(&self.folder) {
            warn!("the manifest cannot be written: {error}");
        }
        self.heartbeat.stop();
    }

    /// The end, written last of all. It is none where the answers could not be gathered; of a reduce it is the end of the
    /// leaves, and nothing is finished.
    pub(in crate::job) fn end(
        &mut self,
        standing: &CompletionState,
        gathered: bool,
        measured: Option<&AnswerStats>,
    ) -> Result<JobVerdict, JobError> {
        let counts = standing.counts(self.source.rows);
        self.manifest.counts = counts.clone();
        let finished = counts.open == 0 && gathered && self.manifest.reduce.is_none();
        self.manifest.state = if finished { RunState::Finished } else { RunState::Stopped };
        self.manifest.seconds += self.started_at.elapsed().as_secs_f64();
        self.manifest.requests += self.tally.requests;
        self.manifest.record_progress(&self.tally, self.started_at.elapsed().as_secs_f64());
        if finished && !(self.was_finished && self.tally.settled() == 0) {
            let output = Path::new(&self.manifest.output);
            let made = aggregate_file_names(&self.aggregate, output);
            self.manifest.aggregates.retain(|it| !made.contains(it));
            remove_stale_aggregates(&self.manifest.aggregates, output);
            self.manifest.aggregates = made;
        }
        // Whatever becomes of the manifest, people hear how the run stands.
        let written = self.manifest.write(&self.folder).map_err(JobError::from);
        let written = written
            .and_then(|()| existing_run::remove_replaced(&self.folder, self.manifest.starts));
        if counts.open == 0 {
            // A table may be small, and its rows a thousand times as large.
            existing_run::remove_spools(&self.folder, 1..self.manifest.starts + 1);
        }
        (self.table, self.sort_keys) = Default::default(); // a reduce goes on, and needs no more of the leaves' rows
        let missing = self.expected_open.map_or(0, |open| counts.open.saturating_sub(open));
        if missing > 0 {
            let (folder, away) = (self.folder.display(), self.manifest.away.as_ref());
            let why = away.map_or_else(
                || format!("were files of {folder} removed?"),
                |away| format!("they may be in {away} of nodes whose ranks are not here any more"),
            );
            warn!("{missing} prompts that were settled have no outcome in the shard files: {why}");
        }
        self.print_end_summary(&counts, finished, measured);
        if let Some(words) = self.fail_fast_reason.take() {
            return Err(JobError::FailFast(words));
        }
        written.map_err(JobError::into_finish_error)?;
        Ok(match counts {
            PromptCounts { open: 1.., .. } => JobVerdict::PromptsOpen,
            PromptCounts { failed: 1.., .. } => JobVerdict::SomeFailed,
            _ => JobVerdict::Done,
        })
    }

    /// The end without the ranks that are lost: no collective is possible any more. Rank 0 alone reads what all have
    /// written; if nothing is open, it writes the answers.
    pub(in crate::job) fn finish_without_lost(
        mut self,
        brief: &RunPlan,
        folders: &ShardFolders,
    ) -> Result<JobVerdict, JobError> {
        let named: Vec<String> =
            self.manifest.lost.iter().map(|it| format!("{} ({})", it.rank, it.host)).collect();
        warn!("the job ends without ranks that are lost: {}", named.join(", "));
        if let Err(error) = local_shards::collect_root_shards(folders, brief) {
            warn!("{error}");
        }
        let InputSource { rows, fingerprint, .. } = &self.source;
        let (standing, lines) =
            CompletionState::from_folder_with_index(&self.folder, *rows, fingerprint)?;
        let counts = standing.counts(*rows);
        let gathered =
            gather_solo(lines, &counts, &brief.output, &brief.requested_outputs(&counts));
        let measured = gathered.as_ref().ok().and_then(Option::as_ref);
        let ended = self.end(&standing, gathered.is_ok(), measured);
        self.report(&gathered);
        gathered.and(ended)
    }

    /// The last word, but for levels of a reduce of which nothing is open: their sums are told at its end.
    fn print_end_summary(
        &self,
        counts: &PromptCounts,
        finished: bool,
        measured: Option<&AnswerStats>,
    ) {
        let (open, is_reduce) = (counts.open > 0, self.manifest.reduce.is_some());
        if self.tree_folder.is_some() && !open && self.manifest.lost.is_empty() {
            return;
        }
        let gathered = self.gathers_answers && finished;
        let aggregated = !self.aggregate.is_empty() && finished;
        let aggregate = aggregate_report_path(Path::new(&self.manifest.output));
        let folder = self.tree_folder.as_ref().unwrap_or(&self.folder);
        // Of a reduce that goes on, there is none yet.
        let report = (self.writes_report && (open || !is_reduce)).then(|| report_page_path(folder));
        console::print_stdout(
            &EndSummary {
                label: self.pass_name().map_or("prompts".into(), Into::into),
                counts,
                tally: &self.tally,
                failures: measured.map(|it| &it.failures),
                seconds: self.started_at.elapsed().as_secs_f64(),
                ranks: self.manifest.ranks,
                starts: self.manifest.starts,
                output: gathered.then_some(self.manifest.output.as_str()),
                aggregate: aggregated.then(|| aggregate.to_string_lossy()).as_deref(),
                report: report.as_ref().map(|it| it.to_string_lossy()).as_deref(),
                folder: &folder.to_string_lossy(),
                is_intermediate: is_reduce && !open,
            }
            .to_string(),
        );
    }
}
