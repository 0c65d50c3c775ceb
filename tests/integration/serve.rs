//! Servers that the job starts itself: they answer, they come back, and none of them outlives the job, however it ends.

use std::{
    net::TcpListener,
    os::unix::process::CommandExt,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use vllm_sim::{CostModel, Fault, Fleet, Profile, Rule, Script};

use crate::support::{
    Job, processes_with,
    work::{Work, by_chat, made_up},
};

const PORT: &str = "SWARM_TEST_PORT";
const MARKER: &str = "SWARM_TEST_MARKER";
const WORKER: &str = "SWARM_TEST_WORKER";
const STALL: &str = "SWARM_TEST_STALL";

/// Not a test but a server: this binary again, so that nothing else has to be built. With a worker in a group of its own that
/// will not hear of ending, as an engine may be, and one that has left its parent and its session too, as daemons do.
#[test]
#[ignore = "a program that other tests start"]
fn a_server() {
    let Ok(port) = std::env::var(PORT) else { return };
    if std::env::var(WORKER).is_ok() {
        let marker = std::env::var(MARKER).unwrap();
        let deaf = "trap '' TERM; while :; do sleep 1; done";
        let mut command = Command::new("sh");
        command.args(["-c", deaf, "worker", &marker]).process_group(0);
        let mut worker = command.spawn().unwrap();
        thread::spawn(move || worker.wait());
        let daemon = format!("setsid sh -c \"{deaf}\" worker {marker} &");
        let mut parent = Command::new("sh");
        parent.args(["-c", &daemon]).spawn().unwrap().wait().unwrap();
    }
    let cost = CostModel { step_base_us: 8_000.0, max_num_seqs: 16, ..CostModel::default() };
    // The first server of the job that finds the file missing stands still after some requests.
    let stalls = std::env::var(STALL).is_ok_and(|path| std::fs::File::create_new(path).is_ok());
    let rules = Vec::from_iter(stalls.then(|| Rule { from: 40, ..Rule::always(Fault::Stall) }));
    let script = Script { seed: 1, rules };
    let profile = Profile { cost, script, port: port.parse().unwrap(), ..Profile::default() };
    Fleet::start(vec![profile]).unwrap().wait().unwrap();
}

/// So many free ports in a row.
fn free_ports(count: u16) -> u16 {
    let first = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let row = |base: &u16| (*base..base.saturating_add(count)).all(is_free);
    (0..100).map(|_| first()).find(row).expect("free ports")
}

/// The run of this input with `servers` servers of its own a node, on `base` and the ports after it.
fn run(work: &Work, input: &str, base: u16, servers: u16) -> Job {
    let job = work.run(input).args(["--max-tokens", "8", "--ready-timeout", "40s"]);
    with_servers(work, job, base, servers)
}

fn with_servers(work: &Work, job: Job, base: u16, servers: u16) -> Job {
    let me = std::env::current_exe().unwrap();
    let command = format!(
        "'{}' --ignored --exact serve::a_server {} --nocapture --test-threads=1",
        me.display(),
        work.marker()
    );
    let (port, marker) = (format!("{PORT}={{port}}"), format!("{MARKER}={}", work.marker()));
    let (base, servers) = (base.to_string(), servers.to_string());
    job.args(["--serve", &command, "--serve-env", &port, "--serve-env", &marker]).args([
        "--base-port",
        &base,
        "--endpoints-per-node",
        &servers,
        "--serve-stagger",
        "50ms",
    ])
}

/// A process's environment, as NAME=VALUE texts.
fn environment(pid: Pid) -> Vec<String> {
    let bytes =
        std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
    bytes.split(|&byte| byte == 0).map(|it| String::from_utf8_lossy(it).into_owned()).collect()
}

/// The servers of this test and their environments; their workers, ranks and launchers are not.
fn servers(work: &Work) -> Vec<(Pid, Vec<String>)> {
    let all = processes_with(&work.marker()).into_iter().map(|pid| (pid, environment(pid)));
    let is_server = |(pid, environment): &(Pid, Vec<String>)| {
        let line = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero()));
        let line = String::from_utf8_lossy(&line.unwrap_or_default()).into_owned();
        !line.contains("worker\0")
            && !line.starts_with("swarm-guard")
            && environment.iter().any(|it| it.starts_with(PORT))
    };
    all.filter(is_server).collect()
}

