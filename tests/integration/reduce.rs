//! `reduce`: many answers become one text, and whatever happens on the way it is the same one, or says what is missing.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, kill_process};
use serde_json::{Value, json};
use vllm_sim::{CostModel, Fault, Fleet, Profile, Rule, Script};

use crate::support::job::process_of;
use crate::support::{
    Job, processes_with,
    work::{Work, by_chat, made_up},
};

const TEMPLATE: &str = "Round {{level}} of merging:\n{{responses}}";
const TOKENS: usize = 8;

/// `reduce` over an input, with these servers.
fn reduce_by(urls: &[String], work: &Work, input: &str, output: &str, fan_in: usize) -> Job {
    let output = work.path(output);
    let fan_in = fan_in.to_string();
    let job = Job::of("reduce").args([input, "--output", &output.to_string_lossy()]);
    let job = job.args(["--ready-timeout", "5s", "--temperature", "0", "--max-tokens", "8"]);
    let job = job.args(["--max-tokens-aggregation", "8", "--reduce-template", TEMPLATE]);
    let job = job.args(["--fan-in", &fan_in]);
    urls.iter().fold(job, |job, url| job.args(["--endpoint", url]))
}

fn reduce(work: &Work, input: &str, output: &str, fan_in: usize) -> Job {
    reduce_by(&work.fleet.urls(), work, input, output, fan_in)
}

/// What has to come out: the tree by its definition, from prompts of which some have no answer.
fn expected(prompts: &[String], fails: impl Fn(usize) -> bool, fan_in: usize) -> Option<String> {
    let leaf = |(at, prompt): (usize, &String)| (!fails(at)).then(|| by_chat(prompt, TOKENS));
    let mut texts: Vec<Option<String>> = prompts.iter().enumerate().map(leaf).collect();
    for level in 1.. {
        let group = |group: &[Option<String>]| {
            let there: Vec<&str> = group.iter().flatten().map(String::as_str).collect();
            match there[..] {
                [] => None,
                [only] => Some(only.to_owned()),
                _ => {
                    let prompt = TEMPLATE.replace("{{level}}", &level.to_string());
                    let prompt = prompt.replace("{{responses}}", &there.join("\n---\n"));
                    Some(by_chat(&prompt, TOKENS))
                }
            }
        };
        texts = texts.chunks(fan_in).map(group).collect();
        if texts.len() == 1 {
            break;
        }
    }
    texts.remove(0)
}

fn text(work: &Work, output: &str) -> String {
    fs::read_to_string(work.path(output)).expect("the text is there")
}

