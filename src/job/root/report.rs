//! How a run went, for people and scripts: when that is written, and from what.
//!
//! Rank 0 writes `report.html` and `summary.json` at the end of a run, from the manifest, what was sampled, what endpoints did
//! over time, and what the lines measure; the last comes from all ranks. All of it but the measures lies in files, and lines do
//! as well, so `report` makes the same again. Of a reduce one is written for all its passes, into the leaves' run folder.
//! A report is never a reason for a run to fail. How it looks is `report`'s.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use tracing::{debug, warn};

use super::RootRun;
use crate::job::{
    JobError, JobVerdict,
    collect::{completion::CompletionState, gather::gather_solo},
    commands::offline::{log_uncollected_answers, open_run},
    setup::run_plan::{RequestedOutputs, live_heartbeat},
    tree_reduce::measurements::{PassMeasurements, tree_source},
};
use crate::{
    console::{self, ReduceEndSummary},
    domain::Timeline,
    metrics::AnswerStats,
    output::{
        Manifest, RunState, StartTimeline, append_timeline, read_samples, read_timelines,
        write_json, write_text,
    },
    report::{RunSummary, SummarySources},
    site::NodeInfo,
};

/// Where the page of a run folder lies.
pub(crate) fn report_page_path(folder: &Path) -> PathBuf {
    folder.join(REPORT_PAGE_FILE)
}

const REPORT_PAGE_FILE: &str = "report.html";
const SUMMARY_FILE: &str = "summary.json";

impl RootRun {
    /// What all ranks' endpoints did since this moment, when the work began.
    pub(crate) fn save_timeline(&self, timeline: &Timeline, began: Instant) {
        if timeline.columns() == 0 {
            return;
        }
        let offset = (began - self.started_at).as_secs_f64();
        let timeline = timeline.clone();
        let line = StartTimeline { start: self.manifest.starts, offset, timeline };
        if let Err(error) = append_timeline(&self.folder, &line) {
            warn!("the report will not show what endpoints did over time: {error}");
        }
    }

    /// The report, where lines were measured: after the end, which it does not change.
    pub(crate) fn report(&self, measured: &Result<Option<AnswerStats>, JobError>) {
        let Ok(Some(measured)) = measured else { return };
        match &self.tree_folder {
            // (the rest of the tree is read from its files: whoever asks for this is alone)
            Some(leaves) => self.tell(leaves, regenerate_report(leaves)),
            None => {
                self.tell(&self.folder, write(&self.folder, &self.manifest, measured, Vec::new()))
            }
        }
    }

    /// Of a reduce, whose leaves these are, after its end: what its levels came to, if that is the end of it, and the report.
    pub(crate) fn finish_tree_report(&self, measured: PassMeasurements, ended: bool) {
        let written = self.summarize_tree(measured, ended).and_then(|(summary, timelines)| {
            if self.writes_report {
                write_report_files(&self.folder, &summary, &timelines)
            } else {
                Ok(())
            }
        });
        self.tell(&self.folder, written);
    }

    fn summarize_tree(
        &self,
        measured: PassMeasurements,
        ended: bool,
    ) -> Result<(RunSummary, Vec<StartTimeline>), JobError> {
        let leaves = measured.leaves.unwrap_or_default();
        // What was not measured is not wanted.
        let levels = measured.levels.into_iter().map(|it| Some(it.unwrap_or_default())).collect();
        let (summary, timelines) = build_summary(&self.folder, &self.manifest, &leaves, levels)?;
        if let Some(tree) = summary.reduce.as_ref().filter(|_| ended) {
            let page = self
                .writes_report
                .then(|| report_page_path(&self.folder).to_string_lossy().into_owned());
            let finish = ReduceEndSummary {
                tree,
                output: &self.manifest.output,
                report: page.as_deref(),
                folder: &self.folder.to_string_lossy(),
            };
            console::print_stdout(&finish.to_string());
        }
        Ok((summary, timelines))
    }

    fn tell(&self, folder: &Path, written: Result<(), JobError>) {
        if self.writes_report {
            match written {
                Ok(()) => {
                    debug!(page = %folder.join(REPORT_PAGE_FILE).display(), "the report is written")
                }
                Err(error) => warn!("there is no report: {error}"),
            }
        }
    }
}

/// Local. The report of a run again, from its files.
///
/// # Errors
/// Where there is no run, or its files cannot be read, or the report cannot be written.
pub fn report(run: &str) -> Result<JobVerdict, JobError> {
    let (folder, mut manifest) = open_run(run)?;
    let alive = live_heartbeat(&folder, &NodeInfo::this_node().host).is_some();
    log_uncollected_answers(manifest.away.as_deref(), alive);
    let measured = remeasure_run(&folder, &mut manifest)?;
    write(&folder, &manifest, &measured, Vec::new())?;
    console::print_stdout(&format!(
        "{}\n{}\n",
        folder.join(REPORT_PAGE_FILE).display(),
        folder.join(SUMMARY_FILE).display()
    ));
    Ok(JobVerdict::Done)
}

/// What a run folder's lines measure, by this process alone. The manifest's counts are made those of the lines.
pub(crate) fn remeasure_run(
    folder: &Path,
    manifest: &mut Manifest,
) -> Result<AnswerStats, JobError> {
    let (rows, fingerprint) = (manifest.rows, &manifest.fingerprint);
    let (standing, lines) = CompletionState::from_folder_with_index(folder, rows, fingerprint)?;
    manifest.counts = standing.counts(rows);
    let wanted = RequestedOutputs { format: None, aggregate: &[], report: true };
    let measured = gather_solo(lines, &manifest.counts, folder, &wanted)?;
    Ok(measured.unwrap_or_default())
}

/// The report anew, from the files alone.
fn regenerate_report(folder: &Path) -> Result<(), JobError> {
    let (folder, mut manifest) = open_run(&folder.to_string_lossy())?;
    let measured = remeasure_run(&folder, &mut manifest)?;
    write(&folder, &manifest, &measured, Vec::new())
}

fn write(
    folder: &Path,
    manifest: &Manifest,
    measured: &AnswerStats,
    levels: Vec<Option<AnswerStats>>,
) -> Result<(), JobError> {
    let (summary, timelines) = build_summary(folder, manifest, measured, levels)?;
    write_report_files(folder, &summary, &timelines)
}

fn build_summary(
    folder: &Path,
    manifest: &Manifest,
    measured: &AnswerStats,
    levels: Vec<Option<AnswerStats>>,
) -> Result<(RunSummary, Vec<StartTimeline>), JobError> {
    let (samples, timelines) = (read_samples(folder), read_timelines(folder));
    let tree = tree_source(folder, manifest, levels)?;
    let tree = tree.as_ref();
    let alive = manifest.state == RunState::Running
        && live_heartbeat(folder, &NodeInfo::this_node().host).is_some();
    let sources = SummarySources {
        manifest,
        samples: &samples,
        timelines: &timelines,
        measured,
        is_active: alive,
        reduce: tree,
    };
    Ok((RunSummary::of(&sources), timelines))
}

fn write_report_files(
    folder: &Path,
    summary: &RunSummary,
    timelines: &[StartTimeline],
) -> Result<(), JobError> {
    let numbers = serde_json::to_value(summary).unwrap_or_default();
    write_json(&folder.join(SUMMARY_FILE), &numbers)?;
    Ok(write_text(&report_page_path(folder), &crate::report::render_report(summary, timelines))?)
}
