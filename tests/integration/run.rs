//! `run`: prompts in, answers out, and nothing lost on the way.

use std::{
    io::Write,
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use vllm_sim::{Death, Fault, Flavor, Phase, Profile, Rule, Script, Turn};

use crate::support::{
    Job,
    work::{Work, assert_equal, assert_right, by_chat, by_completions, by_turns, made_up, slow},
};

/// Milliseconds of a step of a server that needs a while.
const STEP: f64 = 4.0;

#[test]
fn twenty_thousand_prompts_get_their_own_answers_in_order_on_any_number_of_ranks() {
    let work = Work::instant(4);
    let prompts = made_up(20_000);
    let input = work.prompts(&prompts);
    work.run(&input).arg("--max-tokens").arg("24").ranks(4).run().with_code(0).says("answers: ", 1);
    let answers = work.answers("answers.jsonl");
    assert_eq!(answers.len(), 20_000);
    for (index, (answer, prompt)) in answers.iter().zip(&prompts).enumerate() {
        assert_eq!(answer["index"], index);
        assert_eq!(answer["id"], index.to_string());
        assert_eq!(answer["prompt"], prompt.as_str());
        assert_eq!(answer["response"], by_chat(prompt, 24), "prompt {index}");
    }
    assert_eq!(work.counts("answers.jsonl"), [20_000, 20_000, 0, 0]);
    for ranks in [1, 3, 5] {
        let name = format!("on-{ranks}.jsonl");
        let job = work.run_to(&input, &name).args(["--max-tokens", "24"]);
        job.ranks(ranks).run().with_code(0);
        assert_equal(&answers, &work.answers(&name));
    }
}

#[test]
fn raw_texts_ride_on_lists() {
    let work = Work::instant(2);
    let prompts = made_up(1_000);
    let input = work.prompts(&prompts);
    let job = work.run(&input).args([
        "--api",
        "completions",
        "--batch-size",
        "32",
        "--concurrency",
        "128",
    ]);
    job.ranks(2).run().with_code(0);
    for (answer, prompt) in work.answers("answers.jsonl").iter().zip(&prompts) {
        assert_eq!(answer["response"], by_completions(prompt, 512));
    }
    let seen = work.fleet.seen(0);
    assert_eq!(seen.largest_list, 32);
    assert!(seen.most_in_flight <= 128 && seen.requests < 60, "{seen:?}");
}

#[test]
fn a_window_is_kept_exactly() {
    let work = Work::with(vec![slow(STEP)]);
    let input = work.prompts(&made_up(200));
    let job = work.run(&input).args(["--max-tokens", "8", "--concurrency", "24", "--no-batch"]);
    job.run().with_code(0);
    assert_eq!(work.fleet.seen(0).most_in_flight, 24);
    assert_eq!(work.fleet.seen(0).largest_list, 1);
}

#[test]
fn one_too_long_and_one_empty_prompt_fail_alone() {
    for api in ["completions", "chat"] {
        let work = Work::instant(2);
        let mut prompts = made_up(500);
        prompts[123] = "long ".repeat(10_000);
        prompts[321] = "  ".into();
        let input = work.prompts(&prompts);
        work.run(&input).args(["--api", api]).ranks(2).run().with_code(3);
        let answers = work.answers("answers.jsonl");
        let failed: Vec<(u64, &Value)> = answers
            .iter()
            .filter(|answer| answer["success"] == false)
            .map(|answer| (answer["index"].as_u64().unwrap(), &answer["error"]["kind"]))
            .collect();
        assert_eq!(failed, [(123, &json!("too_long")), (321, &json!("empty_prompt"))], "{api}");
        assert_eq!(work.counts("answers.jsonl"), [500, 498, 2, 0]);
        assert_eq!(work.served(), 498, "nobody was asked twice");
        Job::of("status")
            .args([&*work.path("answers.jsonl").to_string_lossy(), "--exit-code", "--verify"])
            .run()
            .with_code(3)
            .says("498 answered, 2 failed", 1);
    }
}

#[test]
fn a_broken_row_stops_the_run_before_any_work() {
    let work = Work::instant(1);
    let text = "{\"prompt\":\"a\"}\n{\"prompt\":7}\n{\"prompt\":\"c\"}\n{oops\n";
    let input = work.file("rows.jsonl", text);
    let ended = work.run(&input).ranks(3).run().with_code(5);
    let ended = ended.complains("rows.jsonl").complains("line 2").complains("line 4");
    assert_eq!(ended.err.matches("line 2").count(), 1, "one message for the job\n{}", ended.err);
    assert!(!work.has("answers.jsonl") && !work.has("answers.jsonl.run"));
    assert_eq!(work.fleet.seen(0).requests, 0);
    work.run(&input).args(["--bad-rows", "fail"]).ranks(2).run().with_code(3);
    assert_eq!(work.counts("answers.jsonl"), [4, 2, 2, 0]);
    assert_eq!(work.answers("answers.jsonl")[1]["error"]["kind"], "bad_row");
}

#[test]
fn models_are_asked_for_by_name_or_found() {
    let two = Profile { models: vec!["big".into(), "small".into()], ..Profile::instant() };
    let work = Work::with(vec![two]);
    let input = work.prompts(&made_up(3));
    work.run(&input).args(["--model", "other"]).run().with_code(5).complains("big, small");
    work.run(&input).ranks(2).run().with_code(5).complains("several models").complains("--model");
    work.run(&input).args(["--model", "small"]).run().with_code(0);
    assert_eq!(work.answers("answers.jsonl")[0]["model"], "small");
}

#[test]
fn no_endpoint_is_code_6_in_time() {
    let work = Work::instant(0);
    let input = work.prompts(&made_up(3));
    let job = work.run(&input).args(["--endpoint", "http://127.0.0.1:9", "--ready-timeout", "1s"]);
    let ended = job.ranks(2).run().with_code(6);
    assert!(ended.took < Duration::from_secs(20), "{:?}", ended.took);
    ended.complains("0 of 1 endpoints are ready");
    assert!(!work.has("answers.jsonl"));
    assert_eq!(work.counts("answers.jsonl"), [3, 0, 0, 3]);
}

#[test]
fn servers_that_all_die_leave_prompts_open_and_the_same_command_goes_on() {
    let dying = Profile { die: Some(Death::Prompts(100)), ..slow(STEP) };
    let work = Work::with(vec![dying; 2]);
    let prompts = made_up(1_000);
    let input = work.prompts(&prompts);
    let ports: Vec<String> = work.fleet.urls();
    let job = |ranks| {
        let job = work.run(&input).args(["--max-tokens", "8", "--ready-timeout", "2s"]);
        job.ranks(ranks)
    };
    let ended = job(2).run().with_code(75);
    assert!(ended.took < Duration::from_secs(30), "{:?}", ended.took);
    assert!(!work.has("answers.jsonl"));
    let [_, answered, failed, open] = work.counts("answers.jsonl");
    assert!(
        answered >= 200 && failed == 0 && open > 0,
        "{answered} answered, {failed} failed, {open} open"
    );
    // Back on the same ports.
    let port = |url: &String| url.rsplit(':').next().unwrap().parse().unwrap();
    let back =
        Work::with(ports.iter().map(|url| Profile { port: port(url), ..slow(STEP) }).collect());
    job(3).run().with_code(0);
    assert_right(&work.answers("answers.jsonl"), &prompts);
    assert_eq!(work.counts("answers.jsonl"), [1_000, 1_000, 0, 0]);
    assert!(back.served() <= open, "{} asked again of {open} open", back.served());
}

#[test]
fn kill_9_of_everything_loses_at_most_what_was_in_flight() {
    let work = Work::with(vec![slow(STEP), slow(STEP)]);
    let prompts = made_up(1_500);
    let input = work.prompts(&prompts);
    let job =
        |name: &str| work.run_to(&input, name).args(["--max-tokens", "16", "--concurrency", "16"]);
    let started = job("answers.jsonl").ranks(2).start();
    let end = Instant::now() + Duration::from_secs(30);
    while work.lines_on_disk("answers.jsonl") < 300 {
        assert!(Instant::now() < end, "no answers come");
        thread::sleep(Duration::from_millis(20));
    }
    started.kill_everything(&work.marker());
    let kept = work.lines_on_disk("answers.jsonl");
    assert!((300..1_500).contains(&kept), "{kept} kept");
    let before = work.served();
    job("answers.jsonl").ranks(3).run().with_code(0);
    let again = work.served() - before;
    // The servers go on with what was in flight (2 windows of 16) until they notice.
    assert!(again <= 1_500 - kept as u64 + 32, "{again} asked, though {kept} were kept");
    job("undisturbed.jsonl").ranks(1).run().with_code(0);
    assert_equal(&work.answers("undisturbed.jsonl"), &work.answers("answers.jsonl"));
    assert_eq!(work.manifest("answers.jsonl")["starts"], 2);
}

#[test]
fn a_finished_run_needs_no_endpoint_and_rebuilds_a_missing_output() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(50));
    work.run(&input).ranks(2).run().with_code(0);
    let answers = work.answers("answers.jsonl");
    std::fs::remove_file(work.path("answers.jsonl")).unwrap();
    let elsewhere = Work::instant(0);
    let again = |extra: &[&str]| {
        let output = work.path("answers.jsonl").to_string_lossy().into_owned();
        let job =
            Job::of("run").args([&*input, "--output", &output, "--endpoint", "http://127.0.0.1:9"]);
        let job = job.args(["--temperature", "0"]);
        job.args(extra.iter().copied()).ranks(3).run()
    };
    again(&[]).with_code(0);
    assert_eq!(answers, work.answers("answers.jsonl"));
    again(&["--resume", "never"]).with_code(5).complains("--resume never, but");
    again(&["--max-tokens", "9"]).with_code(5).complains("max-tokens was 512 and is 9");
    std::fs::write(&input, "{\"prompt\":\"another\"}\n").unwrap();
    again(&[]).with_code(5).complains("the input has changed");
    drop(elsewhere);
    std::fs::remove_dir_all(work.path("answers.jsonl.run")).unwrap();
    again(&[]).with_code(5).complains("exists, but");
    work.run(&input).arg("--overwrite").run().with_code(0);
    assert_eq!(work.answers("answers.jsonl").len(), 1);
}

