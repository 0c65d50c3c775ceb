//! The command `plan`, which needs neither MPI ranks nor servers. It reads files only, also while a run is active.
//!
//! The decision about an existing run is in [`super::preview`].

use std::path::Path;

use super::preview::preview_run;
use crate::job::{
    Invocation, JobError, JobVerdict,
    context::resolve_settings,
    root::open::{answer_format, row_rules},
    setup::scan::scan_alone,
};
use crate::{
    console::{self, PlanView, PlannedAction},
    settings::ResolvedSettings,
};

/// Local. Prints what a run would do: the first prompt as it would be sent, counts, settings with their origins, and
/// the handling of an existing run. Writes nothing.
///
/// # Errors
/// The settings or the input are invalid, or an existing run cannot be read.
pub(crate) fn plan_run(invocation: Invocation, inputs: &[String]) -> Result<JobVerdict, JobError> {
    let Invocation { config, flags, environment, .. } = invocation;
    let ResolvedSettings { settings, origins } = resolve_settings(config, flags, &environment)?;
    let scratch = Path::new(environment.get("TMPDIR").unwrap_or("/tmp"))
        .join(format!("aurora-swarm-plan-{}", std::process::id()));
    let output = settings.output.as_deref().map(Path::new);
    let scanned = scan_alone(inputs, &row_rules(&settings), &scratch, output);
    // Removed before errors of the scan are returned.
    let _ = std::fs::remove_dir_all(&scratch);
    let scanned = scanned?;
    let action = preview_run(&settings, &scanned)?;
    let models = scanned.models.named().iter().map(|it| (it.name.as_str(), it.count));
    let models: Vec<(&str, u64)> = models.collect();
    let view = PlanView {
        rows: scanned.source.rows,
        files: scanned.source.files.len(),
        bytes: scanned.source.files.iter().map(|file| file.size).sum(),
        bad_rows: scanned.bad_rows.len(),
        data_fields: &scanned.data_columns,
        row_params: &scanned.row_params,
        answer_tokens: scanned.answer_tokens,
        unlimited_rows: scanned.unlimited_rows,
        models: &models,
        notes: &scanned.notes,
        first_prompt: scanned.first_prompt.as_ref(),
        format: answer_format(&settings, &scanned.source),
        sampling: settings.sampling_params().to_json(),
        settings: serde_json::to_value(&settings).unwrap_or_default(),
        origins: &origins,
        action: &action,
    };
    console::print_stdout(&view.to_string());
    Ok(if matches!(action, PlannedAction::Refused(_)) {
        JobVerdict::Refused
    } else {
        JobVerdict::Done
    })
}
