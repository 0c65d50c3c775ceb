//! Looking at a run from outside, by its files: `status`, once and following, `plan`, and the sign of life they go by.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::support::{
    Job,
    work::{Work, assert_right, made_up, slow},
};

/// `status answers.jsonl`
fn status(work: &Work) -> Job {
    Job::of("status").arg(&work.path("answers.jsonl").to_string_lossy())
}

/// A run whose answers [`assert_right`] expects.
fn run_short(work: &Work, input: &str) -> Job {
    work.run(input).args(["--max-tokens", "8"])
}

fn merge(work: &Work, more: &[&str]) -> Job {
    let merge = Job::of("merge").arg(&work.path("answers.jsonl").to_string_lossy());
    merge.args(more.iter().copied()).cwd(work.folder())
}

/// `plan` with what `run` is given.
fn plan(work: &Work, input: &str) -> Job {
    let output = work.path("answers.jsonl").to_string_lossy().into_owned();
    Job::of("plan").args([input, "--output", &output, "--temperature", "0"])
}

fn heartbeat(work: &Work) -> Option<Value> {
    let text = std::fs::read(work.path("answers.jsonl.run/heartbeat.json")).ok()?;
    // Empty for the moment in which a session creates it.
    let is_whole = !text.is_empty();
    is_whole.then(|| serde_json::from_slice(&text).expect("a heartbeat is absent or whole"))
}

/// Waits until it is so.
#[track_caller]
fn until(what: &str, mut so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(40);
    while !so() {
        assert!(Instant::now() < end, "it is not so in time: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Everything below the folder, with what is in it.
fn all_files(work: &Work) -> Vec<(PathBuf, Vec<u8>)> {
    let mut folders = vec![work.path("")];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push((path.clone(), std::fs::read(&path).unwrap())),
            }
        }
    }
    files.sort();
    files
}

/// As another host's process would leave it.
fn heartbeat_of_another_host(work: &Work, age: u64) {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let beat = json!({
        "host": "another", "pid": 1, "job": "77.pbs", "start": 2, "began": now - age,
        "doing": "reading-input", "beat": now - age,
    });
    work.file("answers.jsonl.run/heartbeat.json", beat.to_string());
}

#[test]
fn the_heart_beats_while_rank_0_hangs_on_a_file() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(30));
    // A pipe without another end: whoever opens it hangs, as on a file system that hangs.
    let pipe = work.path("answers.jsonl.run/timelines.jsonl");
    std::fs::create_dir(work.path("answers.jsonl.run")).unwrap();
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let run = work.run(&input).ranks(2).start();
    let beats = |work: &Work| heartbeat(work).map(|it| it["beat"].as_u64().unwrap());
    until("it has begun", || beats(&work).is_some());
    // Three intervals of the heartbeat: a run of thirty prompts would have ended long before.
    let first = beats(&work);
    until("the heart beats on", || beats(&work) > first.map(|first| first + 14));
    work.run(&input).run().with_code(5).complains("is being written by process");
    // Under another name, so that the run finds it once only.
    let renamed = work.path("pipe");
    std::fs::rename(&pipe, &renamed).unwrap();
    let both_ends = std::fs::OpenOptions::new().read(true).write(true).open(renamed).unwrap();
    drop(both_ends);
    run.wait().with_code(0);
    assert_eq!(heartbeat(&work), None);
}

#[test]
fn who_reads_a_long_input_over_is_at_work_already() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(30));
    let pipe = work.path("slowly.jsonl.gz");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let run = work.run(&pipe.to_string_lossy()).start();
    until("it reads", || heartbeat(&work).is_some_and(|it| it["doing"] == "reading-input"));
    assert!(!work.has("answers.jsonl.run/manifest.json"));
    work.run(&input).run().with_code(5).complains("scanning the input");
    plan(&work, &input).run().with_code(5).says("is being written by process", 1);
    let seen = status(&work).arg("--exit-code").run().with_code(75);
    assert!(seen.out.starts_with("begins: scanning the input"), "{}", seen.out);
    // It turns out to be no input: everything is left as it was.
    std::fs::write(&pipe, "no gzip").unwrap();
    run.wait().with_code(5);
    assert!(!work.has("answers.jsonl.run"));
}