#[test]
fn a_second_run_while_the_first_lives_is_refused() {
    let work = Work::with(vec![slow(STEP)]);
    let input = work.prompts(&made_up(3_000));
    let first = work.run(&input).start();
    let end = Instant::now() + Duration::from_secs(20);
    while work.lines_on_disk("answers.jsonl") < 10 {
        assert!(Instant::now() < end, "no answers come");
        thread::sleep(Duration::from_millis(20));
    }
    work.run(&input).run().with_code(5).complains("is being written by process");
    let status =
        Job::of("status").arg(&work.path("answers.jsonl").to_string_lossy()).run().with_code(0);
    assert!(status.out.starts_with("running:"), "{}", status.out);
    first.kill_everything(&work.marker());
    let status =
        Job::of("status").arg(&work.path("answers.jsonl").to_string_lossy()).run().with_code(0);
    assert!(status.out.starts_with("lost:"), "{}", status.out);
}

#[test]
fn every_input_format_asks_the_same() {
    let work = Work::instant(2);
    let prompts = made_up(40);
    let expected: Vec<String> = prompts.iter().map(|prompt| by_chat(prompt, 512)).collect();
    let lines: String = prompts.iter().map(|prompt| format!("{prompt}\n")).collect();
    let rows = std::fs::read(work.prompts(&prompts)).unwrap();
    let table = |mark: &str| {
        let row = |(number, prompt): (usize, &String)| format!("r{number}{mark}\"{prompt}\"\r\n");
        let rows: String = prompts.iter().enumerate().map(row).collect();
        format!("\u{feff}id{mark}prompt\r\n{rows}")
    };
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&rows).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(rows.as_slice(), 1).unwrap();
    std::fs::create_dir(work.path("many")).unwrap();
    let (first, second) = lines.split_at(lines.find("17:").unwrap());
    work.file("many/b.txt", second);
    work.file("many/a.txt", first);
    let inputs = [
        work.file("p.txt", &lines),
        work.file("p.csv", table(",")),
        work.file("p.tsv", table("\t")),
        work.file("p.jsonl.gz", gzip),
        work.file("p.jsonl.zst", zstd),
        work.path("many").to_string_lossy().into_owned(),
        work.path("many/*.txt").to_string_lossy().into_owned(),
    ];
    for (number, input) in inputs.iter().enumerate() {
        let name = format!("{number}.jsonl");
        work.run_to(input, &name).ranks(3).run().with_code(0);
        let said: Vec<Value> =
            work.answers(&name).into_iter().map(|mut answer| answer["response"].take()).collect();
        assert_eq!(said, expected, "{input}");
    }
    work.run_to("-", "stdin.jsonl").run_with_input(&rows).with_code(0);
    assert_eq!(work.answers("stdin.jsonl").len(), 40);
    assert_eq!(work.answers("1.jsonl")[7]["id"], "r7");
}

