//! The library, as programs use it: each of these tests' programs is this test binary again, on one rank and on three.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use aurora_swarm::{
    Environment, MajorityVote, Merge, NumericStatistics, Swarm, SwarmAnswer, SwarmBuilder,
    SwarmErrorKind,
};
use serde_json::{Value, json};
use vllm_sim::{Fault, Profile, Rule, Script, Simulator};

use crate::support::{
    Job,
    job::Ended,
    work::{Work, by_chat, made_up, slow},
};

/// One of the programs below, on so many ranks, with these servers.
fn on(ranks: usize, program: &str, work: &Work) -> Job {
    Job::ranks_of_test(&format!("swarm::{program}"), ranks)
        .env("TEST_SERVERS", &work.fleet.urls().join(","))
        .env("TEST_FOLDER", &work.marker())
        .env("TMPDIR", &temporary(work))
}

/// A place of this test's own for what is temporary, so that what is left can be seen.
fn temporary(work: &Work) -> String {
    let folder = work.path("tmp");
    fs::create_dir_all(&folder).expect("made");
    folder.to_string_lossy().into_owned()
}

/// Every rank has come to its end, in order, and nothing temporary is left.
#[track_caller]
fn ended_well(ended: Ended, ranks: usize, work: &Work) -> Ended {
    let ended = ended.with_code(0).says("all of it holds", ranks);
    assert_eq!(fs::read_dir(work.path("tmp")).expect("listed").count(), 0, "of temporary files");
    ended
}

/// In a rank: what the test has said.
fn said(name: &str) -> String {
    std::env::var(name).expect(name)
}

/// In a rank: with the test's servers.
fn setup() -> SwarmBuilder {
    let setup = SwarmBuilder::new(Environment::of_this_process())
        .max_tokens(8)
        .temperature(0.0)
        .setting("ready-timeout", "1s");
    said("TEST_SERVERS").split(',').fold(setup, SwarmBuilder::endpoint)
}

/// In a rank, last.
fn well(swarm: Swarm) {
    println!("all of it holds on rank {}", swarm.rank());
    swarm.finish();
}

fn texts(answers: &[SwarmAnswer]) -> Vec<&str> {
    answers.iter().map(|it| it.text().expect("answered")).collect()
}

/// What the servers say to these.
fn expected<'p>(prompts: impl IntoIterator<Item = &'p String>) -> Vec<String> {
    prompts.into_iter().map(|prompt| by_chat(prompt, 8)).collect()
}

/// A row whose answer is this text.
fn saying(text: &str) -> Value {
    json!({"prompt": text, "structured_outputs": {"choice": [text]}, "max_tokens": 100})
}

#[test]
fn every_call_holds_on_one_rank_and_on_three() {
    for ranks in [1, 3] {
        let work = Work::instant(3);
        let ended = ended_well(on(ranks, "every_call", &work).run(), ranks, &work);
        let words: Vec<&str> = ended
            .out
            .lines()
            .filter(|line| line.contains("prompts") || line.contains("tree:"))
            .collect();
        assert!(words.is_empty(), "standard output is the program's: {words:?}");
    }
}