#[test]
fn another_hosts_run_is_alive_while_its_heart_beats() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(30));
    work.run(&input).run().with_code(0);
    heartbeat_of_another_host(&work, 50);
    let seen = status(&work).arg("--json").run().with_code(0);
    let seen: Value = serde_json::from_str(&seen.out).unwrap();
    assert_eq!((&seen["state"], &seen["host"]), (&json!("running"), &json!("another")));
    assert_eq!((&seen["job"], &seen["starts"]), (&json!("77.pbs"), &json!(2)));
    work.run(&input).run().with_code(5).complains("process 1 on another (job 77.pbs)");
    heartbeat_of_another_host(&work, 61);
    let seen = status(&work).run().with_code(0);
    assert!(seen.out.starts_with("finished:"), "{}", seen.out);
    work.run(&input).run().with_code(0);
    assert_eq!(heartbeat(&work), None);
}

#[test]
fn a_run_is_followed_from_before_its_beginning_to_its_end() {
    let work = Work::with(vec![slow(8.0)]);
    let input = work.prompts(&made_up(1_500));
    let follow = |more: &[&str]| {
        let job = status(&work).args(["--follow", "--every", "100ms", "--exit-code"]);
        job.args(more.iter().copied()).start()
    };
    let (text, objects) = (follow(&[]), follow(&["--json", "--verify"]));
    thread::sleep(Duration::from_millis(500));
    work.run(&input).args(["--max-tokens", "8"]).ranks(2).run().with_code(0);
    let text = text.wait().with_code(0).complains("waiting up to 10m");
    let lines: Vec<&str> = text.out.lines().collect();
    let last = lines.last().unwrap();
    assert!(last.starts_with("finished: 1500 of 1500 done (100.0 %), 1500 answered"), "{last}");
    let running: Vec<_> = lines.iter().filter(|line| line.starts_with("running:")).collect();
    assert!(running.iter().any(|line| line.contains(" prompts/s, ")), "{}", text.out);
    assert!(running.iter().any(|line| line.contains(" left, ")), "{}", text.out);
    assert!(lines.windows(2).all(|two| two[0] != two[1]), "only changes are said\n{}", text.out);
    assert!(!text.out.contains('\x1b'));

    let objects = objects.wait().with_code(0);
    let objects: Vec<Value> =
        objects.out.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    let last = objects.last().unwrap();
    assert_eq!(last["state"], "finished");
    assert_eq!((&last["answered"], &last["open"]), (&json!(1500), &json!(0)));
    assert_eq!((&last["ranks"], &last["prompts_per_s"]), (&json!(2), &Value::Null));
    assert!(objects.iter().any(|it| it["left_s"].as_f64() > Some(0.0)
        && it["prompts_per_s"].as_f64() > Some(20.0)
        && it["endpoints_up"] == 1));
}

#[test]
fn following_ends_with_a_run_that_is_killed() {
    // (a run that goes on for minutes, however slow the machine is)
    let work = Work::with(vec![slow(40.0)]);
    let input = work.prompts(&made_up(3_000));
    let run = work.run(&input).args(["--max-tokens", "8"]).start();
    until("answers come", || work.lines_on_disk("answers.jsonl") > 20);
    let follow = status(&work).args(["--follow", "--every", "100ms", "--exit-code"]).start();
    thread::sleep(Duration::from_millis(500));
    // (whoever follows has the folder in its command line as well)
    rustix::process::kill_process(run.pid(), rustix::process::Signal::KILL).unwrap();
    let ended = follow.wait().with_code(75);
    let last = ended.out.lines().last().unwrap().to_owned();
    assert!(last.starts_with("lost:"), "{}", ended.out);
    // What is said of it is what is on disk, and not what the manifest knew.
    let kept = work.lines_on_disk("answers.jsonl");
    assert!(last.contains(&format!("{kept} answered")), "{kept}: {last}");
    run.kill_everything(&work.marker());
}

