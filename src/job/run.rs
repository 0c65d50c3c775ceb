//! `run`: the line, top to bottom. Each statement's value is the next one's input.

use super::{
    CodeOf, Given, JobError, Verdict,
    agree::{agree, told},
    brief::SERVERS,
    gather::gather,
    letters::Over,
    ready::wait_for_endpoints,
    root,
    servers::serve,
    standing::{Standing, check_folder},
    talk,
    work::{Lead, work},
};
use crate::{
    comm::{Comm, RollCall, Typed, roll_call},
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
    code: CodeOf,
    code_of_verdict: fn(Verdict) -> u8,
) -> Result<Verdict, JobError> {
    let guard = given.guard.take();
    let common = agree(comm, given, code)?;
    report::this_is_rank(common.place.rank, &common.place.node.host);
    let begun = (comm.rank() == 0).then(|| root::begin(&common, inputs, comm.size()));
    let mut root = told(comm, begun, code)?;
    let brief = comm.broadcast_value(root.as_ref().map(root::Root::brief))?;
    let blind = check_folder(comm, &brief, &common.place, code)?;
    let standing = Standing::read(comm, &brief, code)?;
    let done = standing.done(common.settings.retry_failed);
    let noted = root.as_mut().map(|root| root.begin_from(&standing, &done));
    told(comm, noted, code)?;

    if done.gaps().next().is_some() {
        let mut servers = serve(comm, &common, guard, &brief.folder.join(SERVERS), code)?;
        let ready = wait_for_endpoints(comm, &common, &servers)?;
        let found = comm.gather_values(&ready)?;
        let chosen = root.as_mut().zip(found).map(|(root, found)| root.choose(&common, &found));
        let chosen = told(comm, chosen, code)?.flatten();
        let Some(choice) = comm.broadcast_value(Some(chosen))? else {
            return Ok(Verdict::NoEndpoint);
        };
        let mut lead = root.as_mut().zip(blind).map(|(root, blind)| {
            let book = root.book(&done, blind.len());
            Lead { root, book, blind }
        });
        let shares = lead.as_mut().map(|lead| lead.book.first(&choice.weights, &lead.blind));
        let first = comm.scatter_values(shares)?;
        let over = work(comm, &common, &brief, &choice, servers.living(ready), first, lead)?;
        servers.close();
        let here = if over == Over::Together {
            roll_call(comm, talk::ROLL_CALL)?
        } else {
            RollCall::NoWord
        };
        match (here, root.take()) {
            (RollCall::AllHere, all) => root = all,
            (missing, Some(mut root)) => {
                if let RollCall::Missing(ranks) = missing {
                    root.are_lost(&ranks);
                }
                let end = root.end_without(&brief);
                let code = end.map_or_else(
                    |error| {
                        report::complain(&error);
                        code(&error)
                    },
                    code_of_verdict,
                );
                comm.abort(code)
            }
            (_, None) => talk::wait_to_be_ended(comm),
        }
    }

    let (standing, lines) = Standing::read_with_lines(comm, &brief, code)?;
    gather(comm, &brief, &common, lines, code)?;
    let ended = root.map(|root| root.end(&standing));
    let verdict = told(comm, ended, code)?;
    Ok(comm.broadcast_value(verdict)?)
}
