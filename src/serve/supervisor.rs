//! The guard: a process of its own that starts a rank's servers, starts them again when they end, and ends them all when its
//! pipe closes. It holds no opinion on which servers there are, and is told once.
//!
//! One loop, five times a second: what has ended, what is due. It waits for any child at all, and not by std's `Child`, since
//! as the reaper of what servers leave behind it has children that it never started.

use std::{
    io::{BufRead, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, wait};

use super::{
    Server, environment, log,
    process_tree::{Family, MARK, Process, descendants, mark, processes},
    protocol::{Order, Word},
    restart_policy::{Due, Next, Restarts, when_due},
    spawn,
};
use crate::settings::Environment;

const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Reading the process table of a full node takes tens of milliseconds, and there may be a dozen guards.
const LEARN_EVERY: Duration = Duration::from_secs(5);
const CONNECT: Duration = Duration::from_millis(200);
/// What servers have to end by themselves, and what the kernel has to end them.
const GRACE: Duration = Duration::from_secs(5);
const KILLING: Duration = Duration::from_secs(20);
/// What is left of a server is waited for so long before it is started again: gigabytes take the kernel a while.
const GIVING_BACK: Duration = Duration::from_secs(90);

/// Local. The whole life of a guard: until its standard input ends and no server is left.
#[must_use]
pub fn watch(environment: Environment) -> u8 {
    spawn::be_a_guard();
    let (tell, orders) = mpsc::channel();
    let reader = thread::Builder::new().name("orders".into()).spawn(move || {
        for line in std::io::stdin().lock().lines() {
            // An order that cannot be read is as good as the pipe's end: the rank must not wait for an answer.
            let Some(order) = line.ok().and_then(|line| serde_json::from_str::<Order>(&line).ok())
            else {
                return;
            };
            if tell.send(order).is_err() {
                return;
            }
        }
    });
    if reader.is_err() {
        return 1; // the rank sees the pipe's end
    }
    let mut watch = Watch {
        secrets: environment::secrets(&environment),
        environment,
        kept: Vec::new(),
        family: Family::default(),
        next_learn: Instant::now(),
    };
    loop {
        match orders.recv_timeout(LOOK_EVERY) {
            Ok(order) => watch.take(order),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        watch.look(Instant::now());
    }
    watch.end();
    0
}

struct Watch {
    environment: Environment,
    secrets: Vec<String>,
    kept: Vec<Kept>,
    family: Family,
    next_learn: Instant,
}

/// A server and how it is.
struct Kept {
    server: Server,
    restarts: Restarts,
    state: State,
}

enum State {
    /// Then, and what ran before, if any of it may be left.
    Due(Instant, Option<Last>),
    Up(Up),
    GivenUp,
}

/// The last start of a server.
#[derive(Clone, Copy)]
struct Last {
    /// Its first process.
    leader: Pid,
    /// The next start does not wait for its end for longer.
    patience: Instant,
    /// Was it said that the next start waits?
    told: bool,
}

#[derive(Clone, Copy)]
struct Up {
    leader: Pid,
    since: Instant,
    /// Has it taken a connection?
    listens: bool,
}

impl Watch {
    fn take(&mut self, order: Order) {
        // Whoever listens there would be asked in the server's stead, and may serve another model. Where the same command is
        // given again at once, that is the last run's server, which its guard is about to end.
        let patience = Instant::now() + GRACE * 2;
        let all_are_free = |servers: &[Server]| servers.iter().all(|it| is_free(it.port));
        while !all_are_free(&order.servers) && Instant::now() < patience {
            thread::sleep(LOOK_EVERY);
        }
        let now = Instant::now();
        let (free, taken): (Vec<_>, Vec<_>) =
            order.servers.into_iter().partition(|it| is_free(it.port));
        tell(&Word::Taken { ports: taken.iter().map(|it| it.port).collect() });
        self.kept.extend(free.into_iter().map(|server| {
            let state = State::Due(now + server.delay, None);
            Kept { server, restarts: Restarts::new(), state }
        }));
    }

    fn look(&mut self, now: Instant) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let is_it = |kept: &Kept| matches!(kept.state, State::Up(up) if up.leader == pid);
            if let Some(at) = self.kept.iter().position(is_it) {
                self.has_ended(at, pid, status);
            }
        }
        self.sweep(now);
        for kept in &mut self.kept {
            // A server that has come to listen has all its processes.
            if kept.look(now, &self.environment, &self.secrets) {
                self.next_learn = now;
            }
        }
        if now >= self.next_learn {
            self.next_learn = now + LEARN_EVERY;
            self.learn(&ours());
        }
    }

    /// What is left of a server that is about to be started again: whoever forked while it was being killed, and who is
    /// dead but for the memory, and the ports, that it has yet. The next one needs them, so it waits for that.
    fn sweep(&mut self, now: Instant) {
        for at in 0..self.kept.len() {
            let State::Due(due, Some(last)) = self.kept[at].state else { continue };
            if due > now {
                continue;
            }
            let pids = self.kill_family(last.leader, &ours());
            self.kept[at].state = match when_due(pids.len(), now, last.patience) {
                Due::Start => State::Due(now, None),
                Due::Wait(then) => {
                    if !last.told {
                        tell(&Word::Waits { port: self.kept[at].server.port, pids });
                    }
                    State::Due(then, Some(Last { told: true, ..last }))
                }
                Due::Overdue => {
                    tell(&Word::Left { pids });
                    State::Due(now, None)
                }
            };
        }
    }

    /// Who they are, dead ones too.
    fn kill_family(&self, leader: Pid, ours: &[Process]) -> Vec<i32> {
        let its = self.family.of(raw(leader), ours);
        its.iter().for_each(|&pid| end_at_once(pid));
        its
    }

    fn learn(&mut self, ours: &[Process]) {
        let leaders: Vec<(u16, i32)> = self.leaders().collect();
        if leaders.is_empty() {
            return;
        }
        let on = |port: u16| leaders.iter().find(|it| it.0 == port).map(|it| it.1);
        let pids: Vec<i32> = leaders.iter().map(|it| it.1).collect();
        self.family.learn(&pids, raw(getpid()), ours, |pid| on(mark(pid)?));
    }

    /// The servers that run: port and first process.
    fn leaders(&self) -> impl Iterator<Item = (u16, i32)> {
        self.kept.iter().filter_map(|kept| match kept.state {
            State::Up(up) => Some((kept.server.port, raw(up.leader))),
            State::Due(..) | State::GivenUp => None,
        })
    }

    fn has_ended(&mut self, at: usize, leader: Pid, status: WaitStatus) {
        // What it leaves holds the memory, and the ports, that the next one needs.
        let ours = ours();
        self.learn(&ours);
        self.kill_family(leader, &ours);
        let how = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "no code".into(),
        };
        let code = status.exit_status();
        self.kept[at].has_ended(Instant::now(), &how, code, &self.secrets);
    }

    /// Ends all servers: by asking, then by force, until this process has no children left of any kind.
    fn end(&mut self) {
        let ours = ours();
        self.learn(&ours);
        let asked: Vec<i32> =
            self.leaders().flat_map(|(_, leader)| self.family.of(leader, &ours)).collect();
        asked.into_iter().for_each(|pid| kill(pid, Signal::TERM));
        let grace = Instant::now() + GRACE;
        while !nobody_is_left() {
            if Instant::now() >= grace {
                return end_by_force();
            }
            thread::sleep(LOOK_EVERY / 4);
        }
    }
}

