//! Outputs: where answers may be written and where not, the formats that names choose, and what `merge` replaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    os::unix::fs::symlink,
    path::Path,
};

use serde_json::{Value, json, value::RawValue};
use vllm_sim::{AnswerPolicy, Lengths, Profile};

use crate::support::{
    Job,
    work::{Work, assert_equal, made_up, slow},
};

/// Names in the folder, in order.
fn names(work: &Work) -> Vec<String> {
    let entries = fs::read_dir(work.folder()).unwrap().flatten();
    let mut names: Vec<_> =
        entries.map(|it| it.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn text(work: &Work, name: &str) -> String {
    fs::read_to_string(work.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// `merge` of `answers.jsonl`, from within the folder.
fn merge(work: &Work, args: &[&str]) -> Job {
    Job::of("merge").arg("answers.jsonl").args(args.iter().copied()).cwd(work.folder())
}

#[test]
fn an_output_that_cannot_be_written_is_refused_before_any_work() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(3));
    fs::create_dir(work.path("folder")).unwrap();
    work.file("file", "theirs");
    work.file("taken.jsonl.run", "theirs");
    work.run_to(&input, "done.jsonl").run().with_code(0);
    let (asked, before) = (work.requests(), names(&work));
    let long = format!("{}.jsonl", "x".repeat(252));
    for (output, code, words) in [
        ("folder", 5, "is a folder"),
        ("folder/", 5, "name a file in it: folder/answers.jsonl"),
        ("new/", 5, "is a folder"),
        (".", 5, "is a folder"),
        ("-", 2, "standard output"),
        ("", 2, "is empty"),
        ("/dev/null", 5, "is not a file"),
        ("file/answers.jsonl", 5, "cannot be written"),
        ("file/new/answers.jsonl", 5, "cannot be written"),
        ("taken.jsonl", 5, "taken.jsonl.run"),
        (&long, 5, "cannot be written"),
        ("/proc/answers.jsonl", 5, "cannot be written"),
        ("done.jsonl.run/answers.jsonl", 5, "lies in the run folder"),
        ("done.jsonl.run/shards/0001-00000.jsonl", 5, ""),
        ("answers.xlsx", 2, "names no format"),
        ("answers.json", 2, "names no format"),
        ("answers.jsonl.bz2", 2, "names no format"),
        ("answers.parquet.gz", 2, "compressed already"),
    ] {
        for more in [&[][..], &["--overwrite"]] {
            let job = Job::of("run").args([&*input, "--output", output, "--temperature", "0"]);
            let job = job.args(["--endpoint", &work.fleet.url(0)]).args(more.iter().copied());
            let ended = job.cwd(work.folder()).run().with_code(code).complains(words);
            assert!(words.is_empty() || !ended.err.contains("the same command"), "{}", ended.err);
            assert_eq!(names(&work), before, "{output} {more:?}");
        }
    }
    assert_eq!(work.requests(), asked);
    // `plan` says it too.
    let plan = Job::of("plan").args([&*input, "--output", "answers.xlsx"]).cwd(work.folder());
    plan.run().with_code(2).complains("names no format");
    assert_eq!(text(&work, "file"), "theirs");
}

#[test]
fn an_output_that_becomes_a_folder_meanwhile_is_not_said_to_heal() {
    let work = Work::with(vec![slow(20.0)]);
    let input = work.prompts(&made_up(40));
    let run = work.run(&input).args(["--max-tokens", "4"]).start();
    while work.lines_on_disk("answers.jsonl") == 0 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    fs::create_dir(work.path("answers.jsonl")).unwrap();
    run.wait().with_code(5).complains("All answers so far are saved");
    fs::remove_dir(work.path("answers.jsonl")).unwrap();
    let asked = work.requests();
    work.run(&input).args(["--max-tokens", "4"]).run().with_code(0);
    assert_eq!((work.requests(), work.answers("answers.jsonl").len()), (asked, 40));
}

#[test]
fn an_input_is_never_written_over_under_any_of_its_names() {
    let work = Work::instant(1);
    let rows = "{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n";
    let input = work.file("rows.jsonl", rows);
    fs::hard_link(&input, work.path("hard.jsonl")).unwrap();
    symlink(&input, work.path("soft.jsonl")).unwrap();
    fs::create_dir(work.path("below")).unwrap();
    let run = |input: &str, output: &str, more: &[&str]| {
        let job = work.run_to(input, output).args(["--overwrite"]).args(more.iter().copied());
        job.run().with_code(5).complains("is an input");
        assert_eq!(text(&work, "rows.jsonl"), rows);
    };
    for output in ["rows.jsonl", "hard.jsonl", "soft.jsonl", "below/../rows.jsonl"] {
        run(&input, output, &[]);
        run(&work.path("soft.jsonl").to_string_lossy(), output, &[]);
        run(&work.path("r*.jsonl").to_string_lossy(), output, &[]);
    }
    // Nor by what is written beside the answers.
    let list = work.file("answers.concat.txt", "a\nb\n");
    run(&list, "answers.jsonl", &["--aggregate", "concat"]);
    // A stranger's file beside the answers is not either.
    let job = || work.run(&input).args(["--aggregate", "concat"]);
    job()
        .run()
        .with_code(5)
        .complains("answers.concat.txt exists, and this run has not written it");
    assert_eq!(work.requests(), 0);
    job().arg("--overwrite").run().with_code(0);
    job().run().with_code(0);
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(3));
    for (args, words) in [
        (&["--no-batch", "--batch-size", "8"][..], "contradicts"),
        (&["--output-format", "csv"], "contradicts the name"),
        (&["--overwrite", "--resume", "require"], "contradicts"),
        (&["--output", "another.jsonl"], "cannot be used multiple times"),
    ] {
        work.run(&input).args(args.iter().copied()).run().with_code(2).complains(words);
    }
    assert_eq!((work.requests(), names(&work)), (0, vec!["prompts.jsonl".to_owned()]));
    // What does not contradict: a limit of one, a batch file's ending, the last of two equal options.
    let job = work.run(&input).args(["--no-batch", "--batch-size", "1", "--max-tokens", "3"]);
    job.args(["--output-format", "openai-batch", "--max-tokens", "4"]).run().with_code(0);
    assert_eq!(work.answers("answers.jsonl")[2]["response"]["status_code"], 200);
}

/// The text of a file, decompressed by its ending.
fn unpacked(path: &Path) -> String {
    let (file, mut text) = (File::open(path).unwrap(), String::new());
    let mut reader: Box<dyn Read> = match path.extension().and_then(|it| it.to_str()) {
        Some("gz") => Box::new(flate2::read::GzDecoder::new(file)),
        Some("zst") => Box::new(zstd::stream::read::Decoder::new(file).unwrap()),
        _ => Box::new(file),
    };
    reader.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn the_name_chooses_format_and_compression() {
    let work = Work::instant(2);
    let input = work.prompts(&made_up(50));
    work.run(&input).run().with_code(0);
    let answers = work.answers("answers.jsonl");
    for name in ["a.jsonl.gz", "a.jsonl.zst", "a.ndjson", "a.JL", "answers"] {
        work.run_to(&input, name).ranks(2).run().with_code(0);
        let lines = unpacked(&work.path(name));
        let lines: Vec<_> = lines.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
        assert_equal(&lines, &answers);
    }
    let plain = |name: &str| {
        merge(&work, &["--output", name]).run().with_code(0).says(name, 1);
        unpacked(&work.path(name))
    };
    assert_eq!(plain("b.jsonl"), text(&work, "answers.jsonl"));
    for ending in ["jsonl", "csv", "tsv"] {
        let whole = plain(&format!("c.{ending}"));
        assert_eq!(whole, plain(&format!("c.{ending}.gz")));
        assert_eq!(whole, plain(&format!("c.{ending}.zst")));
    }
    assert!(text(&work, "c.csv").starts_with("id,index,prompt,response,success,error,"));
    assert!(text(&work, "c.tsv").starts_with("id\tindex\tprompt\tresponse\tsuccess\terror\t"));
    // A packed run goes on like any other, and its answers are an input as they are.
    work.run_to(&input, "a.jsonl.gz").run().with_code(0);
    work.run_to(&work.path("a.jsonl.gz").to_string_lossy(), "again.csv").run().with_code(0);
    assert_eq!(text(&work, "again.csv").matches("true").count(), 50);
}

#[test]
fn a_text_of_a_reduce_is_no_table_and_not_compressed() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(3));
    for name in ["text.csv", "text.tsv", "text.parquet", "text.txt.gz", "text.zst"] {
        let output = work.path(name).to_string_lossy().into_owned();
        let job = Job::of("reduce").args([&*input, "--output", &output]);
        job.run().with_code(5).complains("is a text");
    }
    let output = work.path("folder/").to_string_lossy().into_owned();
    Job::of("reduce").args([&*input, "--output", &output]).run().with_code(5).complains("folder");
    assert_eq!(names(&work), ["prompts.jsonl"]);
}

