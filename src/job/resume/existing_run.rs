//! The run that exists already at an output: decides whether this start resumes it, overwrites it or is refused, and
//! prepares the run folder accordingly.
//!
//! A changed input or changed settings are the business of [`super::changed_input`]. The manifest and the heartbeat
//! file themselves belong to [`output`](crate::output).

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use tracing::warn;

use super::changed_input::{self, AcceptedChanges};
use crate::job::{
    JobError, PreconditionError,
    setup::{
        output_place::check_output_name,
        run_plan::{SHARDS_FOLDER, spool_folder_name},
    },
};
use crate::{
    input::InputSource,
    output::{Heartbeat, Manifest, OutputError, part_path},
    settings::{ResumePolicy, Settings, SettingsError},
    shards,
    site::{NodeInfo, is_program_running},
};

/// Returns the absolute path of `--output`.
///
/// # Errors
/// It is missing or cannot be the name of a file.
pub(crate) fn output_path(settings: &Settings) -> Result<PathBuf, JobError> {
    let Some(output) = &settings.output else {
        return Err(JobError::Settings(SettingsError::usage("missing --output FILE".into())));
    };
    check_output_name(output)?;
    let path = std::path::absolute(output);
    Ok(path.map_err(OutputError::io_error("cannot resolve", Path::new(output)))?)
}

/// Finds the existing run before the input is scanned, and checks that it may be resumed or overwritten.
///
/// # Errors
/// The output was not written by this program, the run is active or damaged, or `--resume` forbids what was found.
pub(crate) fn find_existing_run(
    settings: &Settings,
    output: &Path,
    folder: &Path,
) -> Result<Option<Manifest>, JobError> {
    check_folder_place(output, folder)?;
    if let Some(heartbeat) = live_heartbeat(folder, &NodeInfo::this_node().host) {
        return Err(PreconditionError::RunActive {
            output: output.to_owned(),
            heartbeat: Box::new(heartbeat),
            folder: folder.to_owned(),
        }
        .into());
    }
    if output.exists() && !folder.is_dir() && !settings.overwrite {
        return Err(PreconditionError::OutputExists {
            output: output.to_owned(),
            folder: folder.to_owned(),
        }
        .into());
    }
    let manifest = match Manifest::read_from(folder) {
        Err(error) if !settings.overwrite => return Err(error.into()),
        read => read.ok().flatten(),
    };
    // Without the manifest it is unknown which input the answers belong to, so they must not be mixed with new ones.
    if manifest.is_none()
        && !settings.overwrite
        && !shards::list_shard_files(&folder.join(SHARDS_FOLDER))?.is_empty()
    {
        return Err(PreconditionError::ManifestMissing(folder.to_owned()).into());
    }
    match (settings.resume, &manifest) {
        (ResumePolicy::Never, Some(_)) if !settings.overwrite => {
            Err(PreconditionError::RunExists(folder.to_owned()).into())
        }
        (ResumePolicy::Require, None) => {
            Err(PreconditionError::NothingToResume(folder.to_owned()).into())
        }
        _ => Ok(manifest),
    }
}

/// Checks that the run folder, if it does not exist, may have this name.
fn check_folder_place(output: &Path, folder: &Path) -> Result<(), JobError> {
    let error = match std::fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => return Ok(()),
        Ok(_) => ErrorKind::NotADirectory.into(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => error,
    };
    let (output, path) = (output.to_owned(), folder.to_owned());
    Err(PreconditionError::OutputUnwritable { output, path, error }.into())
}

/// Prepares the run folder once the input is known. Returns the manifest to resume from, brought up to this input and
/// these settings, or `None` if the run begins from scratch; an overwritten run is then set aside.
pub(crate) fn resume_run(
    settings: &Settings,
    earlier: Option<Manifest>,
    source: &InputSource,
    folder: &Path,
    start: u32,
) -> Result<Option<Manifest>, JobError> {
    if let Some(earlier) = earlier.as_ref().filter(|_| !settings.overwrite) {
        changed_input::clean_interrupted_migration(folder, earlier)?;
    }
    let resumed = plan_resume(settings, earlier, source, folder)?;
    if settings.overwrite {
        set_aside_run(settings, folder, start)?;
    }
    let Some((mut manifest, changes)) = resumed else { return Ok(None) };
    changes.apply_changes(settings, &mut manifest, source, folder)?;
    remove_spools(folder, 1..start);
    Ok(Some(manifest))
}

