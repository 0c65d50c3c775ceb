//! The supervisor: a process of its own that starts a rank's servers, restarts them when they exit, and stops all of
//! them when its pipe closes.
//!
//! One loop, five times a second: reap exited processes, start what is due. It reaps any child instead of using std's
//! `Child`, since as the subreaper of its servers' orphans it has children that it never started. Decisions on restarts
//! are `restart_policy.rs`, membership of processes is `process_tree.rs`; the servers themselves are planned by the
//! rank (`layout.rs`) and sent once.

use std::{
    io::{BufRead, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus, getpid, kill_process, prlimit, wait,
};

use super::{
    ServerSpec, environment, log,
    process_tree::{
        PORT_VARIABLE, ProcessEntry, ProcessTree, descendants_of, list_processes, read_port_mark,
    },
    protocol::{StartServers, SupervisorEvent, WatchLimits},
    restart_policy::{RestartDecision, RestartPolicy, StartDecision, decide_start},
    spawn,
    watchdog::{HungServer, ServerWatch},
};
use crate::settings::Environment;

const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// Reading the process table of a full node takes tens of milliseconds, and a node may have a dozen supervisors.
const TREE_UPDATE_INTERVAL: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);
/// Time that servers have to exit after SIGTERM before they are killed.
const TERM_GRACE: Duration = Duration::from_secs(5);
const KILL_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest wait for the killed processes of a server before its restart: the kernel needs a while to release gigabytes.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(90);