#[test]
fn merge_replaces_only_the_runs_own_output_unless_told_to() {
    let work = Work::instant(1);
    let rows = "{\"prompt\":\"a\"}\n{\"prompt\":\"b\"}\n";
    work.file("rows.jsonl", rows);
    work.file("keep.csv", "theirs");
    work.file("keep.aggregate.json", "theirs");
    fs::hard_link(work.path("rows.jsonl"), work.path("hard.jsonl")).unwrap();
    symlink(work.path("rows.jsonl"), work.path("soft.jsonl")).unwrap();
    fs::create_dir(work.path("elsewhere")).unwrap();
    let args = ["rows.jsonl", "--output", "answers.jsonl", "--endpoint"];
    Job::of("run").args(args).arg(&work.fleet.url(0)).cwd(work.folder()).run().with_code(0);
    let (answers, before) = (text(&work, "answers.jsonl"), names(&work));

    // Inputs, by any name and from any folder, also if told to.
    for output in ["rows.jsonl", "hard.jsonl", "soft.jsonl", "elsewhere/../rows.jsonl"] {
        for more in [&[][..], &["--overwrite"]] {
            let job = merge(&work, &["--output", output]).args(more.iter().copied());
            job.run().with_code(5).complains("is an input");
        }
    }
    let job =
        Job::of("merge").args(["../answers.jsonl", "--output", "../rows.jsonl", "--overwrite"]);
    job.cwd(&work.path("elsewhere")).run().with_code(5).complains("is an input");
    assert_eq!(text(&work, "rows.jsonl"), rows);

    // Strangers' files, folders, what is no file, files of a run, endings that name no format.
    for (args, code, words) in [
        (&["--output", "keep.csv"][..], 5, "has not written it"),
        (&["--output", "new.csv", "--aggregate", "concat", "--output-format", "jsonl"], 2, "name"),
        (&["--output", "keep.tsv", "--aggregate", "stats"], 5, "keep.aggregate.json exists"),
        (&["--output", "elsewhere", "--overwrite"], 5, "is a folder"),
        (&["--output", "elsewhere/", "--overwrite"], 5, "is a folder"),
        (&["--output", "answers.jsonl.run/manifest.json", "--overwrite"], 5, "lies in"),
        (&["--output", "answers.jsonl.run/a.jsonl", "--overwrite"], 5, "lies in the run folder"),
        (&["--output", "answers.jsonl.run/shards/0001-00000.jsonl", "--overwrite"], 5, "lies in"),
        (&["--output", "keep.csv/a.csv"], 5, "cannot be written"),
        (&["--output", "-"], 2, "standard output"),
        (&["--output", "/dev/null", "--overwrite"], 5, "is not a file"),
        (&["--output", "a.xlsx"], 2, "names no format"),
        (&["--output", "a.csv", "--output-format", "parquet"], 2, "contradicts"),
        (&["--output-format", "csv"], 2, "contradicts"),
        (&["--output", "a.csv", "--output", "b.csv"], 2, "multiple times"),
    ] {
        merge(&work, args).run().with_code(code).complains(words);
        assert_eq!(names(&work), before, "{args:?}");
    }
    assert_eq!(text(&work, "keep.csv") + &text(&work, "keep.aggregate.json"), "theirstheirs");

    // A run folder of another name has no output of its own.
    fs::create_dir(work.path("copy")).unwrap();
    fs::copy(work.path("answers.jsonl.run/manifest.json"), work.path("copy/manifest.json"))
        .unwrap();
    let copy = Job::of("merge").args(["copy", "--partial"]).cwd(work.folder());
    copy.run().with_code(0).says("copy.partial", 1);

    // The run's own output under any name, new files also in new folders, and others if told to.
    merge(&work, &[]).run().with_code(0);
    merge(&work, &["--output", "elsewhere/../answers.jsonl"]).run().with_code(0);
    assert_eq!(text(&work, "answers.jsonl"), answers);
    merge(&work, &["--output", "new/deep/a.jsonl"]).run().with_code(0);
    assert_eq!(text(&work, "new/deep/a.jsonl"), answers);
    merge(&work, &["--output", "keep.csv", "--overwrite"]).run().with_code(0);
    assert_eq!(text(&work, "keep.csv").lines().count(), 3);
}

