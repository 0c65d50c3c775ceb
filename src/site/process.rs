//! Processes of this host: whether another process runs this program.

/// Returns whether the process with this number is another one that runs this program. Zombies do not, and neither does
/// a process that got the number of an earlier one.
#[must_use]
pub(crate) fn is_program_running(pid: u32) -> bool {
    let read_stat = |process: &str| {
        std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default()
    };
    // "PID (NAME) STATE …", where NAME may contain anything.
    let parse_stat = |stat: &str| {
        let (head, state) = stat.rsplit_once(") ")?;
        let (_, name) = head.split_once(" (")?;
        Some((name.to_owned(), state.chars().next()?))
    };
    let its = parse_stat(&read_stat(&pid.to_string()));
    let ours = parse_stat(&read_stat("self"));
    pid != std::process::id()
        && its.zip(ours).is_some_and(|(its, ours)| its.0 == ours.0 && !matches!(its.1, 'Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_other_processes_of_this_program_count_as_running() {
        assert!(!is_program_running(std::process::id()), "not this process");
        assert!(!is_program_running(1), "not a process of another program");
        assert!(!is_program_running(u32::MAX), "no process has this number");
    }
}
