//! Texts that users see, as files in `snapshots/`: help, tables and errors. A change of a text is a change of its file:
//! `INSTA_UPDATE=always cargo test --test integration snapshots::` writes them, and the diff shows what users will read.

use std::process::Command;

use insta::assert_snapshot;
use serde_json::json;
use vllm_sim::Profile;

use crate::support::{
    Job,
    job::Ended,
    work::{Work, made_up},
};

/// Help as a terminal of 100 columns shows it.
fn help(arguments: &[&str]) -> String {
    let mut program = Command::new(env!("CARGO_BIN_EXE_aurora-swarm"));
    let output = program.args(arguments).env("COLUMNS", "100").output().unwrap();
    assert!(output.status.success(), "{arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Replaces what differs between two runs: paths, ports, times, rates, process numbers and hosts.
fn normalised(work: &Work, text: &str) -> String {
    let mut text = text.replace(&work.marker(), "[DIR]");
    for (number, url) in work.fleet.urls().iter().enumerate() {
        text = text.replace(url, &format!("http://127.0.0.1:800{number}"));
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let words = |line: &str| {
        let mut shown = Vec::new();
        for word in line.split(' ') {
            let is_measured = word.split_once('.').is_some_and(|(whole, part)| {
                let is_number =
                    |it: &str| !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit());
                is_number(whole) && is_number(part)
            });
            let is_host =
                !host.is_empty() && word.trim_matches(|it: char| !it.is_alphanumeric()) == host;
            shown.push(match (is_measured, is_host) {
                (true, _) => "#.#".to_owned(),
                (_, true) => word.replace(&host, "[HOST]"),
                _ => word.to_owned(),
            });
        }
        let line = shown.join(" ");
        // Rows of the end table that depend on the machine's speed, and its frame, which is as wide as they are.
        match line.split_whitespace().next() {
            Some(label @ ("time" | "speed" | "requests")) if line.starts_with(' ') => {
                format!(" {label} …")
            }
            Some(frame) if frame.starts_with('─') => "──".to_owned(),
            _ => line,
        }
    };
    text.lines().map(|line| words(line).trim_end().to_owned() + "\n").collect()
}

/// Standard error without the log, which begins its lines with a time.
fn messages(work: &Work, ended: &Ended) -> String {
    let is_log =
        |line: &&str| line.len() > 20 && line.as_bytes()[..4].iter().all(u8::is_ascii_digit);
    let lines: String =
        ended.err.lines().filter(|it| !is_log(it)).map(|it| format!("{it}\n")).collect();
    format!("exit code {}\n{}", ended.code.unwrap_or(-1), normalised(work, &lines))
}

#[test]
fn help_is_short_and_says_what_each_option_takes() {
    let short = help(&["run", "-h"]);
    assert!(short.lines().count() <= 50, "run -h has {} lines", short.lines().count());
    assert_snapshot!("help", help(&["--help"]));
    assert_snapshot!("help_run_short", short);
    for command in ["run", "reduce", "plan", "check", "status", "merge", "report", "completions"] {
        assert_snapshot!(format!("help_{command}"), help(&[command, "--help"]));
    }
    for command in ["sweep", "compare", "models"] {
        assert_snapshot!(format!("help_bench_{command}"), help(&["bench", command, "--help"]));
    }
}

#[test]
fn the_tables_of_a_run_read_like_this() {
    let work = Work::instant(1);
    let mut prompts = made_up(20);
    prompts.push("too long ".repeat(20_000));
    let input = work.prompts(&prompts);
    let ended = work.run(&input).run().in_time();
    assert_snapshot!("end_of_a_run", normalised(&work, &ended.out) + &messages(&work, &ended));
    let output = work.path("answers.jsonl").to_string_lossy().into_owned();
    let status = Job::of("status").arg(&output).run().in_time();
    assert_snapshot!("status", normalised(&work, &status.out));
    let plan = Job::of("plan").args([&input, "--temperature", "0"]).run().in_time();
    assert_snapshot!("plan", normalised(&work, &plan.out));
    let again = work.run(&input).run().in_time();
    assert_snapshot!("run_again", normalised(&work, &again.out) + &messages(&work, &again));
}

#[test]
fn a_report_has_these_keys() {
    fn keys(value: &serde_json::Value, path: &str, found: &mut Vec<String>) {
        match value {
            serde_json::Value::Object(members) => {
                members
                    .iter()
                    .for_each(|(key, value)| keys(value, &format!("{path}.{key}"), found));
            }
            serde_json::Value::Array(items) => {
                items.first().into_iter().for_each(|it| keys(it, &format!("{path}[]"), found));
            }
            _ => found.push(path.trim_start_matches('.').to_owned()),
        }
    }
    let work = Work::instant(2);
    let input = work.prompts(&made_up(50));
    work.run(&input).run().with_code(0);
    for name in ["summary.json", "manifest.json"] {
        let text = std::fs::read(work.path("answers.jsonl.run").join(name)).unwrap();
        let value: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let mut found = Vec::new();
        keys(&value, "", &mut found);
        // Settings and the counts of single endpoints have names of their own.
        found.retain(|it| !it.starts_with("settings.") && !it.contains("http:"));
        found.sort();
        found.dedup();
        assert_eq!(value["schema_version"], 2, "{name}");
        assert_snapshot!(name.replace('.', "_"), found.join("\n"));
    }
}

#[test]
fn errors_say_what_is_wrong_and_what_to_do() {
    let work = Work::instant(2);
    let input = work.prompts(&made_up(12));
    let urls = work.fleet.urls();
    let servers = ["--endpoint", urls[0].as_str(), "--ready-timeout", "5s"];
    let path = |name: &str| work.path(name).to_string_lossy().into_owned();
    let check =
        |name: &str, job: Job| assert_snapshot!(name, messages(&work, &job.run().in_time()));
    let run = |input: &str, output: &str| {
        let output = path(output);
        Job::of("run").args([input, "--output", output.as_str()]).args(servers)
    };

    // The command line.
    check("error_output_missing", Job::of("run").args([input.as_str()]).args(servers));
    check("error_value", run(&input, "a.jsonl").args(["--bad-rows", "ignore"]));
    check("error_range", run(&input, "a.jsonl").args(["--temperature", "3"]));
    check("error_url", run(&input, "a.jsonl").args(["--endpoint", "127.0.0.1:8000"]));
    check("error_option", run(&input, "a.jsonl").args(["--max-token", "3"]));

    // Existing files.
    work.file("mine.jsonl", "not an output");
    check("error_output_exists", run(&input, "mine.jsonl"));
    run(&input, "b.jsonl").run().with_code(0);
    check("error_settings_changed", run(&input, "b.jsonl").args(["--temperature", "0.5"]));
    check("error_run_exists", run(&input, "b.jsonl").args(["--resume", "never"]));
    let fewer = work.file("prompts.jsonl", "{\"prompt\": \"only one\"}\n");
    check("error_input_changed", run(&fewer, "b.jsonl"));
    check("error_no_run", Job::of("status").arg(&path("nothing.jsonl")));

    // Inputs.
    let bad = work
        .file("bad.jsonl", "{\"prompt\": \"a\"}\n{\"prompt\": \"b\", \"max_tokens\": \"many\"}\n");
    check("error_bad_row", run(&bad, "c.jsonl"));
    let cut = work.file("cut.jsonl.gz", [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0x4b, 0x4c]);
    check("error_damaged_input", run(&cut, "c.jsonl"));
    let table = work.file("cities.csv", "city,country\nParis,France\n");
    check("error_no_prompt_column", run(&table, "c.jsonl"));
    check("error_unknown_column", run(&table, "c.jsonl").args(["--template", "Is {{town}} nice?"]));
    check("error_input_missing", run(&path("missing.jsonl"), "c.jsonl"));

    // Servers.
    let nobody = Job::of("run").args([input.as_str(), "--output", &path("e.jsonl")]);
    check(
        "error_no_server",
        nobody.args(["--endpoint", "http://127.0.0.1:9", "--ready-timeout", "1s"]),
    );
}

#[test]
fn a_job_that_the_servers_reject_is_stopped_with_their_words() {
    let work = Work::with(vec![Profile::instant()]);
    let rows: Vec<_> = (0..200)
        .map(|it| json!({"prompt": format!("p{it}"), "min_tokens": 9, "max_tokens": 3}))
        .collect();
    let input = work.rows(&rows);
    let ended = work.run(&input).run().in_time();
    assert_snapshot!("error_all_rejected", messages(&work, &ended));
}