impl Kept {
    /// True when it takes its first connection.
    fn look(&mut self, now: Instant, environment: &Environment, secrets: &[String]) -> bool {
        match &mut self.state {
            State::Due(due, _) if now >= *due => match self.start(environment) {
                Ok(leader) => {
                    tell(&Word::Started { port: self.server.port, pid: raw(leader) });
                    self.state = State::Up(Up { leader, since: now, listens: false });
                }
                Err(why) => self.has_ended(now, &why, None, secrets),
            },
            State::Up(up) if !up.listens => {
                up.listens =
                    TcpStream::connect_timeout(&address(self.server.port), CONNECT).is_ok();
                if up.listens {
                    let seconds = up.since.elapsed().as_secs_f64();
                    tell(&Word::Listens { port: self.server.port, seconds });
                }
                return up.listens;
            }
            State::Due(..) | State::Up(_) | State::GivenUp => {}
        }
        false
    }

    fn start(&self, environment: &Environment) -> Result<Pid, String> {
        let Server { command, variables, log: path, .. } = &self.server;
        let log = log::open(path, command)
            .map_err(|error| format!("its log {} cannot be written: {error}", path.display()))?;
        let error = |error: std::io::Error| format!("no process could be started: {error}");
        let mut process = spawn::server(command).map_err(error)?;
        for name in environment::removed(environment, command) {
            process.env_remove(name);
        }
        process.envs(variables.iter().map(|(name, value)| (name, value)));
        process.env(MARK, self.server.port.to_string());
        process.stdout(log.try_clone().map_err(error)?).stderr(log);
        let child = process.spawn().map_err(error)?;
        Ok(Pid::from_child(&child))
    }

