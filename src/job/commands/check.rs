//! The `check` command: tests MPI, node facts and servers. Each rank probes its own servers, and rank 0 prints the
//! result.
//!
//! Owns the sequence and the verdict. The probe itself belongs to [`endpoint`](crate::endpoint), waiting for servers to
//! [`readiness`](crate::job::setup::readiness), and the table to [`console`].

use std::path::Path;

use tracing::debug;

use crate::job::{
    Invocation, JobError, JobVerdict,
    context::establish_context,
    setup::{deadline::Deadline, readiness::wait_for_endpoints, servers::start_servers},
};
use crate::{
    comm::{Comm, TypedComm},
    console::{self, CheckReport, CheckedRank},
    domain::ReadinessCounts,
    settings::Settings,
};

/// Folder, in the working directory, for the logs of servers that are started for the check.
const CHECK_LOG_FOLDER: &str = "check.servers";

/// Collective. Probes all servers and prints a table, or JSON, on rank 0.
///
/// # Errors
/// The settings are invalid or name servers that no rank can own.
pub(crate) fn run_check(
    comm: &mut dyn Comm,
    mut invocation: Invocation,
    json: bool,
) -> Result<JobVerdict, JobError> {
    let supervisor = invocation.guard.take();
    let context = establish_context(comm, invocation)?;
    let placement = context.placement.clone();
    console::set_log_identity(placement.rank, &placement.node.host);
    debug!(endpoints = context.urls.len(), "probing this rank's servers");
    let servers = start_servers(comm, &context, supervisor, Path::new(CHECK_LOG_FOLDER))?;
    let checked_rank = CheckedRank {
        rank: placement.rank,
        host: placement.node.host,
        local_rank: placement.local_rank,
        local_size: placement.local_size,
        endpoints: wait_for_endpoints(comm, &context, &servers, Deadline::default(), &[])?,
    };
    let library = comm.library_info().to_string();
    let ranks = comm.gather_values(&checked_rank)?;
    let verdict = ranks.map(|ranks| {
        let Settings { model, api, .. } = &context.settings;
        let report = CheckReport::new(library, ranks).for_model(model.clone(), *api);
        console::print_stdout(&if json {
            check_report_json(&report)
        } else {
            report.render_table()
        });
        // A check without any server must not pass, whatever share of them is required.
        let required = context.settings.min_endpoints.count_of(report.endpoints as u64).max(1);
        let statuses = report.ranks.iter().flat_map(|rank| &rank.endpoints);
        let counts = ReadinessCounts::of_statuses(statuses, None);
        match counts.ready >= required {
            true => JobVerdict::Done,
            // The settings have to be changed, and the table says how.
            false if counts.are_all_unusable() => JobVerdict::Refused,
            false => JobVerdict::NoEndpoint,
        }
    });
    Ok(comm.broadcast_value(verdict)?)
}

fn check_report_json(report: &CheckReport) -> String {
    let text = serde_json::to_string_pretty(report);
    text.map_or_else(
        |error| format!("cannot write the report as JSON: {error}\n"),
        |text| text + "\n",
    )
}