#[track_caller]
fn until(limit: u64, what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(limit);
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[track_caller]
fn nobody_is_left(work: &Work, seconds: u64) {
    until(seconds, "processes are left behind", || processes_with(&work.marker()).is_empty());
}

#[track_caller]
fn all_are_right(work: &Work, prompts: &[String]) {
    let answers = work.answers("answers.jsonl");
    assert_eq!(answers.len(), prompts.len());
    for (answer, prompt) in answers.iter().zip(prompts) {
        assert_eq!(answer["response"], by_chat(prompt, 8), "{prompt}");
    }
}

#[test]
fn every_ranks_own_servers_answer_and_end_with_the_job() {
    let work = Work::with(Vec::new());
    let prompts = made_up(800);
    let input = work.prompts(&prompts);
    let base = free_ports(4);
    let job = run(&work, &input, base, 4).ranks(2);
    let started = job.env("VLLM_API_KEY", "kept").env("AURORA_SWARM_API_KEY", "gone").start();
    until(30, "no four servers", || servers(&work).len() == 4);
    for (_, environment) in servers(&work) {
        let has = |start: &str| environment.iter().any(|it| it.starts_with(start));
        for gone in ["PMI", "OMPI_", "PRTE_", "MPI_LOCAL", "HYDI_", "AURORA_SWARM_API_KEY"] {
            assert!(!has(gone), "{gone} in {environment:?}");
        }
        assert!(has("VLLM_API_KEY=kept") && has("PATH="));
    }
    started.wait().with_code(0);
    assert!(processes_with(&work.marker()).is_empty(), "the job has waited for their end");
    all_are_right(&work, &prompts);
    for port in base..base + 4 {
        let folder = std::fs::read_dir(work.path("answers.jsonl.run/servers")).unwrap();
        let names = folder.flatten().map(|it| it.file_name().to_string_lossy().into_owned());
        assert_eq!(names.filter(|it| it.ends_with(&format!("-{port}.log"))).count(), 1);
    }
}

#[test]
fn a_server_that_is_killed_comes_back_and_its_orphans_are_ended() {
    let work = Work::with(Vec::new());
    let prompts = made_up(3_000);
    let input = work.prompts(&prompts);
    let base = free_ports(2);
    let started = run(&work, &input, base, 2).args(["--serve-env", &format!("{WORKER}=1")]).start();
    until(30, "no answers", || work.lines_on_disk("answers.jsonl") > 50);
    // Who belongs to whom is looked at when a server begins to listen, within some tenths of a second.
    thread::sleep(Duration::from_secs(1));
    let (victim, environment) = servers(&work).remove(0);
    let before = processes_with(&work.marker());
    kill_process(victim, Signal::KILL).unwrap();
    // Another process on the same port, and of the old one's three processes none.
    let port = environment.into_iter().find(|it| it.starts_with(PORT)).unwrap();
    let is_back = |(pid, its): &(Pid, Vec<String>)| *pid != victim && its.contains(&port);
    until(20, "it does not come back", || servers(&work).iter().any(is_back));
    let after = processes_with(&work.marker());
    assert_eq!(before.iter().filter(|pid| !after.contains(pid)).count(), 3, "it and its workers");
    let ended = started.wait().with_code(0);
    assert!(ended.err.contains("; restarting in 1 s"), "{}", ended.err);
    all_are_right(&work, &prompts);
    nobody_is_left(&work, 0);
}

#[test]
fn a_rank_that_is_killed_leaves_no_server_behind() {
    for ranks in [None, Some(2)] {
        let work = Work::with(Vec::new());
        let input = work.prompts(&made_up(20_000));
        let base = free_ports(2);
        let job = run(&work, &input, base, 2).args(["--serve-env", &format!("{WORKER}=1")]);
        let job = ranks.into_iter().fold(job, Job::ranks);
        let started = job.start();
        until(30, "no answers", || work.lines_on_disk("answers.jsonl") > 50);
        assert_eq!(servers(&work).len(), 2);
        // Ranks have the marker in their command lines, as launchers have, and no variable of a server's.
        let is_rank = |pid: &Pid| {
            let name = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero()));
            name.is_ok_and(|it| it.trim() == "aurora-swarm")
        };
        let rank = processes_with(&work.marker()).into_iter().rfind(is_rank).expect("a rank");
        kill_process(rank, Signal::KILL).unwrap();
        nobody_is_left(&work, 12);
        started.wait().in_time();
    }
}