#[test]
fn a_run_that_never_begins_is_not_waited_for_for_ever() {
    let work = Work::instant(0);
    let ended = status(&work).args(["--follow", "--wait", "300ms"]).run().with_code(5);
    ended.complains("waiting up to 300ms").complains("no run found in");
    status(&work).run().with_code(5).complains("no run found in");
    status(&work).args(["--every", "1s"]).run().with_code(2);
}

#[test]
fn who_follows_ends_with_its_reader_and_when_told_to() {
    // (a run that goes on for minutes, however slow the machine is)
    let work = Work::with(vec![slow(40.0)]);
    let input = work.prompts(&made_up(3_000));
    let run = work.run(&input).args(["--max-tokens", "8"]).start();
    until("answers come", || work.lines_on_disk("answers.jsonl") > 20);
    let follow = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_aurora-swarm"));
        command.args(["status", "--follow", "--every", "100ms"]).arg(work.path("answers.jsonl"));
        command.stdout(std::process::Stdio::piped()).spawn().unwrap()
    };
    let first_line = |follow: &mut std::process::Child| {
        let mut line = String::new();
        BufReader::new(follow.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("running:"), "{line}");
    };
    let mut unread = follow();
    first_line(&mut unread);
    until("it notices", || unread.try_wait().unwrap().is_some());
    assert!(unread.wait().unwrap().success());
    let interrupted = follow();
    thread::sleep(Duration::from_millis(300));
    let pid = rustix::process::Pid::from_child(&interrupted);
    // (not INT, which is ignored by everything that a script has started in the background)
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let out = interrupted.wait_with_output().unwrap();
    assert!(!out.status.success());
    run.kill_everything(&work.marker());
}

#[test]
fn json_has_all_that_a_script_needs() {
    let work = Work::instant(2);
    let mut prompts = made_up(40);
    prompts[7] = " ".into();
    let input = work.prompts(&prompts);
    work.run(&input).env("PBS_JOBID", "12.aurora").ranks(2).run().with_code(3);
    let json = status(&work).args(["--json", "--verify", "--exit-code"]).run().with_code(3).out;
    let mut seen: Value = serde_json::from_str(&json).unwrap();
    let seen = seen.as_object_mut().unwrap();
    let mut take = |key: &str| seen.remove(key).unwrap_or_else(|| panic!("no {key} in {json}"));
    for key in ["host", "pid", "folder", "output", "began", "seconds", "requests"] {
        assert!(!take(key).is_null(), "{key}");
    }
    assert!(take("written_s_ago").as_u64() < Some(60));
    assert_eq!(
        Value::Object(seen.clone()),
        json!({
            "state": "finished", "doing": null, "submitted": 40, "answered": 39, "failed": 1, "open": 0,
            "resent": 0, "cut": 0, "blank": 0, "refused": 0, "prompts_per_s": null, "tokens_per_s": null, "left_s": null, "in_flight": null,
            "endpoints_up": null, "starts": 1, "ranks": 2, "lost": [], "away": null, "job": "12.aurora",
            "model": "tiny", "api": "chat", "heartbeat_s_ago": null,
        })
    );
}

#[test]
fn verify_finds_shard_files_that_are_damaged_or_gone() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(60));
    work.run(&input).run().with_code(0);
    let verify = || status(&work).args(["--verify", "--exit-code"]).run();
    verify().with_code(0);
    let shard = work.path("answers.jsonl.run/shards/0001-00000.jsonl");
    let whole = std::fs::read_to_string(&shard).unwrap();
    std::fs::write(&shard, whole.replacen("\"success\":true", "\"succ", 2)).unwrap();
    let said = verify().with_code(5).complains("2 damaged lines").complains("0001-00000.jsonl");
    said.complains("counts 60 answered and 0 failed, but its shard files hold 58 answered");
    std::fs::remove_file(&shard).unwrap();
    verify().with_code(5).complains("shard files hold 0 answered").complains("missing");
    std::fs::write(&shard, whole).unwrap();
    verify().with_code(0);
}