#[test]
#[ignore = "a rank of every_call_holds_on_one_rank_and_on_three"]
fn every_call() {
    let setup = setup().setting("fan-in", 4).setting("max-tokens-aggregation", 8);
    let mut swarm = setup.start().expect("started");
    let (root, rank, size) = (swarm.rank() == 0, swarm.rank(), swarm.size());
    let prompts = made_up(40);
    let all = expected(&prompts);
    // What other ranks pass is not looked at.
    let mine = || prompts.iter().take(if root { 40 } else { 0 });

    let answers = swarm.scatter_gather(mine()).expect("answered");
    assert_eq!(answers.is_root(), root, "on rank 0 only");
    if let Some(answers) = answers.as_root() {
        assert_eq!(texts(answers), all);
        assert!((0..40).all(|at| answers[at].index == at as u64));
        let by: std::collections::BTreeSet<usize> =
            answers.iter().map(|it| it.served.rank).collect();
        assert_eq!(by.len(), size, "all ranks have a part in it: {by:?}");
    }

    let items = ["a", "{b}", "{{c}}"];
    let answers = swarm.map_gather(items, "What is {{item}}?").expect("answered");
    assert_eq!(answers.is_root(), root);
    if let Some(answers) = answers.into_root() {
        let asked = items.map(|item| format!("What is {item}?"));
        assert_eq!(texts(&answers), expected(&asked));
    }
    let columns = [json!({"city": "Lima", "country": "Peru"})];
    let answers = swarm.map_gather(&columns, "Is {{city}} in {{country}}?").expect("answered");
    let expected_one = expected(&["Is Lima in Peru?".to_owned()]);
    assert!(answers.into_root().is_none_or(|answers| texts(&answers) == expected_one));
    let without = swarm.map_gather(["a"], "What?").expect_err("no placeholder");
    assert_eq!(without.kind() == SwarmErrorKind::OtherRank, !root, "{without}");

    let grown = swarm.tree_reduce(mine(), "{{level}}: {{responses}}").expect("a text");
    assert_eq!(grown.is_root(), root);
    if let Some(grown) = grown.into_root() {
        assert_eq!((grown.leaves, grown.missing, grown.levels), (40, 0, 3));
        let level = |texts: Vec<String>, level: usize| {
            let prompt = |group: &[String]| format!("{level}: {}", group.join("\n---\n"));
            expected(&texts.chunks(4).map(prompt).collect::<Vec<_>>())
        };
        assert_eq!(grown.text, (1..=3).fold(all, level).pop(), "40, 10, 3, 1");
    }

    let came = swarm.answers(mine(), |answers| answers.map(|it| it.index).collect::<Vec<_>>());
    let came = came.expect("answered");
    let whole = swarm.aggregate(mine(), Vec::<u64>::new(), |seen, it| seen.push(it.position.index));
    let whole = whole.expect("merged");
    assert_eq!(whole.is_root(), root);
    if let Some(mut whole) = whole.into_root() {
        whole.sort_unstable();
        assert_eq!(whole, (0..40).collect::<Vec<u64>>(), "each once");
    }
    assert!(!came.is_empty() && (size > 1 || came.len() == 40), "{came:?}");

    let votes = [saying("Yes"), saying("no"), saying("yes ")];
    let votes =
        swarm.aggregate(&votes, MajorityVote::new(None), MajorityVote::add_answer).expect("merged");
    assert_eq!(votes.is_root(), root);
    if let Some(votes) = votes.into_root() {
        let votes = votes.to_json();
        assert_eq!((&votes["winner"], &votes["votes"]), (&"Yes".into(), &2.into()));
    }

    let by_length = |text: &str| Ok(text.len() as f64);
    let rows = [saying("four"), saying("seventh"), saying("eighth."), json!("")];
    let top = swarm.top_k(&rows, 2, by_length).expect("scored");
    assert_eq!(top.is_root(), root);
    if let Some(top) = top.into_root() {
        assert_eq!(top.best_scored().collect::<Vec<_>>(), [(7.0, "seventh"), (7.0, "eighth.")]);
        assert_eq!(top.to_json()["failed"], 1);
    }
    let best = swarm.best_of(&rows, |text| Ok(-(text.len() as f64))).expect("scored");
    assert_eq!(best.into_root(), root.then(|| Some((-4.0, "four".to_owned()))));

    // Local calls: each rank makes as many as it likes.
    let own: Vec<String> = (0..=rank).map(|number| format!("{number} of rank {rank}")).collect();
    let answers = swarm.send_all_batched(&own).expect("answered");
    assert_eq!(texts(&answers), expected(&own));
    assert!(answers.iter().all(|it| it.served.rank == rank));
    let servers: Vec<String> = swarm.endpoints().iter().map(ToString::to_string).collect();
    assert_eq!(servers.len(), 3 / size);
    let last = servers.len() - 1;
    let answers = swarm.post_batch(last, &own).expect("answered");
    assert_eq!(texts(&answers), expected(&own));
    assert!(answers.iter().all(|it| it.served.endpoint.as_ref() == servers.last()));
    assert!(swarm.post_batch(0, [""; 0]).expect("nothing to ask").is_empty());
    let beyond = swarm.post_batch(3, ["a"]).expect_err("no such server").to_string();
    assert!(beyond.contains("server index 3 is out of range"), "{beyond}");
    well(swarm);
}