/// Local. Runs the supervisor until its standard input is closed and no server is left; returns its exit code.
#[must_use]
pub(crate) fn run_supervisor(environment: Environment) -> u8 {
    spawn::become_supervisor();
    let (sender, commands) = mpsc::channel();
    let reader = thread::Builder::new().name("orders".into()).spawn(move || {
        for line in std::io::stdin().lock().lines() {
            // An unreadable command is treated like the end of the pipe: the rank must not wait for a reply.
            let Some(command) =
                line.ok().and_then(|line| serde_json::from_str::<StartServers>(&line).ok())
            else {
                return;
            };
            if sender.send(command).is_err() {
                return;
            }
        }
    });
    if reader.is_err() {
        return 1; // the rank sees the end of the pipe
    }
    let (hang_sender, hang_reports) = mpsc::channel();
    let mut supervisor = ServerSupervisor {
        limits: WatchLimits::default(),
        hang_sender,
        hang_reports,
        secrets: environment::secret_values(&environment),
        environment,
        servers: Vec::new(),
        process_tree: ProcessTree::default(),
        next_tree_update: Instant::now(),
    };
    loop {
        match commands.recv_timeout(POLL_INTERVAL) {
            Ok(command) => supervisor.accept_servers(command),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        supervisor.poll_servers(Instant::now());
    }
    supervisor.stop_all();
    0
}

struct ServerSupervisor {
    environment: Environment,
    secrets: Vec<String>,
    limits: WatchLimits,
    /// For the watchdogs of the servers.
    hang_sender: mpsc::Sender<HungServer>,
    hang_reports: mpsc::Receiver<HungServer>,
    servers: Vec<SupervisedServer>,
    process_tree: ProcessTree,
    next_tree_update: Instant,
}

/// Server with its restart state and what it is doing now.
struct SupervisedServer {
    spec: ServerSpec,
    restart_policy: RestartPolicy,
    state: SupervisedState,
    watch: Option<ServerWatch>,
    /// When a server that was told to end is killed.
    kill_at: Option<Instant>,
}

enum SupervisedState {
    /// Time of the next start, and the previous start while processes of it may be left.
    StartDue(Instant, Option<PreviousStart>),
    Running(RunningServer),
    GivenUp,
}

/// Previous start of a server whose processes may still be releasing memory and ports.
#[derive(Clone, Copy)]
struct PreviousStart {
    /// First process of the server.
    leader: Pid,
    /// Time until which the next start waits for the processes.
    wait_until: Instant,
    /// Whether the wait was reported to the rank.
    wait_reported: bool,
}

#[derive(Clone, Copy)]
struct RunningServer {
    leader: Pid,
    started: Instant,
    /// Whether the server has accepted a connection.
    is_listening: bool,
}

impl ServerSupervisor {
    fn accept_servers(&mut self, command: StartServers) {
        // Another process on the port would get the server's requests, and may serve another model. If the same command
        // was run just before, it is the previous run's server, which is about to be stopped by its supervisor.
        let wait_until = Instant::now() + TERM_GRACE * 2;
        let all_are_free =
            |servers: &[ServerSpec]| servers.iter().all(|server| is_port_free(server.port));
        while !all_are_free(&command.servers) && Instant::now() < wait_until {
            thread::sleep(POLL_INTERVAL);
        }
        let now = Instant::now();
        let (free, taken): (Vec<_>, Vec<_>) =
            command.servers.into_iter().partition(|server| is_port_free(server.port));
        self.limits = command.limits;
        send_event(&SupervisorEvent::Taken {
            ports: taken.iter().map(|server| server.port).collect(),
        });
        self.servers.extend(free.into_iter().map(|server| {
            let state = SupervisedState::StartDue(now + server.delay, None);
            let restart_policy = RestartPolicy::new();
            SupervisedServer { spec: server, restart_policy, state, watch: None, kill_at: None }
        }));
    }

    fn poll_servers(&mut self, now: Instant) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            // Orphans of servers are reaped here too, and belong to no entry.
            if let Some(index) = self.servers.iter().position(|server| server.is_led_by(pid)) {
                self.handle_exit(index, pid, status);
            }
        }
        self.clear_leftovers(now);
        for server in &mut self.servers {
            // A server that has begun to listen has started all its processes.
            if server.poll_server(now, &self.environment, &self.secrets) {
                self.next_tree_update = now;
                server.start_watch(self.limits, &self.hang_sender);
            }
        }
        self.end_hung_servers(now);
        self.recycle_oldest(now);
        self.kill_overdue(now);
        if now >= self.next_tree_update {
            self.next_tree_update = now + TREE_UPDATE_INTERVAL;
            self.update_process_tree(&own_descendants());
            self.servers.iter().for_each(|server| log::limit_log(&server.spec.log));
        }
    }

    /// Kills what is left of servers that are due to be restarted: processes that forked while the server was being
    /// killed, and dying ones that still hold memory or ports. The next start needs these, so it waits for their end.
    fn clear_leftovers(&mut self, now: Instant) {
        for index in 0..self.servers.len() {
            let SupervisedState::StartDue(due, Some(last)) = self.servers[index].state else {
                continue;
            };
            if due > now {
                continue;
            }
            let pids = self.kill_members(last.leader, &own_descendants());
            self.servers[index].state = match decide_start(pids.len(), now, last.wait_until) {
                StartDecision::StartNow => SupervisedState::StartDue(now, None),
                StartDecision::WaitUntil(then) => {
                    if !last.wait_reported {
                        send_event(&SupervisorEvent::Waits {
                            port: self.servers[index].spec.port,
                            pids,
                        });
                    }
                    SupervisedState::StartDue(
                        then,
                        Some(PreviousStart { wait_reported: true, ..last }),
                    )
                }
                StartDecision::StartAnyway => {
                    send_event(&SupervisorEvent::Left { pids });
                    SupervisedState::StartDue(now, None)
                }
            };
        }
    }

    /// Ends servers that hang: their state goes to their logs, and SIGABRT makes Python print its stacks there.
    fn end_hung_servers(&mut self, now: Instant) {
        while let Ok(HungServer { leader, reason }) = self.hang_reports.try_recv() {
            let is_it = |server: &SupervisedServer| matches!(server.state, SupervisedState::Running(it) if raw_pid(it.leader) == leader);
            let Some(index) = self.servers.iter().position(is_it) else { continue };
            let members = self.end_members(index, Signal::ABORT, now);
            let SupervisedServer { spec, .. } = &self.servers[index];
            log::append_note(&spec.log, &format!("it hangs, {reason}, and is killed"));
            for pid in members {
                log::append_note(&spec.log, &describe_process(pid));
            }
            send_event(&SupervisorEvent::Hangs { port: spec.port, reason });
        }
    }

    /// Stops the oldest server that has reached the greatest age, while all servers listen.
    fn recycle_oldest(&mut self, now: Instant) {
        let Some(max_age) = self.limits.max_age else { return };
        let running = |server: &SupervisedServer| match server.state {
            SupervisedState::Running(it) if it.is_listening && server.kill_at.is_none() => Some(it),
            _ => None,
        };
        let is_given_up =
            |server: &SupervisedServer| matches!(server.state, SupervisedState::GivenUp);
        if !self.servers.iter().all(|server| running(server).is_some() || is_given_up(server)) {
            return;
        }
        let started = |index: &usize| running(&self.servers[*index]).map(|it| it.started);
        let oldest = (0..self.servers.len()).filter(|it| started(it).is_some()).min_by_key(started);
        let Some((index, age)) = oldest
            .and_then(|index| Some((index, now - started(&index)?)))
            .filter(|it| it.1 >= max_age)
        else {
            return;
        };
        self.end_members(index, Signal::TERM, now);
        let port = self.servers[index].spec.port;
        send_event(&SupervisorEvent::Recycled { port, age_s: age.as_secs_f64() });
    }

    /// Sends a signal to all processes of a running server, which are killed if they do not end. Returns their pids.
    fn end_members(&mut self, index: usize, signal: Signal, now: Instant) -> Vec<i32> {
        let SupervisedState::Running(running) = self.servers[index].state else {
            return Vec::new();
        };
        let descendants = own_descendants();
        self.update_process_tree(&descendants);
        let members = self.process_tree.members_of(raw_pid(running.leader), &descendants);
        for &pid in &members {
            if signal == Signal::ABORT {
                forbid_core_dump(pid);
            }
            send_signal(pid, signal);
        }
        (self.servers[index].kill_at, self.servers[index].watch) = (Some(now + TERM_GRACE), None);
        members
    }

    /// Kills the servers that were told to end and have not ended.
    fn kill_overdue(&mut self, now: Instant) {
        for index in 0..self.servers.len() {
            let SupervisedServer { state, kill_at, .. } = &mut self.servers[index];
            if let (SupervisedState::Running(running), Some(due)) = (&*state, *kill_at)
                && due <= now
            {
                let leader = running.leader;
                *kill_at = Some(now + TERM_GRACE);
                self.kill_members(leader, &own_descendants());
            }
        }
    }

    /// Kills all processes of a server and returns their pids, including those of dying ones.
    fn kill_members(&self, leader: Pid, descendants: &[ProcessEntry]) -> Vec<i32> {
        let members = self.process_tree.members_of(raw_pid(leader), descendants);
        members.iter().for_each(|&pid| kill_and_unbind(pid));
        members
    }

    fn update_process_tree(&mut self, descendants: &[ProcessEntry]) {
        let leaders: Vec<(u16, i32)> = self.running_leaders().collect();
        if leaders.is_empty() {
            return;
        }
        let leader_on =
            |port: u16| leaders.iter().find(|leader| leader.0 == port).map(|leader| leader.1);
        let pids: Vec<i32> = leaders.iter().map(|leader| leader.1).collect();
        self.process_tree.record_members(&pids, raw_pid(getpid()), descendants, |pid| {
            leader_on(read_port_mark(pid)?)
        });
    }

    /// Returns the port and first process of each running server.
    fn running_leaders(&self) -> impl Iterator<Item = (u16, i32)> {
        self.servers.iter().filter_map(|server| match server.state {
            SupervisedState::Running(running) => Some((server.spec.port, raw_pid(running.leader))),
            SupervisedState::StartDue(..) | SupervisedState::GivenUp => None,
        })
    }

    fn handle_exit(&mut self, index: usize, leader: Pid, status: WaitStatus) {
        // Its remaining processes hold the memory and the ports that the next start needs.
        let descendants = own_descendants();
        self.update_process_tree(&descendants);
        self.kill_members(leader, &descendants);
        let reason = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "no exit code".into(),
        };
        let code = status.exit_status();
        self.servers[index].record_exit(Instant::now(), &reason, code, &self.secrets);
    }

    /// Stops all servers, first with SIGTERM and then with SIGKILL, until this process has no children left.
    fn stop_all(&mut self) {
        let descendants = own_descendants();
        self.update_process_tree(&descendants);
        let pids: Vec<i32> = self
            .running_leaders()
            .flat_map(|(_, leader)| self.process_tree.members_of(leader, &descendants))
            .collect();
        // Every process gets the signal, since a leader need not pass it on.
        pids.into_iter().for_each(|pid| send_signal(pid, Signal::TERM));
        let grace = Instant::now() + TERM_GRACE;
        while !reap_all_children() {
            if Instant::now() >= grace {
                return kill_remaining();
            }
            thread::sleep(POLL_INTERVAL / 4);
        }
    }
}