/// What the report says is what the tree's file and its runs' manifests say; of a tree that is done, or is not.
#[track_caller]
fn assert_told(work: &Work, output: &str) -> Value {
    let told: Value = serde_json::from_str(&text(work, &format!("{output}.run/summary.json")))
        .expect("a summary is JSON");
    let page = text(work, &format!("{output}.run/report.html"));
    let shown = |id: &str, value: &Value| {
        assert!(page.contains(&format!("id=\"{id}\" data-value=\"{value}\"")), "{id} {value}");
    };
    let tree_of = &told["reduce"];
    let levels = tree_of["levels"].as_array().expect("levels");
    let done = work.has(&format!("{output}.run/tree.jsonl"));
    let lines = if done { tree(work, output) } else { BTreeMap::new() };
    for (at, level) in levels.iter().enumerate() {
        assert_eq!(level["level"], at);
        let folder =
            if at == 0 { output.to_owned() } else { format!("{output}.run/level-{at:02}") };
        if work.has(&format!("{folder}.run/manifest.json")) {
            let counts = &work.manifest(&folder)["counts"];
            // The manifest of a level that was killed is behind its lines, some of which are copies.
            let (mine, known) = (&level["counts"]["answered"], &counts["answered"]);
            match told["state"] == "lost" && at > 0 {
                true => assert!(
                    (known.as_u64()..=Some(work.lines_on_disk(&folder) as u64))
                        .contains(&mine.as_u64()),
                    "{mine} at level {at}, by its manifest {known}"
                ),
                false => assert_eq!(&level["counts"], counts, "level {at}"),
            }
        }
        shown(&format!("level-{at}-asked"), &level["counts"]["submitted"]);
        shown(&format!("level-{at}-answered"), &level["counts"]["answered"]);
        if !done || at == 0 {
            continue;
        }
        let nodes: Vec<&Value> =
            lines.iter().filter(|((level, _), _)| *level == at as u64).map(|it| it.1).collect();
        let of = |outcome: &str| nodes.iter().filter(|it| it["outcome"] == outcome).count();
        let asked = of("answered") + of("failed");
        assert_eq!(level["nodes"], nodes.len(), "level {at}");
        assert_eq!(level["counts"]["submitted"], asked, "level {at}");
        for outcome in ["failed", "passed", "empty"] {
            assert_eq!(level[outcome], of(outcome), "{outcome} at level {at}");
            shown(&format!("level-{at}-{outcome}"), &level[outcome]);
        }
        let cut = nodes.iter().filter(|it| it["cut"].as_u64() > Some(0)).count();
        assert_eq!(level["cut"], cut, "level {at}");
    }
    let stands = &work.manifest(output)["reduce"];
    assert_eq!((&tree_of["text"], &tree_of["missing"]), (&stands["text"], &stands["missing"]));
    shown("tree-missing", &stands["missing"]);
    for part in ["submitted", "answered", "failed", "open"] {
        let all: u64 = levels.iter().map(|it| it["counts"][part].as_u64().unwrap()).sum();
        assert_eq!(tree_of["counts"][part], all, "{part}");
    }
    let number = |it: &Value| it.as_f64().unwrap_or_default();
    let seconds: f64 =
        levels.iter().map(|it| number(&it["active_s"]) + number(&it["build_s"])).sum();
    assert!((number(&tree_of["active_s"]) - seconds).abs() < 0.001);
    let settled = number(&tree_of["counts"]["answered"]) + number(&tree_of["counts"]["failed"]);
    assert!((number(&tree_of["prompts_per_s"]) * seconds - settled).abs() < 0.01 * settled);
    // The same again, from the files alone.
    let run = work.path(output).to_string_lossy().into_owned();
    Job::of("report").arg(&run).run().with_code(0);
    let again = text(work, &format!("{output}.run/summary.json"));
    let mut again: Value = serde_json::from_str(&again).expect("JSON");
    again["written"] = told["written"].clone();
    assert_eq!(again, told);
    told
}

/// The lines of `tree.jsonl`, by level and group.
fn tree(work: &Work, output: &str) -> BTreeMap<(u64, u64), Value> {
    let text = text(work, &format!("{output}.run/tree.jsonl"));
    let line = |line: &str| {
        let node: Value = serde_json::from_str(line).expect("JSON");
        ((node["level"].as_u64().unwrap(), node["group"].as_u64().unwrap()), node)
    };
    text.lines().map(line).collect()
}

