//! Nodes that do not share the run folder: ranks keep answers on their own nodes, and whatever ends the job, none is lost
//! that its node still has.

use std::{
    fs,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, kill_process};
use serde_json::Value;
use vllm_sim::{CostModel, Profile};

use crate::support::{
    Job,
    disk::SmallDisk,
    job::process_of,
    work::{Work, assert_equal, by_chat, made_up},
};

/// A server that answers some hundred short prompts a second.
fn slow() -> Profile {
    let cost = CostModel { step_base_us: 8_000.0, max_num_seqs: 16, ..CostModel::default() };
    Profile { cost, ..Profile::default() }
}

/// `run`, each rank with a folder of its own, as if each were on a node of its own.
fn run(work: &Work, input: &str) -> Job {
    let scratch = work.path("scratch/{local_rank}");
    work.run(input).args(["--max-tokens", "8", "--local-shards", &scratch.to_string_lossy()])
}

/// The shard files in the ranks' own folders.
fn on_nodes(work: &Work) -> Vec<PathBuf> {
    let list = |folder: &PathBuf| -> Vec<PathBuf> {
        fs::read_dir(folder)
            .map(|it| it.flatten().map(|it| it.path()).collect())
            .unwrap_or_default()
    };
    let runs = list(&work.path("scratch")).into_iter().flat_map(|node| list(&node));
    let mut files: Vec<PathBuf> = runs.flat_map(|run| list(&run.join("shards"))).collect();
    files.sort();
    files
}

/// Outcomes in them.
fn lines_on_nodes(work: &Work) -> u64 {
    let lines = |path: &PathBuf| fs::read_to_string(path).unwrap_or_default().matches('\n').count();
    on_nodes(work).iter().map(|path| lines(path).saturating_sub(1) as u64).sum()
}

#[track_caller]
fn status(work: &Work, code: i32) -> (Value, String) {
    let output = work.path("answers.jsonl");
    let args = [&*output.to_string_lossy(), "--json", "--exit-code", "--verify"];
    let ended = Job::of("status").args(args).run().with_code(code);
    (serde_json::from_str(&ended.out).expect("JSON"), ended.err)
}

#[track_caller]
fn all_are_right(work: &Work, prompts: &[String]) {
    let answers = work.answers("answers.jsonl");
    assert_eq!(answers.len(), prompts.len());
    for (index, (answer, prompt)) in answers.iter().zip(prompts).enumerate() {
        assert_eq!(answer["response"], by_chat(prompt, 8), "prompt {index}");
    }
    let all = prompts.len() as u64;
    assert_eq!(work.counts("answers.jsonl"), [all, all, 0, 0]);
    assert_eq!(status(work, 0).1, "", "nothing is away");
    assert_eq!(on_nodes(work), Vec::<PathBuf>::new(), "what is home is not kept on the nodes");
}

