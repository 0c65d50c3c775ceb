//! Starting the program, on one rank or on many, with a deadline: the typical MPI bug is a hang.

use std::{
    io::{Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

/// A start of a program, described. `Job::of("check").ranks(3).arg("--json").run()`
pub struct Job {
    program: String,
    ranks: Option<usize>,
    args: Vec<String>,
    env: Vec<(String, String)>,
    cwd: Option<PathBuf>,
    /// Words before the command, launcher and all.
    before: Vec<String>,
    deadline: Duration,
}

/// How it ended. Whether a deadline ended it is asked by [`Ended::in_time`], which every helper does.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
    pub took: Duration,
    killed: bool,
}

/// One that runs.
pub struct Started {
    child: Child,
    out: thread::JoinHandle<String>,
    err: thread::JoinHandle<String>,
    began: Instant,
    deadline: Duration,
}

/// The launcher of the MPI that the program was linked with.
pub fn mpiexec() -> String {
    std::env::var("AURORA_MPIEXEC").unwrap_or_else(|_| env!("BUILD_MPIEXEC").into())
}

/// Is that Open MPI's?
pub fn is_open_mpi() -> bool {
    let version = Command::new(mpiexec()).arg("--version").output().expect("mpiexec --version");
    let text = String::from_utf8_lossy(&version.stdout).into_owned();
    text.contains("Open MPI") || text.contains("OpenRTE") || text.contains("PRRTE")
}

impl Job {
    /// `aurora-swarm COMMAND` as one process without a launcher.
    pub fn of(command: &str) -> Self {
        Self::program(env!("CARGO_BIN_EXE_aurora-swarm")).arg(command)
    }

    /// A program.
    pub fn program(path: &str) -> Self {
        Self {
            program: path.into(),
            ranks: None,
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            before: Vec::new(),
            deadline: Duration::from_secs(60),
        }
    }

    /// One of this test binary's ignored tests, as a program: how a test gets to be a rank.
    pub fn ranks_of_test(name: &str, ranks: usize) -> Self {
        let me = std::env::current_exe().expect("this test binary");
        // One test thread means the main thread, where MPI has to be.
        Self::program(&me.to_string_lossy())
            .args(["--ignored", "--exact", name, "--nocapture", "--test-threads=1"])
            .ranks(ranks)
    }

    /// By mpiexec, on so many ranks.
    pub fn ranks(mut self, ranks: usize) -> Self {
        self.ranks = Some(ranks);
        self
    }

    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn args<'a>(mut self, args: impl IntoIterator<Item = &'a str>) -> Self {
        self.args.extend(args.into_iter().map(str::to_owned));
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Started from there.
    pub fn cwd(mut self, folder: &Path) -> Self {
        self.cwd = Some(folder.to_owned());
        self
    }

    /// Behind these words, as `nsenter`'s: whatever they start it in.
    pub fn within(mut self, before: &[String]) -> Self {
        self.before = before.to_vec();
        self
    }

    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    fn command(&self) -> Command {
        let begin = |program: &str| match self.before.split_first() {
            None => Command::new(program),
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg(program);
                command
            }
        };
        let mut command = match self.ranks {
            None => begin(&self.program),
            Some(ranks) => {
                let mut command = begin(&mpiexec());
                if is_open_mpi() {
                    command.arg("--oversubscribe").envs([
                        ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
                        ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
                        ("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"),
                    ]);
                }
                command.args(["-n", &ranks.to_string(), &self.program]);
                command
            }
        };
        // No launcher's or user's variables leak in: a test says what it wants.
        for (name, _) in std::env::vars() {
            if name.starts_with("AURORA_SWARM_") || name.starts_with("PMI") {
                command.env_remove(name);
            }
        }
        command.args(&self.args).envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(folder) = &self.cwd {
            command.current_dir(folder);
        }
        // hydra reads stdin; a group of its own can be ended whole.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        command
    }

    /// Runs it to its end, or to the deadline's.
    pub fn run(self) -> Ended {
        self.start().wait()
    }

    /// Runs it with this on its standard input.
    pub fn run_with_input(self, input: &[u8]) -> Ended {
        let mut command = self.command();
        command.stdin(Stdio::piped());
        let mut started = self.spawn(command);
        let mut pipe = started.child.stdin.take().expect("it was piped");
        pipe.write_all(input).expect("it reads its input");
        drop(pipe);
        started.wait()
    }

    /// Starts it.
    pub fn start(self) -> Started {
        let command = self.command();
        self.spawn(command)
    }

    fn spawn(self, mut command: Command) -> Started {
        let began = Instant::now();
        let mut child = command.spawn().expect("the program or mpiexec starts");
        let out = reader(child.stdout.take());
        let err = reader(child.stderr.take());
        Started { child, out, err, began, deadline: self.deadline }
    }
}