#[test]
fn a_partial_merge_keeps_the_ending_and_is_no_input() {
    let work = Work::instant(1);
    fs::create_dir(work.path("data")).unwrap();
    let texts: String = made_up(60).iter().map(|it| format!("{it}\n")).collect();
    work.file("data/rows.txt", texts);
    let folder = work.path("data").to_string_lossy().into_owned();
    let job = || work.run_to(&folder, "data/answers.jsonl.gz").args(["--max-tokens", "4"]);
    job().run().with_code(0);
    // As a kill leaves it: no output, and a shard file that is short of its last lines.
    fs::remove_file(work.path("data/answers.jsonl.gz")).unwrap();
    let shard = work.path("data/answers.jsonl.gz.run/shards/0001-00000.jsonl");
    let lines = fs::read_to_string(&shard).unwrap();
    let lines: Vec<&str> = lines.split_inclusive('\n').collect();
    fs::write(&shard, lines[..lines.len() - 4].concat()).unwrap();
    let output = work.path("data/answers.jsonl.gz").to_string_lossy().into_owned();
    let partial = || Job::of("merge").args([&*output, "--partial"]).run().with_code(0);
    partial().says("answers.partial.jsonl.gz", 1);
    // The name is the run's own: again and again.
    partial();
    let part = unpacked(&work.path("data/answers.partial.jsonl.gz"));
    assert_eq!(part.lines().count(), 56);
    job().run().with_code(0);
    assert_eq!(unpacked(Path::new(&output)).lines().count(), 60);
}

