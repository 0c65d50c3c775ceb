//! The end of a session on rank 0: final counts in the manifest, and the summary on standard output.
//!
//! The roll-call before the last collectives is in `dispatch::shutdown`, the gathering of answers in `collect::gather`, and
//! the report files are written in [`report`](super::report).

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
            local_shards,
            shard_folders::ShardFolders,
        },
        resume::existing_run,
        setup::run_plan::RunPlan,
    },
    metrics::AnswerStats,
    output::{PromptCounts, RunState},
    report::format::pluralize,
};

impl RootRun {
    /// Marks the run as stopped with the counts so far, where an error prevents the regular end.
    pub(in crate::job) fn mark_stopped(&mut self) {
        self.manifest.state = RunState::Stopped;
        if let Err(error) = self.manifest.write_to(&self.folder) {
            warn!(event = "manifest_not_written", "manifest not written: {error}");
        }
        self.heartbeat.stop();
    }

    /// Writes the final manifest and prints the summary. The run is finished only if no prompt remains and the answers were
    /// gathered; a reduce is not finished with its leaves.
    pub(in crate::job) fn finish_run(
        &mut self,
        completion: &CompletionState,
        gathered: bool,
        measured: Option<&AnswerStats>,
    ) -> Result<JobVerdict, JobError> {
        let counts = completion.outcome_counts(self.source.rows);
        (self.manifest.counts, self.manifest.resent) = (counts.clone(), 0);
        let finished = counts.open == 0 && gathered && self.manifest.reduce.is_none();
        self.manifest.state = if finished { RunState::Finished } else { RunState::Stopped };
        self.manifest.seconds += self.started_at.elapsed().as_secs_f64();
        self.manifest.requests += self.tally.requests;
        self.manifest.record_progress(&self.tally, self.started_at.elapsed().as_secs_f64());
        if finished && !(self.was_finished && self.tally.settled_count() == 0) {
            let output = Path::new(&self.manifest.output);
            let made = aggregate_file_names(&self.aggregate, output);
            self.manifest.aggregates.retain(|name| !made.contains(name));
            remove_stale_aggregates(&self.manifest.aggregates, output);
            self.manifest.aggregates = made;
        }
        // An error is returned only after the summary is printed: users need the counts most when a file cannot be written.
        let written = self.manifest.write_to(&self.folder).map_err(JobError::from);
        let written = written
            .and_then(|()| existing_run::remove_replaced(&self.folder, self.manifest.starts));
        if counts.open == 0 {
            // Copies of compressed input can be much larger than all answers.
            existing_run::remove_spools(&self.folder, 1..self.manifest.starts + 1);
        }
        (self.table, self.sort_keys) = Default::default(); // frees memory: a reduce continues without the leaves' rows
        let missing = self.expected_open.map_or(0, |open| counts.open.saturating_sub(open));
        if missing > 0 {
            let (folder, away) = (self.folder.display(), self.manifest.away.as_ref());
            let cause = away.map_or_else(
                || format!("were files of {folder} removed?"),
                |away| format!("they may be in {away} on the nodes of lost ranks"),
            );
            let prompts = pluralize(missing, "finished prompt");
            warn!(
                event = "outcomes_missing",
                missing, "outcomes missing from the shard files: {prompts}; {cause}"
            );
        }
        self.print_end_summary(&counts, finished, measured);
        if let Some(reason) = self.fail_fast_reason.take() {
            return Err(JobError::FailFast(reason));
        }
        written.map_err(JobError::into_finish_error)?;
        Ok(match counts {
            PromptCounts { open: 1.., .. } => JobVerdict::PromptsOpen,
            PromptCounts { failed: 1.., .. } => JobVerdict::SomeFailed,
            _ => JobVerdict::Done,
        })
    }

    /// Ends the session without the lost ranks, with which no collective is possible any more: rank 0 alone reads all shard
    /// files, and gathers the answers if no prompt remains.
    pub(in crate::job) fn finish_without_lost(
        mut self,
        plan: &RunPlan,
        folders: &ShardFolders,
    ) -> Result<JobVerdict, JobError> {
        let lost = &self.manifest.lost;
        let names: Vec<String> =
            lost.iter().map(|lost| format!("{} ({})", lost.rank, lost.host)).collect();
        warn!(
            event = "ending_without_lost_ranks",
            lost = lost.len(),
            "rank 0 finishes the run without the lost ranks: {}",
            names.join(", ")
        );
        if let Err(error) = local_shards::collect_root_shards(folders, plan) {
            warn!(
                event = "shards_not_collected",
                "local shard files not collected on rank 0: {error}"
            );
        }
        let InputSource { rows, fingerprint, .. } = &self.source;
        let (completion, lines) =
            CompletionState::from_folder_with_index(&self.folder, *rows, fingerprint)?;
        let counts = completion.outcome_counts(*rows);
        let gathered = gather_solo(lines, &counts, &plan.output, &plan.requested_outputs(&counts));
        let measured = gathered.as_ref().ok().and_then(Option::as_ref);
        let ended = self.finish_run(&completion, gathered.is_ok(), measured);
        self.write_run_report(&gathered);
        gathered.and(ended)
    }

    /// Prints the summary, except for a complete level of a reduce, which the summary of the whole tree covers.
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
        // A reduce that continues has no report yet.
        let report = (self.writes_report && (open || !is_reduce)).then(|| report_page_path(folder));
        console::print_stdout(
            &EndSummary {
                label: self.pass_name().map_or("prompts".into(), Into::into),
                counts,
                tally: &self.tally,
                failures: measured.map(|stats| &stats.failures),
                invalid: measured.map(|stats| &stats.invalid),
                seconds: self.started_at.elapsed().as_secs_f64(),
                waited: self.waited.as_secs_f64(),
                ranks: self.manifest.ranks,
                starts: self.manifest.starts,
                output: gathered.then_some(self.manifest.output.as_str()),
                aggregate: aggregated.then(|| aggregate.to_string_lossy()).as_deref(),
                report: report.as_ref().map(|path| path.to_string_lossy()).as_deref(),
                folder: &folder.to_string_lossy(),
                is_intermediate: is_reduce && !open,
                stop: self.stop_cause,
            }
            .to_string(),
        );
    }
}