/// Answers in the folder of the prompts were read as prompts by the next start, and with --overwrite a slip cost the prompts.
#[test]
fn answers_are_not_written_over_prompts_nor_read_as_prompts() {
    let work = Work::instant(1);
    std::fs::create_dir(work.path("all")).unwrap();
    let prompts = made_up(10);
    let input = work.prompts(&prompts);
    std::fs::rename(&input, work.path("all/a.jsonl")).unwrap();
    let (folder, file) = (work.path("all"), work.path("all/a.jsonl"));
    let (folder, file) = (folder.to_str().unwrap(), file.to_str().unwrap());
    let before = std::fs::read(file).unwrap();
    for input in [folder, file] {
        for ranks in [1, 2] {
            let job = work.run_to(input, "all/a.jsonl").arg("--overwrite").ranks(ranks);
            job.run().with_code(5).complains("the answers would overwrite it");
            assert_eq!(std::fs::read(file).unwrap(), before);
            assert!(!work.has("all/a.jsonl.run"));
        }
    }
    let again = |job: Job| {
        let job = job.args(["--aggregate", "concat"]);
        job.ranks(2).run().with_code(0);
        assert_eq!(work.answers("all/out.jsonl").len(), 10);
    };
    let pattern = format!("{folder}/*[lt]");
    again(work.run_to(folder, "all/out.jsonl"));
    let asked = work.requests();
    again(work.run_to(folder, "all/out.jsonl"));
    again(work.run_to(&pattern, "all/out.jsonl"));
    assert_eq!(work.requests(), asked, "nobody was asked again");
    again(work.run_to(folder, "all/out.jsonl").arg("--overwrite"));
    let out = work.path("all/out.jsonl");
    let job = work.run_to(out.to_str().unwrap(), "all/out.jsonl").arg("--overwrite");
    job.run().with_code(5).complains("all/out.jsonl is an input");
    assert_eq!(work.answers("all/out.jsonl").len(), 10);
}

#[test]
fn templates_conversations_and_own_parameters() {
    let work = Work::instant(1);
    let items =
        work.file("items.csv", "city,land,temperature\nLyon,France,hot\nOslo,Norway,cold\n");
    let job = work.run_to(&items, "map.jsonl");
    job.args(["--template", "Is {{city}} in {{land}}? {{temperature}}", "--keep-row"])
        .ranks(2)
        .run()
        .with_code(0);
    let answers = work.answers("map.jsonl");
    assert_eq!(answers[1]["prompt"], "Is Oslo in Norway? cold");
    assert_eq!(answers[1]["response"], by_chat("Is Oslo in Norway? cold", 512));
    assert_eq!(answers[1]["row"]["city"], "Oslo");
    work.run_to(&items, "x.jsonl")
        .args(["--template", "{{town}}"])
        .run()
        .with_code(5)
        .complains("town");

    let rows = concat!(
        "{\"id\":\"a\",\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"max_tokens\":6}\n",
        "{\"id\":7,\"prompt\":\"hi\",\"max_tokens\":5}\n",
    );
    let rows = work.file("own.jsonl", rows);
    work.run_to(&rows, "own-answers.jsonl").args(["--system", "be brief"]).run().with_code(0);
    let answers = work.answers("own-answers.jsonl");
    let turns =
        [Turn { role: "system", content: "be brief" }, Turn { role: "user", content: "hi" }];
    assert_eq!(answers[0]["response"], by_turns(&turns, 6));
    assert_eq!(answers[1]["response"], by_turns(&turns, 5));
    assert_eq!((&answers[0]["id"], &answers[1]["id"]), (&json!("a"), &json!(7)));
    assert_eq!(answers[1]["params"], json!({"max_tokens": 5}));
    assert_eq!(answers[0]["finish_reason"], "length");
}