#[test]
fn merge_leaves_the_output_to_a_run_that_is_active() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(3));
    work.run(&input).run().with_code(0);
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let beat = json!({
        "host": "another", "pid": 1, "job": null, "start": 1, "began": now, "doing": "gathering", "beat": now,
    });
    work.file("answers.jsonl.run/heartbeat.json", beat.to_string());
    merge(&work, &[]).run().with_code(5).complains("is being written by process 1 on another");
    merge(&work, &["--output", "other.jsonl"]).run().with_code(0);
    assert_eq!(text(&work, "other.jsonl"), text(&work, "answers.jsonl"));
}

#[test]
fn merge_adds_aggregates_to_those_that_are_there() {
    let work = Work::instant(1);
    let input = work.prompts(&made_up(20));
    work.run(&input).args(["--aggregate", "majority"]).run().with_code(0);
    let aggregates = || {
        let text = text(&work, "answers.aggregate.json");
        let value: Value = serde_json::from_str(&text).unwrap();
        let names: Vec<String> = value["aggregates"].as_object().unwrap().keys().cloned().collect();
        (names, value["aggregates"].clone())
    };
    let majority = aggregates().1["majority"].clone();
    // What was edited by hand stays: only the aggregates are wanted.
    work.file("answers.jsonl", "edited");
    let ended = merge(&work, &["--aggregate", "stats", "--aggregate", "concat"]).run().with_code(0);
    ended.says(" 0 failures, 0 open\n", 1).says("answers.aggregate.json", 1);
    assert_eq!(aggregates().0, ["concat", "majority", "stats"]);
    assert_eq!(aggregates().1["majority"], majority);
    assert_eq!(text(&work, "answers.jsonl"), "edited");
    assert_eq!(text(&work, "answers.concat.txt").lines().count(), 20);
    merge(&work, &["--aggregate", "failures"]).run().with_code(0);
    assert_eq!(aggregates().0, ["concat", "failures", "majority", "stats"]);
    // All of it again, and beside another output only what is asked for.
    merge(&work, &[]).run().with_code(0).says(": answers.jsonl\n", 1);
    assert_eq!(work.answers("answers.jsonl").len(), 20);
    assert_eq!(aggregates().0.len(), 4);
    merge(&work, &["--output", "b.csv", "--aggregate", "best"]).run().with_code(0);
    assert!(text(&work, "b.aggregate.json").contains("best"));
    assert!(!text(&work, "b.aggregate.json").contains("majority"));
}

