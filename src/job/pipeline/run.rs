//! The `run` command: one pass of the pipeline, then the answers gathered into one file in input order.

use super::pass::{JobResources, PassResult, run_pass};
use crate::job::{
    Invocation, JobError, JobVerdict,
    collect::gather::{LineCallback, gather_answers, visit_lines},
    context::{JobContext, establish_context, root_result},
};
use crate::{
    comm::{Comm, TypedComm},
    console,
};

/// Collective. Answers the prompts of `inputs`.
///
/// # Errors
/// Settings, input or an existing run prevent the job, or a file cannot be read or written. Answers received before the
/// error are on disk, and the same command resumes the run.
pub(crate) fn run(
    comm: &mut dyn Comm,
    mut invocation: Invocation,
    inputs: &[String],
) -> Result<JobVerdict, JobError> {
    let mut resources = JobResources::new(invocation.guard.take(), invocation.exit_code);
    let mut context = establish_context(comm, invocation)?;
    context.settings.reduce_template = None; // a settings file for `run` and `reduce` may have one
    console::set_log_identity(context.placement.rank, &context.placement.node.host);
    answer_prompts(comm, &context, &mut resources, inputs, None)
}

/// Collective. Answers the prompts within an established job. With `visit_line`, each rank passes its own valid answer
/// lines to it and no file is written; without, the answers are gathered as the settings demand.
pub(crate) fn answer_prompts(
    comm: &mut dyn Comm,
    context: &JobContext,
    resources: &mut JobResources,
    inputs: &[String],
    visit_line: Option<LineCallback<'_>>,
) -> Result<JobVerdict, JobError> {
    let Some(pass) = run_pass(comm, context, resources, inputs)? else {
        return Ok(JobVerdict::NoEndpoint);
    };
    let PassResult { root, plan, completion, line_index } = pass;
    let gathered = match visit_line {
        Some(visit_line) => {
            let visited = visit_lines(
                comm,
                line_index,
                &completion.outcome_counts(plan.source.rows),
                visit_line,
            );
            visited.map(|()| None)
        }
        None => gather_answers(comm, &plan, context, line_index, &completion),
    };
    let ended = root.map(|mut root| {
        let measured = gathered.as_ref().ok().and_then(Option::as_ref);
        let ended = root.finish_run(&completion, gathered.is_ok(), measured);
        root.write_run_report(&gathered);
        ended
    });
    gathered?;
    let verdict = root_result(comm, ended)?;
    Ok(comm.broadcast_value(verdict)?)
}