#[test]
fn several_sequences_a_prompt() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(30));
    for api in ["completions", "chat"] {
        let job = work.run_to(&input, api).args([
            "--n",
            "3",
            "--temperature",
            "1",
            "--seed",
            "5",
            "--api",
            api,
        ]);
        job.args(["--max-tokens", "8"]).ranks(2).run().with_code(0);
        for answer in work.answers(api) {
            let all = answer["responses"].as_array().unwrap();
            assert_eq!(all.len(), 3);
            assert!(all[0] == answer["response"] && all[0] != all[1] && all[1] != all[2]);
        }
    }
    work.run(&input)
        .args(["--n", "3", "--temperature", "0"])
        .run()
        .with_code(2)
        .complains("temperature");
}

#[test]
fn openai_batch_files_in_and_out() {
    let work = Work::instant(2);
    let row = |number: usize| {
        let body = match number % 2 {
            0 => {
                json!({"model": "tiny", "messages": [{"role": "user", "content": format!("q{number}")}], "max_tokens": 5})
            }
            _ => json!({"model": "tiny", "prompt": format!("q{number}"), "max_tokens": 5}),
        };
        let url = ["/v1/chat/completions", "/v1/completions"][number % 2];
        json!({"custom_id": format!("c{number}"), "method": "POST", "url": url, "body": body})
            .to_string()
            + "\n"
    };
    let input = work.file("batch.jsonl", (0..20).map(row).collect::<String>());
    work.run(&input).ranks(2).run().with_code(0);
    for (number, answer) in work.answers("answers.jsonl").iter().enumerate() {
        assert_eq!(answer["custom_id"], format!("c{number}"));
        assert_eq!(answer["response"]["status_code"], 200);
        let choice = &answer["response"]["body"]["choices"][0];
        let prompt = format!("q{number}");
        match number % 2 {
            0 => assert_eq!(choice["message"]["content"], by_chat(&prompt, 5)),
            _ => assert_eq!(choice["text"], by_completions(&prompt, 5)),
        }
    }
    let answers = work.answers("answers.jsonl");
    Job::of("merge").arg(&work.path("answers.jsonl").to_string_lossy()).run().with_code(0);
    assert_eq!(work.answers("answers.jsonl"), answers, "merged in the format of the run");
}

#[test]
fn answers_can_stay_in_the_shard_files_and_be_merged_later() {
    let work = Work::instant(2);
    let input = work.prompts(&made_up(100));
    work.run(&input).args(["--gather", "none"]).ranks(2).run().with_code(0);
    assert!(!work.has("answers.jsonl"));
    let run = work.path("answers.jsonl").to_string_lossy().into_owned();
    Job::of("merge").arg(&run).run().with_code(0);
    let answers = work.answers("answers.jsonl");
    work.run_to(&input, "gathered.jsonl").ranks(3).run().with_code(0);
    assert_equal(&work.answers("gathered.jsonl"), &answers);
    let table = work.path("t.csv").to_string_lossy().into_owned();
    Job::of("merge").args([&run, "--output", &table, "--output-format", "csv"]).run().with_code(0);
    let table = std::fs::read_to_string(table).unwrap();
    assert!(table.starts_with("id,index,prompt,response,success") && table.lines().count() == 101);
}

#[test]
fn faults_of_servers_are_no_faults_of_prompts() {
    let rule = |fault, p| Rule { p, ..Rule::always(fault) };
    let script = Script {
        seed: 7,
        rules: vec![
            rule(Fault::Status(503), 0.03),
            rule(Fault::Status(500), 0.03),
            rule(Fault::CutBody, 0.03),
            rule(Fault::Eof, 0.03),
            rule(Fault::MissingChoice, 0.05),
            rule(Fault::DoubledIndex, 0.05),
            rule(Fault::ReverseChoices, 0.2),
            rule(Fault::ErrorUnder200, 0.03),
        ],
    };
    let work = Work::with(vec![Profile { script, ..Profile::instant() }; 2]);
    let prompts = made_up(2_000);
    let input = work.prompts(&prompts);
    let job =
        work.run(&input).args(["--api", "completions", "--batch-size", "8", "--retries", "9"]);
    job.ranks(2).deadline(Duration::from_secs(150)).run().with_code(0);
    for (answer, prompt) in work.answers("answers.jsonl").iter().zip(&prompts) {
        assert_eq!(answer["response"], by_completions(prompt, 512));
    }
    assert!(work.fleet.seen(0).faults > 5);
}

#[test]
fn a_dead_endpoints_prompts_go_to_the_ranks_others() {
    let dying = Profile { die: Some(Death::Prompts(50)), ..slow(STEP) };
    let work = Work::with(vec![slow(STEP), dying]);
    let input = work.prompts(&made_up(400));
    work.run(&input).args(["--max-tokens", "8", "--ready-timeout", "10s"]).run().with_code(0);
    assert_eq!(work.counts("answers.jsonl"), [400, 400, 0, 0]);
    assert!(work.fleet.seen(0).served >= 300);
}