#[test]
fn shard_lines_that_are_no_answers_are_named_and_their_prompts_are_sent_again() {
    let work = Work::instant(1);
    let prompts = made_up(60);
    let input = work.prompts(&prompts);
    run_short(&work, &input).run().with_code(0);
    let shard = work.path("answers.jsonl.run/shards/0001-00000.jsonl");
    let whole = std::fs::read(&shard).unwrap();
    let mut lines: Vec<Vec<u8>> =
        whole.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
    lines[1] = b"{\"index\":0,\"success\":true}\n".to_vec();
    let at = lines[2].windows(11).position(|it| it == b"\"response\":").unwrap() + 12;
    lines[2][at] = 0xff;
    std::fs::write(&shard, lines.concat()).unwrap();
    let said = status(&work).args(["--verify", "--exit-code"]).run().with_code(5);
    said.complains("2 damaged lines").complains("0001-00000.jsonl (first: line 2)");
    let partial = merge(&work, &["--partial", "--output", "m.jsonl"]).run().with_code(0);
    partial.complains("2 damaged lines");
    let merged = std::fs::read_to_string(work.path("m.jsonl")).expect("UTF-8");
    assert!(merged.lines().count() == 58 && merged.lines().all(|line| line.contains("\"id\":")));
    run_short(&work, &input).run().with_code(0).complains("2 damaged lines");
    assert_right(&work.answers("answers.jsonl"), &prompts);
}

#[test]
fn of_sessions_that_start_at_one_moment_one_gets_the_run_and_the_others_say_which() {
    for overwrite in [false, true] {
        let work = Work::with(vec![slow(2.0)]);
        let prompts = made_up(200);
        let input = work.prompts(&prompts);
        if overwrite {
            run_short(&work, &input).run().with_code(0);
        }
        let more: &[&str] = if overwrite { &["--overwrite"] } else { &[] };
        let started: Vec<_> =
            (0..4).map(|_| run_short(&work, &input).args(more.iter().copied()).start()).collect();
        let mut ended: Vec<_> = started.into_iter().map(|it| it.wait().in_time()).collect();
        ended.sort_by_key(|it| it.code);
        // A session that starts after the end of another one finds a finished run, and begins anew if it is told to.
        assert_eq!(ended[0].code, Some(0), "{}", ended[0].err);
        for lost in ended.iter().filter(|it| it.code != Some(0)) {
            assert_eq!(lost.code, Some(5), "{}", lost.err);
            assert!(lost.err.contains("is being written by process"), "{}", lost.err);
        }
        assert_right(&work.answers("answers.jsonl"), &prompts);
        assert_eq!(heartbeat(&work), None);
    }
}

#[test]
fn a_suspended_session_keeps_its_run() {
    let work = Work::with(vec![slow(8.0)]);
    let input = work.prompts(&made_up(300));
    let first = run_short(&work, &input).start();
    until("it sends prompts", || heartbeat(&work).is_some_and(|it| it["doing"] == "asking"));
    rustix::process::kill_process(first.pid(), rustix::process::Signal::STOP).unwrap();
    // As after a long suspension.
    let mut beat = heartbeat(&work).unwrap();
    beat["beat"] = json!(beat["beat"].as_u64().unwrap() - 7_200);
    work.file("answers.jsonl.run/heartbeat.json", beat.to_string());
    let second = run_short(&work, &input).run().with_code(5);
    second.complains("is being written by process").complains("answers.jsonl.run/heartbeat.json");
    rustix::process::kill_process(first.pid(), rustix::process::Signal::CONT).unwrap();
    first.wait().with_code(0);
}