/// Rows of a table by the names of its columns.
fn table(work: &Work, name: &str) -> Vec<BTreeMap<String, String>> {
    let delimiter = if name.contains(".tsv") { b'\t' } else { b',' };
    let mut builder = csv::ReaderBuilder::new();
    let mut reader = builder.delimiter(delimiter).from_path(work.path(name)).unwrap();
    let header = reader.headers().unwrap().clone();
    let unique: BTreeSet<&str> = header.iter().collect();
    assert_eq!(unique.len(), header.len(), "{header:?}");
    let row = |row: csv::StringRecord| {
        header.iter().zip(&row).map(|(name, text)| (name.to_owned(), text.to_owned())).collect()
    };
    reader.records().map(|it| row(it.unwrap())).collect()
}

/// Is this the value of JSON as a table shows it?
#[track_caller]
fn assert_shown(columns: &BTreeMap<String, String>, column: &str, value: &Value) {
    let text = columns.get(column).unwrap_or_else(|| panic!("no column {column}"));
    match value {
        Value::Null => assert_eq!(text, "", "{column}"),
        Value::String(value) => assert_eq!(text, value, "{column}"),
        value => assert_eq!(&serde_json::from_str::<Value>(text).unwrap(), value, "{column}"),
    }
}

#[test]
fn labels_of_a_table_stand_beside_the_answers() {
    let work = Work::instant(1);
    let input = work.file("labels.csv", "text,label\ngood film,pos\n\"bad, really\",neg\n");
    let template = ["--template", "Classify: {{text}}", "--keep-row", "--max-tokens", "5"];
    for output in ["answers.csv", "answers.tsv"] {
        work.run_to(&input, output).args(template).run().with_code(0);
        let rows = table(&work, output);
        for (row, text, label) in [(0, "good film", "pos"), (1, "bad, really", "neg")] {
            assert_eq!((&*rows[row]["text"], &*rows[row]["label"]), (text, label));
            assert_eq!(rows[row]["prompt"], format!("Classify: {text}"));
            assert_eq!(rows[row]["success"], "true");
        }
    }
}

#[test]
fn a_table_has_a_column_for_every_key_of_every_line() {
    let policy = AnswerPolicy { thinking: Some(Lengths::Fixed(3)), ..AnswerPolicy::default() };
    let thinking = Profile { policy, ..Profile::instant() };
    let work = Work::with(vec![thinking]);
    let row = |at: usize| match at % 4 {
        0 => {
            json!({"id": at, "prompt": format!("{at}"), "label": format!("a\t\"{at}\"\r\nb"), "score": 0.5})
        }
        1 => {
            json!({"prompt": format!("{at}"), "model_name": null, "response": "old", "index": [at]})
        }
        2 => {
            json!({"messages": [{"role": "user", "content": "x"}], "n": 3, "temperature": 1.0, "tags": {"a": [at]}})
        }
        _ => json!({"prompt": "", "score": 7, "big": 12345678901234567890u64}),
    };
    let rows: Vec<Value> = (0..60).map(row).collect();
    let input = work.rows(&rows);
    work.run(&input).args(["--keep-row", "--api", "chat"]).ranks(3).run().with_code(3);
    let answers = work.answers("answers.jsonl");
    for name in ["t.csv", "t.tsv"] {
        let job = work.run_to(&input, name).args(["--keep-row", "--api", "chat"]);
        job.ranks(2).run().with_code(3);
        merge(&work, &["--output", name, "--overwrite"]).run().with_code(0);
        let table = table(&work, name);
        assert_eq!(table.len(), answers.len());
        for (columns, answer) in table.iter().zip(&answers) {
            for (key, value) in answer.as_object().unwrap() {
                let parts = value.as_object();
                match key.as_str() {
                    "usage" | "error" | "served" => {
                        for (member, value) in parts.into_iter().flatten() {
                            let column = match (key.as_str(), member.as_str()) {
                                ("error", "message") => "error".to_owned(),
                                ("usage", "prompt_tokens" | "completion_tokens") => member.clone(),
                                _ => format!("{key}_{member}"),
                            };
                            assert_shown(columns, &column, value);
                        }
                    }
                    "row" => {
                        for (field, value) in parts.into_iter().flatten() {
                            let own =
                                ["label", "score", "model_name", "tags", "big", "n", "temperature"];
                            let column = match own.contains(&field.as_str()) {
                                true => field.clone(),
                                false => format!("row_{field}"),
                            };
                            assert_shown(columns, &column, value);
                        }
                    }
                    "messages" => assert_shown(columns, "prompt", value),
                    _ => assert_shown(columns, key, value),
                }
            }
        }
    }
    assert_eq!(answers[2]["responses"].as_array().unwrap().len(), 3);
    assert!(answers[0]["reasoning"].is_string(), "{}", answers[0]);
}