#[test]
fn a_hung_endpoint_is_put_aside() {
    let hanging = Script { seed: 1, rules: vec![Rule::always(Fault::Hang)] };
    let work =
        Work::with(vec![Profile::instant(), Profile { script: hanging, ..Profile::instant() }]);
    let input = work.prompts(&made_up(500));
    let ended =
        work.run(&input).args(["--timeout", "2s", "--concurrency", "16"]).run().with_code(0);
    assert!(ended.took < Duration::from_secs(20), "{:?}", ended.took);
    assert_eq!(work.counts("answers.jsonl"), [500, 500, 0, 0]);
}

#[test]
fn an_engine_that_dies_and_a_server_that_drains_lose_nothing() {
    let work = Work::with(vec![slow(STEP), slow(STEP), slow(STEP)]);
    let input = work.prompts(&made_up(900));
    let started = work.run(&input).args(["--max-tokens", "8"]).ranks(1).start();
    let end = Instant::now() + Duration::from_secs(20);
    while work.served() < 100 {
        assert!(Instant::now() < end, "no answers come");
        thread::sleep(Duration::from_millis(10));
    }
    work.fleet.endpoint(0).kill_engine();
    work.fleet.endpoint(1).enter(Phase::Gone);
    started.wait().with_code(0);
    assert_eq!(work.counts("answers.jsonl"), [900, 900, 0, 0]);
}

#[test]
fn older_and_barer_servers_are_done_without_what_they_lack() {
    for flavor in [Flavor::Older, Flavor::Bare] {
        let work = Work::with(vec![Profile { flavor, ..Profile::instant() }]);
        let mut prompts = made_up(120);
        // With 512 tokens more it is over the context, which an older server refuses, though the estimate is far lower.
        prompts[60] = "ab ".repeat(800);
        let length = vllm_sim::tokens::encode(&prompts[60]).len();
        assert!((1_537..2_048).contains(&length), "{length} tokens");
        let input = work.prompts(&prompts);
        let job =
            work.run(&input).args(["--api", "completions", "--max-tokens", "512", "--buffer", "0"]);
        let ended = job.ranks(2).run().in_time();
        let [_, answered, failed, open] = work.counts("answers.jsonl");
        assert_eq!((answered, failed, open), (120, 0, 0), "{flavor:?}\n{}", ended.err);
    }
}

#[test]
fn poison_in_a_list_of_a_thousand_costs_few_requests() {
    let work = Work::with(vec![Profile { poison: Some("POISON".into()), ..Profile::instant() }]);
    let mut prompts = made_up(1_000);
    prompts[617].push_str(" POISON");
    let input = work.prompts(&prompts);
    let job = work.run(&input).args([
        "--api",
        "completions",
        "--batch-size",
        "1000",
        "--concurrency",
        "1000",
    ]);
    job.run().with_code(3);
    assert_eq!(work.counts("answers.jsonl"), [1_000, 999, 1, 0]);
    let requests = work.fleet.seen(0).requests;
    // Halves down to 16 prompts, which go one by one; the rows may have come in a few lists.
    assert!(requests <= 50, "{requests} requests");
}

#[test]
fn no_rows_are_an_empty_output_and_a_warning() {
    let work = Work::instant(1);
    let input = work.file("none.jsonl", "\n\n");
    work.run(&input).ranks(2).run().with_code(0).complains("input is empty");
    assert_eq!(work.answers("answers.jsonl").len(), 0);
    assert_eq!(work.counts("answers.jsonl"), [0; 4]);
}

#[test]
fn an_output_that_cannot_be_written_stops_the_run_before_any_work() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(200));
    let job = work.run_to(&input, "prompts.jsonl/answers.jsonl").ranks(2);
    job.run().with_code(5).complains("prompts.jsonl/answers.jsonl.run");
    assert_eq!(work.served(), 0);
    work.run_to(&input, "a/new/folder/answers.jsonl").ranks(2).run().with_code(0);
}

#[test]
fn plan_shows_what_a_run_would_do() {
    let work = Work::instant(0);
    let input = work.prompts(&made_up(5));
    let output = work.path("answers.jsonl").to_string_lossy().into_owned();
    let plan = Job::of("plan").args([&*input, "--output", &output, "--temperature", "0.5"]);
    let plan = plan.env("AURORA_SWARM_MAX_TOKENS", "99").run().with_code(0);
    for words in [
        "5 prompts in 1 file",
        "0: why",
        "temperature = 0.5 (flag --temperature)",
        "AURORA_SWARM_MAX_TOKENS",
        "at most 495 of answers",
        "run would start: no run exists yet, and 5 prompts would be sent",
    ] {
        assert!(plan.out.contains(words), "{words}\n{}", plan.out);
    }
    assert!(!work.has("answers.jsonl.run"));
}

#[test]
fn a_parameter_that_the_server_refuses_fails_its_prompts_without_halving() {
    let work = Work::instant(1);
    let rows: Vec<Value> = (0..64)
        .map(|n| match n {
            0 => json!({"prompt": "the one that is well"}),
            _ => json!({"prompt": format!("p{n}"), "top_p": 0}),
        })
        .collect();
    let input = work.rows(&rows);
    let job = work.run(&input).args(["--api", "completions", "--batch-size", "16"]);
    job.run().with_code(3);
    assert_eq!(work.counts("answers.jsonl"), [64, 1, 63, 0]);
    assert_eq!(work.answers("answers.jsonl")[1]["error"]["kind"], "bad_request");
    let requests = work.fleet.seen(0).requests;
    assert!(requests < 20, "{requests} requests for 64 prompts in lists of 16");
}

