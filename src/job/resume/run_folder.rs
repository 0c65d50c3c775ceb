//! Opening the folder of an existing run by name, for the commands that only read it: `status`, `merge` and `report`.
//!
//! A start that may write to the folder goes through [`super::existing_run`] instead.

use std::path::{Path, PathBuf};

use tracing::{info, warn};

use crate::job::{JobError, PreconditionError, setup::run_plan::run_folder};
use crate::output::{Heartbeat, Manifest};

/// Opens a run that is named by its output file or by its folder.
///
/// # Errors
/// There is no manifest, or it cannot be read.
pub(crate) fn open_run(run: &str) -> Result<(PathBuf, Manifest), JobError> {
    let folder = resolve_run_folder(run);
    match Manifest::read_from(&folder)? {
        Some(manifest) => Ok((folder, manifest)),
        None => Err(no_run_error(&folder)),
    }
}

/// Returns the run folder for the name of an output file or of the folder itself.
pub(crate) fn resolve_run_folder(run: &str) -> PathBuf {
    let given = PathBuf::from(run.trim_end_matches('/'));
    // A heartbeat alone is enough: a run that scans its input has no manifest yet.
    let has_file = |name: &str| given.join(name).is_file();
    if has_file("manifest.json") || has_file(Heartbeat::FILE_NAME) {
        given
    } else {
        run_folder(&given)
    }
}

pub(crate) fn no_run_error(folder: &Path) -> JobError {
    PreconditionError::RunNotFound(folder.to_owned()).into()
}

/// Logs that answers may be on nodes, where this process does not see them. `away` is the pattern of the folders.
pub(crate) fn log_uncollected_answers(away: Option<&str>, is_active: bool) {
    match away {
        Some(away) if is_active => {
            info!(
                event = "answers_on_nodes",
                "answers of this session are on its nodes, in {away}"
            );
        }
        Some(away) => warn!(
            event = "uncollected_answers",
            "answers not collected: more answers may be in {away} on the nodes of the last session; the same command \
             on the same nodes collects them"
        ),
        None => {}
    }
}
