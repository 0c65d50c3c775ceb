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

use super::Root;
use crate::job::{
    JobError, Verdict,
    collect::{completion::Standing, gather::gather_alone},
    commands::offline::{open, tell_of_what_is_away},
    setup::run_plan::{Wanted, at_work},
    tree_reduce::measurements::{PassesMeasured, tree_source},
};
use crate::{
    console::{self, TreeFinish},
    domain::Timeline,
    metrics::Measured,
    output::{
        Manifest, StartTimeline, State, read_samples, read_timelines, write_json, write_text,
        write_timeline,
    },
    report::{Sources, Summary},
    site::Node,
};

/// Where the page of a run folder lies.
pub(crate) fn page_of(folder: &Path) -> PathBuf {
    folder.join(PAGE)
}

const PAGE: &str = "report.html";
const NUMBERS: &str = "summary.json";

impl Root {
    /// What all ranks' endpoints did since this moment, when the work began.
    pub(crate) fn watched(&self, timeline: &Timeline, began: Instant) {
        if timeline.columns() == 0 {
            return;
        }
        let offset = (began - self.began).as_secs_f64();
        let timeline = timeline.clone();
        let line = StartTimeline { start: self.manifest.starts, offset, timeline };
        if let Err(error) = write_timeline(&self.folder, &line) {
            warn!("the report will not show what endpoints did over time: {error}");
        }
    }

    /// The report, where lines were measured: after the end, which it does not change.
    pub(crate) fn report(&self, measured: &Result<Option<Measured>, JobError>) {
        let Ok(Some(measured)) = measured else { return };
        match &self.tree {
            // (the rest of the tree is read from its files: whoever asks for this is alone)
            Some(leaves) => self.tell(leaves, renewed(leaves)),
            None => {
                self.tell(&self.folder, write(&self.folder, &self.manifest, measured, Vec::new()))
            }
        }
    }

    /// Of a reduce, whose leaves these are, after its end: what its levels came to, if that is the end of it, and the report.
    pub(crate) fn tell_of_tree(&self, measured: PassesMeasured, ended: bool) {
        let written = self.sum_up(measured, ended).and_then(|(summary, timelines)| {
            if self.report { write_both(&self.folder, &summary, &timelines) } else { Ok(()) }
        });
        self.tell(&self.folder, written);
    }

    fn sum_up(
        &self,
        measured: PassesMeasured,
        ended: bool,
    ) -> Result<(Summary, Vec<StartTimeline>), JobError> {
        let leaves = measured.leaves.unwrap_or_default();
        // What was not measured is not wanted.
        let levels = measured.levels.into_iter().map(|it| Some(it.unwrap_or_default())).collect();
        let (summary, timelines) = summed_up(&self.folder, &self.manifest, &leaves, levels)?;
        if let Some(tree) = summary.reduce.as_ref().filter(|_| ended) {
            let page = self.report.then(|| page_of(&self.folder).to_string_lossy().into_owned());
            let finish = TreeFinish {
                tree,
                output: &self.manifest.output,
                report: page.as_deref(),
                folder: &self.folder.to_string_lossy(),
            };
            console::print(&finish.to_string());
        }
        Ok((summary, timelines))
    }

    fn tell(&self, folder: &Path, written: Result<(), JobError>) {
        if self.report {
            match written {
                Ok(()) => debug!(page = %folder.join(PAGE).display(), "the report is written"),
                Err(error) => warn!("there is no report: {error}"),
            }
        }
    }
}

/// Local. The report of a run again, from its files.
///
/// # Errors
/// Where there is no run, or its files cannot be read, or the report cannot be written.
pub fn report(run: &str) -> Result<Verdict, JobError> {
    let (folder, mut manifest) = open(run)?;
    let alive = at_work(&folder, &Node::here().host).is_some();
    tell_of_what_is_away(manifest.away.as_deref(), alive);
    let measured = again(&folder, &mut manifest)?;
    write(&folder, &manifest, &measured, Vec::new())?;
    console::print(&format!(
        "{}\n{}\n",
        folder.join(PAGE).display(),
        folder.join(NUMBERS).display()
    ));
    Ok(Verdict::Done)
}

/// What a run folder's lines measure, by this process alone. The manifest's counts are made those of the lines.
pub(crate) fn again(folder: &Path, manifest: &mut Manifest) -> Result<Measured, JobError> {
    let (rows, fingerprint) = (manifest.rows, &manifest.fingerprint);
    let (standing, lines) = Standing::of_folder_with_lines(folder, rows, fingerprint)?;
    manifest.counts = standing.counts(rows);
    let wanted = Wanted { format: None, aggregate: &[], report: true };
    let measured = gather_alone(lines, &manifest.counts, folder, &wanted)?;
    Ok(measured.unwrap_or_default())
}

/// The report anew, from the files alone.
fn renewed(folder: &Path) -> Result<(), JobError> {
    let (folder, mut manifest) = open(&folder.to_string_lossy())?;
    let measured = again(&folder, &mut manifest)?;
    write(&folder, &manifest, &measured, Vec::new())
}

fn write(
    folder: &Path,
    manifest: &Manifest,
    measured: &Measured,
    levels: Vec<Option<Measured>>,
) -> Result<(), JobError> {
    let (summary, timelines) = summed_up(folder, manifest, measured, levels)?;
    write_both(folder, &summary, &timelines)
}

fn summed_up(
    folder: &Path,
    manifest: &Manifest,
    measured: &Measured,
    levels: Vec<Option<Measured>>,
) -> Result<(Summary, Vec<StartTimeline>), JobError> {
    let (samples, timelines) = (read_samples(folder), read_timelines(folder));
    let tree = tree_source(folder, manifest, levels)?;
    let tree = tree.as_ref();
    let alive = manifest.state == State::Running && at_work(folder, &Node::here().host).is_some();
    let sources =
        Sources { manifest, samples: &samples, timelines: &timelines, measured, alive, tree };
    Ok((Summary::of(&sources), timelines))
}

fn write_both(
    folder: &Path,
    summary: &Summary,
    timelines: &[StartTimeline],
) -> Result<(), JobError> {
    let numbers = serde_json::to_value(summary).unwrap_or_default();
    write_json(&folder.join(NUMBERS), &numbers)?;
    Ok(write_text(&page_of(folder), &crate::report::page(summary, timelines))?)
}
