//! What rows may say: parameters, names of columns, conversations of data sets.

use serde_json::{Value, json};
use vllm_sim::Turn;

use crate::support::{
    Job,
    work::{Work, by_chat, by_turns},
};

fn data_set(name: &str) -> String {
    format!("{}/tests/data/datasets/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn responses(work: &Work, output: &str) -> Vec<Value> {
    work.answers(output).iter().map(|answer| answer["response"].clone()).collect()
}

#[test]
fn doubtful_fields_are_named_before_work_and_refused_on_request() {
    let work = Work::instant(1);
    let input = work.rows(&[
        json!({"prompt": "a", "max_tokens": 4}),
        json!({"prompt": "b", "max_tokens": 4, "temprature": 0.1}),
        json!({"prompt": "c", "max_tokens": 4, "temprature": 0.2, "params": {"guided_json": {}}}),
    ]);
    let refused = work.run(&input).args(["--unknown-fields", "refuse"]).ranks(2).run().with_code(5);
    refused
        .complains("2 fields look like request parameters without an effect (nothing was sent)")
        .complains("`temprature` looks like `temperature`; it counts as data and is not sent (2 rows, first: ")
        .complains("prompts.jsonl line 2)");
    assert!(!work.has("answers.jsonl") && !work.has("answers.jsonl.run"));
    assert_eq!(work.requests(), 0);
    let warned = work.run(&input).run().with_code(0).complains("`temprature` looks like");
    warned.complains("`params.guided_json` is not a parameter of vLLM");
    assert_eq!(work.counts("answers.jsonl"), [3, 3, 0, 0]);
    let quiet = work.run_to(&input, "quiet.jsonl").args(["--unknown-fields", "ignore"]).run();
    assert!(!quiet.with_code(0).err.contains("temprature"));
}

#[test]
fn fields_of_the_request_schema_reach_the_server_from_the_top_level() {
    let work = Work::instant(1);
    let long = "long ".repeat(3_000);
    let input = work.rows(&[
        json!({"id": "cut", "prompt": long, "truncate_prompt_tokens": 500, "max_tokens": 4}),
        json!({"id": "long", "prompt": long, "max_tokens": 4}),
    ]);
    work.run(&input).args(["--api", "completions"]).run().with_code(3);
    let answers = work.answers("answers.jsonl");
    assert_eq!(answers[0]["success"], true, "{}", answers[0]["error"]);
    assert_eq!(answers[0]["params"]["truncate_prompt_tokens"], 500);
    assert_eq!(answers[1]["error"]["kind"], "too_long");
}

#[test]
fn conversational_data_sets_run_as_they_are() {
    let work = Work::instant(2);
    let eight = ["--max-tokens", "8"];
    work.run_to(&data_set("trl-conversational.jsonl"), "trl.jsonl").args(eight).run().with_code(0);
    let night = [
        Turn { role: "system", content: "Be brief." },
        Turn { role: "user", content: "And at night?" },
    ];
    assert_eq!(
        responses(&work, "trl.jsonl"),
        [by_chat("What colour is the sky?", 8), by_turns(&night, 8)]
    );
    let shared = ["--messages-column", "conversations", "--drop-final-answer", "--keep-row"];
    let job = work.run_to(&data_set("sharegpt.jsonl"), "sharegpt.jsonl").args(eight).args(shared);
    job.ranks(2).run().with_code(0);
    let turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello."), ("user", "Bye")];
    let turns = turns.map(|(role, content)| Turn { role, content });
    assert_eq!(
        responses(&work, "sharegpt.jsonl"),
        [by_chat("Name a prime.", 8), by_turns(&turns, 8)]
    );
    let kept = &work.answers("sharegpt.jsonl")[0]["row"]["conversations"][1]["value"];
    assert_eq!(kept, "Seven.", "what is left out of the request is kept in the row");
    let template = ["--template", r"{{instruction}}\n{{input}}"];
    work.run_to(&data_set("alpaca.jsonl"), "alpaca.jsonl").args(eight).args(template).run();
    assert_eq!(
        responses(&work, "alpaca.jsonl")[1],
        by_chat("Name the capital.\nPeru", 8),
        "a typed \\n is a line break"
    );
}

/// The responses of a run of a data set, and the lines of its plan.
fn run_data_set(work: &Work, name: &str, args: &[&str]) -> (Vec<Value>, String) {
    let input = data_set(name);
    let output = format!("{name}.answers.jsonl");
    let path = work.path(&output).to_string_lossy().into_owned();
    let plan = Job::of("plan").args([&*input, "--output", &path]).args(args.iter().copied());
    let plan = plan.run().with_code(0);
    let job = work.run_to(&input, &output).args(args.iter().copied());
    job.args(["--max-tokens", "8"]).ranks(2).run().with_code(0);
    (responses(work, &output), plan.out)
}

#[test]
fn tables_lists_and_folders_of_data_sets_run_as_they_are() {
    let work = Work::instant(2);
    let by_chats = |prompts: &[&str]| -> Vec<Value> {
        prompts.iter().map(|prompt| by_chat(prompt, 8).into()).collect()
    };
    let (answers, plan) =
        run_data_set(&work, "alpaca.json", &["--template", r"{{instruction}}\n{{input}}"]);
    assert_eq!(answers, by_chats(&["Name a prime.\n", "Name the capital.\nPeru"]));
    assert!(plan.contains("2 prompts in 1 file"), "{plan}");

    let question = ["--csv-header", "no", "--template", r"{{1}}\nA. {{2}}\nB. {{3}}"];
    let (answers, _) = run_data_set(&work, "mmlu.csv", &question);
    let degree = "Find the degree of Q(sqrt(2), sqrt(3)) over Q.\nA. 0\nB. 4";
    let no = "He said \"no\", and left.\nWhy?\nA. a, b\nB. c";
    assert_eq!(answers, by_chats(&[degree, no]));

    let passage = ["--csv-header", "no", "--template", "{{2}}"];
    let (answers, plan) = run_data_set(&work, "collection.tsv", &passage);
    let passages = [
        "The \"Manhattan Project\" ended in 1947.",
        "\"Why is the sky blue? Light scatters.",
        "5' 10\" is tall.",
    ];
    assert_eq!(answers, by_chats(&passages));
    assert!(plan.contains("3 prompts in 1 file"), "a quote that opens a field is a letter: {plan}");

    let (answers, plan) = run_data_set(&work, "spark", &[]);
    assert_eq!(answers, by_chats(&["one", "two", "three"]));
    assert!(plan.contains("3 prompts in 2 files"), "{plan}");

    let (answers, plan) =
        run_data_set(&work, "partitioned", &["--template", "{{word}}", "--keep-row"]);
    assert_eq!(answers, by_chats(&["eau", "Wasser", "water"]));
    assert!(plan.contains("3 prompts in 3 files"), "{plan}");
    let rows = work.answers("partitioned.answers.jsonl");
    let languages: Vec<&Value> = rows.iter().map(|answer| &answer["row"]["lang"]).collect();
    assert_eq!(languages, [&Value::Null, &json!("de"), &json!("en")]);
}

#[test]
fn token_ids_are_sent_in_lists_of_their_own() {
    let work = Work::instant(1);
    let mut rows: Vec<Value> = (0..40).map(|row| json!({"prompt": [5, 6, 7 + row]})).collect();
    rows.push(json!({"prompt": "a text between them"}));
    let input = work.rows(&rows);
    let job =
        work.run(&input).args(["--max-tokens", "4", "--batch-size", "8", "--api", "completions"]);
    job.run().with_code(0);
    let answers = work.answers("answers.jsonl");
    assert_eq!(answers[3]["prompt"], json!([5, 6, 10]));
    assert_eq!(answers[3]["usage"]["prompt_tokens"], 3);
    assert!(work.fleet.seen(0).largest_list > 1, "{:?}", work.fleet.seen(0));
    let refused = work.run_to(&input, "chat.jsonl").args(["--api", "chat"]).run().with_code(5);
    refused.complains("rows with token ids, but --api chat takes only texts and messages");
}

#[test]
fn a_batch_file_with_a_stray_row_is_answered_as_a_batch_file() {
    let work = Work::instant(1);
    let batch_row = |id: &str| {
        json!({"custom_id": id, "method": "POST", "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": "Hi"}]}})
    };
    let input =
        work.rows(&[json!({"id": "plain", "prompt": "Hi"}), batch_row("a"), batch_row("b")]);
    work.run(&input).run().with_code(5).complains("line 1: the file is an OpenAI batch file");
    work.run(&input).args(["--bad-rows", "fail"]).run().with_code(3);
    let answers = work.answers("answers.jsonl");
    let ids: Vec<&Value> = answers.iter().map(|answer| &answer["custom_id"]).collect();
    assert_eq!(ids, ["plain", "a", "b"]);
    assert!(answers[0]["error"].is_object() && answers[1]["response"]["body"].is_object());

    let plan =
        |limit: &str| Job::of("plan").args([&*input, "--bad-rows", "fail", "--max-tokens", limit]);
    plan("auto").run().with_code(0).says("no limit for answers (--max-tokens none)", 1);
    plan("100").run().with_code(0).says("at most 200 of answers (--max-tokens 100)", 1);
}

