//! The rank's side of the guard: starts it, tells it what to start, passes on what it says, and closes its pipe.

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
    ServerSpec,
    protocol::{StartServers, SupervisorEvent},
    spawn,
};

/// A guard that has nothing to guard yet. Dropping it ends it.
#[derive(Debug)]
pub struct IdleSupervisor(Result<SupervisorProcess, String>);

/// A guard at work. Dropping it ends its servers, and waits for that.
#[derive(Debug)]
pub struct SupervisorHandle {
    process: SupervisorProcess,
    reader_thread: Option<JoinHandle<()>>,
    reports: Arc<Mutex<ServerReports>>,
}

#[derive(Debug)]
struct SupervisorProcess {
    child: Child,
    stdin: Option<ChildStdin>,
}

/// What the guard has said, by the servers' ports.
#[derive(Debug, Default)]
struct ServerReports {
    log_paths: BTreeMap<u16, String>,
    /// Each server's process group.
    process_groups: BTreeMap<u16, i32>,
    given_up: BTreeMap<u16, String>,
    is_closing: bool,
}

/// The guard's own limits added up, and some.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);

impl IdleSupervisor {
    /// Local. To be called before MPI and any thread are started. Where no process can be started it is said later, by
    /// [`Keeper::start`], when all ranks can be told.
    #[must_use]
    pub fn start() -> Self {
        let child = spawn::supervisor_command().and_then(|mut command| command.spawn());
        let process = child.map(|mut child| SupervisorProcess { stdin: child.stdin.take(), child });
        Self(process.map_err(|error| format!("the guard process cannot be started: {error}")))
    }
}

impl SupervisorHandle {
    /// Local. Has the guard start these servers, each with its delay; the folders of their logs are made.
    ///
    /// # Errors
    /// A sentence, where there is no guard or nowhere to write logs.
    pub fn start(guard: IdleSupervisor, servers: Vec<ServerSpec>) -> Result<Self, String> {
        let mut process = guard.0?;
        for folder in servers.iter().filter_map(|it| it.log.parent()) {
            std::fs::create_dir_all(folder).map_err(|error| {
                format!(
                    "the folder of the servers' logs, {}, cannot be made: {error}",
                    folder.display()
                )
            })?;
        }
        let logs = servers.iter().map(|it| (it.port, it.log.display().to_string())).collect();
        let order = serde_json::to_string(&StartServers { servers });
        let order = order.map_err(|error| format!("the guard cannot be told: {error}"))?;
        let gone = || "the guard process has ended before it was told anything".to_owned();
        let orders = process.stdin.as_mut().ok_or_else(gone)?;
        writeln!(orders, "{order}").and_then(|()| orders.flush()).map_err(|_| gone())?;
        let said = process.child.stdout.take().map(BufReader::new);
        let mut said = said.ok_or_else(gone)?;
        let known =
            Arc::new(Mutex::new(ServerReports { log_paths: logs, ..ServerReports::default() }));
        // The first word is waited for: whoever else listens on a port would be asked at once.
        let mut first = String::new();
        if said.read_line(&mut first).unwrap_or(0) == 0 {
            return Err(gone());
        }
        lock_reports(&known).apply_line(&first);
        let hears = Arc::clone(&known);
        let listener = thread::Builder::new().name("servers".into());
        let listener = listener
            .spawn(move || read_events(said, &hears))
            .map_err(|error| format!("no thread can be started: {error}"))?;
        Ok(Self { process, reader_thread: Some(listener), reports: known })
    }

    /// Why the server on this port will not be started any more.
    #[must_use]
    pub fn give_up_reason(&self, port: u16) -> Option<String> {
        lock_reports(&self.reports).given_up.get(&port).cloned()
    }

    /// Has all servers ended, without waiting for it.
    pub fn begin_shutdown(&mut self) {
        lock_reports(&self.reports).is_closing = true;
        self.process.stdin = None;
    }
}