#[test]
fn wrong_settings_are_an_error_on_every_rank() {
    let work = Work::instant(1);
    ended_well(on(3, "wrong_settings", &work).run(), 3, &work).says("the reason", 1);
}

#[test]
#[ignore = "a rank of wrong_settings_are_an_error_on_every_rank"]
fn wrong_settings() {
    // (MPI can be started once in a process: one mistake a program)
    let Err(error) = setup().base_port(8000).start() else { panic!("two ways to name servers") };
    let told = error.to_string();
    let (here, elsewhere) =
        (told.contains("--endpoint and --base-port"), told.contains("another rank"));
    println!("all of it holds: {}", if here { "the reason" } else { "elsewhere" });
    assert!(here || elsewhere, "{told}");
}

#[test]
fn reversed_and_missing_choices_cost_no_answer() {
    let rule = |fault, p| Rule { p, ..Rule::always(fault) };
    let rules = vec![rule(Fault::ReverseChoices, 0.4), rule(Fault::MissingChoice, 0.1)];
    let script = Script { seed: 3, rules };
    let work = Work::with(vec![Profile { script, ..Profile::instant() }]);
    ended_well(on(1, "in_lists", &work).run(), 1, &work);
    assert!(work.fleet.seen(0).faults > 5, "the servers were at fault");
}

#[test]
#[ignore = "a rank of reversed_and_missing_choices_cost_no_answer"]
fn in_lists() {
    let setup = setup().setting("api", "completions").setting("batch-size", 8);
    let mut swarm = setup.max_attempts(9).start().expect("started");
    let prompts = made_up(200);
    let right = |answers: &[SwarmAnswer]| {
        let its = |prompt: &String| crate::support::work::by_completions(prompt, 8);
        assert_eq!(texts(answers), prompts.iter().map(its).collect::<Vec<_>>());
    };
    right(&swarm.post_batch(0, &prompts).expect("answered"));
    right(&swarm.scatter_gather(&prompts).expect("answered").into_root().expect("on rank 0"));
    well(swarm);
}

#[test]
fn a_named_folder_is_gone_on_with() {
    let work = Work::instant(2);
    for ranks in [2, 3, 1] {
        ended_well(on(ranks, "with_a_folder", &work).run(), ranks, &work);
        assert_eq!(work.served(), 30 + 1 + 1, "nothing is asked twice");
    }
    assert!(
        work.has("calls/call-0001.jsonl.run/manifest.json") && work.has("calls/call-0002.jsonl")
    );
}

#[test]
#[ignore = "a rank of a_named_folder_is_gone_on_with"]
fn with_a_folder() {
    let folder = Path::new(&said("TEST_FOLDER")).join("calls");
    let mut swarm = setup().setting("fan-in", 30).folder(folder).start().expect("started");
    let prompts = made_up(30);
    if let Some(answers) = swarm.scatter_gather(&prompts).expect("answered").into_root() {
        assert_eq!(texts(&answers), expected(&prompts));
    }
    // A reduce's leaves are other calls' answers to the next one: one leaf is its own text.
    let grown = swarm.tree_reduce([&prompts[0]], "Sum up {{responses}}").expect("a text");
    let grown = grown.map(|it| it.text);
    assert!(grown.into_root().is_none_or(|text| text == Some(by_chat(&prompts[0], 8))));
    let seen = swarm.aggregate([&prompts[1]], 0u64.into(), |Seen(count), _| *count += 1);
    let seen = seen.expect("merged").into_root();
    assert!(seen.is_none_or(|Seen(count)| count == 1), "an earlier answer counts");
    well(swarm);
}

/// How many were seen: a program's own value.
#[derive(serde::Serialize, serde::Deserialize)]
struct Seen(u64);

impl From<u64> for Seen {
    fn from(count: u64) -> Self {
        Self(count)
    }
}

impl Merge for Seen {
    fn merge(&mut self, other: Self) {
        self.0 += other.0;
    }
}