#[test]
fn the_tree_and_its_text_are_the_same_on_any_number_of_ranks_and_gaps_stay_gaps() {
    let work = Work::instant(3);
    let mut prompts = made_up(300);
    // One leaf of group 0, all but one of group 2, all of group 6, and the whole of groups 16 to 18.
    let fails =
        |at: usize| at == 7 || (33..48).contains(&at) || (96..112).contains(&at) || at >= 256;
    (0..300).filter(|&at| fails(at)).for_each(|at| prompts[at] = "  ".into());
    prompts[7] = "long ".repeat(10_000);
    let input = work.prompts(&prompts);
    let text_of = |ranks: usize| {
        let output = format!("on-{ranks}.txt");
        let ended = reduce(&work, &input, &output, 16).ranks(ranks).run().with_code(3);
        ended.says("76 leaves are missing in the text", 1).says("text: ", 1);
        (text(&work, &output), text(&work, &format!("{output}.run/tree.jsonl")))
    };
    let one = text_of(1);
    assert_eq!(Some(&one.0), expected(&prompts, fails, 16).as_ref());
    for ranks in [3, 4, 8] {
        assert!(text_of(ranks) == one, "another tree on {ranks} ranks");
    }
    let tree = tree(&work, "on-1.txt");
    assert_eq!(tree.keys().filter(|(level, _)| *level == 1).count(), 19);
    assert_eq!(tree.len(), 19 + 2 + 1);
    let outcome = |level, group| tree[&(level, group)]["outcome"].as_str().unwrap().to_owned();
    assert_eq!(outcome(1, 0), "answered");
    assert_eq!(outcome(1, 2), "passed");
    assert_eq!((outcome(1, 6), outcome(1, 18)), ("empty".into(), "empty".into()));
    assert_eq!(outcome(2, 1), "empty");
    assert_eq!(outcome(3, 0), "passed", "the root has one text below it");
    let first = &tree[&(1, 0)];
    assert_eq!((&first["leaves"], &first["texts"]), (&json!([0, 16]), &json!(15)));
    assert_eq!(first["missing"], json!([[7, 8]]));
    assert_eq!(first["failures"][0]["leaf"], 7);
    assert_eq!(first["failures"][0]["kind"], "too_long");
    let gaps = json!([[7, 8], [33, 48], [96, 112], [256, 300]]);
    assert_eq!(tree[&(3, 0)]["missing"], gaps);
    let told = assert_told(&work, "on-4.txt");
    assert_eq!(told["reduce"]["levels"].as_array().map(Vec::len), Some(4));
    assert_eq!(told["reduce"]["levels"][1]["empty"], 4);
    assert_eq!(told["reduce"]["levels"][0]["failed"], 76);
    let ended = reduce(&work, &input, "untold.txt", 16).arg("--no-report").ranks(2).run();
    ended.with_code(3).says("report.html", 0).says("76 leaves are missing in the text", 1);
    assert!(!work.has("untold.txt.run/report.html") && !work.has("untold.txt.run/summary.json"));
}

#[test]
fn one_leaf_is_its_own_root() {
    let work = Work::instant(1);
    let prompts = made_up(1);
    let input = work.prompts(&prompts);
    reduce(&work, &input, "one.txt", 50).ranks(2).run().with_code(0);
    assert_eq!(text(&work, "one.txt"), by_chat(&prompts[0], TOKENS));
    assert_eq!(tree(&work, "one.txt")[&(1, 0)]["outcome"], "passed");
    assert_eq!(work.served(), 1, "no call for a group of one");
}

#[test]
fn what_cannot_become_one_text_says_so() {
    let work = Work::instant(1);
    let prompts = made_up(20);
    let input = work.prompts(&prompts);
    for fan_in in [0, 1] {
        let ended = reduce(&work, &input, "text.txt", fan_in).ranks(2).run();
        ended.with_code(2).complains(&format!("--fan-in {fan_in}: must be at least 2"));
    }
    let job = reduce(&work, &input, "text.txt", 4).args(["--reduce-template", "sum up"]);
    job.run().with_code(5).complains("no placeholder");
    let job = reduce(&work, &input, "text.txt", 4).args(["--n", "2", "--temperature", "1"]);
    job.run().with_code(5).complains("one answer per prompt");
    let job = reduce(&work, &input, "text.parquet", 4);
    job.ranks(2).run().with_code(5).complains("the ending of --output names another format");
    assert!(!work.has("text.parquet.run"));
    assert!(!work.has("text.txt") && !work.has("text.txt.run"));
    assert_eq!(work.requests(), 0);
    let none = work.file("none.jsonl", "");
    let ended = reduce(&work, &none, "none.txt", 4).ranks(2).run();
    ended.with_code(5).complains("no rows");
    let stands = Job::of("status").args([&*work.path("none.txt").to_string_lossy(), "--exit-code"]);
    stands.run().with_code(3).says("no text was left", 1); // and not 75, which would be begun again for ever
    let blank = work.prompts(&vec![" ".to_owned(); 20]);
    let ended = reduce(&work, &blank, "blank.txt", 4).ranks(3).run().with_code(3);
    ended.says("nothing was left", 1).says("20 leaves are missing", 1);
    assert!(!work.has("blank.txt"));
    assert_eq!(tree(&work, "blank.txt")[&(3, 0)]["outcome"], "empty");
    assert_eq!(work.served(), 0);
}