    fn has_ended(&mut self, now: Instant, how: &str, code: Option<i32>, secrets: &[String]) {
        let (up, was_ready, last) = match self.state {
            State::Up(up) => (now.duration_since(up.since), up.listens, Some(up.leader)),
            State::Due(_, last) => (Duration::ZERO, false, last.map(|it| it.leader)),
            State::GivenUp => (Duration::ZERO, false, None),
        };
        let port = self.server.port;
        let tail = log::tail(&self.server.log, secrets);
        match self.restarts.after(up, was_ready, code) {
            Next::Again(pause) => {
                let patience = now + pause + GIVING_BACK;
                let last = last.map(|leader| Last { leader, patience, told: false });
                self.state = State::Due(now + pause, last);
                let how = format!("it ended after {:.0} s ({how})", up.as_secs_f64());
                tell(&Word::Ended { port, how, tail, again_in: pause.as_secs_f64() });
            }
            Next::GiveUp(times) => {
                self.state = State::GivenUp;
                let why = format!("it ended {times} times and never was ready, last with {how}");
                tell(&Word::GivenUp { port, why, tail });
            }
        }
    }
}

fn end_by_force() {
    let limit = Instant::now() + KILLING;
    while !nobody_is_left() {
        let ours = ours();
        if Instant::now() >= limit {
            // Who is dead but for its memory needs nobody any more.
            let left = ours.iter().filter(|it| !it.is_ending).map(|it| it.pid);
            return tell(&Word::Left { pids: left.collect() });
        }
        // Again and again, since who is killed may just have forked.
        ours.iter().for_each(|it| end_at_once(it.pid));
        thread::sleep(LOOK_EVERY / 4);
    }
}

/// Takes leave of all children that have ended. As the reaper of orphans this process has children for as long as anything of
/// its servers lives.
fn nobody_is_left() -> bool {
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
            Ok(None) => return false,
            Err(_) => return true,
        }
    }
}

fn ours() -> Vec<Process> {
    descendants(raw(getpid()), &processes())
}

fn kill(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal); // it may be gone
    }
}

/// Kills it, and lets it come to its end on whatever core is free.
fn end_at_once(pid: i32) {
    kill(pid, Signal::KILL);
    spawn::unbind(pid);
}

fn raw(pid: Pid) -> i32 {
    pid.as_raw_nonzero().get()
}

fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn is_free(port: u16) -> bool {
    TcpListener::bind(address(port)).is_ok()
}

/// To the rank; nobody listens once it is dead.
fn tell(word: &Word) {
    if let Ok(line) = serde_json::to_string(word) {
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}