impl Drop for SupervisorHandle {
    fn drop(&mut self) {
        self.begin_shutdown();
        self.process.wait(SHUTDOWN_TIMEOUT);
        if let Some(listener) = self.reader_thread.take().filter(|it| it.is_finished()) {
            let _ = listener.join(); // a panic has ended the process already
        }
    }
}

impl SupervisorProcess {
    fn wait(&mut self, limit: Duration) {
        self.stdin = None;
        let end = Instant::now() + limit;
        while let Ok(None) = self.child.try_wait() {
            if Instant::now() >= end {
                return warn!(
                    "this node's servers have not ended yet; their guard goes on with it"
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for SupervisorProcess {
    fn drop(&mut self) {
        // At once where nothing was started, or all has ended.
        self.wait(Duration::from_secs(1));
    }
}

fn lock_reports(known: &Mutex<ServerReports>) -> MutexGuard<'_, ServerReports> {
    known.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_events(said: BufReader<ChildStdout>, known: &Mutex<ServerReports>) {
    for line in said.lines().map_while(Result::ok) {
        lock_reports(known).apply_line(&line);
    }
    let mut known = lock_reports(known);
    if known.is_closing {
        return;
    }
    error!(
        "the guard of this node's servers has ended, which it should not: its servers are ended, and the job goes on with \
         the others"
    );
    // What is in these groups, at least.
    for group in std::mem::take(&mut known.process_groups).into_values().filter_map(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let ports: Vec<u16> = known.log_paths.keys().copied().collect();
    for port in ports {
        known.given_up.entry(port).or_insert_with(|| "its guard process has ended".into());
    }
}

impl ServerReports {
    /// A line that cannot be read is no word.
    fn apply_line(&mut self, line: &str) {
        if let Ok(word) = serde_json::from_str(line) {
            self.take(word);
        }
    }

    fn take(&mut self, word: SupervisorEvent) {
        match word {
            SupervisorEvent::Taken { ports } => {
                for port in ports {
                    let why = "somebody else listens on its port, so it was not started: end that process, or choose \
                               other ports with --base-port";
                    self.give_up(port, why.into());
                }
            }
            SupervisorEvent::Started { port, pid } => {
                self.process_groups.insert(port, pid);
                info!(port, pid, log = self.log_path(port), "a server is started");
            }
            SupervisorEvent::Listens { port, seconds } => {
                info!(port, seconds, "a server takes connections")
            }
            SupervisorEvent::Ended { port, how, tail, again_in } => {
                self.process_groups.remove(&port);
                // No fields beside texts of several lines: they would stand behind the last one.
                let told = self.told(port, &tail);
                warn!("the server on port {port} is started again in {again_in:.0} s: {how}{told}");
            }
            SupervisorEvent::Waits { port, pids } => info!(
                port,
                ?pids,
                "a server waits for what the killed processes of its last start have not given back yet"
            ),
            SupervisorEvent::GivenUp { port, why, tail } => {
                self.process_groups.remove(&port);
                let why = format!("{why}{}", self.told(port, &tail));
                self.give_up(port, why);
            }
            SupervisorEvent::Left { pids } if pids.is_empty() => {}
            SupervisorEvent::Left { pids } => {
                warn!(?pids, "processes of servers could not be ended")
            }
        }
    }

    fn give_up(&mut self, port: u16, why: String) {
        warn!("the server on port {port} is given up: {why}");
        self.given_up.insert(port, why);
    }

    fn log_path(&self, port: u16) -> &str {
        self.log_paths.get(&port).map_or("", String::as_str)
    }

    /// The end of its log, indented, as a part of a message.
    fn told(&self, port: u16, tail: &str) -> String {
        let log = self.log_path(port);
        if tail.is_empty() {
            return format!("; its log {log} says nothing");
        }
        let lines: String = tail.lines().map(|line| format!("\n    | {line}")).collect();
        format!("; its log {log} ends with:{lines}")
    }
}