#[test]
fn a_parameter_that_is_wrong_on_every_row_stops_the_run_with_all_prompts_open() {
    let work = Work::instant(3);
    let input = work.prompts(&made_up(2_000));
    for (ranks, more) in [(1, "--no-batch"), (3, "--no-echo")] {
        let before = work.requests();
        let job = work.run(&input).args(["--extra-body", "{\"top_p\": 0}", "--overwrite", more]);
        job.ranks(ranks)
            .run()
            .with_code(5)
            .complains("all failed with the same error")
            .complains("top_p");
        assert_eq!(work.counts("answers.jsonl"), [2_000, 0, 0, 2_000]);
        let requests = work.requests() - before;
        assert!(requests <= 200, "{requests} requests on {ranks} ranks");
    }
    work.run(&input).args(["--overwrite"]).run().with_code(0);
    assert_eq!(work.counts("answers.jsonl"), [2_000, 2_000, 0, 0]);
}

#[test]
fn few_rows_that_all_fail_alike_are_failures() {
    let work = Work::instant(2);
    let input = work.prompts(&made_up(20));
    let job = work.run(&input).args(["--extra-body", "{\"top_p\": 0}"]);
    job.ranks(2).run().with_code(3);
    assert_eq!(work.counts("answers.jsonl"), [20, 0, 20, 0]);
}

#[test]
fn servers_that_only_ever_refuse_leave_prompts_open() {
    let script = Script { seed: 1, rules: vec![Rule::always(Fault::Status(503))] };
    let work = Work::with(vec![Profile { script, ..Profile::instant() }; 2]);
    let input = work.prompts(&made_up(40));
    let job = work.run(&input).args(["--timeout", "1s", "--ready-timeout", "3s"]);
    job.ranks(2).run().with_code(75).complains("prompts remaining");
    assert_eq!(work.counts("answers.jsonl"), [40, 0, 0, 40]);
}

/// Servers of which the first refuses every prompt with this status, and prompts that it refuses.
fn refuser_and(status: u16, others: Vec<Profile>, count: usize) -> (Work, String) {
    let rule = Rule { containing: Some("ASKED".into()), ..Rule::always(Fault::Status(status)) };
    let script = Script { seed: 1, rules: vec![rule] };
    let refuser = Profile { script, ..Profile::instant() };
    let work = Work::with([vec![refuser], others].concat());
    let prompts: Vec<String> = made_up(count).iter().map(|it| format!("{it} ASKED")).collect();
    let input = work.prompts(&prompts);
    (work, input)
}

#[test]
fn an_endpoint_that_refuses_everything_fails_no_prompt_that_another_answers() {
    for status in [302, 307, 400, 405, 422, 501] {
        for ranks in [1, 2] {
            let (work, input) = refuser_and(status, vec![slow(STEP)], 600);
            let job = work.run(&input).args(["--api", "completions", "--max-tokens", "8"]);
            let ended = job.ranks(ranks).run().with_code(0);
            assert_eq!(work.counts("answers.jsonl"), [600, 600, 0, 0], "{status}, {ranks} ranks");
            let url = &work.fleet.urls()[0];
            let is_named = |line: &str| line.contains("endpoint") && line.contains(url.as_str());
            assert!(ended.err.lines().any(is_named), "{status}, {ranks} ranks: {}", ended.err);
            let requests = work.fleet.seen(0).requests;
            assert!(requests < 200, "{status}, {ranks} ranks: {requests} requests");
        }
    }
}

#[test]
fn prompts_that_every_endpoint_refuses_fail_and_cost_no_endpoint_its_place() {
    let rule = Rule { containing: Some("POISON".into()), ..Rule::always(Fault::Status(400)) };
    let script = Script { seed: 1, rules: vec![rule] };
    let work = Work::with(vec![Profile { script, ..Profile::instant() }; 2]);
    let mut prompts = made_up(80);
    prompts[..40].iter_mut().for_each(|it| it.push_str(" POISON"));
    let input = work.prompts(&prompts);
    for ranks in [1, 2] {
        let job = work.run(&input).args(["--api", "completions", "--overwrite"]);
        job.ranks(ranks).run().with_code(3);
        assert_eq!(work.counts("answers.jsonl"), [80, 40, 40, 0]);
    }
}

#[test]
fn prompts_that_a_proxy_gives_up_fail_with_its_time_limit_and_the_others_are_answered() {
    let rule =
        Rule { containing: Some("LONG".into()), ..Rule::always(Fault::GatewayTimeout(1_000)) };
    let script = Script { seed: 1, rules: vec![rule] };
    let work = Work::with(vec![Profile { script, ..slow(30.0) }]);
    for (others, ranks) in [(40, 1), (40, 2), (0, 1)] {
        let long = (0..20).map(|it| json!({"prompt": format!("{it} LONG"), "max_tokens": 60}));
        let short = made_up(others).into_iter().map(|it| json!({"prompt": it, "max_tokens": 4}));
        let input = work.rows(&long.chain(short).collect::<Vec<_>>());
        let job = work.run(&input).args(["--api", "completions", "--overwrite"]);
        let ended = job.ranks(ranks).run().with_code(3);
        let count = others as u64;
        assert_eq!(work.counts("answers.jsonl"), [20 + count, count, 20, 0], "{}", ended.err);
        for answer in &work.answers("answers.jsonl")[..20] {
            let message = answer["error"]["message"].as_str().unwrap();
            assert!(message.contains("gives up after about 1 s"), "{answer}");
            assert!(answer["served"]["attempts"].as_u64() <= Some(4), "{answer}");
        }
        let told = ended.err.lines().filter(|line| line.contains("giving up requests")).count();
        assert_eq!(told, 1, "{}", ended.err);
        assert!(!ended.err.contains("endpoint suspended"), "{}", ended.err);
    }
}

