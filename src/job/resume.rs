//! What is there already, and whether this run goes on with it.

use std::path::Path;

use super::{
    JobError,
    brief::{SHARDS, is_alive},
};
use crate::{
    output::{Manifest, OutputError},
    settings::{Resume, Settings},
    shards,
    site::Node,
};

/// Before the input is read: the run that is there, if it may be gone on with or written over.
pub(super) fn look(
    settings: &Settings,
    output: &str,
    folder: &Path,
) -> Result<Option<Manifest>, JobError> {
    let refuse = |why: String| Err(JobError::Standing(why));
    let there = Path::new(output).exists();
    if there && !folder.is_dir() && !settings.overwrite {
        return refuse(format!(
            "{output} is there and its run folder is not: it may be somebody's answers. Choose another --output, or \
             --overwrite it"
        ));
    }
    let manifest = match Manifest::read(folder) {
        Err(error) if !settings.overwrite => return Err(error.into()),
        read => read.ok().flatten(),
    };
    if let Some(manifest) = manifest.as_ref().filter(|it| is_alive(it, &Node::here().host)) {
        return refuse(format!(
            "this run is being worked on, by process {} on {}{}, which wrote its manifest {} s ago: let it end, or end it",
            manifest.pid,
            manifest.host,
            manifest.job.as_ref().map_or(String::new(), |job| format!(" (job {job})")),
            crate::output::now().saturating_sub(manifest.heartbeat),
        ));
    }
    match (settings.resume, &manifest) {
        (Resume::Never, Some(_)) if !settings.overwrite => refuse(format!(
            "{} is there, and --resume is never: --overwrite it, or choose another --output",
            folder.display()
        )),
        (Resume::Require, None) => refuse(format!(
            "--resume is require, and there is no run to go on with in {}",
            folder.display()
        )),
        _ => Ok(manifest),
    }
}

/// Once the input is known: the manifest to go on with, or none where the run begins anew (and what was there is gone).
pub(super) fn go_on(
    settings: &Settings,
    earlier: Option<Manifest>,
    fingerprint: &str,
    folder: &Path,
    start: u32,
) -> Result<Option<Manifest>, JobError> {
    if settings.overwrite {
        clear(settings, folder, start)?;
        return Ok(None);
    }
    let Some(earlier) = earlier else { return Ok(None) };
    if shards::list(&folder.join(SHARDS))?.is_empty() {
        // Nothing was ever answered: whatever it was to be, it may be something else now.
        return Ok(None);
    }
    if earlier.fingerprint != fingerprint {
        return Err(JobError::Standing(format!(
            "the input has changed since this run began ({} rows then): give it the input it began with, or begin anew \
             with --overwrite or another --output",
            earlier.rows
        )));
    }
    let now = settings.deciding();
    let differ: Vec<String> = now
        .iter()
        .filter(|(key, value)| earlier.deciding.get(*key).is_some_and(|before| before != *value))
        .map(|(key, value)| format!("{key} was {} and is {value}", earlier.deciding[key]))
        .collect();
    if !differ.is_empty() {
        return Err(JobError::Standing(format!(
            "settings that decide answers differ from this run's: {}. Give them as they were, or begin anew with \
             --overwrite or another --output",
            differ.join("; ")
        )));
    }
    Ok(Some(earlier))
}

/// Removes an earlier run, but for what this start has laid out already.
fn clear(settings: &Settings, folder: &Path, start: u32) -> Result<(), JobError> {
    let kept = format!("input-{start:04}");
    if let Ok(entries) = std::fs::read_dir(folder) {
        for entry in entries.flatten().filter(|entry| entry.file_name() != kept.as_str()) {
            let path = entry.path();
            let removed = if path.is_dir() {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            removed.map_err(OutputError::io("cannot remove", &path))?;
        }
    }
    let output = Path::new(settings.output.as_deref().unwrap_or_default());
    if output.is_file() {
        std::fs::remove_file(output).map_err(OutputError::io("cannot remove", output))?;
    }
    Ok(())
}