#[test]
fn prompts_that_failed_first_and_were_answered_later_count_once() {
    let rule = |fault, p| Rule { p, ..Rule::always(fault) };
    let rules = vec![rule(Fault::Status(500), 0.3)];
    let bad = Profile { script: Script { seed: 3, rules }, ..Profile::instant() };
    let (work, well) = (Work::with(vec![bad.clone(), bad]), Work::instant(3));
    ended_well(on(2, "each_once", &work).run(), 2, &work).says("some failed", 1);
    let again = on(3, "each_once", &work).env("TEST_SERVERS", &well.fleet.urls().join(","));
    ended_well(again.run(), 3, &work).says("none failed", 1);
}

#[test]
#[ignore = "a rank of prompts_that_failed_first_and_were_answered_later_count_once"]
fn each_once() {
    let folder = Path::new(&said("TEST_FOLDER")).join("calls");
    let setup = setup().max_attempts(1).setting("no-batch", true).folder(folder);
    let mut swarm = setup.start().expect("started");
    let seen = swarm.aggregate(made_up(90), Vec::<(u64, bool)>::new(), |seen, it| {
        seen.push((it.position.index, it.outcome.is_ok()));
    });
    if let Some(mut seen) = seen.expect("merged").into_root() {
        seen.sort_unstable();
        let indices: Vec<u64> = seen.iter().map(|it| it.0).collect();
        assert_eq!(indices, (0..90).collect::<Vec<u64>>(), "each once");
        let failed = seen.iter().filter(|it| !it.1).count();
        println!("{} failed", if failed > 0 { "some" } else { "none" });
    }
    well(swarm);
}

#[test]
fn servers_that_come_later_are_found_by_the_next_call() {
    let (folder, first) = (tempfile::tempdir().unwrap(), Simulator::start(Profile::instant()));
    let address = first.expect("a port").address(); // which is free again
    let variables = [("TMPDIR", folder.path().to_str().unwrap())];
    let setup = SwarmBuilder::new(Environment::from(variables)).setting("ready-timeout", "300ms");
    let setup = setup.endpoint(format!("http://{address}"));
    let mut swarm = setup.start().expect("one rank");
    let error = swarm.scatter_gather(["a"]).expect_err("nobody");
    assert_eq!(error.kind(), SwarmErrorKind::NoServer, "{error}");
    let profile = Profile { port: address.port(), ..Profile::instant() };
    let server = Simulator::start(profile).expect("the same port");
    for _ in 0..2 {
        let answers = swarm.scatter_gather(["a"]).expect("answered").into_root();
        assert!(answers.expect("on rank 0")[0].text().is_ok());
    }
    drop(server);
    swarm.finish();
}

#[test]
fn no_endpoint_is_an_error_and_not_an_accident() {
    let work = Work::instant(1);
    let job = on(3, "nobody_there", &work).env("TEST_SERVERS", "http://127.0.0.1:9");
    ended_well(job.run(), 3, &work).complains("0 of 1 endpoints are ready");
}

#[test]
#[ignore = "a rank of no_endpoint_is_an_error_and_not_an_accident"]
fn nobody_there() {
    let mut swarm = setup().start().expect("started");
    for _ in 0..2 {
        let error = swarm.scatter_gather(["a"]).expect_err("nobody");
        assert_eq!(error.kind(), SwarmErrorKind::NoServer, "{error}");
    }
    let error = swarm.tree_reduce(["a"], "{{responses}}").expect_err("nobody");
    assert_eq!(error.kind(), SwarmErrorKind::NoServer, "{error}");
    let error = swarm.send_all_batched(["a"]).expect_err("nobody");
    assert_eq!(error.kind(), SwarmErrorKind::NoServer, "{error}");
    well(swarm);
}

#[test]
fn trees_of_one_leaf_of_none_left_and_with_a_fan_in_of_one() {
    let work = Work::instant(1);
    for ranks in [1, 3] {
        ended_well(on(ranks, "odd_trees", &work).run(), ranks, &work);
    }
    ended_well(on(1, "fan_in_one", &work).run(), 1, &work);
}