#[test]
fn a_plan_sums_the_limits_of_rows() {
    let work = Work::instant(0);
    let input = work.rows(&[
        json!({"prompt": "a", "max_tokens": 64}),
        json!({"prompt": "b", "max_completion_tokens": 36, "n": 2}),
        json!({"prompt": "c"}),
    ]);
    let plan = |args: &[&str]| {
        let job = Job::of("plan").arg(&input).args(args.iter().copied());
        job.run().with_code(0)
    };
    plan(&[]).says("at most 648 of answers (--max-tokens 512)", 1);
    let without = plan(&["--max-tokens", "none"]);
    without
        .says("at most 136 of answers, and 1 answer without a limit (--max-tokens none)", 1)
        .says(
            "parameters of rows: max_tokens (1 row), max_completion_tokens (1 row), n (1 row)",
            1,
        );
}

#[test]
fn rows_without_a_prompt_are_told_once_with_their_fields() {
    let work = Work::instant(0);
    let input = work.rows(&[json!({"id": "a", "text": "one"}), json!({"id": "b", "text": "two"})]);
    let ended = Job::of("plan").arg(&input).run().with_code(5);
    let ended =
        ended.complains("prompts.jsonl lines 1, 2: the row has neither `prompt` nor `messages`");
    ended.complains(
        "hint: the row has the fields id, text; pass --prompt-column text, or a template, such as",
    );
}