/// Decides whether the run is resumed, without writing anything. Returns the manifest to resume from and the accepted
/// changes, or `None` if the run begins from scratch.
pub(crate) fn plan_resume(
    settings: &Settings,
    earlier: Option<Manifest>,
    source: &InputSource,
    folder: &Path,
) -> Result<Option<(Manifest, AcceptedChanges)>, JobError> {
    let Some(earlier) = earlier.filter(|_| !settings.overwrite) else { return Ok(None) };
    if earlier.away.is_none() && shards::list_shard_files(&folder.join(SHARDS_FOLDER))?.is_empty() {
        // Nothing was ever answered, so there is nothing that a change of input or settings could invalidate.
        return Ok(None);
    }
    let changes = AcceptedChanges::check_accepted(settings, &earlier, source, folder)?;
    Ok(Some((earlier, changes)))
}

/// Removes the copies of the input that these sessions made. Each session has its own copy, and rows are not read any
/// more once all prompts are done.
pub(crate) fn remove_spools(folder: &Path, starts: std::ops::Range<u32>) {
    let spools = starts.map(|start| folder.join(spool_folder_name(start)));
    for spool in spools.filter(|spool| spool.is_dir()) {
        if let Err(error) = std::fs::remove_dir_all(&spool) {
            warn!(
                event = "input_copy_not_removed",
                "input copy not removed: {}: {error}",
                spool.display()
            );
        }
    }
}

/// Moves an overwritten run into a folder of its own, except for what this start has written already. It is removed
/// only when a server is ready: a wrong model name or a dead server must not cost the existing answers.
fn set_aside_run(settings: &Settings, folder: &Path, start: u32) -> Result<(), JobError> {
    let replaced = folder.join(replaced_name(start));
    let beat = Path::new(Heartbeat::FILE_NAME);
    let kept = [
        spool_folder_name(start).into(),
        replaced_name(start).into(),
        beat.into(),
        part_path(beat),
    ];
    // The folder of a first run does not exist yet.
    let entries = std::fs::read_dir(folder)
        .map(|entries| entries.flatten().collect())
        .unwrap_or_else(|_| Vec::new());
    let old_entries = entries
        .iter()
        .filter(|entry| !kept.iter().any(|kept| entry.file_name() == kept.as_os_str()));
    let output = Path::new(settings.output.as_deref().unwrap_or_default()).to_owned();
    // Aggregates were computed from the old answers, so they move along with them.
    let old_manifest = Manifest::read_from(folder).ok().flatten();
    let aggregates = old_manifest.map(|manifest| manifest.aggregates).unwrap_or_default();
    let aggregates = aggregates.iter().map(|name| output.with_file_name(name));
    let outputs: Vec<_> =
        aggregates.chain([output.clone()]).filter(|path| path.is_file()).collect();
    for path in old_entries.map(std::fs::DirEntry::path).chain(outputs) {
        std::fs::create_dir_all(&replaced)
            .map_err(OutputError::io_error("cannot create", &replaced))?;
        let target = replaced.join(path.file_name().unwrap_or_default());
        std::fs::rename(&path, &target).map_err(OutputError::io_error("cannot move", &path))?;
    }
    Ok(())
}

/// Deletes the overwritten run that [`resume_run`] has set aside.
pub(crate) fn remove_replaced(folder: &Path, start: u32) -> Result<(), JobError> {
    // Earlier starts that found no ready server may have set runs aside too.
    let replaced = (1..=start).map(|start| folder.join(replaced_name(start)));
    for folder in replaced.filter(|folder| folder.is_dir()) {
        std::fs::remove_dir_all(&folder)
            .map_err(OutputError::io_error("cannot remove", &folder))?;
    }
    Ok(())
}

/// Logs where the overwritten run is kept, if no server became ready.
pub(crate) fn warn_about_replaced(folder: &Path, start: u32) {
    let replaced = folder.join(replaced_name(start));
    if replaced.is_dir() {
        warn!(
            event = "replaced_run_kept",
            "previous run kept in {} until a server is ready",
            replaced.display()
        );
    }
}

fn replaced_name(start: u32) -> String {
    format!("replaced-{start:04}")
}

/// Returns the heartbeat of an active session in this run folder. A heartbeat of this host counts while its process
/// exists, suspended or not, and one of another host while it is fresh.
pub(crate) fn live_heartbeat(folder: &Path, host: &str) -> Option<Heartbeat> {
    /// In seconds; twelve intervals of the heartbeat thread.
    const HEARTBEAT_MAX_AGE: u64 = 60;
    let heartbeat = Heartbeat::read_from(folder)?;
    let is_live = match heartbeat.host == host {
        true => is_program_running(heartbeat.pid),
        false => heartbeat.age_s() < HEARTBEAT_MAX_AGE,
    };
    is_live.then_some(heartbeat)
}
