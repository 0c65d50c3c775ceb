//! What `run` would do with what is there: for `plan`, which changes nothing.
//!
//! Owns no rule: it asks those that `run` asks, and counts what would be left to ask.

use super::{JobError, brief::run_folder, resume, root::fits, standing::Standing};
use crate::{prompts::Scanned, report::Outlook, settings::Settings};

/// Local. What a run with these settings and this input would do.
///
/// # Errors
/// Where what is there cannot be read, which a run would meet as well.
pub(super) fn outlook(settings: &Settings, scanned: &Scanned) -> Result<Outlook, JobError> {
    match look(settings, scanned) {
        Err(JobError::Standing(why)) => Ok(Outlook::Refused(why)),
        seen => seen,
    }
}

fn look(settings: &Settings, scanned: &Scanned) -> Result<Outlook, JobError> {
    let all = scanned.source.rows - scanned.bad.len() as u64;
    if settings.output.is_none() {
        return Ok(Outlook::Nowhere { asked: all });
    }
    let output = resume::output(settings)?;
    let folder = run_folder(&output);
    let earlier = resume::look(settings, &output, &folder)?;
    fits(settings, &scanned.source)?;
    let replaces = settings.overwrite && (earlier.is_some() || output.exists());
    let fingerprint = &scanned.source.fingerprint;
    let Some(manifest) = resume::may_go_on(settings, earlier, fingerprint, &folder)? else {
        return Ok(Outlook::Anew { asked: all, replaces });
    };
    let rows = manifest.rows;
    let standing = Standing::of_folder(&folder, rows, fingerprint)?;
    let mut settled = standing.done(settings.retry_failed);
    scanned.bad.iter().for_each(|bad| settled.insert(bad.index));
    Ok(Outlook::GoesOn {
        start: manifest.starts + 1,
        counts: standing.counts(rows),
        asked: rows - settled.count(),
        output: output.exists(),
    })
}