#[test]
fn no_endpoint_is_code_6() {
    let work = Work::instant(0);
    let input = work.prompts(&made_up(3));
    let job = reduce(&work, &input, "text.txt", 2).args(["--endpoint", "http://127.0.0.1:9"]);
    job.args(["--ready-timeout", "1s"]).ranks(2).run().with_code(6);
    assert!(!work.has("text.txt"));
}

#[test]
fn a_run_that_is_killed_in_the_second_level_goes_on_there_on_another_number_of_ranks() {
    let cost = CostModel { step_base_us: 25_000.0, max_num_seqs: 64, ..CostModel::default() };
    let slow = Profile { cost, ..Profile::default() };
    let work = Work::with(vec![slow; 2]);
    let prompts = made_up(240);
    let input = work.prompts(&prompts);
    let started =
        reduce(&work, &input, "text.txt", 4).args(["--concurrency", "4"]).ranks(3).start();
    let second = "text.txt.run/level-02";
    let end = Instant::now() + Duration::from_secs(50);
    while work.lines_on_disk(second) < 3 {
        assert!(Instant::now() < end, "the second level does not come");
        thread::sleep(Duration::from_millis(10));
    }
    started.kill_everything(&work.marker());
    let kept = work.lines_on_disk(second);
    assert!((3..15).contains(&kept), "{kept} of 15 kept");
    let run = work.path("text.txt").to_string_lossy().into_owned();
    let ended = Job::of("status").args([&*run, "--exit-code"]).run().with_code(75);
    ended.says("level 2 of 4", 1);
    // Nobody has written a report: it is made of what is there.
    Job::of("report").arg(&run).run().with_code(0);
    let told = assert_told(&work, "text.txt");
    assert_eq!(
        (&told["state"], &told["sessions"][0]["outcome"]),
        (&json!("lost"), &json!("killed"))
    );
    assert_eq!(told["reduce"]["levels"][3]["state"], "waiting");
    // Other servers count what is asked from here on: the rest of the second level, the third and the fourth.
    let others = Fleet::start(vec![Profile::instant(); 2]).expect("ports on loopback");
    reduce_by(&others.urls(), &work, &input, "text.txt", 4).ranks(2).run().with_code(0);
    let told = assert_told(&work, "text.txt");
    let sessions = told["sessions"].as_array().expect("sessions");
    assert_eq!([&sessions[0]["outcome"], &sessions[1]["outcome"]], ["killed", "finished"]);
    assert_eq!((&sessions[1]["answered"], &sessions[1]["above"]["level"]), (&json!(0), &json!(4)));
    let asked: u64 = (0..2).map(|server| others.seen(server).served).sum();
    assert!(asked <= (15 - kept as u64) + 4 + 1, "{asked} asked, though {kept} were kept");
    assert_eq!(Some(text(&work, "text.txt")), expected(&prompts, |_| false, 4));
    let undisturbed = reduce_by(&others.urls(), &work, &input, "undisturbed.txt", 4);
    undisturbed.run().with_code(0);
    let of = |output: &str| text(&work, &format!("{output}.run/tree.jsonl"));
    assert_eq!(of("text.txt"), of("undisturbed.txt"));
}