impl Started {
    /// The launcher's process, or the program's where there is none.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// To its end, or to the deadline's.
    pub fn wait(mut self) -> Ended {
        let (code, killed) = wait(&mut self.child, self.deadline);
        Ended {
            code,
            out: self.out.join().expect("a reader"),
            err: self.err.join().expect("a reader"),
            took: self.began.elapsed(),
            killed,
        }
    }

    /// `kill -9` of mpiexec, its helpers and every rank: all processes whose command line holds `marker`, and the child.
    pub fn kill_everything(mut self, marker: &str) {
        for pid in processes_with(marker) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        let gone = Instant::now() + Duration::from_secs(10);
        while !processes_with(marker).is_empty() {
            assert!(Instant::now() < gone, "ranks outlive their killing");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Processes that were started with this in their arguments; this one is not.
pub fn processes_with(marker: &str) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let pid = entry.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        found.extend(pid.filter(|&pid| line.contains(marker) && pid != rustix::process::getpid()));
    }
    found
}

/// The process that is this rank of the job that was started with this in its arguments.
pub fn process_of(marker: &str, rank: usize) -> Pid {
    let is_it = |pid: &Pid| {
        let path = format!("/proc/{}/environ", pid.as_raw_nonzero());
        let environment = std::fs::read(path).unwrap_or_default();
        let mut variables = environment.split(|&byte| byte == 0);
        let names = ["PMI_RANK", "OMPI_COMM_WORLD_RANK"];
        variables.any(|it| names.iter().any(|name| it == format!("{name}={rank}").as_bytes()))
    };
    let mut its: Vec<Pid> = processes_with(marker).into_iter().filter(is_it).collect();
    assert_eq!(its.len(), 1, "rank {rank} is one process");
    its.remove(0)
}

impl Ended {
    /// Fails the test if the deadline ended it.
    #[track_caller]
    pub fn in_time(self) -> Self {
        assert!(!self.killed, "it hung and was ended after {:?}\n{}", self.took, self.text());
        self
    }

    /// In time, and with this code.
    #[track_caller]
    pub fn with_code(self, code: i32) -> Self {
        let ended = self.in_time();
        assert_eq!(ended.code, Some(code), "\n{}", ended.text());
        ended
    }

    /// Its output has this word so many times: the positive marker, since a launcher's code proves nothing.
    #[track_caller]
    pub fn says(self, marker: &str, times: usize) -> Self {
        let count = self.out.matches(marker).count();
        assert_eq!(count, times, "{marker:?}\n{}", self.text());
        self
    }

    /// Its complaints hold this.
    #[track_caller]
    pub fn complains(self, words: &str) -> Self {
        assert!(self.err.contains(words), "{words:?} is not in\n{}", self.text());
        self
    }

    fn text(&self) -> String {
        format!("code {:?}\n--- stdout\n{}\n--- stderr\n{}", self.code, self.out, self.err)
    }
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.expect("it was piped").read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The exit code, and whether the deadline had to end it.
fn wait(child: &mut Child, deadline: Duration) -> (Option<i32>, bool) {
    let group = Pid::from_raw(i32::try_from(child.id()).expect("a pid")).expect("not 0");
    let (done, watched) = mpsc::channel::<()>();
    let dog = thread::spawn(move || {
        let late = watched.recv_timeout(deadline) == Err(mpsc::RecvTimeoutError::Timeout);
        if late {
            let _ = kill_process_group(group, Signal::KILL);
        }
        late
    });
    let status = child.wait().expect("it was started");
    let _ = done.send(());
    let killed = dog.join().expect("the watcher");
    // A launcher that is gone may leave ranks behind: nothing of a test outlives it.
    let _ = kill_process_group(group, Signal::KILL);
    (status.code(), killed)
}
