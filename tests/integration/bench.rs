//! `bench`: sweeps, comparisons and models, against simulated servers.

use std::{
    collections::BTreeSet,
    fs, thread,
    time::{Duration, Instant},
};

use rustix::process::{Signal, kill_process};
use serde_json::Value;
use vllm_sim::{CostModel, Death, Profile};

use crate::support::{
    Job,
    job::{Ended, process_of},
    work::{Work, slow},
};

/// `bench WHAT` with all the servers.
fn bench(what: &str, work: &Work) -> Job {
    let job = Job::of("bench").args([what, "--ready-timeout", "5s", "--max-tokens", "8"]);
    let job = job.deadline(Duration::from_secs(90));
    work.fleet.urls().iter().fold(job, |job, url| job.args(["--endpoint", url]))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A server at which a request costs its front end some time: lists pay.
fn busy() -> Profile {
    let cost = CostModel {
        step_base_us: 2_000.0,
        max_num_seqs: 16,
        api_us_per_request: 5_000.0,
        ..CostModel::default()
    };
    Profile { cost, ..Profile::default() }
}

/// The table's rows by their first two columns, the rest as it stands.
fn rows(table: &str) -> Vec<Vec<String>> {
    let lines = table.lines().filter(|line| line.starts_with(' '));
    let cells = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    lines.skip(1).map(cells).collect()
}

#[test]
fn a_sweep_finds_that_lists_pay_and_tells_the_same_in_table_json_and_pictures() {
    for ranks in [1, 3] {
        let work = Work::with(vec![busy(); ranks]);
        let report = work.path("sweep.json");
        let job = bench("sweep", &work)
            .args(["--api", "completions", "--batch-sizes", "1,8,32", "--windows", "16"])
            .args(["--repeats", "2", "--prompts", "48", "--output", &report.to_string_lossy()]);
        let ended = job.ranks(ranks).run().with_code(0).says("best:", 1);
        let it = json(&fs::read_to_string(&report).expect("the report"));
        assert_eq!(it["conditions"]["endpoints"], ranks);
        assert_eq!(it["conditions"]["ranks"], ranks);
        let cells = it["cells"].as_array().expect("cells");
        assert_eq!(cells.len(), 3);
        assert_eq!(it["best"], 1, "lists of 8 beat single requests\n{}", ended.out);
        assert_eq!(cells[1]["batch"], "8");
        // What cannot be measured stays, with its reason.
        assert!(cells[2]["failed"].as_str().expect("a reason").contains("window of 16"));
        assert!(ended.out.contains("a batch of 32 sequences exceeds the window of 16"));
        let table = rows(&ended.out);
        for (cell, row) in cells.iter().zip(&table) {
            assert_eq!(
                (cell["batch"].as_str(), cell["window"].as_str()),
                (Some(&*row[0]), Some(&*row[1]))
            );
            let median = &cell["figures"]["tokens_per_s"]["median"];
            match median.as_f64() {
                Some(median) => assert_eq!(row[2], format!("{median:.0}"), "{row:?}"),
                None => assert_eq!(row[2], "–"),
            }
        }
        for cell in &cells[..2] {
            let runs = cell["runs"].as_array().expect("runs");
            assert_eq!(runs.len(), 2);
            for run in runs {
                assert_eq!(run["answered"], 48 * ranks);
                let size: u64 = cell["batch"].as_str().unwrap().parse().unwrap();
                // (a busy machine may cut a list short)
                let least = 48 * ranks as u64 / size;
                let requests = run["requests"].as_u64().expect("a count");
                assert!((least..=least + least / 3).contains(&requests), "{requests} for {least}");
                let rate = run["answered"].as_f64().unwrap() / run["seconds"].as_f64().unwrap();
                assert!((run["prompts_per_s"].as_f64().unwrap() / rate - 1.0).abs() < 1e-9);
            }
        }
        let svg = fs::read_to_string(work.path("sweep.svg")).expect("an SVG");
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert!(svg.contains("best: batch 8, window 16"), "the best is marked");
        // Warm-up and two repeats of both cells, and no prompt was asked twice.
        for server in 0..ranks {
            let seen = work.fleet.seen(server);
            assert_eq!((seen.served, seen.served_again, seen.largest_list), (2 * 3 * 48, 0, 8));
        }
    }
}

#[test]
fn a_cell_that_is_not_over_in_time_fails_alone() {
    let work = Work::with(vec![slow(10.0); 2]);
    // Eight steps of 10 ms a prompt: one at a time, 40 take 3.2 s; sixteen at a time, 0.3 s.
    let job = bench("sweep", &work)
        .args(["--batch-sizes", "1", "--windows", "1,16", "--prompts", "40", "--json"])
        .args(["--repeats", "1", "--time-limit", "1500ms"]);
    let it = json(&job.ranks(2).run().with_code(0).out);
    let why = it["cells"][0]["failed"].as_str().expect("a reason");
    assert!(why.contains("not over in time") && why.contains("of 80 prompts"), "{why}");
    assert_eq!(it["cells"][0]["figures"], Value::Null);
    assert_eq!((&it["best"], &it["cells"][1]["failed"]), (&Value::from(1), &Value::Null));
}

#[test]
fn prompts_that_fail_make_a_cell_fail_and_where_all_do_the_code_is_3() {
    let work = Work::with(vec![Profile { poison: Some("toad".into()), ..Profile::instant() }]);
    let texts: String = (0..64).map(|it| format!("{it} toads\n")).collect();
    let input = work.file("toads.txt", texts);
    let job = bench("sweep", &work).args([&*input, "--batch-sizes", "1,4", "--prompts", "8"]);
    let ended = job.args(["--json"]).run().with_code(3);
    let it = json(&ended.out);
    assert_eq!(it["best"], Value::Null);
    for cell in it["cells"].as_array().expect("cells") {
        let why = cell["failed"].as_str().expect("a reason");
        assert!(why.contains("8 of 8 prompts failed"), "{why}");
    }
}

#[test]
fn servers_that_die_cost_a_cell_no_longer_than_patience() {
    let work = Work::with(vec![Profile { die: Some(Death::Prompts(50)), ..Profile::instant() }]);
    let job = bench("sweep", &work).args(["--batch-sizes", "1,2,4", "--prompts", "20", "--json"]);
    let job =
        job.args(["--repeats", "1", "--ready-timeout", "2s"]).deadline(Duration::from_secs(40));
    let it = json(&job.run().with_code(0).out);
    assert_eq!(it["best"], 0, "it lived for the first");
    for cell in &it["cells"].as_array().expect("cells")[1..] {
        let why = cell["failed"].as_str().expect("a reason");
        assert!(why.contains("no endpoint was up for 2s"), "{why}");
    }
}

#[test]
fn rows_of_an_input_are_asked_once_each_while_they_last() {
    // (of a version that does not keep caches apart)
    let older = || Profile { version: "0.10.2".into(), ..Profile::instant() };
    let work = Work::with(vec![older(), older()]);
    let texts: String = (0..64).map(|it| format!("row {it}\n")).collect();
    let input = work.file("rows.txt", texts);
    let sweep = |prompts: &str| {
        let job = bench("sweep", &work).args([&*input, "--batch-sizes", "1,4", "--repeats", "1"]);
        json(&job.args(["--prompts", prompts, "--json"]).ranks(2).run().with_code(0).out)
    };
    let it = sweep("8");
    assert_eq!(
        (&it["conditions"]["rows_came_again"], it["notes"].as_array().unwrap().len()),
        (&false.into(), 1)
    );
    let seen = [work.fleet.seen(0), work.fleet.seen(1)];
    assert!(seen.iter().all(|it| (it.distinct_served, it.served_again) == (32, 0)), "{seen:?}");
    let it = sweep("9");
    assert_eq!(it["conditions"]["rows_came_again"], true);
    assert!(it["notes"].to_string().contains("prefix caches"), "{}", it["notes"]);
}

#[test]
fn batched_and_single_answers_are_equal_and_lists_are_counted() {
    let work = Work::with(vec![busy(); 3]);
    let job = bench("compare", &work).args(["--api", "completions", "--batch-size", "8"]);
    let job = job.args(["--concurrency", "16", "--prompts", "32", "--repeats", "2", "--json"]);
    let it = json(&job.ranks(3).run().with_code(0).out);
    assert_eq!(it["answers"]["equal"], 2 * 32 * 3);
    assert_eq!((&it["answers"]["different"], &it["answers"]["unknown"]), (&0.into(), &0.into()));
    let (batched, single) = (&it["batched"], &it["single"]);
    assert_eq!((&batched["completion"], &single["completion"]), (&1.0.into(), &1.0.into()));
    let requests = batched["requests"].as_u64().expect("a count");
    assert!((24..=32).contains(&requests), "{requests}: a busy machine may cut a list short");
    assert_eq!(single["requests"], 192);
    assert!(it["speed_up"]["median"].as_f64().expect("a figure") > 1.2, "{}", it["speed_up"]);
    assert!(it["conditions"]["sampling"].as_str().unwrap().contains("\"temperature\":0"));
}

/// Prompt tokens that a server has found in its prefix cache.
fn found_in_cache(work: &Work) -> u64 {
    work.fleet.endpoint(0).pace.gauges().counters.cache_hits
}

#[test]
fn nothing_that_was_measured_before_helps_where_servers_keep_caches_apart() {
    let names = || vec!["one".to_owned(), "other".to_owned()];
    let of = |version: &str| Profile { version: version.into(), models: names(), ..busy() };
    let measure = |what: &str, work: &Work, more: &[&str]| {
        let job = bench(what, work).args(["--prompts", "16", "--repeats", "2", "--json"]);
        let it = json(&job.args(more.iter().copied()).run().with_code(0).out);
        (it["conditions"]["caches_apart"].clone(), it["notes"].to_string())
    };
    let compare = ["--model", "one", "--api", "completions"];
    let salted = ["--model", "one", "--extra-body", r#"{"cache_salt": "mine"}"#];
    for (what, more) in [("compare", &compare[..]), ("models", &[])] {
        let new = Work::with(vec![of("0.32.0")]);
        assert_eq!(measure(what, &new, more), (true.into(), "[]".into()));
        assert_eq!(found_in_cache(&new), 0, "{what}");
        let old = Work::with(vec![of("0.10.2")]);
        let (apart, notes) = measure(what, &old, more);
        assert!(apart == false && notes.contains("only vLLM 0.11 or later"), "{notes}");
        // Two repeats, of which the second way or model finds the first's.
        let (found, asked) = (found_in_cache(&old), old.fleet.seen(0).prompt_tokens);
        assert!(found * 4 > asked, "{what}: {found} of {asked} tokens were found");
    }
    // Somebody's own salt is kept, and said to keep nothing apart.
    let work = Work::with(vec![of("0.32.0")]);
    assert_eq!(measure("compare", &work, &salted).0, false);
    assert!(found_in_cache(&work) > 0);
}

#[test]
fn a_comparison_of_prompts_that_fail_tells_how_many_and_ends_with_3() {
    let work = Work::with(vec![Profile { poison: Some("toad".into()), ..Profile::instant() }]);
    let text =
        |it: usize| format!("{it} {}\n", if it.is_multiple_of(4) { "toads" } else { "frogs" });
    let input = work.file("some.txt", (0..64).map(text).collect::<String>());
    let job = bench("compare", &work).args([&*input, "--prompts", "16", "--repeats", "2"]);
    let ended = job.args(["--api", "completions"]).run().with_code(3);
    for words in ["24 of 32 (75.0 %)", "24 of 32 equal", "8 not answered both ways"] {
        assert!(ended.out.contains(words), "{words}\n{}", ended.out);
    }
}

#[test]
fn models_are_measured_one_by_one_and_one_that_is_not_served_fails_alone() {
    let models = vec!["small".to_owned(), "large".to_owned()];
    let both = Profile { models: models.clone(), ..Profile::instant() };
    let work = Work::with(vec![both, Profile { models: models[..1].into(), ..Profile::instant() }]);
    let job = || bench("models", &work).args(["--repeats", "2", "--prompts", "3", "--json"]);
    let it = json(&job().ranks(2).run().with_code(0).out);
    let names: Vec<&str> =
        it["models"].as_array().unwrap().iter().map(|row| row["model"].as_str().unwrap()).collect();
    assert_eq!(names, ["small", "large"]);
    for (row, endpoints) in it["models"].as_array().unwrap().iter().zip([2, 1]) {
        assert_eq!((&row["endpoints"], &row["runs_whole"]), (&endpoints.into(), &2.into()));
        assert!(row["figures"]["p50_s"]["median"].as_f64().is_some(), "{row}");
        assert!(!row["sample"].as_str().expect("an answer").is_empty());
        assert_eq!(row["runs"][0]["answered"], 3 * endpoints);
    }
    let named = job().args(["--model", "huge", "--model", "large", "--model", "large"]);
    let it = json(&named.run().with_code(3).out);
    assert_eq!(it["models"].as_array().unwrap().len(), 2, "a name that is given twice is one");
    let why = it["models"][0]["failed"].as_str().expect("a reason");
    assert!(why.contains("\"huge\" is not served") && why.contains("large, small"), "{why}");
    assert_eq!(
        (&it["models"][0]["runs_whole"], &it["models"][1]["runs_whole"]),
        (&0.into(), &2.into())
    );
    let each = job().args(["--model", "small", "--per-endpoint"]).ranks(2);
    let it = json(&each.run().with_code(0).out);
    let places: BTreeSet<&str> = it["models"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["endpoint"].as_str().unwrap())
        .collect();
    let urls = work.fleet.urls();
    let wanted = [format!("{} of rank 0", urls[0]), format!("{} of rank 1", urls[1])];
    assert_eq!(places, wanted.iter().map(String::as_str).collect());
}

#[test]
fn what_cannot_begin_says_why_and_measures_nothing() {
    let work = Work::instant(1);
    let kept = work.file("kept.json", "mine");
    let text = work.file("empty.txt", "");
    let no_folder = work.path("no/where.json").to_string_lossy().into_owned();
    for (args, code, words) in [
        (&["sweep", "--batch-size", "4"][..], 2, "--batch-sizes"),
        (&["compare", "--no-batch"], 2, "--batch-size"),
        (&["sweep", "--output", &kept], 5, "--overwrite"),
        (&["sweep", "--output", &no_folder], 5, "create it first"),
        (&["compare", "--output", "x.txt"], 5, ".json"),
        (&["sweep", &text], 5, "no rows"),
        (&["sweep", "--model", "other"], 5, "not served"),
        (&["sweep", "--batch-sizes", "0"], 2, "at least 1"),
        (&["sweep", "--windows", "many"], 2, "auto or a whole number"),
        (&["models", "--repeats", "0"], 2, "--repeats"),
        (&["sweep", "--max-tokens", "x"], 2, "--max-tokens"),
    ] {
        let job = args[1..].iter().fold(bench(args[0], &work), |job, arg| job.arg(arg));
        let job = if code == 5 { job.ranks(2) } else { job };
        job.run().with_code(code).complains(words);
    }
    assert_eq!(fs::read_to_string(kept).expect("it is there"), "mine");
    assert_eq!(work.requests(), 0);
    for what in ["sweep", "compare", "models"] {
        let job = Job::of("bench").args([what, "--endpoint", "http://127.0.0.1:9"]);
        let ended = job.args(["--ready-timeout", "1s"]).ranks(2).run().with_code(6);
        ended.complains("0 of 1 endpoints are ready");
    }
}

/// A sweep whose first cell is measured soon, and whose second takes a while.
fn long_sweep(work: &Work) -> Job {
    let report = work.path("sweep.json");
    bench("sweep", work)
        .args(["--batch-sizes", "1", "--windows", "16,1,2", "--prompts", "40", "--repeats", "2"])
        .args(["--output", &report.to_string_lossy()])
}

/// The first cell was measured, the second was cut short, the third was not begun; and all say so.
#[track_caller]
fn is_told_incomplete(work: &Work, ended: &Ended, why: &str) {
    let it = json(&fs::read_to_string(work.path("sweep.json")).expect("the report"));
    assert!(it["conditions"]["incomplete"].as_str().expect("it is").contains(why), "{it}");
    assert_eq!(
        (&it["best"], it["cells"][0]["runs"].as_array().expect("runs").len()),
        (&0.into(), 2)
    );
    for cell in &it["cells"].as_array().expect("cells")[1..] {
        assert_eq!(
            (cell["failed"].as_str(), &cell["figures"]),
            (Some(&*format!("not measured: {why}")), &Value::Null)
        );
    }
    assert!(ended.out.contains(&format!("incomplete: {why}")), "{}", ended.out);
    assert!(ended.out.contains("best so far: batch 1, window 16"), "{}", ended.out);
    let svg = fs::read_to_string(work.path("sweep.svg")).expect("an SVG");
    assert!(svg.contains(&format!("incomplete: {why}")), "{svg}");
}

#[test]
fn a_bench_that_any_rank_is_asked_to_end_tells_what_was_measured() {
    // On all ranks at once, as a batch system does it, and on a single one.
    for whom in [&[0, 1, 2][..], &[2]] {
        let work = Work::with(vec![slow(10.0); 3]);
        let started = long_sweep(&work).ranks(3).start();
        // A warm-up and two repeats on each, and the next cell has begun.
        let end = Instant::now() + Duration::from_secs(30);
        while work.served() < 3 * 3 * 40 + 3 {
            assert!(Instant::now() < end, "no answers come");
            thread::sleep(Duration::from_millis(5));
        }
        let began = Instant::now();
        for &rank in whom {
            kill_process(process_of(&work.marker(), rank), Signal::TERM).expect("it is there");
        }
        let ended = started.wait().with_code(75);
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        is_told_incomplete(&work, &ended, "stopped by a signal");
        // What would take its place has to be told so.
        long_sweep(&work).run().with_code(5).complains("--overwrite");
    }
}

#[test]
fn a_bench_whose_walltime_is_over_tells_what_was_measured() {
    let work = Work::with(vec![slow(10.0); 2]);
    let ended = long_sweep(&work).args(["--walltime", "9s"]).ranks(2).run().with_code(75);
    is_told_incomplete(&work, &ended, "deadline reached");
    // One that has no pair, and one with a model that was not begun.
    let job = bench("compare", &work).args(["--concurrency", "1", "--prompts", "40", "--json"]);
    let it = json(&job.args(["--walltime", "3s"]).run().with_code(75).out);
    assert_eq!((&it["batched"]["asked"], &it["speed_up"]), (&0.into(), &Value::Null));
    let job = bench("models", &work).args(["--prompts", "10", "--repeats", "50", "--json"]);
    let it = json(&job.args(["--per-endpoint", "--walltime", "6s"]).run().with_code(75).out);
    let [first, second] =
        [0, 1].map(|at| it["models"][at]["runs_whole"].as_u64().expect("a count"));
    assert!(first > 0 && second == 0, "{it}");
}
