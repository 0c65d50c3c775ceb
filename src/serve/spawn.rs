//! Processes as they are begun: the guard itself, and the moment between the guard and a server's shell.
//!
//! The guard is to outlive its rank by seconds, whatever is sent to ranks meanwhile, and to hold nothing of theirs. What it
//! shuts out for itself must not be passed on to servers: signals that are blocked stay blocked over an exec, so that a
//! server would not hear the SIGTERM that asks it to end. So each server begins as this program, which opens them again and
//! becomes the shell.

use rustix::process::Pid;
use std::{
    io,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use nix::sys::signal::SigSet;

/// The hidden subcommand that is the guard, and its option to become a server.
const SUPERVISOR_SUBCOMMAND: &str = "guard";
const BECOME_SERVER_FLAG: &str = "--become";
/// In process lists, so that `pkill aurora-swarm` ends ranks, and leaves who cleans up behind them.
const PROCESS_NAME: &str = "swarm-guard";

/// This program again, as the guard of the process that calls it.
pub(super) fn supervisor_command() -> io::Result<Command> {
    let mut command = this_program()?;
    command.arg(SUPERVISOR_SUBCOMMAND).stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(command)
}

/// This program again, about to become a server.
pub(super) fn server_command(shell_command: &str) -> io::Result<Command> {
    let mut command = this_program()?;
    command
        .args([SUPERVISOR_SUBCOMMAND, BECOME_SERVER_FLAG, &prefix_exec(shell_command)])
        .stdin(Stdio::null())
        .process_group(0);
    Ok(command)
}

/// The file may have been replaced since this process began (a new build, an update): the kernel still has the old one.
fn this_program() -> io::Result<Command> {
    let itself = std::path::Path::new("/proc/self/exe");
    let path = if itself.exists() { itself.to_owned() } else { std::env::current_exe()? };
    let mut command = Command::new(path);
    command.arg0(PROCESS_NAME);
    Ok(command)
}

/// Local. Becomes the server that this shell command starts; returns only where there is no shell, with an exit code.
#[must_use]
pub fn exec_server(shell_command: &str) -> u8 {
    // A guard that is itself killed takes its servers' first processes with it.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let _ = SigSet::empty().thread_set_mask();
    let error = Command::new("/bin/sh").args(["-c", shell_command]).exec();
    tracing::error!("/bin/sh cannot be started: {error}");
    127
}

/// A single command takes the shell's place, so that the process that is watched is the server and not its shell. Where
/// there is more (a list, a pipe, an assignment) the shell has to stay.
fn prefix_exec(command: &str) -> String {
    let command = command.trim();
    let first = command.split_whitespace().next().unwrap_or_default();
    let single = !command.contains([';', '&', '|', '\n', '(', '{']) && !first.contains('=');
    if single && !first.is_empty() && !matches!(first, "exec" | "!" | "." | "cd") {
        format!("exec {command}")
    } else {
        command.to_owned()
    }
}

/// What this process, the guard, is from here on: in a session of its own, deaf to signals, on all cores, the reaper of
/// whatever its servers leave, and without any file but its pipes.
pub(super) fn become_supervisor() {
    let _ = rustix::process::setsid(); // fails where it leads one already
    let _ = SigSet::all().thread_block();
    close_inherited_files();
    // Ranks are bound to a few cores; servers have the node's.
    allow_all_cores(None);
    #[cfg(target_os = "linux")]
    {
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        let _ = rustix::thread::set_name(c"swarm-guard");
    }
}

/// Local. Lifts the CPU binding of all threads of a process. What was killed gives back its memory on the cores that it is
/// bound to, after whoever is busy there: a worker that had bound itself stood still beside another server's for minutes.
pub(super) fn clear_cpu_affinity(pid: i32) {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return };
    let numbers = tasks.flatten().filter_map(|it| it.file_name().to_str()?.parse().ok());
    numbers.filter_map(Pid::from_raw).for_each(|thread| allow_all_cores(Some(thread)));
}

/// Of a thread, or of this one. The kernel leaves out cores that are not there.
fn allow_all_cores(thread: Option<Pid>) {
    #[cfg(target_os = "linux")]
    {
        let mut all = rustix::thread::CpuSet::new();
        (0..rustix::thread::CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
        let _ = rustix::thread::sched_setaffinity(thread, &all);
    }
}

/// Launchers give ranks sockets and pipes, some of them other ranks', that no exec closes. A copy that is left open here, or
/// in a server, hides a rank's death from its launcher.
fn close_inherited_files() {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> =
        open.flatten().filter_map(|it| it.file_name().to_str()?.parse().ok()).collect();
    for descriptor in open.into_iter().filter(|&it| it > 2) {
        let _ = nix::unistd::close(descriptor); // the one that read the list is closed already
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_that_has_bound_itself_is_bound_no_more() {
        use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
        let mut child = Command::new("sleep").arg("20").spawn().expect("a process");
        let pid = Pid::from_child(&child);
        let free = sched_getaffinity(Some(pid)).expect("its cores").count();
        let first = (0..CpuSet::MAX_CPU)
            .find(|&cpu| sched_getaffinity(None).expect("cores").is_set(cpu))
            .expect("a core");
        let mut one = CpuSet::new();
        one.set(first);
        sched_setaffinity(Some(pid), &one).expect("bound");
        assert_eq!(sched_getaffinity(Some(pid)).expect("its cores").count(), 1);
        clear_cpu_affinity(pid.as_raw_nonzero().get());
        assert!(sched_getaffinity(Some(pid)).expect("its cores").count() >= free);
        child.kill().expect("ended");
        child.wait().expect("waited for");
    }

    #[test]
    fn a_single_command_takes_the_shells_place() {
        assert_eq!(prefix_exec(" vllm serve m --port 1 "), "exec vllm serve m --port 1");
        for stays in ["cd x && vllm", "A=1 vllm", "vllm | tee x", "exec vllm", ". env.sh", ""] {
            assert_eq!(prefix_exec(stays), stays);
        }
    }
}