#[test]
fn walltime_and_signals_end_a_level_with_75_and_the_same_command_goes_on() {
    let cost = CostModel { step_base_us: 25_000.0, max_num_seqs: 64, ..CostModel::default() };
    let work = Work::with(vec![Profile { cost, ..Profile::default() }; 2]);
    let prompts = made_up(240);
    let input = work.prompts(&prompts);
    let job = || reduce(&work, &input, "text.txt", 4).args(["--concurrency", "8"]);
    let started = job().ranks(3).start();
    let end = Instant::now() + Duration::from_secs(50);
    while work.lines_on_disk("text.txt.run/level-01") < 10 {
        assert!(Instant::now() < end, "the first level does not come");
        thread::sleep(Duration::from_millis(10));
    }
    for pid in processes_with(&work.marker()) {
        let is_rank = fs::read(format!("/proc/{}/comm", pid.as_raw_nonzero()));
        if is_rank.is_ok_and(|name| name.starts_with(b"aurora-swarm")) {
            let _ = kill_process(pid, Signal::USR1);
        }
    }
    started.wait().with_code(75).says(" level 1 ", 1);
    assert!(!work.has("text.txt"));
    assert_eq!(work.manifest("text.txt")["state"], "stopped");
    let told = assert_told(&work, "text.txt");
    assert_eq!(told["reduce"]["levels"][1]["state"], "stopped");
    assert!(told["reduce"]["counts"]["open"].as_u64() > Some(0));
    let served = work.served();
    job().args(["--walltime", "1s", "--margin", "900ms"]).ranks(2).run().with_code(75);
    job().ranks(2).run().with_code(0);
    assert_eq!(Some(text(&work, "text.txt")), expected(&prompts, |_| false, 4));
    let all = 240 + 60 + 15 + 4 + 1;
    assert!(work.served() <= all + 32, "{} served for {all}, {served} before", work.served());
}

#[test]
fn a_rank_that_is_lost_in_a_level_costs_nothing_that_was_answered_and_is_no_success() {
    let cost = CostModel { step_base_us: 25_000.0, max_num_seqs: 64, ..CostModel::default() };
    let work = Work::with(vec![Profile { cost, ..Profile::default() }; 3]);
    let prompts = made_up(240);
    let input = work.prompts(&prompts);
    let job = || reduce(&work, &input, "text.txt", 4).args(["--concurrency", "4"]);
    let started = job().args(["--rank-silence", "2s"]).ranks(3).start();
    let end = Instant::now() + Duration::from_secs(50);
    while work.lines_on_disk("text.txt.run/level-01") < 4 {
        assert!(Instant::now() < end, "the first level does not come");
        thread::sleep(Duration::from_millis(10));
    }
    kill_process(process_of(&work.marker(), 2), Signal::STOP).unwrap();
    let ended = started.wait().in_time();
    // The launcher may make another code of it, but no success.
    assert_ne!(ended.code, Some(0), "{}", ended.err);
    assert!(!work.has("text.txt"));
    assert_eq!(work.counts("text.txt.run/level-01"), [60, 60, 0, 0], "others had its prompts");
    let run = work.path("text.txt").to_string_lossy().into_owned();
    Job::of("status").args([&*run, "--exit-code"]).run().with_code(75);
    let told = assert_told(&work, "text.txt");
    assert_eq!(told["reduce"]["levels"][1]["counts"]["answered"], 60);
    job().ranks(2).run().with_code(0);
    assert_eq!(Some(text(&work, "text.txt")), expected(&prompts, |_| false, 4));
}

#[test]
fn where_answers_are_kept_on_nodes_rank_0_alone_has_to_see_the_levels() {
    let work = Work::instant(3);
    let prompts = made_up(60);
    let input = work.prompts(&prompts);
    let scratch = work.path("scratch/{rank}");
    let job = reduce(&work, &input, "text.txt", 4).ranks(3);
    job.args(["--local-shards", &scratch.to_string_lossy()]).run().with_code(0);
    assert_eq!(Some(text(&work, "text.txt")), expected(&prompts, |_| false, 4));
    for level in 1..=3 {
        let folder = work.path(&format!("text.txt.run/level-0{level}.in/prompts"));
        let rows = fs::read_dir(folder).expect("made").flatten().map(|it| it.file_name());
        assert_eq!(rows.collect::<Vec<_>>(), ["00000.jsonl"], "level {level}: by rank 0");
    }
}

#[test]
fn conversations_are_leaves_as_well() {
    let work = Work::instant(2);
    let prompts = made_up(9);
    let row = |prompt: &String| json!({"messages": [{"role": "user", "content": prompt}]});
    let input = work.rows(&prompts.iter().map(row).collect::<Vec<_>>());
    reduce(&work, &input, "text.txt", 3).ranks(3).run().with_code(0);
    assert_eq!(Some(text(&work, "text.txt")), expected(&prompts, |_| false, 3));
}

