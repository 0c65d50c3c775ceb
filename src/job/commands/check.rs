//! The `check` command: tests MPI, node facts and servers. Each rank probes its own servers, and rank 0 prints the result.
//!
//! Owns the sequence and the verdict. The probe itself belongs to [`endpoint`](crate::endpoint), waiting for servers to
//! [`readiness`](crate::job::setup::readiness), and the table to [`console`].

use tracing::debug;

use crate::job::{
    Invocation, JobError, JobVerdict,
    context::establish_context,
    setup::{deadline::Deadline, readiness::wait_for_endpoints, servers::start_servers},
};
use crate::{
    comm::{Comm, TypedComm},
    console::{self, CheckReport, CheckedRank},
};

/// Folder, in the working directory, for the logs of servers that are started for the check.
const CHECK_LOG_FOLDER: &str = "check.servers";

/// Probes all servers and prints a table, or JSON, on rank 0. Collective.
///
/// # Errors
/// The settings are invalid or name servers that no rank can own.
pub fn run_check(
    comm: &mut dyn Comm,
    mut given: Invocation,
    json: bool,
) -> Result<JobVerdict, JobError> {
    let guard = given.guard.take();
    let common = establish_context(comm, given)?;
    console::set_log_identity(common.placement.rank, &common.placement.node.host);
    debug!(endpoints = common.urls.len(), "asking this rank's servers");
    let place = common.placement.clone();
    let servers = start_servers(comm, &common, guard, std::path::Path::new(CHECK_LOG_FOLDER))?;
    let found = CheckedRank {
        rank: place.rank,
        host: place.node.host,
        local_rank: place.local_rank,
        local_size: place.local_size,
        endpoints: wait_for_endpoints(comm, &common, &servers, Deadline::default())?,
    };
    let library = comm.library_info().to_string();
    let ranks = comm.gather_values(&found)?;
    let verdict = ranks.map(|ranks| {
        let report = CheckReport::new(library, ranks);
        console::print_stdout(&if json {
            check_report_json(&report)
        } else {
            report.render_table()
        });
        let least = common.settings.min_endpoints.count_of(report.endpoints as u64).max(1);
        if (report.ready as u64) < least { JobVerdict::NoEndpoint } else { JobVerdict::Done }
    });
    Ok(comm.broadcast_value(verdict)?)
}

fn check_report_json(report: &CheckReport) -> String {
    let text = serde_json::to_string_pretty(report);
    text.map_or_else(
        |error| format!("the report cannot be written as JSON: {error}\n"),
        |it| it + "\n",
    )
}