#[test]
fn links_planted_at_the_names_of_its_files_are_not_followed() {
    let work = Work::instant(1);
    let prompts = made_up(20);
    let input = work.prompts(&prompts);
    let victim = work.file("victim", "kept");
    std::fs::create_dir(work.path("answers.jsonl.run")).unwrap();
    for name in [
        "answers.jsonl.part",
        "answers.jsonl.run/manifest.json.part",
        "answers.jsonl.run/heartbeat.json.part",
        "answers.jsonl.run/report.html.part",
        "answers.jsonl.run/summary.json.part",
    ] {
        std::os::unix::fs::symlink(&victim, work.path(name)).unwrap();
    }
    run_short(&work, &input).run().with_code(0);
    assert_right(&work.answers("answers.jsonl"), &prompts);
    assert!(!work.path("answers.jsonl").is_symlink());
    assert_eq!(std::fs::read_to_string(work.path("victim")).unwrap(), "kept");
    // What is appended to is not written through a link either.
    let samples = work.path("answers.jsonl.run/samples.jsonl");
    let _ = std::fs::remove_file(&samples);
    std::os::unix::fs::symlink(&victim, &samples).unwrap();
    run_short(&work, &input).args(["--overwrite"]).run().with_code(0);
    assert_eq!(std::fs::read_to_string(work.path("victim")).unwrap(), "kept");
}

#[test]
fn plan_says_what_run_would_do_with_what_is_there() {
    let work = Work::instant(1);
    let mut prompts = made_up(20);
    prompts[3] = " ".into();
    let input = work.prompts(&prompts);
    let expect = |code: i32, words: &str, more: &[&str]| {
        let before = all_files(&work);
        plan(&work, &input).args(more.iter().copied()).run().with_code(code).says(words, 1);
        assert!(before == all_files(&work), "plan changes nothing");
    };
    expect(0, "run would start: no run exists yet, and 20 prompts would be sent", &[]);
    expect(5, "run would be refused: --resume require, but", &["--resume", "require"]);
    Job::of("plan").arg(&input).run().with_code(0).says("needs --output FILE", 1);

    work.file("answers.jsonl", "somebody's\n");
    expect(5, "run would be refused: ", &[]);
    expect(0, "run would replace the existing run (--overwrite): 20 prompts", &["--overwrite"]);
    std::fs::remove_file(work.path("answers.jsonl")).unwrap();

    work.run(&input).run().with_code(3);
    expect(
        0,
        "run would find it complete and send nothing (session 2): 19 answered, 1 failed, 0 open of 20",
        &[],
    );
    expect(0, "1 prompt would be sent, 1 of them after a failure", &["--retry-failed"]);
    expect(5, "run would be refused: settings that affect answers differ", &["--max-tokens", "9"]);
    expect(5, "run would be refused: ", &["--resume", "never"]);
    std::fs::remove_file(work.path("answers.jsonl")).unwrap();
    expect(0, "run would send nothing and gather the answers again (session 2)", &[]);

    // As a kill leaves it: half of the answers, and the manifest behind them.
    let shard = work.path("answers.jsonl.run/shards/0001-00000.jsonl");
    let lines = std::fs::read_to_string(&shard).unwrap();
    let half: Vec<&str> = lines.lines().take(11).collect();
    let answered = half.iter().filter(|line| line.contains("\"success\":true")).count();
    std::fs::write(&shard, half.join("\n") + "\n").unwrap();
    expect(0, &format!("run would resume (session 2): {answered} answered, "), &[]);
    expect(0, "open of 20; 10 prompts would be sent", &[]);
    let served = work.served();
    work.run(&input).run().with_code(3);
    let asked_again = work.served() - served;
    assert!(asked_again <= 10, "{asked_again} were asked");

    std::fs::write(&input, "{\"prompt\":\"another\"}\n").unwrap();
    expect(5, "run would be refused: the input has changed", &[]);
}

#[test]
fn plan_says_that_a_run_is_at_work() {
    let work = Work::with(vec![slow(8.0)]);
    let input = work.prompts(&made_up(3_000));
    let run = work.run(&input).start();
    until("answers come", || work.lines_on_disk("answers.jsonl") > 10);
    let refused = work.run(&input).run().with_code(5).err;
    let planned = plan(&work, &input).run().with_code(5).out;
    let words = |text: &str| {
        let from = text.find("is being written by process").expect("refused");
        let to = text[from..].find(", active").expect("by whom");
        text[from..from + to].to_owned()
    };
    assert_eq!(words(&refused), words(&planned));
    run.kill_everything(&work.marker());
}
