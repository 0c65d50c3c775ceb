//! The report files of a run: when `report.html` and `summary.json` are written, and from which sources.
//!
//! Rank 0 writes them at the end of a run, from the manifest, the samples, the timelines of the endpoints and the answer
//! statistics, which come from all ranks. All sources are files or can be computed again from the shard files, so that the
//! `report` command writes the same report later. A reduce has one report for all its passes, in the run folder of the
//! leaves. A report that cannot be written is a warning, never an error of the run. The page itself is built in
//! [`report`](crate::report).

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use tracing::{debug, warn};

use super::RootRun;
use crate::job::{
    JobError,
    collect::gather::remeasure_run,
    resume::{existing_run::live_heartbeat, run_folder::open_run},
    root::reduce_measurements::{PassMeasurements, tree_source},
};
use crate::{
    console::{self, ReduceEndSummary},
    metrics::AnswerStats,
    metrics::timeline::Timeline,
    output::{
        Manifest, RunState, StartTimeline, append_timeline, read_samples, read_timelines,
        write_json, write_text,
    },
    report::{RunSummary, SummarySources},
    site::NodeInfo,
};

/// Returns the path of the report page in a run folder.
pub(crate) fn report_page_path(folder: &Path) -> PathBuf {
    folder.join(REPORT_PAGE_FILE)
}

/// Returns the path of the report's numbers in a run folder.
pub(crate) fn summary_path(folder: &Path) -> PathBuf {
    folder.join(SUMMARY_FILE)
}

const REPORT_PAGE_FILE: &str = "report.html";
const SUMMARY_FILE: &str = "summary.json";

impl RootRun {
    /// Saves the timeline of all ranks' endpoints, whose origin is `began`.
    pub(crate) fn save_timeline(&self, timeline: &Timeline, began: Instant) {
        if timeline.bucket_count() == 0 {
            return;
        }
        let offset = (began - self.started_at).as_secs_f64();
        let timeline = timeline.clone();
        let line = StartTimeline { start: self.manifest.starts, offset, timeline };
        if let Err(error) = append_timeline(&self.folder, &line) {
            warn!(
                event = "timeline_not_saved",
                "endpoint timeline not saved for the report: {error}"
            );
        }
    }

    /// Writes the report after the end of the run, if the answers were measured.
    pub(crate) fn write_run_report(&self, measured: &Result<Option<AnswerStats>, JobError>) {
        let Ok(Some(measured)) = measured else { return };
        match &self.tree_folder {
            // A level that ends the job early: the statistics of the other levels are computed from their files.
            Some(leaves) => self.log_report_result(leaves, regenerate_report(leaves)),
            None => self.log_report_result(
                &self.folder,
                write_report(&self.folder, &self.manifest, measured, Vec::new()),
            ),
        }
    }

    /// Writes the report of a reduce, of which this is the run of the leaves; prints its summary if the tree has `ended`.
    pub(crate) fn finish_tree_report(&self, measured: PassMeasurements, ended: bool) {
        let written = self.summarize_tree(measured, ended).and_then(|(summary, timelines)| {
            if self.writes_report {
                write_report_files(&self.folder, &summary, &timelines)
            } else {
                Ok(())
            }
        });
        self.log_report_result(&self.folder, written);
    }

    fn summarize_tree(
        &self,
        measured: PassMeasurements,
        ended: bool,
    ) -> Result<(RunSummary, Vec<StartTimeline>), JobError> {
        let leaves = measured.leaves.unwrap_or_default();
        // Levels that were not measured count as empty: `None` would have them measured from the files.
        let levels =
            measured.levels.into_iter().map(|stats| Some(stats.unwrap_or_default())).collect();
        let (summary, timelines) = build_summary(&self.folder, &self.manifest, &leaves, levels)?;
        if let Some(tree) = summary.reduce.as_ref().filter(|_| ended) {
            let page = self
                .writes_report
                .then(|| report_page_path(&self.folder).to_string_lossy().into_owned());
            let end_summary = ReduceEndSummary {
                tree,
                output: &self.manifest.output,
                report: page.as_deref(),
                folder: &self.folder.to_string_lossy(),
            };
            console::print_stdout(&end_summary.to_string());
        }
        Ok((summary, timelines))
    }

    fn log_report_result(&self, folder: &Path, written: Result<(), JobError>) {
        if self.writes_report {
            match written {
                Ok(()) => {
                    let page = report_page_path(folder);
                    debug!(event = "report_written", "report written: {}", page.display());
                }
                Err(error) => warn!(event = "report_not_written", "report not written: {error}"),
            }
        }
    }
}

/// Local. Writes the report of a run again, from its files alone.
///
/// # Errors
/// A file of the run cannot be read, or the report cannot be written.
pub(crate) fn regenerate_report(folder: &Path) -> Result<(), JobError> {
    let (folder, mut manifest) = open_run(&folder.to_string_lossy())?;
    let measured = remeasure_run(&folder, &mut manifest)?;
    write_report(&folder, &manifest, &measured, Vec::new())
}

fn write_report(
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
    let is_active = manifest.state == RunState::Running
        && live_heartbeat(folder, &NodeInfo::this_node().host).is_some();
    let sources = SummarySources {
        manifest,
        samples: &samples,
        timelines: &timelines,
        stats: measured,
        is_active,
        reduce: tree,
    };
    Ok((RunSummary::from_sources(&sources), timelines))
}

fn write_report_files(
    folder: &Path,
    summary: &RunSummary,
    timelines: &[StartTimeline],
) -> Result<(), JobError> {
    let numbers = serde_json::to_value(summary).unwrap_or_default();
    write_json(&summary_path(folder), &numbers)?;
    Ok(write_text(&report_page_path(folder), &crate::report::render_report(summary, timelines))?)
}