#[test]
#[ignore = "a rank of trees_of_one_leaf_of_none_left_and_with_a_fan_in_of_one"]
fn odd_trees() {
    let mut swarm = setup().start().expect("started");
    let one = swarm.tree_reduce(["only"], "Sum up {{responses}}").expect("a text");
    if let Some(one) = one.into_root() {
        assert_eq!((one.leaves, one.missing, one.text), (1, 0, Some(by_chat("only", 8))));
    }
    let none = swarm.tree_reduce(["", " ", ""], "Sum up {{responses}}").expect("no error");
    if let Some(none) = none.into_root() {
        assert_eq!((none.leaves, none.missing, none.text), (3, 3, None));
    }
    let empty = swarm.tree_reduce([""; 0], "Sum up {{responses}}").expect_err("nothing");
    let (here, told) = (swarm.rank() == 0, empty.to_string());
    assert!(!here || told.contains("no rows"), "{told}");
    well(swarm);
}

#[test]
#[ignore = "a rank of trees_of_one_leaf_of_none_left_and_with_a_fan_in_of_one"]
fn fan_in_one() {
    let Err(error) = setup().setting("fan-in", 1).start() else { panic!("calls without end") };
    assert!(error.to_string().contains("--fan-in 1: must be at least 2"), "{error}");
    println!("all of it holds");
}

#[test]
fn placeholders_inside_an_answer_stay_text() {
    let work = Work::instant(1);
    ended_well(on(1, "with_braces", &work).run(), 1, &work);
}

#[test]
#[ignore = "a rank of placeholders_inside_an_answer_stay_text"]
fn with_braces() {
    let mut swarm = setup().setting("max-tokens-aggregation", 8).start().expect("started");
    let said = ["{level} {{level}}", "{responses} {{responses}}"];
    let rows = said.map(saying);
    let grown = swarm.tree_reduce(&rows, "{{level}}: {{responses}}").expect("a text");
    let prompt = format!("1: {}", said.join("\n---\n"));
    assert_eq!(grown.into_root().expect("on rank 0").text, Some(by_chat(&prompt, 8)));
    well(swarm);
}

#[test]
fn answers_that_are_no_numbers_cost_nothing_else() {
    let work = Work::instant(2);
    ended_well(on(3, "of_numbers", &work).run(), 3, &work);
}

#[test]
#[ignore = "a rank of answers_that_are_no_numbers_cost_nothing_else"]
fn of_numbers() {
    let mut swarm = setup().start().expect("started");
    let rows = ["1", "2.5", "some", "5.5"].map(saying);
    let all = swarm
        .aggregate(&rows, NumericStatistics::new(None), NumericStatistics::add_answer)
        .expect("merged");
    if let Some(all) = all.into_root() {
        let all = all.to_json();
        assert_eq!((&all["numbers"]["count"], &all["numbers"]["mean"]), (&3.into(), &3.0.into()));
        assert_eq!(all["no_numbers"]["first"][0]["index"], 2);
    }
    well(swarm);
}

#[test]
fn answers_come_while_the_work_goes_on() {
    let work = Work::with(vec![slow(25.0), slow(25.0)]);
    ended_well(on(2, "as_they_come", &work).run(), 2, &work);
}

#[test]
#[ignore = "a rank of answers_come_while_the_work_goes_on"]
fn as_they_come() {
    let mut swarm = setup().concurrency(4).start().expect("started");
    let prompts = made_up(60);
    let came = swarm.answers(&prompts, |answers| {
        let came = answers.map(|it| {
            assert_eq!(it.text().expect("answered"), by_chat(&prompts[it.index as usize], 8));
            Instant::now()
        });
        came.collect::<Vec<_>>()
    });
    let (came, over) = (came.expect("answered"), Instant::now());
    // Some seven rounds of 0.2 s: the first is seen long before the last.
    assert!(came.len() > 4, "{}", came.len());
    assert!(over - came[0] > Duration::from_millis(500), "{:?}", over - came[0]);
    // Who looks at nothing, or at the first only, holds up nobody.
    swarm.answers(&prompts[..4], |_| ()).expect("answered");
    swarm.answers(&prompts[..4], |mut answers| answers.next().is_some()).expect("answered");
    well(swarm);
}