impl SupervisedServer {
    fn is_led_by(&self, pid: Pid) -> bool {
        matches!(self.state, SupervisedState::Running(running) if running.leader == pid)
    }

    /// Begins to watch a server that has begun to listen.
    fn start_watch(&mut self, limits: WatchLimits, sender: &mpsc::Sender<HungServer>) {
        if let (SupervisedState::Running(running), Some(hang)) = (&self.state, limits.hang) {
            let leader = raw_pid(running.leader);
            self.watch = ServerWatch::start(self.spec.port, leader, hang, sender.clone());
        }
    }

    /// Starts the server if it is due, or checks whether it listens; true when it accepts its first connection.
    fn poll_server(&mut self, now: Instant, environment: &Environment, secrets: &[String]) -> bool {
        match &mut self.state {
            SupervisedState::StartDue(due, _) if now >= *due => {
                match self.spawn_server(environment) {
                    Ok(leader) => {
                        send_event(&SupervisorEvent::Started {
                            port: self.spec.port,
                            pid: raw_pid(leader),
                        });
                        self.state = SupervisedState::Running(RunningServer {
                            leader,
                            started: now,
                            is_listening: false,
                        });
                    }
                    Err(reason) => self.record_exit(now, &reason, None, secrets),
                }
            }
            SupervisedState::Running(running) if !running.is_listening => {
                running.is_listening =
                    TcpStream::connect_timeout(&loopback_address(self.spec.port), CONNECT_TIMEOUT)
                        .is_ok();
                if running.is_listening {
                    let elapsed_s = running.started.elapsed().as_secs_f64();
                    send_event(&SupervisorEvent::Listens { port: self.spec.port, elapsed_s });
                }
                return running.is_listening;
            }
            SupervisedState::StartDue(..)
            | SupervisedState::Running(_)
            | SupervisedState::GivenUp => {}
        }
        false
    }

