//! How a run went, for people and scripts: when that is written, and from what.
//!
//! Rank 0 writes `report.html` and `summary.json` at the end of a run, from the manifest, what was sampled, what endpoints did
//! over time, and what the lines measure; the last comes from all ranks. All of it but the measures lies in files, and lines do
//! as well, so `report` makes the same again. A report is never a reason for a run to fail. How it looks is `report`'s.

use std::{path::Path, time::Instant};

use tracing::{info, warn};

use super::{
    JobError, Verdict,
    brief::{Wanted, at_work},
    gather::gather_alone,
    offline::{open, tell_of_what_is_away},
    root::Root,
    standing::Standing,
};
use crate::{
    domain::Timeline,
    measure::Measured,
    output::{
        Manifest, OutputError, StartTimeline, read_samples, read_timelines, write_json, write_text,
        write_timeline,
    },
    report::{self, Sources, Summary},
    site::Node,
};

const PAGE: &str = "report.html";
const NUMBERS: &str = "summary.json";

impl Root {
    /// What all ranks' endpoints did since this moment, when the work began.
    pub(super) fn watched(&self, timeline: &Timeline, began: Instant) {
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
    pub(super) fn report(&self, measured: &Result<Option<Measured>, JobError>) {
        if let Ok(Some(measured)) = measured {
            match write(&self.folder, &self.manifest, measured) {
                Ok(()) => info!(page = %self.folder.join(PAGE).display(), "the report is written"),
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
    write(&folder, &manifest, &measured)?;
    report::print(&format!(
        "{}\n{}\n",
        folder.join(PAGE).display(),
        folder.join(NUMBERS).display()
    ));
    Ok(Verdict::Done)
}

/// What a run folder's lines measure, by this process alone. The manifest's counts are made those of the lines.
fn again(folder: &Path, manifest: &mut Manifest) -> Result<Measured, JobError> {
    let (rows, fingerprint) = (manifest.rows, &manifest.fingerprint);
    let (standing, lines) = Standing::of_folder_with_lines(folder, rows, fingerprint)?;
    manifest.counts = standing.counts(rows);
    let wanted = Wanted { format: None, aggregate: &[], report: true };
    let measured = gather_alone(lines, &manifest.counts, folder, &wanted)?;
    Ok(measured.unwrap_or_default())
}

fn write(folder: &Path, manifest: &Manifest, measured: &Measured) -> Result<(), OutputError> {
    let (samples, timelines) = (read_samples(folder), read_timelines(folder));
    let sources = Sources { manifest, samples: &samples, timelines: &timelines, measured };
    let summary = Summary::of(&sources);
    let numbers = serde_json::to_value(&summary).unwrap_or_default();
    write_json(&folder.join(NUMBERS), &numbers)?;
    write_text(&folder.join(PAGE), &report::page(&summary, &timelines))
}
