//! `run`: the line, top to bottom, and the answers in one file.

use super::pass::{JobResources, PassResult, run_pass};
use crate::job::{
    ExitCodeMap, Invocation, JobError, JobVerdict,
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
/// Where settings, input or what is there already stand in the way. What is answered by then is on disk.
pub fn run(
    comm: &mut dyn Comm,
    mut given: Invocation,
    inputs: &[String],
    codes: ExitCodeMap,
) -> Result<JobVerdict, JobError> {
    let mut crew = JobResources::new(given.guard.take(), codes);
    let mut common = establish_context(comm, given, codes.error)?;
    common.settings.reduce_template = None; // a settings file for both commands may have one
    console::set_log_identity(common.placement.rank, &common.placement.node.host);
    answer_prompts(comm, &common, &mut crew, inputs, None)
}

/// Collective. The same, with what is known. Each rank's own lines that count go to `each`, and nowhere else; where nobody
/// wants them, all go to where the settings say.
pub(crate) fn answer_prompts(
    comm: &mut dyn Comm,
    common: &JobContext,
    crew: &mut JobResources,
    inputs: &[String],
    each: Option<LineCallback<'_>>,
) -> Result<JobVerdict, JobError> {
    let code = crew.exit_codes.error;
    let Some(passed) = run_pass(comm, common, crew, inputs)? else {
        return Ok(JobVerdict::NoEndpoint);
    };
    let PassResult { root, plan: brief, completion: standing, line_index: lines } = passed;
    let gathered = match each {
        Some(each) => {
            let visited = visit_lines(comm, lines, &standing.counts(brief.source.rows), each, code);
            visited.map(|()| None)
        }
        None => gather_answers(comm, &brief, common, lines, &standing, code),
    };
    let ended = root.map(|mut root| {
        let measured = gathered.as_ref().ok().and_then(Option::as_ref);
        let ended = root.end(&standing, gathered.is_ok(), measured);
        root.report(&gathered);
        ended
    });
    gathered?;
    let verdict = root_result(comm, ended, code)?;
    Ok(comm.broadcast_value(verdict)?)
}
