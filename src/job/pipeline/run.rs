//! `run`: the line, top to bottom, and the answers in one file.

use super::pass::{Crew, Passed, pass};
use crate::job::{
    Codes, Given, JobError, Verdict,
    collect::gather::{Each, gather, visit},
    context::{Common, agree, told},
};
use crate::{
    comm::{Comm, Typed},
    console,
};

/// Collective. Answers the prompts of `inputs`.
///
/// # Errors
/// Where settings, input or what is there already stand in the way. What is answered by then is on disk.
pub fn run(
    comm: &mut dyn Comm,
    mut given: Given,
    inputs: &[String],
    codes: Codes,
) -> Result<Verdict, JobError> {
    let mut crew = Crew::new(given.guard.take(), codes);
    let mut common = agree(comm, given, codes.error)?;
    common.settings.reduce_template = None; // a settings file for both commands may have one
    console::this_is_rank(common.place.rank, &common.place.node.host);
    answer(comm, &common, &mut crew, inputs, None)
}

/// Collective. The same, with what is known. Each rank's own lines that count go to `each`, and nowhere else; where nobody
/// wants them, all go to where the settings say.
pub(crate) fn answer(
    comm: &mut dyn Comm,
    common: &Common,
    crew: &mut Crew,
    inputs: &[String],
    each: Option<Each<'_>>,
) -> Result<Verdict, JobError> {
    let code = crew.codes.error;
    let Some(passed) = pass(comm, common, crew, inputs)? else {
        return Ok(Verdict::NoEndpoint);
    };
    let Passed { root, brief, standing, lines } = passed;
    let gathered = match each {
        Some(each) => {
            let visited = visit(comm, lines, &standing.counts(brief.source.rows), each, code);
            visited.map(|()| None)
        }
        None => gather(comm, &brief, common, lines, &standing, code),
    };
    let ended = root.map(|mut root| {
        let measured = gathered.as_ref().ok().and_then(Option::as_ref);
        let ended = root.end(&standing, gathered.is_ok(), measured);
        root.report(&gathered);
        ended
    });
    gathered?;
    let verdict = told(comm, ended, code)?;
    Ok(comm.broadcast_value(verdict)?)
}
