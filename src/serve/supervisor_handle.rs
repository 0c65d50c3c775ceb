//! The rank's handle to its supervisor process: starts it, sends it the servers, logs its events, and closes its pipe.
//!
//! The processes themselves are managed in `supervisor.rs`, which runs in the other process.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};
use tracing::{error, info, warn};

use super::{
    ServerSpec, WatchLimits,
    protocol::{StartServers, SupervisorEvent},
    spawn,
};

/// Supervisor process that has no servers yet. Dropping it ends the process.
#[derive(Debug)]
pub(crate) struct IdleSupervisor(Result<SupervisorProcess, String>);

/// Supervisor process with servers. Dropping it stops the servers and waits for that.
#[derive(Debug)]
pub(crate) struct SupervisorHandle {
    process: SupervisorProcess,
    reader_thread: Option<JoinHandle<()>>,
    reports: Arc<Mutex<ServerReports>>,
}

#[derive(Debug)]
struct SupervisorProcess {
    child: Child,
    stdin: Option<ChildStdin>,
}

/// State of the servers as reported by the supervisor, by port.
#[derive(Debug, Default)]
struct ServerReports {
    log_paths: BTreeMap<u16, String>,
    /// Process group of each running server.
    process_groups: BTreeMap<u16, i32>,
    given_up: BTreeMap<u16, String>,
    is_closing: bool,
}

/// Sum of the supervisor's own time limits, and some reserve.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

impl IdleSupervisor {
    /// Local. Starts the supervisor; to be called before MPI and any thread are started. A failure is reported later,
    /// by [`SupervisorHandle::start_servers`], where all ranks learn of it.
    #[must_use]
    pub(crate) fn spawn_idle() -> Self {
        let child = spawn::supervisor_command().and_then(|mut command| command.spawn());
        let process = child.map(|mut child| SupervisorProcess { stdin: child.stdin.take(), child });
        Self(process.map_err(|error| format!("cannot start the guard process: {error}")))
    }
}

impl SupervisorHandle {
    /// Local. Creates the folders of the logs and lets the supervisor start these servers, each after its delay.
    ///
    /// # Errors
    /// Fails with a sentence if there is no supervisor, or a folder for logs cannot be created.
    pub(crate) fn start_servers(
        supervisor: IdleSupervisor,
        servers: Vec<ServerSpec>,
        limits: WatchLimits,
    ) -> Result<Self, String> {
        let mut process = supervisor.0?;
        for folder in servers.iter().filter_map(|server| server.log.parent()) {
            std::fs::create_dir_all(folder).map_err(|error| {
                format!("cannot create the folder {} for server logs: {error}", folder.display())
            })?;
        }
        let logs =
            servers.iter().map(|server| (server.port, server.log.display().to_string())).collect();
        let command = serde_json::to_string(&StartServers { servers, limits });
        let command = command
            .map_err(|error| format!("cannot encode the servers for the guard process: {error}"))?;
        let exited_early = || "the guard process ended before any server was started".to_owned();
        let stdin = process.stdin.as_mut().ok_or_else(exited_early)?;
        writeln!(stdin, "{command}").and_then(|()| stdin.flush()).map_err(|_| exited_early())?;
        let events = process.child.stdout.take().map(BufReader::new);
        let mut events = events.ok_or_else(exited_early)?;
        let reports =
            Arc::new(Mutex::new(ServerReports { log_paths: logs, ..ServerReports::default() }));
        // The first event lists the ports that are in use. It is waited for, since another process on such a port would
        // otherwise be probed and get prompts.
        let mut first = String::new();
        if events.read_line(&mut first).unwrap_or(0) == 0 {
            return Err(exited_early());
        }
        lock_reports(&reports).apply_line(&first);
        let thread_reports = Arc::clone(&reports);
        let reader_thread = thread::Builder::new().name("servers".into());
        let reader_thread = reader_thread
            .spawn(move || read_events(events, &thread_reports))
            .map_err(|error| format!("cannot start a thread: {error}"))?;
        Ok(Self { process, reader_thread: Some(reader_thread), reports })
    }

    /// Returns why the server on this port will not be restarted, if so.
    #[must_use]
    pub(crate) fn give_up_reason(&self, port: u16) -> Option<String> {
        lock_reports(&self.reports).given_up.get(&port).cloned()
    }

    /// Begins to stop all servers, without waiting for their end.
    pub(crate) fn begin_shutdown(&mut self) {
        lock_reports(&self.reports).is_closing = true;
        self.process.stdin = None;
    }
}

impl Drop for SupervisorHandle {
    fn drop(&mut self) {
        self.begin_shutdown();
        self.process.wait_for_exit(SHUTDOWN_TIMEOUT);
        // A thread that still reads would block for as long as the supervisor runs.
        if let Some(reader_thread) = self.reader_thread.take().filter(|thread| thread.is_finished())
        {
            let _ = reader_thread.join(); // a panic in the thread has already ended the process
        }
    }
}