/// Waits until so many outcomes are on the nodes.
fn until_written(work: &Work, lines: u64) {
    let end = Instant::now() + Duration::from_secs(30);
    while lines_on_nodes(work) < lines {
        assert!(Instant::now() < end, "no answers come");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_finished_run_is_whole_at_home_and_nothing_stays_on_the_nodes() {
    for ranks in [1, 3] {
        let work = Work::instant(3);
        let prompts = made_up(2_000);
        let input = work.prompts(&prompts);
        run(&work, &input).ranks(ranks).run().with_code(0);
        all_are_right(&work, &prompts);
        assert_eq!(work.lines_on_disk("answers.jsonl"), 2_000);
        let left = fs::read_dir(work.path("scratch/0")).expect("the user's own").count();
        assert_eq!(left, 0, "the run's folder is taken away");
        // All that a run can be asked later needs the run folder only.
        let answers = work.answers("answers.jsonl");
        let served = work.served();
        for again in ["merge", "run"] {
            fs::remove_file(work.path("answers.jsonl")).expect("there");
            match again {
                "merge" => {
                    Job::of("merge").arg(&work.path("answers.jsonl").to_string_lossy()).run()
                }
                _ => run(&work, &input).ranks(2).run(),
            }
            .with_code(0);
            assert_equal(&work.answers("answers.jsonl"), &answers);
        }
        assert_eq!(work.served(), served, "nobody was asked again");
    }
}

#[test]
fn what_a_stopped_start_has_answered_outlives_its_nodes() {
    let work = Work::with(vec![slow(); 2]);
    let prompts = made_up(1_500);
    let input = work.prompts(&prompts);
    run(&work, &input).args(["--walltime", "4s"]).ranks(2).run().with_code(75);
    let [_, answered, failed, open] = work.counts("answers.jsonl");
    assert!(answered > 100 && failed == 0 && open > 0, "{answered} answered");
    assert_eq!(work.lines_on_disk("answers.jsonl") as u64, answered);
    assert_eq!(on_nodes(&work), Vec::<PathBuf>::new());
    let (said, warned) = status(&work, 75);
    assert_eq!((&said["answered"], &*warned), (&Value::from(answered), ""));
    Job::of("merge")
        .args([&*work.path("answers.jsonl").to_string_lossy(), "--partial"])
        .run()
        .with_code(0);
    assert_eq!(work.answers("answers.partial.jsonl").len() as u64, answered);
    // The nodes' disks are wiped, and others go on, who keep theirs elsewhere.
    fs::remove_dir_all(work.path("scratch")).expect("there");
    let before = work.served();
    run(&work, &input).ranks(3).run().with_code(0);
    let asked = work.served() - before;
    assert!(asked <= open + 16, "{asked} asked, {open} were open");
    all_are_right(&work, &prompts);
}

#[test]
fn after_kill_9_of_everything_the_same_command_goes_on_with_what_nodes_hold() {
    let work = Work::with(vec![slow(); 2]);
    let prompts = made_up(1_000);
    let input = work.prompts(&prompts);
    let mut kept = 0;
    for more in [150, 150] {
        let old = on_nodes(&work);
        let started = run(&work, &input).ranks(2).start();
        let end = Instant::now() + Duration::from_secs(30);
        while work.lines_on_disk("answers.jsonl") as u64 != kept || old.iter().any(|it| it.exists())
        {
            assert!(Instant::now() < end, "nothing is brought home");
            thread::sleep(Duration::from_millis(5));
        }
        until_written(&work, more);
        started.kill_everything(&work.marker());
        let on_nodes = lines_on_nodes(&work);
        assert!(on_nodes >= more);
        let home = work.lines_on_disk("answers.jsonl") as u64;
        assert_eq!(home, kept, "the start before has been brought home by this one");
        // What cannot be seen from here is not counted, and named.
        let (said, warned) = status(&work, 75);
        assert_eq!(said["answered"], kept);
        assert!(warned.contains("scratch/{local_rank}/answers.jsonl-"), "{warned}");
        kept += on_nodes;
    }
    let before = work.served();
    // More ranks than before: a new one has nothing to bring.
    run(&work, &input).ranks(3).run().with_code(0);
    let asked = work.served() - before;
    assert!(asked <= 1_000 - kept + 16, "{asked} asked, {kept} were kept");
    all_are_right(&work, &prompts);
}

#[test]
fn ranks_that_in_truth_share_a_folder_bring_it_home_once() {
    let work = Work::with(vec![slow(); 2]);
    let prompts = made_up(600);
    let input = work.prompts(&prompts);
    let shared = || {
        let scratch = work.path("scratch/all");
        let job = work.run(&input).args(["--max-tokens", "8"]);
        job.args(["--local-shards", &scratch.to_string_lossy()]).ranks(2)
    };
    let started = shared().start();
    until_written(&work, 150);
    started.kill_everything(&work.marker());
    let kept = lines_on_nodes(&work);
    let before = work.served();
    shared().run().with_code(0);
    assert!(work.served() - before <= 600 - kept + 16);
    all_are_right(&work, &prompts);
    assert_eq!(work.lines_on_disk("answers.jsonl"), 600);
}

#[test]
fn a_full_disk_of_one_node_stops_that_node_only() {
    let work = Work::with(vec![slow(); 2]);
    fs::create_dir(work.path("scratch")).expect("made");
    let Some(disk) = SmallDisk::at(&work.path("scratch/1"), 64) else { return };
    let prompts = made_up(800);
    let input = work.prompts(&prompts);
    let ended = run(&work, &input).within(disk.within()).ranks(2).run().with_code(0);
    let ended = ended.complains("/shards/0001-00001.jsonl: No space left on device");
    ended.complains("rank 1 stopped early: cannot write answers");
    all_are_right(&work, &prompts);
    assert!(work.fleet.seen(1).served > 20, "it wrote while it could");
}

#[test]
fn a_rank_without_a_place_for_its_answers_is_named_before_work() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(10));
    fs::create_dir(work.path("scratch")).expect("made");
    fs::write(work.path("scratch/1"), "a file").expect("written");
    let ended = run(&work, &input).ranks(3).run().with_code(5);
    ended
        .complains("rank 1 on ")
        .complains("cannot write answers to --local-shards ")
        .complains("scratch/1/");
    assert_eq!(work.requests(), 0);
    let bad = work.run(&input).args(["--local-shards", "/tmp/{node}"]).run().with_code(2);
    bad.complains("{local_rank}");
}

#[test]
fn answers_that_were_left_elsewhere_are_named() {
    let work = Work::with(vec![slow(); 2]);
    let prompts = made_up(300);
    let input = work.prompts(&prompts);
    let started = run(&work, &input).ranks(2).start();
    until_written(&work, 50);
    started.kill_everything(&work.marker());
    // The flag was forgotten: it can be done, at a price that is told.
    let job = work.run(&input).args(["--max-tokens", "8"]).ranks(2);
    job.run().with_code(0).complains("answers of an earlier session not collected");
    assert_eq!(work.counts("answers.jsonl"), [300, 300, 0, 0]);
}

