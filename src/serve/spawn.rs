//! Creation of processes: the supervisor itself, and the step between the supervisor and a server's shell.
//!
//! The supervisor has to outlive its rank by seconds, whatever signals ranks get meanwhile, and to hold none of the
//! rank's files. What it blocks for itself must not be passed on: blocked signals stay blocked across an exec, and a
//! server would not get the SIGTERM that asks it to stop. So each server starts as this program, which unblocks the
//! signals and then becomes the shell.

use rustix::process::Pid;
use std::{
    io,
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use nix::sys::signal::SigSet;

/// Hidden subcommand that runs the supervisor.
const SUPERVISOR_SUBCOMMAND: &str = "guard";
const BECOME_SERVER_FLAG: &str = "--become";
/// Name in process lists. It differs from the program's, so that `pkill aurora-swarm` ends ranks and spares the
/// supervisors, which clean up after them.
const PROCESS_NAME: &str = "swarm-guard";

/// Builds the command that runs this program as the supervisor of the calling process.
pub(super) fn supervisor_command() -> io::Result<Command> {
    let mut command = this_program()?;
    command.arg(SUPERVISOR_SUBCOMMAND).stdin(Stdio::piped()).stdout(Stdio::piped());
    Ok(command)
}

/// Builds the command that runs this program to become a server, in a process group of its own.
pub(super) fn server_command(shell_command: &str) -> io::Result<Command> {
    let mut command = this_program()?;
    command
        .args([SUPERVISOR_SUBCOMMAND, BECOME_SERVER_FLAG, &prefix_exec(shell_command)])
        .stdin(Stdio::null())
        .process_group(0);
    Ok(command)
}

/// Builds a command for this program. Its file may have been replaced since this process started (a new build, an
/// update); `/proc/self/exe` still refers to the old one.
fn this_program() -> io::Result<Command> {
    let own_exe = std::path::Path::new("/proc/self/exe");
    let path = if own_exe.exists() { own_exe.to_owned() } else { std::env::current_exe()? };
    let mut command = Command::new(path);
    command.arg0(PROCESS_NAME);
    Ok(command)
}

/// Local. Replaces this process by the server that the shell command starts; returns an exit code only if the shell
/// cannot be started.
#[must_use]
pub(crate) fn exec_server(shell_command: &str) -> u8 {
    // If the supervisor itself is killed, the first processes of its servers die with it.
    #[cfg(target_os = "linux")]
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let _ = SigSet::empty().thread_set_mask();
    let error = Command::new("/bin/sh").args(["-c", shell_command]).exec();
    tracing::error!(event = "shell_not_started", "cannot start /bin/sh: {error}");
    127
}

/// Prefixes a single command with `exec`, so that the watched process is the server and not its shell. A list, a pipe
/// or an assignment needs the shell and stays as it is.
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

/// Turns this process into the supervisor: a session of its own, all signals blocked, all cores, subreaper of the
/// orphans of its servers, and no open files except its pipes.
pub(super) fn become_supervisor() {
    let _ = rustix::process::setsid(); // fails where it leads one already
    let _ = SigSet::all().thread_block();
    close_inherited_files();
    // Ranks are bound to a few cores; servers may use all of the node.
    allow_all_cores(None);
    #[cfg(target_os = "linux")]
    {
        let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
        let _ = rustix::thread::set_name(c"swarm-guard");
    }
}

/// Local. Clears the CPU affinity of all threads of a killed process. A killed process releases its memory on the cores
/// it is bound to, behind other work there: a worker that had bound itself took minutes beside another server's busy
/// worker.
pub(super) fn clear_cpu_affinity(pid: i32) {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return };
    let numbers = tasks.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter_map(Pid::from_raw).for_each(|thread| allow_all_cores(Some(thread)));
}

/// Lets a thread, or with `None` this one, run on all cores. The kernel ignores cores that do not exist.
fn allow_all_cores(thread: Option<Pid>) {
    #[cfg(target_os = "linux")]
    {
        let mut all = rustix::thread::CpuSet::new();
        (0..rustix::thread::CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
        let _ = rustix::thread::sched_setaffinity(thread, &all);
    }
}

/// Closes the sockets and pipes that launchers give to ranks, some of them of other ranks, and that no exec closes. A
/// copy left open here or in a server hides a rank's death from its launcher.
fn close_inherited_files() {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> =
        open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for descriptor in open.into_iter().filter(|&descriptor| descriptor > 2) {
        let _ = nix::unistd::close(descriptor); // the one that read the list is closed already
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn the_cpu_affinity_of_a_bound_process_is_cleared() {
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
    fn a_single_command_replaces_its_shell() {
        assert_eq!(prefix_exec(" vllm serve m --port 1 "), "exec vllm serve m --port 1");
        for stays in ["cd x && vllm", "A=1 vllm", "vllm | tee x", "exec vllm", ". env.sh", ""] {
            assert_eq!(prefix_exec(stays), stays);
        }
    }
}