#[test]
fn a_group_that_fails_is_asked_again_and_then_told_with_its_leaves() {
    let prompts = made_up(64);
    // Only prompts of groups hold the answers of leaves.
    let in_group_3 = by_chat(&prompts[13], TOKENS);
    let in_group_9 = by_chat(&prompts[38], TOKENS);
    let about = |fault: Rule, text: &str| Rule { containing: Some(text.to_owned()), ..fault };
    let rules = vec![
        about(Rule::always(Fault::Status(400)), &in_group_3),
        about(Rule::times(Fault::Status(500), 1), &in_group_9),
    ];
    let work =
        Work::with(vec![Profile { script: Script { seed: 1, rules }, ..Profile::instant() }]);
    let input = work.prompts(&prompts);
    let ended = reduce(&work, &input, "text.txt", 4).ranks(3).run().with_code(3);
    let ended = ended.says("4 leaves are missing in the text", 1);
    ended.complains("reduce group failed: level 1, group 3, leaves 12 to 15");
    let tree = tree(&work, "text.txt");
    assert_eq!(tree[&(1, 3)]["outcome"], "failed");
    assert_eq!(tree[&(1, 3)]["missing"], json!([]), "its prompt had them all");
    assert!(tree[&(1, 3)]["error"]["kind"].is_string());
    assert_eq!(tree[&(1, 9)]["outcome"], "answered");
    assert_eq!(tree[&(2, 0)]["missing"], json!([[12, 16]]));
    assert_eq!(tree[&(3, 0)]["missing"], json!([[12, 16]]));
    let told = assert_told(&work, "text.txt");
    assert_eq!(told["reduce"]["levels"][1]["failed"], 1);
    let failures = told["reduce"]["levels"][1]["failures"].as_object().expect("by kind");
    assert_eq!(failures.values().next().expect("one")["examples"][0]["id"], "L1-g3");
    assert!(text(&work, "text.txt.run/report.html").contains("L1-g3"));
    let run = work.path("text.txt").to_string_lossy().into_owned();
    let status = Job::of("status").args([&*run, "--exit-code"]).run().with_code(3);
    status.says("4 leaves are missing in the text", 1);
}

#[test]
fn a_leaf_that_is_answered_later_is_in_the_text_and_nothing_else_is_asked_for_no_reason() {
    let prompts = made_up(64);
    let rule = Rule { containing: Some(prompts[20].clone()), ..Rule::always(Fault::Status(400)) };
    let script = Script { seed: 1, rules: vec![rule] };
    let work = Work::with(vec![Profile { script, ..Profile::instant() }]);
    let input = work.prompts(&prompts);
    reduce(&work, &input, "text.txt", 4).ranks(2).run().with_code(3);
    assert_eq!(Some(text(&work, "text.txt")), expected(&prompts, |at| at == 20, 4));
    let served = work.served();
    let ended = reduce(&work, &input, "text.txt", 5).run().with_code(5);
    ended.complains("fan-in was 4 and is 5");
    reduce(&work, &input, "text.txt", 4).ranks(3).run().with_code(3).says("nothing was sent", 1);
    assert_eq!(work.served(), served, "it was finished");
    let others = Fleet::start(vec![Profile::instant()]).expect("ports on loopback");
    let job = reduce_by(&others.urls(), &work, &input, "text.txt", 4).args(["--retry-failed"]);
    job.ranks(2).run().with_code(0);
    assert_eq!(Some(text(&work, "text.txt")), expected(&prompts, |_| false, 4));
    assert_eq!(others.seen(0).served, 1 + 16 + 4 + 1, "one leaf, and the levels above it");
}

