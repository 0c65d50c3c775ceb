//! The remaining walltime of the job as reported by PBS.
//!
//! The deadline that follows from it, and the margin, are `job/setup/deadline.rs`.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// Longest wait for `qstat`, whose server may be overloaded.
const QSTAT_TIMEOUT: Duration = Duration::from_secs(5);
/// Allowance for the age of the usage that PBS reports.
const USAGE_REPORT_LAG: Duration = Duration::from_secs(120);

/// Returns the remaining walltime of a PBS job from `qstat`; `None` if it cannot be run or does not report one.
#[must_use]
pub(crate) fn pbs_time_left(job: &str) -> Option<Duration> {
    let mut command = Command::new("qstat");
    command.args(["-f", job]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let end = Instant::now() + QSTAT_TIMEOUT;
    // The output of qstat fits into the pipe, so it can exit before anything is read.
    while child.try_wait().ok()?.is_none() {
        if Instant::now() >= end {
            // A server of PBS that hangs must not delay the start of the job.
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().ok()?;
    parse_time_left(&String::from_utf8_lossy(&output.stdout))
}

fn parse_time_left(qstat: &str) -> Option<Duration> {
    let field = |name: &str| {
        let mut lines = qstat.lines().filter_map(|line| line.trim().split_once(" = "));
        lines.find(|(key, _)| *key == name).and_then(|(_, field)| parse_clock(field))
    };
    let requested = field("Resource_List.walltime")?;
    let used = field("resources_used.walltime").unwrap_or(0);
    Some(Duration::from_secs(requested.saturating_sub(used)).saturating_sub(USAGE_REPORT_LAG))
}

/// Parses `12:00:00`, or a number of seconds.
fn parse_clock(clock: &str) -> Option<u64> {
    clock
        .trim()
        .split(':')
        .try_fold(0_u64, |sum, part| sum.checked_mul(60)?.checked_add(part.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_is_the_requested_walltime_less_usage_and_report_lag() {
        let text = "Job Id: 12.pbs\n    Job_Name = swarm\n    resources_used.walltime = 00:40:00\n    \
                    Resource_List.walltime = 12:00:00\n";
        assert_eq!(parse_time_left(text), Some(Duration::from_secs(11 * 3600 + 1200 - 120)));
        assert_eq!(parse_time_left("Resource_List.walltime = 600"), Some(Duration::from_secs(480)));
        assert_eq!(parse_time_left("Resource_List.walltime = soon"), None);
        assert_eq!(parse_time_left(""), None);
    }
}