impl SupervisorProcess {
    fn wait_for_exit(&mut self, limit: Duration) {
        self.stdin = None;
        let end = Instant::now() + limit;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() >= end {
                return warn!(
                    event = "servers_not_stopped",
                    "servers still running: the guard process of this rank keeps stopping them"
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for SupervisorProcess {
    fn drop(&mut self) {
        // Returns at once if nothing was started or all servers are gone.
        self.wait_for_exit(Duration::from_secs(1));
    }
}

fn lock_reports(reports: &Mutex<ServerReports>) -> MutexGuard<'_, ServerReports> {
    reports.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_events(events: BufReader<ChildStdout>, reports: &Mutex<ServerReports>) {
    for line in events.lines().map_while(Result::ok) {
        lock_reports(reports).apply_line(&line);
    }
    // The pipe ends after a shutdown has begun, or because the supervisor died.
    let mut reports = lock_reports(reports);
    if reports.is_closing {
        return;
    }
    error!(
        event = "guard_exited",
        "guard process exited unexpectedly: this rank's servers are stopped, and the job continues with the others"
    );
    // Processes in other groups cannot be found without the supervisor's records.
    for group in std::mem::take(&mut reports.process_groups).into_values().filter_map(Pid::from_raw)
    {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let ports: Vec<u16> = reports.log_paths.keys().copied().collect();
    for port in ports {
        reports.given_up.entry(port).or_insert_with(|| "its guard process exited".into());
    }
}

impl ServerReports {
    /// Applies an event; unreadable lines are ignored.
    fn apply_line(&mut self, line: &str) {
        if let Ok(event) = serde_json::from_str(line) {
            self.apply_event(event);
        }
    }

    fn apply_event(&mut self, event: SupervisorEvent) {
        match event {
            SupervisorEvent::Taken { ports } => {
                for port in ports {
                    let reason = "another process listens on its port, so it was not started (end that process, or \
                               pass another --base-port)";
                    self.give_up(port, reason.into());
                }
            }
            SupervisorEvent::Started { port, pid } => {
                self.process_groups.insert(port, pid);
                let log = self.log_path(port);
                info!(
                    event = "server_starting",
                    port, pid, log, "server starting: port {port}, pid {pid}, log {log}"
                );
            }
            SupervisorEvent::Listens { port, elapsed_s } => {
                info!(
                    event = "server_ready",
                    port, elapsed_s, "server ready: port {port} ({elapsed_s:.1} s)"
                );
            }
            SupervisorEvent::Hangs { port, reason } => {
                let log = self.log_path(port);
                warn!(
                    event = "server_hangs",
                    port,
                    log,
                    "server hangs: port {port}: {reason}; its state is in {log}, and it is killed"
                );
            }
            SupervisorEvent::Recycled { port, age_s } => info!(
                event = "server_recycled",
                port, age_s, "server recycled: port {port}, {age_s:.0} s after its start"
            ),
            SupervisorEvent::Ended { port, reason, tail, restart_in_s } => {
                self.process_groups.remove(&port);
                let excerpt = self.log_excerpt(port, &tail);
                warn!(
                    event = "server_exited",
                    port,
                    restart_in_s,
                    "server exited: port {port} {reason}; restarting in {restart_in_s:.0} s{excerpt}"
                );
            }
            SupervisorEvent::Waits { port, pids } => info!(
                event = "server_restart_delayed",
                port,
                ?pids,
                "server restart delayed: killed processes of port {port} still hold memory or ports: {pids:?}"
            ),
            SupervisorEvent::GivenUp { port, reason, tail } => {
                self.process_groups.remove(&port);
                let reason = format!("{reason}{}", self.log_excerpt(port, &tail));
                self.give_up(port, reason);
            }
            SupervisorEvent::Left { pids } if pids.is_empty() => {}
            SupervisorEvent::Left { pids } => {
                warn!(
                    event = "processes_not_killed",
                    ?pids,
                    "server processes not killed: {pids:?}"
                );
            }
        }
    }

    fn give_up(&mut self, port: u16, reason: String) {
        warn!(event = "server_failed", port, "server failed: port {port}: {reason}");
        self.given_up.insert(port, reason);
    }

    fn log_path(&self, port: u16) -> &str {
        self.log_paths.get(&port).map_or("", String::as_str)
    }

    /// Formats the end of a server's log, indented, as a part of a message.
    fn log_excerpt(&self, port: u16, tail: &str) -> String {
        let log = self.log_path(port);
        if tail.is_empty() {
            return format!("; its log {log} is empty");
        }
        let lines: String = tail.lines().map(|line| format!("\n    | {line}")).collect();
        format!("; its log {log} ends with:{lines}")
    }
}
