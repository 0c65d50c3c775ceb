//! `run`: the line, top to bottom. Each statement's value is the next one's input.

use std::time::Instant;

use super::{
    Codes, Given, JobError, Verdict,
    agree::{agree, everywhere, told},
    end::together,
    gather::gather,
    home::{Folders, bring_home},
    limit::Limit,
    ready::wait_for_endpoints,
    root,
    scan::scan,
    servers::serve,
    standing::{Standing, check_folder},
    work::{Lead, Start, work},
};
use crate::{
    comm::{Comm, Typed},
    report,
    site::Signals,
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
    let (began, code) = (Instant::now(), codes.error);
    let guard = given.guard.take();
    let common = agree(comm, given, code)?;
    report::this_is_rank(common.place.rank, &common.place.node.host);
    let start = (comm.rank() == 0).then(|| root::Start::new(&common, inputs));
    let start = told(comm, start, code)?;
    let files = start.as_ref().map(|start| start.files.as_slice());
    let scanned = scan(comm, files, &root::rules(&common.settings));
    let begun = start.zip(scanned);
    let begun = begun.map(|(start, scanned)| start.begin(&common, inputs, comm.size(), scanned));
    let mut root = told(comm, begun, code)?;
    let signals = everywhere(comm, Signals::catch().map_err(JobError::Signals), code)?;
    let limit = Limit::agreed(comm, &common, began)?;
    let brief = comm.broadcast_value(root.as_ref().map(root::Root::brief))?;
    let blind = check_folder(comm, &brief, &common.place, code)?;
    let folders = Folders::agreed(comm, &brief, &common.place, code)?;
    bring_home(comm, &folders, &brief, code)?;
    let standing = Standing::read(comm, &folders, &brief, code)?;
    let done = standing.done(common.settings.retry_failed);
    let noted = root.as_mut().map(|root| root.begin_from(&standing, &done));
    told(comm, noted, code)?;

    if done.gaps().next().is_some() {
        let mut servers = serve(comm, &common, guard, &folders.logs(), code)?;
        let ready = wait_for_endpoints(comm, &common, &servers, limit)?;
        let found = comm.gather_values(&ready)?;
        let chosen = root.as_mut().zip(found).map(|(root, found)| root.choose(&common, &found));
        let chosen = told(comm, chosen, code)?.flatten();
        let Some(choice) = comm.broadcast_value(Some(chosen))? else {
            folders.leave();
            return Ok(Verdict::NoEndpoint);
        };
        let mut lead = root.as_mut().zip(blind).map(|(root, blind)| {
            let book = root.book(&done, blind.len());
            Lead { root, book, blind, limit }
        });
        let shares = lead.as_mut().map(|lead| lead.book.first(&choice.weights, &lead.blind));
        let first = comm.scatter_values(shares)?;
        let start = Start { ready: servers.living(ready), first, lead };
        let over = work(comm, &common, (&brief, &folders), &choice, start, &signals)?;
        servers.close();
        root = together(comm, over, root, (&brief, &folders), codes)?;
    }

    let home = bring_home(comm, &folders, &brief, code);
    root.iter_mut().for_each(|root| if home.is_ok() { root.is_home() } else { root.stopped() });
    home?;
    folders.leave();
    let (standing, lines) = Standing::read_with_lines(comm, &folders, &brief, code)?;
    let gathered = gather(comm, &brief, &common, lines, &standing, code);
    let ended = root.map(|root| root.end(&standing, gathered.is_ok()));
    gathered?;
    let verdict = told(comm, ended, code)?;
    Ok(comm.broadcast_value(verdict)?)
}