#[test]
fn servers_that_are_too_busy_for_ever_are_named_and_end_the_run() {
    for status in [503, 429] {
        let (work, input) = refuser_and(status, vec![], 20);
        let job = work.run(&input).args(["--api", "completions", "--ready-timeout", "4s"]);
        let ended = job.deadline(Duration::from_secs(60)).run().with_code(75);
        assert_eq!(work.counts("answers.jsonl"), [20, 0, 0, 20], "{status}");
        let words = ended.err.lines().filter(|line| line.contains("refused"));
        let told = words.filter(|line| line.contains(&format!("HTTP {status}"))).count();
        assert!((1..=3).contains(&told), "{status}: {}", ended.err);
    }
}

#[test]
fn a_server_that_never_starts_does_not_keep_the_others_waiting_and_a_late_one_joins() {
    let late = Profile { loading: Duration::from_secs(12), ..slow(STEP) };
    let work = Work::with(vec![slow(STEP), late]);
    let input = work.prompts(&made_up(3_000));
    let job = work.run(&input).args(["--max-tokens", "16", "--ready-timeout", "50s"]);
    let job = job.args(["--endpoint", "http://127.0.0.1:9"]);
    let ended = job.run().with_code(0);
    assert!(ended.took < Duration::from_secs(45), "{:?}", ended.took);
    assert!(work.fleet.seen(1).served > 100, "the late server joined");
    let job = work.run_to(&input, "all.jsonl").args(["--endpoint", "http://127.0.0.1:9"]);
    let job = job.args(["--min-endpoints", "100%", "--ready-timeout", "2s"]);
    job.run().with_code(6).complains("at least 3 are needed");
}

#[test]
fn few_prompts_are_spread_over_all_servers() {
    let work = Work::with(vec![slow(STEP); 4]);
    let input = work.prompts(&made_up(40));
    work.run(&input).args(["--max-tokens", "8"]).run().with_code(0);
    for server in 0..4 {
        assert_eq!(work.fleet.seen(server).served, 10);
    }
}

#[test]
fn a_run_that_was_killed_while_it_gathered_is_finished_by_merge() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(60));
    work.run(&input).ranks(2).run().with_code(0);
    let answers = work.answers("answers.jsonl");
    let run = work.path("answers.jsonl").to_string_lossy().into_owned();
    // As the kill leaves it: all answers in the shard files, no output, a manifest that says "running".
    std::fs::remove_file(&run).unwrap();
    let mut manifest = work.manifest("answers.jsonl");
    manifest["state"] = "running".into();
    std::fs::write(work.path("answers.jsonl.run/manifest.json"), manifest.to_string()).unwrap();
    let status = || Job::of("status").args([&*run, "--exit-code"]).run();
    status().with_code(75).says("lost:", 1);
    Job::of("merge").arg(&run).run().with_code(0);
    status().with_code(0).says("finished:", 1);
    assert_eq!(work.answers("answers.jsonl"), answers);
}

#[test]
fn a_refused_start_leaves_what_was_there() {
    let work = Work::instant(1);
    let typo = work.file("typo.jsonl", "{\"promt\": 1}\n");
    std::fs::create_dir(work.path("theirs.jsonl.run")).unwrap();
    work.file("theirs.jsonl.run/thesis.tex", "years of work");
    work.run_to(&typo, "theirs.jsonl").run().with_code(5);
    assert!(work.has("theirs.jsonl.run/thesis.tex"));

    let input = work.prompts(&made_up(30));
    work.run(&input).run().with_code(0);
    let shards = work.lines_on_disk("answers.jsonl");
    std::fs::remove_file(work.path("answers.jsonl.run/manifest.json")).unwrap();
    work.run(&typo).run().with_code(5);
    work.run(&input).run().with_code(5).complains("has answers but no manifest.json");
    assert_eq!(work.lines_on_disk("answers.jsonl"), shards);
    // Written over only once there is somebody to ask.
    let nobody = ["--overwrite", "--endpoint", "http://127.0.0.1:9", "--ready-timeout", "1s"];
    let output = work.path("answers.jsonl").to_string_lossy().into_owned();
    Job::of("run")
        .args([&*input, "--output", &output])
        .args(nobody)
        .run()
        .with_code(6)
        .complains("previous run kept in");
    assert!(work.has("answers.jsonl.run/replaced-0001/shards/0001-00000.jsonl"));
    assert!(work.has("answers.jsonl.run/replaced-0001/answers.jsonl"));
    work.run(&input).run().with_code(0);
    assert_eq!(work.answers("answers.jsonl").len(), 30);
    assert!(!work.has("answers.jsonl.run/replaced-0001"), "it is overwritten");
}

#[test]
fn a_list_larger_than_the_servers_queue_is_cut_down() {
    let small = Profile { max_queued: Some(5), ..slow(STEP) };
    let work = Work::with(vec![small]);
    let input = work.prompts(&made_up(40));
    let job = work.run(&input).args(["--api", "completions", "--max-tokens", "4"]);
    job.run().with_code(0);
    assert_eq!(work.counts("answers.jsonl"), [40, 40, 0, 0]);
}