    fn spawn_server(&self, environment: &Environment) -> Result<Pid, String> {
        let ServerSpec { command, variables, log: path, .. } = &self.spec;
        let log = log::open_log(path, command)
            .map_err(|error| format!("cannot write its log {}: {error}", path.display()))?;
        let error = |error: std::io::Error| format!("cannot start a process: {error}");
        let mut process = spawn::server_command(command).map_err(error)?;
        for name in environment::removed_variables(environment, command) {
            process.env_remove(name);
        }
        // With this, Python prints the stacks of all threads when it is killed by SIGABRT.
        process.env("PYTHONFAULTHANDLER", "1");
        process.envs(variables.iter().map(|(name, value)| (name, value)));
        // Set last, so that none of the user's variables replaces the mark.
        process.env(PORT_VARIABLE, self.spec.port.to_string());
        process.stdout(log.try_clone().map_err(error)?).stderr(log);
        let child = process.spawn().map_err(error)?;
        Ok(Pid::from_child(&child))
    }

    fn record_exit(&mut self, now: Instant, reason: &str, code: Option<i32>, secrets: &[String]) {
        (self.watch, self.kill_at) = (None, None);
        let (uptime, was_ready, last) = match self.state {
            SupervisedState::Running(running) => {
                (now.duration_since(running.started), running.is_listening, Some(running.leader))
            }
            SupervisedState::StartDue(_, last) => {
                (Duration::ZERO, false, last.map(|last| last.leader))
            }
            SupervisedState::GivenUp => (Duration::ZERO, false, None),
        };
        let port = self.spec.port;
        let tail = log::log_tail(&self.spec.log, secrets);
        match self.restart_policy.on_exit(uptime, was_ready, code) {
            RestartDecision::RestartAfter(pause) => {
                let wait_until = now + pause + RELEASE_TIMEOUT;
                let last =
                    last.map(|leader| PreviousStart { leader, wait_until, wait_reported: false });
                self.state = SupervisedState::StartDue(now + pause, last);
                let reason = format!("after {:.0} s ({reason})", uptime.as_secs_f64());
                send_event(&SupervisorEvent::Ended {
                    port,
                    reason,
                    tail,
                    restart_in_s: pause.as_secs_f64(),
                });
            }
            RestartDecision::GiveUp(times) => {
                self.state = SupervisedState::GivenUp;
                let reason = format!("it never became ready ({times} starts, last: {reason})");
                send_event(&SupervisorEvent::GivenUp { port, reason, tail });
            }
        }
    }
}