#[test]
fn leaves_that_are_answered_anew_have_levels_of_their_own() {
    let prompts = made_up(64);
    let work = Work::instant(1);
    let (all, some) = (work.prompts(&prompts), work.file("some.jsonl", ""));
    let rows = fs::read_to_string(&all).expect("there");
    let half: String = rows.lines().take(32).map(|row| format!("{row}\n")).collect();
    fs::write(&some, half + "{\"prompt\": \"and another one\"}\n").expect("written");
    reduce(&work, &all, "text.txt", 4).ranks(2).run().with_code(0);
    // Another input, which comes no further than to what of the answers can be kept.
    let job = reduce(&work, &some, "text.txt", 4).args(["--accept-changes"]);
    job.args(["--deadline", "2020-01-01T00:00:00Z"]).run().with_code(75);
    let served = work.served();
    let job = reduce(&work, &all, "text.txt", 4).args(["--accept-changes"]);
    job.ranks(3).run().with_code(0);
    assert_eq!(work.served() - served, 32 + 16 + 4 + 1, "half of the leaves, and all levels");
    assert_eq!(Some(text(&work, "text.txt")), expected(&prompts, |_| false, 4));
}

#[test]
fn texts_that_do_not_fit_the_model_are_cut_evenly_and_marked() {
    let work = Work::instant(2);
    let prompts = made_up(32);
    let input = work.prompts(&prompts);
    let job = reduce(&work, &input, "text.txt", 16).args(["--max-tokens", "200"]);
    // Answers of the simulator are some 64 tokens: 16 of them are more than 700 tokens of three bytes.
    let job = job.args(["--max-context", "1000", "--buffer", "100"]);
    let ended = job.ranks(2).run().with_code(3);
    ended.says("32 of 32 leaves were truncated to fit the model's context", 1);
    let status = Job::of("status").arg(&work.path("text.txt").to_string_lossy());
    status.arg("--exit-code").run().with_code(3).says("32 leaves are truncated", 1);
    let state = &work.manifest("text.txt")["reduce"];
    assert_eq!((&state["cut"], &state["missing"]), (&32.into(), &0.into()));
    assert!(state["left_out_bytes"].as_u64() > Some(0));
    let page = text(&work, "text.txt.run/report.html");
    assert!(
        page.contains("32 of 32 leaves were truncated")
            && !page.contains("All leaves are in the text.<")
    );
    // Nothing is sent again: only what the truncation counts for has changed.
    let served = work.served();
    let job = reduce(&work, &input, "text.txt", 16).args(["--max-tokens", "200"]);
    let job = job.args(["--max-context", "1000", "--buffer", "100", "--allow-truncation"]);
    job.ranks(3).run().with_code(0).says("32 of 32 leaves were truncated", 1);
    assert_eq!(work.served(), served);
    let tree = tree(&work, "text.txt");
    assert!(tree[&(1, 0)]["cut"].as_u64().unwrap() > 0, "{:?}", tree[&(1, 0)]);
    assert_eq!(tree[&(1, 0)]["cut_leaves"], serde_json::json!([[0, 16]]));
    assert!(tree[&(1, 0)]["left_out_bytes"].as_u64() < tree[&(1, 0)]["text_bytes"].as_u64());
    assert!(tree[&(1, 0)]["prompt_bytes"].as_u64().unwrap() <= (1000 - 100 - 8) * 3);
    assert_eq!(tree[&(2, 0)]["cut"], 0, "two short texts fit");
}

#[test]
fn a_runs_folder_is_no_reduces_and_merge_does_not_write_over_the_text() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(20));
    work.run(&input).args(["--max-tokens", "8"]).run().with_code(0);
    let ended = reduce(&work, &input, "answers.jsonl", 4).ranks(2).run().with_code(5);
    ended.complains("the folder of a run");
    reduce(&work, &input, "text.txt", 4).run().with_code(0);
    let before = text(&work, "text.txt");
    let job = work.run_to(&input, "text.txt").args(["--max-tokens", "8"]);
    job.run().with_code(5).complains("the folder of a reduce");
    let run = work.path("text.txt").to_string_lossy().into_owned();
    Job::of("merge").arg(&run).run().with_code(5).complains("--output");
    assert_eq!(text(&work, "text.txt"), before);
    let leaves = work.path("leaves.jsonl").to_string_lossy().into_owned();
    Job::of("merge").args([&*run, "--output", &leaves]).run().with_code(0);
    assert_eq!(work.answers("leaves.jsonl").len(), 20);
    Job::of("status")
        .args([&*run, "--exit-code"])
        .run()
        .with_code(0)
        .says("3 levels above them, text: ", 1);
}