#[test]
fn servers_outlive_what_launchers_send_to_everybody() {
    let work = Work::with(Vec::new());
    let prompts = made_up(1_500);
    let input = work.prompts(&prompts);
    let base = free_ports(2);
    let started = run(&work, &input, base, 2).start();
    until(30, "no answers", || work.lines_on_disk("answers.jsonl") > 20);
    let parent = |pid: Pid| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap();
        let rest = stat.rsplit_once(") ").unwrap().1.to_owned();
        Pid::from_raw(rest.split(' ').nth(1).unwrap().parse().unwrap()).unwrap()
    };
    let guard = parent(servers(&work).remove(0).0);
    for signal in [Signal::TERM, Signal::INT, Signal::USR1, Signal::HUP] {
        kill_process(guard, signal).unwrap();
    }
    let open = std::fs::read_dir(format!("/proc/{}/fd", guard.as_raw_nonzero())).unwrap();
    assert!(open.count() <= 3, "the guard holds what is its rank's");
    let ended = started.wait().with_code(0);
    assert!(!ended.err.contains("guard"), "{}", ended.err);
    all_are_right(&work, &prompts);
    nobody_is_left(&work, 0);
}

#[test]
fn a_guard_that_is_killed_leaves_no_server_behind() {
    let work = Work::with(Vec::new());
    let prompts = made_up(400);
    let input = work.prompts(&prompts);
    let base = free_ports(1);
    let started = run(&work, &input, base, 1).args(["--ready-timeout", "3s"]).start();
    until(30, "no answers", || work.lines_on_disk("answers.jsonl") > 0);
    let server = servers(&work).remove(0).0;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.as_raw_nonzero())).unwrap();
    let guard = stat.rsplit_once(") ").unwrap().1.split(' ').nth(1).unwrap().parse().unwrap();
    kill_process(Pid::from_raw(guard).unwrap(), Signal::KILL).unwrap();
    until(5, "the server lives on", || servers(&work).is_empty());
    let ended = started.wait().in_time();
    assert!(ended.err.contains("guard process exited unexpectedly"), "{}", ended.err);
}

#[test]
fn a_command_that_is_not_there_ends_the_job_soon_with_the_logs_words() {
    let work = Work::with(Vec::new());
    let input = work.prompts(&made_up(10));
    let base = free_ports(2).to_string();
    let job = Job::of("run").args([input.as_str(), "--output", &work.path("a").to_string_lossy()]);
    let job = job.args(["--serve", "no-such-server --port {port}", "--base-port", &base]);
    let ended = job.args(["--endpoints-per-node", "2"]).ranks(2).run().with_code(6);
    assert!(ended.took < Duration::from_secs(15), "{:?}", ended.took);
    ended.complains("exit code 127").complains("no-such-server: not found");
}

#[test]
fn a_port_that_somebody_else_has_is_not_asked() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(10));
    let url = work.fleet.urls().remove(0);
    let (_, port) = url.rsplit_once(':').unwrap();
    let job = Job::of("run").args([input.as_str(), "--output", &work.path("a").to_string_lossy()]);
    let ended = job.args(["--serve", "sleep 60", "--base-port", port]).ranks(2).run().with_code(6);
    assert!(ended.took < Duration::from_secs(20), "{:?}", ended.took);
    ended.complains("another process listens on its port");
}

