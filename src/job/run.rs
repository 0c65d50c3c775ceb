//! `run`: the line, top to bottom, and the answers in one file.

use super::{
    Codes, Given, JobError, Verdict,
    agree::{agree, told},
    gather::gather,
    pass::{Crew, Passed, pass},
};
use crate::{
    comm::{Comm, Typed},
    report,
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
    let mut crew = Crew::new(&mut given, codes);
    let mut common = agree(comm, given, codes.error)?;
    common.settings.reduce_template = None; // a settings file for both commands may have one
    report::this_is_rank(common.place.rank, &common.place.node.host);
    let Some(passed) = pass(comm, &common, &mut crew, inputs)? else {
        return Ok(Verdict::NoEndpoint);
    };
    let Passed { root, brief, standing, lines } = passed;
    let gathered = gather(comm, &brief, &common, lines, &standing, codes.error);
    let ended = root.map(|mut root| {
        let ended = root.end(&standing, gathered.is_ok());
        root.report(&gathered);
        ended
    });
    gathered?;
    let verdict = told(comm, ended, codes.error)?;
    Ok(comm.broadcast_value(verdict)?)
}
