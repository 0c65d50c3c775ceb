//! What `run` would do with what is there: for `plan`, which changes nothing.
//!
//! Owns no rule: it asks those that `run` asks, and counts what would be left to ask.

use super::existing_run;
use crate::job::{
    JobError, collect::completion::Standing, root::open::fits, setup::run_plan::run_folder,
};
use crate::{console::Outlook, input::Scanned, output::Counts, settings::Settings};

/// Local. What a run with these settings and this input would do.
///
/// # Errors
/// Where what is there cannot be read, which a run would meet as well.
pub(crate) fn outlook(settings: &Settings, scanned: &Scanned) -> Result<Outlook, JobError> {
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
    let output = existing_run::output(settings)?;
    let folder = run_folder(&output);
    let earlier = existing_run::look(settings, &output, &folder)?;
    fits(settings, &scanned.source)?;
    let replaces = settings.overwrite && (earlier.is_some() || output.exists());
    let source = &scanned.source;
    let Some((manifest, changes)) = existing_run::may_go_on(settings, earlier, source, &folder)?
    else {
        return Ok(Outlook::Anew { asked: all, replaces });
    };
    if let Some(told) = changes.of_input() {
        return Ok(Outlook::GoesOn {
            // One number is for what is carried over.
            start: manifest.starts + 2,
            counts: Counts::new(source.rows, told.kept, 0),
            asked: told.new.saturating_sub(scanned.bad.len() as u64),
            // Not of this input.
            output: false,
        });
    }
    let rows = manifest.rows;
    let standing = Standing::of_folder(&folder, rows, &source.fingerprint)?;
    let mut settled = standing.done(settings.retry_failed);
    scanned.bad.iter().for_each(|bad| settled.insert(bad.index));
    Ok(Outlook::GoesOn {
        start: manifest.starts + 1,
        counts: standing.counts(rows),
        asked: rows - settled.count(),
        output: output.exists(),
    })
}