#[test]
fn answers_lie_where_this_start_says_wherever_it_is_started_from() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(20));
    std::fs::create_dir(work.path("elsewhere")).unwrap();
    let run = |cwd: &str, output: &str| {
        let job =
            Job::of("run").args([&*input, "--output", output, "--endpoint", &work.fleet.url(0)]);
        job.cwd(&work.path(cwd)).run().with_code(0);
    };
    run(".", "here.jsonl");
    std::fs::rename(work.path("here.jsonl"), work.path("kept.jsonl")).unwrap();
    run("elsewhere", "../here.jsonl");
    assert_eq!(work.answers("here.jsonl"), work.answers("kept.jsonl"));
    std::fs::remove_file(work.path("here.jsonl")).unwrap();
    Job::of("merge").arg("../here.jsonl").cwd(&work.path("elsewhere")).run().with_code(0);
    assert_eq!(work.answers("here.jsonl"), work.answers("kept.jsonl"));
    assert!(!work.has("elsewhere/here.jsonl"));
}

#[test]
fn what_a_server_that_is_not_well_does_is_no_fault_of_prompts() {
    for fault in [Fault::Eof, Fault::Status(404), Fault::Status(401)] {
        let sick =
            Script { seed: 1, rules: vec![Rule { from: 20, ..Rule::always(fault.clone()) }] };
        let work = Work::with(vec![Profile { script: sick, ..Profile::instant() }]);
        let input = work.prompts(&made_up(200));
        let job = work.run(&input).args(["--timeout", "1s", "--ready-timeout", "2s"]);
        job.ranks(2).run().with_code(75);
        let [_, answered, failed, open] = work.counts("answers.jsonl");
        assert!(
            answered > 0 && failed == 0 && open > 100,
            "{fault:?}: {answered}, {failed}, {open}"
        );
    }
}

#[test]
fn prompts_that_always_draw_a_fault_cost_a_later_session_their_tries_and_no_suspension() {
    for fault in [Fault::Status(500), Fault::Status(502), Fault::Status(504)] {
        let rule = Rule { containing: Some("POISON".into()), ..Rule::always(fault.clone()) };
        let script = Script { seed: 1, rules: vec![rule] };
        let work = Work::with(vec![Profile { script, ..Profile::instant() }; 2]);
        let mut prompts = made_up(60);
        prompts[7].push_str(" POISON");
        prompts[41].push_str(" POISON");
        let input = work.prompts(&prompts);
        let job = |ranks| work.run(&input).args(["--concurrency", "4"]).ranks(ranks);
        job(1).run().with_code(3);
        assert_eq!(work.counts("answers.jsonl"), [60, 58, 2, 0], "{fault:?}");
        for ranks in [1, 3] {
            let before = work.requests();
            let ended = job(ranks).run().with_code(3);
            let requests = work.requests() - before;
            assert_eq!(requests, 6, "{fault:?}, {ranks} ranks: 2 prompts, 3 tries\n{}", ended.err);
            assert!(!ended.err.contains("endpoint suspended"), "{}", ended.err);
            assert_eq!(work.counts("answers.jsonl"), [60, 58, 2, 0]);
        }
    }
}

#[test]
fn status_tells_of_failed_prompts_that_are_sent_again() {
    let rule = Rule { containing: Some("POISON".into()), ..Rule::always(Fault::Status(500)) };
    let mut work = Work::with(vec![Profile {
        script: Script { seed: 1, rules: vec![rule] },
        ..Profile::instant()
    }]);
    let mut prompts = made_up(30);
    prompts[7].push_str(" POISON");
    let input = work.prompts(&prompts);
    work.run(&input).run().with_code(3);
    // Only a server that stands still keeps the session at work for as long as it takes to look.
    let hanging = Script { seed: 1, rules: vec![Rule::always(Fault::Hang)] };
    let hanging = vec![Profile { script: hanging, ..Profile::instant() }];
    work.fleet = vllm_sim::Fleet::start(hanging).expect("a port");
    let started = work.run(&input).start();
    let end = Instant::now() + Duration::from_secs(30);
    while work.requests() < 1 {
        assert!(Instant::now() < end, "nothing is sent");
        thread::sleep(Duration::from_millis(10));
    }
    let output = work.path("answers.jsonl").to_string_lossy().into_owned();
    loop {
        let seen = Job::of("status").arg(&output).run().in_time();
        if seen
            .out
            .starts_with("running: 29 of 30 done (96.6 %), 1 failed prompt is being sent again")
        {
            break;
        }
        assert!(Instant::now() < end, "{}", seen.out);
        thread::sleep(Duration::from_millis(50));
    }
    started.kill_everything(&work.marker());
    let seen = Job::of("status").arg(&output).run().in_time();
    assert!(
        seen.out.starts_with("lost: 30 of 30 done (100.0 %), 29 answered, 1 failed"),
        "{}",
        seen.out
    );
}

#[test]
fn bad_rows_that_fail_are_counted_once() {
    let work = Work::instant(1);
    let input = work.file("rows.jsonl", "{\"prompt\":\"a\"}\n{\"prompt\":7}\n");
    let job = || work.run(&input).args(["--bad-rows", "fail"]).ranks(2);
    job().run().with_code(3).says("failed: 1 with an invalid row", 1);
    job().run().with_code(3).says("nothing was sent", 1);
    assert_eq!(work.lines_on_disk("answers.jsonl"), 2);
}