#[test]
fn what_nodes_hold_of_an_input_that_has_changed_is_kept_as_well() {
    let work = Work::with(vec![slow(); 2]);
    let mut prompts = made_up(600);
    let input = work.prompts(&prompts);
    let started = run(&work, &input).ranks(2).start();
    until_written(&work, 200);
    started.kill_everything(&work.marker());
    let held = on_nodes(&work);
    let written = lines_on_nodes(&work);
    prompts.remove(3);
    prompts.push("one more".to_owned());
    work.prompts(&prompts);
    let refused = run(&work, &input).ranks(2).run().with_code(5);
    refused.complains("the nodes of its last session may still have");
    assert_eq!(on_nodes(&work), held, "a start that is refused changes nothing");
    let before = work.served();
    run(&work, &input).args(["--accept-changes"]).ranks(2).run().with_code(0);
    let asked = work.served() - before;
    assert!(asked <= 600 - written + 2, "{asked} asked, {written} were written");
    all_are_right(&work, &prompts);
}

#[test]
fn answers_of_an_input_that_is_not_this_one_stay_on_the_nodes() {
    let work = Work::with(vec![slow(); 2]);
    let prompts = made_up(400);
    let input = work.prompts(&prompts);
    let started = run(&work, &input).ranks(2).start();
    until_written(&work, 100);
    started.kill_everything(&work.marker());
    // The input changes while the nodes' disks are out of sight, and changes back when they are there again.
    let (scratch, hidden) = (work.path("scratch"), work.path("hidden"));
    fs::rename(&scratch, &hidden).expect("hidden");
    work.prompts(&prompts[1..]);
    let accepting = || run(&work, &input).args(["--accept-changes"]).ranks(2);
    let job = accepting().args(["--walltime", "3s"]);
    job.run(); // done or not
    fs::remove_dir_all(&scratch).expect("there");
    fs::rename(&hidden, &scratch).expect("back");
    let (held, written) = (on_nodes(&work), lines_on_nodes(&work));
    accepting().run().with_code(0);
    assert_eq!((on_nodes(&work), lines_on_nodes(&work)), (held, written), "they are nowhere else");
    work.prompts(&prompts);
    accepting().run().with_code(0);
    all_are_right(&work, &prompts);
}

#[test]
fn where_a_rank_is_lost_the_others_answers_come_home_all_the_same() {
    let work = Work::with(vec![slow(); 3]);
    let prompts = made_up(900);
    let input = work.prompts(&prompts);
    let started = run(&work, &input).args(["--rank-silence", "3s"]).ranks(3).start();
    until_written(&work, 300);
    kill_process(process_of(&work.marker(), 2), Signal::STOP).expect("it is there");
    let ended = started.wait().in_time();
    assert!(ended.err.contains("finishes the run without the lost ranks: 2"), "{}", ended.err);
    // What rank 2 has said to be written is on its node, and nowhere else.
    let lines =
        |path: &PathBuf| fs::read_to_string(path).unwrap_or_default().lines().count() as u64 - 1;
    let [_, answered, failed, open] = work.counts("answers.jsonl");
    let its: Vec<PathBuf> =
        on_nodes(&work).into_iter().filter(|it| it.ends_with("shards/0001-00002.jsonl")).collect();
    assert!(failed == 0 && open > 0 && open <= lines(&its[0]), "{open} open, {its:?}");
    assert!(ended.err.contains("they may be in "), "{}", ended.err);
    let (said, warned) = status(&work, 75);
    assert_eq!(said["answered"], answered);
    assert!(warned.contains("more answers may be in "), "{warned}");
    // Its node comes back with what it had: nobody is asked.
    let before = work.served();
    run(&work, &input).ranks(3).run().with_code(0);
    assert_eq!(work.served(), before);
    all_are_right(&work, &prompts);
}

#[test]
fn answers_that_have_no_room_at_home_stay_on_the_nodes() {
    let work = Work::instant(2);
    let Some(disk) = SmallDisk::at(&work.path("disk"), 200) else { return };
    let prompts = made_up(1_000);
    let input = work.prompts(&prompts);
    let start = || {
        let scratch = work.path("scratch/{local_rank}");
        let job = work.run_to(&input, "disk/answers.jsonl").args(["--max-tokens", "8"]);
        let job = job.args(["--local-shards", &scratch.to_string_lossy()]);
        job.within(disk.within()).ranks(2).run()
    };
    for _ in 0..2 {
        let ended = start().with_code(75).complains("No space left on device");
        ended.complains("run the same command again to resume");
        assert_eq!(lines_on_nodes(&work), 1_000, "what is not home is not removed");
    }
    let before = work.served();
    disk.resize(16 << 10);
    start().with_code(0);
    assert_eq!(work.served(), before, "nobody is asked again");
    let output = disk.seen("answers.jsonl").to_string_lossy().into_owned();
    for (answer, prompt) in work.answers(&output).iter().zip(&prompts) {
        assert_eq!(answer["response"], by_chat(prompt, 8));
    }
    assert_eq!(work.counts(&output), [1_000, 1_000, 0, 0]);
    assert_eq!(on_nodes(&work), Vec::<PathBuf>::new());
}
