//! The dry run behind `plan`: reports what `run` would do with the existing run, without writing anything.
//!
//! Owns no rule of its own: it applies those of [`existing_run`] and
//! [`changed_input`](crate::job::resume::changed_input), and counts the prompts that would be sent.

use crate::job::{
    JobError,
    collect::completion::CompletionState,
    resume::existing_run,
    root::open::{check_format_name, check_input_fits},
    setup::run_plan::run_folder,
};
use crate::{
    console::PlannedAction, input::ScannedInput, output::PromptCounts, settings::Settings,
};

/// Local. Returns what a run with these settings and this input would do.
///
/// # Errors
/// The existing run cannot be read; `run` would fail in the same way.
pub(crate) fn preview_run(
    settings: &Settings,
    scanned: &ScannedInput,
) -> Result<PlannedAction, JobError> {
    match build_preview(settings, scanned) {
        Err(JobError::Precondition(reason)) => Ok(PlannedAction::Refused(reason.to_string())),
        preview => preview,
    }
}

fn build_preview(settings: &Settings, scanned: &ScannedInput) -> Result<PlannedAction, JobError> {
    let prompts = scanned.source.rows - scanned.bad_rows.len() as u64;
    if settings.output.is_none() {
        return Ok(PlannedAction::NoOutput { asked: prompts });
    }
    let output = existing_run::output_path(settings)?;
    let folder = run_folder(&output);
    let earlier = existing_run::find_existing_run(settings, &output, &folder)?;
    check_format_name(settings)?;
    check_input_fits(settings, &scanned.source)?;
    let overwrites = settings.overwrite && (earlier.is_some() || output.exists());
    let source = &scanned.source;
    let Some((manifest, changes)) = existing_run::plan_resume(settings, earlier, source, &folder)?
    else {
        return Ok(PlannedAction::StartNew { asked: prompts, overwrites });
    };
    if let Some(counts) = changes.input_match_counts() {
        return Ok(PlannedAction::Resume {
            // The migrated answers take one session number, the run that follows takes the next.
            start: manifest.starts + 2,
            counts: PromptCounts::new(source.rows, counts.kept, 0),
            asked: counts.new.saturating_sub(scanned.bad_rows.len() as u64),
            // An output file, if any, holds the answers to the earlier input.
            is_gathered: false,
        });
    }
    let rows = manifest.rows;
    let completion = CompletionState::from_folder(&folder, rows, &source.fingerprint)?;
    let mut done = completion.done_prompts(settings.retry_failed, settings.retry_cut);
    done.extend(scanned.bad_rows.iter().map(|bad_row| bad_row.index));
    Ok(PlannedAction::Resume {
        start: manifest.starts + 1,
        counts: completion.outcome_counts(rows),
        asked: rows - done.member_count(),
        is_gathered: output.exists(),
    })
}