fn kill_remaining() {
    let limit = Instant::now() + KILL_TIMEOUT;
    while !reap_all_children() {
        let descendants = own_descendants();
        if Instant::now() >= limit {
            // Dying processes that only release their memory need no more attention.
            let left =
                descendants.iter().filter(|process| !process.is_ending).map(|process| process.pid);
            return send_event(&SupervisorEvent::Left { pids: left.collect() });
        }
        // Repeated, since a killed process may just have forked.
        descendants.iter().for_each(|process| kill_and_unbind(process.pid));
        thread::sleep(POLL_INTERVAL / 4);
    }
}

/// Reaps all exited children; true if none is left. As the subreaper of orphans this process has children as long as
/// any process of its servers lives.
fn reap_all_children() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

fn own_descendants() -> Vec<ProcessEntry> {
    descendants_of(raw_pid(getpid()), &list_processes())
}

/// Describes what a process is doing, for the log of its server.
fn describe_process(pid: i32) -> String {
    let read = |name: &str| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        text.trim().to_owned()
    };
    let status = read("status");
    let state = status.lines().find_map(|line| line.strip_prefix("State:")).unwrap_or("gone");
    format!("process {pid} ({}): state {}, waits in {}", read("comm"), state.trim(), read("wchan"))
}

/// Keeps a process that is about to be aborted from writing its memory to a file.
fn forbid_core_dump(pid: i32) {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    let _ = prlimit(Pid::from_raw(pid), Resource::Core, none); // it may be gone
}

fn send_signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal); // it may be gone
    }
}

/// Kills a process and lets it exit on any free core.
fn kill_and_unbind(pid: i32) {
    send_signal(pid, Signal::KILL);
    spawn::clear_cpu_affinity(pid);
}

fn raw_pid(pid: Pid) -> i32 {
    pid.as_raw_nonzero().get()
}

fn loopback_address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn is_port_free(port: u16) -> bool {
    TcpListener::bind(loopback_address(port)).is_ok()
}

/// Sends an event to the rank; errors are ignored, since the rank may be dead.
fn send_event(word: &SupervisorEvent) {
    if let Ok(line) = serde_json::to_string(word) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}
