//! What the batch system says about the time that is left.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// How long PBS is waited for.
const QSTAT_TIMEOUT: Duration = Duration::from_secs(5);
/// PBS tells what was used as it stood some while ago.
const USAGE_REPORT_LAG: Duration = Duration::from_secs(120);

/// How long the PBS job may still run, by `qstat`; nothing where it cannot be asked or does not say.
#[must_use]
pub fn pbs_time_left(job: &str) -> Option<Duration> {
    let mut command = Command::new("qstat");
    command.args(["-f", job]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let end = Instant::now() + QSTAT_TIMEOUT;
    // What it prints fits the pipe, so that it can end without a reader.
    while child.try_wait().ok()?.is_none() {
        if Instant::now() >= end {
            let _ = child.kill();
            let _ = child.wait();
            return None;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = child.wait_with_output().ok()?;
    left(&String::from_utf8_lossy(&output.stdout))
}

fn left(qstat: &str) -> Option<Duration> {
    let value = |name: &str| {
        let mut lines = qstat.lines().filter_map(|line| line.trim().split_once(" = "));
        lines.find(|(key, _)| *key == name).and_then(|(_, value)| seconds(value))
    };
    let all = value("Resource_List.walltime")?;
    let used = value("resources_used.walltime").unwrap_or(0);
    Some(Duration::from_secs(all.saturating_sub(used)).saturating_sub(USAGE_REPORT_LAG))
}

/// `12:00:00`, or a number of seconds.
fn seconds(clock: &str) -> Option<u64> {
    clock
        .trim()
        .split(':')
        .try_fold(0_u64, |sum, part| sum.checked_mul(60)?.checked_add(part.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_what_was_asked_for_less_what_was_used() {
        let text = "Job Id: 12.pbs\n    Job_Name = swarm\n    resources_used.walltime = 00:40:00\n    \
                    Resource_List.walltime = 12:00:00\n";
        assert_eq!(left(text), Some(Duration::from_secs(11 * 3600 + 1200 - 120)));
        assert_eq!(left("Resource_List.walltime = 600"), Some(Duration::from_secs(480)));
        assert_eq!(left("Resource_List.walltime = soon"), None);
        assert_eq!(left(""), None);
    }
}