#[test]
fn a_server_that_never_is_ready_does_not_hold_up_the_others() {
    let work = Work::with(Vec::new());
    let prompts = made_up(100);
    let input = work.prompts(&prompts);
    let base = free_ports(2);
    let me = std::env::current_exe().unwrap();
    // The second rank's server loads for ever.
    let command = format!(
        "if [ {{k}} = 1 ]; then sleep 600; fi; '{}' --ignored --exact serve::a_server {}",
        me.display(),
        work.marker()
    );
    let (port, base) = (format!("{PORT}={{port}}"), base.to_string());
    let job =
        Job::of("run").args([&input, "--output", &work.path("answers.jsonl").to_string_lossy()]);
    let job = job.args(["--serve", &command, "--serve-env", &port, "--base-port", &base]);
    let job = job.args(["--endpoints-per-node", "2", "--max-tokens", "8", "--temperature", "0"]);
    let ended = job.ranks(2).run().with_code(0);
    assert!(ended.took < Duration::from_secs(40), "{:?}", ended.took);
    all_are_right(&work, &prompts);
    nobody_is_left(&work, 0);
}

#[test]
fn check_starts_servers_and_ends_them_once_the_last_ones_are_gone() {
    let work = Work::with(Vec::new());
    let base = free_ports(2);
    let last = TcpListener::bind(("127.0.0.1", base)).unwrap();
    thread::spawn(move || {
        thread::sleep(Duration::from_secs(3));
        drop(last);
    });
    let job = Job::of("check").args(["--ready-timeout", "40s"]).cwd(&work.path(""));
    let job = with_servers(&work, job, base, 2).args(["--min-endpoints", "2"]);
    job.ranks(2).run().with_code(0).says("tiny    2048", 2);
    nobody_is_left(&work, 0);
    assert!(work.has("check.servers"));
}

#[test]
fn a_finished_run_starts_nothing_and_a_guard_that_is_not_needed_ends() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(10));
    work.run(&input).run().with_code(0);
    let output = work.path("answers.jsonl").to_string_lossy().into_owned();
    let job = Job::of("run").args([input.as_str(), "--output", &output, "--temperature", "0"]);
    let ended = job.args(["--serve", "no-such-server"]).ranks(2).run().with_code(0);
    assert!(ended.took < Duration::from_secs(10), "{:?}", ended.took);
    assert!(!work.has("answers.jsonl.run/servers"));
}

#[test]
fn a_server_that_hangs_is_killed_and_restarted_and_costs_no_answer() {
    let work = Work::with(Vec::new());
    let prompts = made_up(400);
    let input = work.prompts(&prompts);
    let stall = format!("{STALL}={}", work.path("stalled").display());
    let job = run(&work, &input, free_ports(1), 1).args(["--serve-env", &stall, "--no-batch"]);
    let ended = job.args(["--serve-hang", "3s", "--timeout", "50s"]).run().with_code(0);
    ended.complains("server hangs: port").complains("and no token for");
    all_are_right(&work, &prompts);
    let logs = std::fs::read_dir(work.path("answers.jsonl.run/servers")).unwrap();
    let text: String =
        logs.flatten().map(|log| std::fs::read_to_string(log.path()).unwrap()).collect();
    assert!(text.contains("it hangs, ") && text.contains("): state "), "{text}");
    nobody_is_left(&work, 10);
}

#[test]
fn servers_are_recycled_one_at_a_time_at_their_greatest_age() {
    let work = Work::with(Vec::new());
    let prompts = made_up(2_500);
    let input = work.prompts(&prompts);
    let job = run(&work, &input, free_ports(2), 2).args(["--serve-max-age", "3s"]);
    job.run().with_code(0).complains("server recycled: port");
    all_are_right(&work, &prompts);
    nobody_is_left(&work, 10);
}
