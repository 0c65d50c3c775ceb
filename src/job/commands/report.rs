//! The `report` command: writes the report of an existing run again, from its files.
//!
//! The report that a run writes at its end, and the sources of its numbers, are in
//! [`root::report`](crate::job::root::report).

use crate::job::{
    JobError, JobVerdict,
    resume::{
        existing_run::live_heartbeat,
        run_folder::{log_uncollected_answers, open_run},
    },
    root::report::{regenerate_report, report_page_path, summary_path},
};
use crate::{console, site::NodeInfo};

/// Local. Writes the report of a run again and prints the paths of its files.
///
/// # Errors
/// There is no such run, its files cannot be read, or the report cannot be written.
pub(crate) fn report_run(run: &str) -> Result<JobVerdict, JobError> {
    let (folder, manifest) = open_run(run)?;
    let is_active = live_heartbeat(&folder, &NodeInfo::this_node().host).is_some();
    log_uncollected_answers(manifest.away.as_deref(), is_active);
    regenerate_report(&folder)?;
    console::print_stdout(&format!(
        "{}\n{}\n",
        report_page_path(&folder).display(),
        summary_path(&folder).display()
    ));
    Ok(JobVerdict::Done)
}