#[test]
fn odd_values_of_kept_rows_break_no_line() {
    let work = Work::instant(1);
    let rows = [
        r#"{"prompt":"a","x":NaN,"y":[Infinity,-Infinity]}"#,
        r#"{"prompt":"b","x":1e999,"y":123456789012345678901234567890}"#,
        r#"{"prompt":"c","x":"half \ud83d","\udc00":1}"#,
        "{\"prompt\":\"d\",\"x\":\"\\u0000 \\u2028 \u{2028}\",\"y\":-0.0}",
        r#"{"prompt":"e","x":{"x":[[[[{}]]]]},"y":null,"y":2}"#,
    ];
    let input = work.file("rows.jsonl", rows.map(|row| format!("{row}\n")).concat());
    let job = |name: &str| work.run_to(&input, name).args(["--keep-row", "--bad-rows", "fail"]);
    let ended = job("answers.jsonl").ranks(2).run();
    assert!(matches!(ended.code, Some(0 | 3)), "{}", ended.err);
    // A number may be out of every reader's range, as in the row: it is passed through as it was written.
    let lines = text(&work, "answers.jsonl");
    let answers = lines.lines().map(|line| serde_json::from_str(line).expect("a JSON line"));
    let answers: Vec<BTreeMap<String, Box<RawValue>>> = answers.collect();
    assert_eq!(answers.len(), rows.len());
    for name in ["t.csv", "t.tsv", "t.parquet"] {
        merge(&work, &["--output", name]).run().with_code(0);
    }
    for name in ["t.csv", "t.tsv"] {
        let table = table(&work, name);
        assert_eq!(table.len(), rows.len());
        for (columns, answer) in table.iter().zip(&answers) {
            let response = serde_json::from_str(answer["response"].get()).unwrap();
            assert_shown(columns, "response", &response);
            assert_eq!(columns["served_row"].len(), 16);
        }
    }
}

#[test]
fn numbers_beyond_floats_and_deep_nesting_reach_every_format() {
    let work = Work::instant(1);
    let deep = format!("{}{}", "[".repeat(1_000), "]".repeat(1_000));
    let rows = format!(
        "{{\"id\":\"r1\",\"prompt\":\"x\"}}\n{{\"id\":1e400,\"prompt\":\"y\",\"big\":1e999}}\n\
         {{\"id\":\"r3\",\"prompt\":\"z\",\"params\":{{\"x\":1e400,\"y\":{deep}}},\"label\":{deep}}}\n"
    );
    let input = work.file("extreme.jsonl", rows);
    for (output, more) in [
        ("a.jsonl", &["--keep-row"][..]),
        ("a.csv", &["--keep-row"]),
        ("a.tsv", &[]),
        ("b.jsonl", &["--output-format", "openai-batch"]),
    ] {
        work.run_to(&input, output).args(more.iter().copied()).run().with_code(0);
        let written = text(&work, output);
        assert!(written.contains("1e400"), "{output}: {written}");
        assert!(written.contains("r1") && written.contains("r3"), "{output}: {written}");
        assert_eq!(written.contains("1e999"), more == ["--keep-row"], "{output}: {written}");
        let lines = written.lines().filter(|line| !line.is_empty()).count();
        assert!(lines == 3 || (lines == 4 && !output.ends_with("jsonl")), "{output}: {written}");
    }
}
