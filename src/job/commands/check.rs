//! `check`: are MPI, node facts and endpoints in order? Asked by every rank of its own servers, told by rank 0.

use tracing::debug;

use crate::job::{
    CodeOf, Given, JobError, Verdict,
    context::agree,
    setup::{deadline::Limit, readiness::wait_for_endpoints, servers::serve},
};
use crate::{
    comm::{Comm, Typed},
    console::{self, CheckReport, CheckedRank},
};

/// Where the logs of servers go that are started to be checked: here.
const LOGS: &str = "check.servers";

/// Collective. Prints a table (or JSON) on rank 0.
///
/// # Errors
/// Where the settings cannot be, or name servers that no rank can own.
pub fn check(
    comm: &mut dyn Comm,
    mut given: Given,
    json: bool,
    code: CodeOf,
) -> Result<Verdict, JobError> {
    let guard = given.guard.take();
    let common = agree(comm, given, code)?;
    console::this_is_rank(common.place.rank, &common.place.node.host);
    debug!(endpoints = common.urls.len(), "asking this rank's servers");
    let place = common.place.clone();
    let servers = serve(comm, &common, guard, std::path::Path::new(LOGS), code)?;
    let found = CheckedRank {
        rank: place.rank,
        host: place.node.host,
        local_rank: place.local_rank,
        local_size: place.local_size,
        endpoints: wait_for_endpoints(comm, &common, &servers, Limit::default())?,
    };
    let library = comm.library().to_string();
    let ranks = comm.gather_values(&found)?;
    let verdict = ranks.map(|ranks| {
        let report = CheckReport::new(library, ranks);
        console::print(&if json { as_json(&report) } else { report.table() });
        let least = common.settings.min_endpoints.of(report.endpoints as u64).max(1);
        if (report.ready as u64) < least { Verdict::NoEndpoint } else { Verdict::Done }
    });
    Ok(comm.broadcast_value(verdict)?)
}

fn as_json(report: &CheckReport) -> String {
    let text = serde_json::to_string_pretty(report);
    text.map_or_else(
        |error| format!("the report cannot be written as JSON: {error}\n"),
        |it| it + "\n",
    )
}
