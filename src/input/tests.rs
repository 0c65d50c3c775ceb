//! Tests of the module as a whole: files on disk, scanned and read again.

use std::{fs, io::Write as _, path::Path};

use proptest::prelude::*;

use super::*;

fn leases_of(ranges: Vec<RowRange>) -> impl Iterator<Item = RowLease> {
    std::iter::once(RowLease { ranges, text: None })
}
use crate::domain::{Prompt, PromptId, PromptInput, Route};

pub(super) fn layout_of(path: &Path) -> RowLayout {
    RowLayout::of_format(format::format_of(path).unwrap().row_format())
}

pub(super) struct TestInput {
    pub(super) folder: tempfile::TempDir,
    files: Vec<InputFile>,
}

impl TestInput {
    pub(super) fn new(files: &[(&str, &[u8])]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let write = |(name, text): &(&str, &[u8])| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            InputFile::new(path.clone(), layout_of(&path))
        };
        let files = files.iter().map(write).collect();
        Self { folder, files }
    }

    pub(super) fn scan_with(&self, rules: &InputRules) -> Result<ScannedInput, InputError> {
        scan_files(&self.files, rules)
    }

    /// The error's text without the folder's path.
    pub(super) fn scan_error(&self, rules: &InputRules) -> String {
        let error = self.scan_with(rules).expect_err("the input is bad").to_string();
        error.replace(&format!("{}/", self.folder.path().display()), "")
    }

    pub(super) fn read_prompts(&self, rules: &InputRules) -> Vec<Prompt> {
        let scanned = self.scan_with(rules).expect("the input is good");
        let all = read_ranges(&scanned, rules, scanned.table.row_ranges(0, u64::MAX));
        assert_eq!(scanned.first_prompt.as_ref(), all.first());
        assert_eq!(all.len() + scanned.bad_rows.len(), scanned.source.rows as usize);
        all
    }
}

/// Reads ranges by offset, and again from the rows' text with a lease per range. Both must be equal.
fn read_ranges(scanned: &ScannedInput, rules: &InputRules, ranges: Vec<RowRange>) -> Vec<Prompt> {
    let read = |leases: Vec<RowLease>| -> Vec<Prompt> {
        let reader = PromptReader::new(&scanned.source, rules, leases.into_iter());
        reader.collect::<Result<_, _>>().expect("it was scanned")
    };
    let from_text = ranges.iter().map(|&range| {
        let lease = RowLease { ranges: vec![range], text: None };
        lease.with_text(&scanned.source).expect("it is readable")
    });
    let from_text = read(from_text.collect());
    let read = read(vec![RowLease { ranges, text: None }]);
    assert_eq!(read, from_text);
    read
}

fn jsonl_input(text: &str) -> TestInput {
    TestInput::new(&[("in.jsonl", text.as_bytes())])
}

fn fail_rules() -> InputRules {
    InputRules { bad_rows: BadRowAction::Fail, ..InputRules::default() }
}

fn template_rules(text: &str) -> InputRules {
    InputRules { template: Some(text.into()), ..InputRules::default() }
}

fn prompt_text(prompt: &Prompt) -> &str {
    match &prompt.input {
        PromptInput::Text(text) => text,
        PromptInput::Messages(json) | PromptInput::TokenIds(json) => json,
    }
}

fn prompt_texts(prompts: &[Prompt]) -> Vec<&str> {
    prompts.iter().map(prompt_text).collect()
}

fn prompt_ids(prompts: &[Prompt]) -> Vec<&str> {
    prompts.iter().map(|prompt| prompt.id.as_json()).collect()
}

#[test]
fn a_jsonl_row_is_a_prompt_messages_or_a_string() {
    let files = jsonl_input(concat!(
        "\u{feff}{\"prompt\": \"a \\u00e9\\n\", \"max_tokens\": 7, \"stop\": null, \"topic\": \"x\", \"priority\": 2}\r\n",
        "\n  \r\n",
        "{\"id\": 12, \"messages\": [{\"role\": \"user\", \"content\": \"b\"}], \"params\": {\"max_tokens\": 9}, \"max_tokens\": 8}\n",
        "\"c\"\n",
        "{\"id\": \"x\\ty\", \"prompt\": \"\"}"
    ));
    let rules = InputRules { keep_row: true, ..InputRules::default() };
    let prompts = files.read_prompts(&rules);
    assert_eq!(prompt_texts(&prompts), ["a é\n", r#"[{"role": "user", "content": "b"}]"#, "c", ""]);
    assert_eq!(prompt_ids(&prompts), ["\"0\"", "12", "\"2\"", "\"x\\ty\""]);
    assert_eq!(prompts.iter().map(|prompt| prompt.index).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(
        (prompts[0].params.to_json().as_str(), prompts[0].priority),
        (r#"{"max_tokens":7}"#, 2)
    );
    assert_eq!(prompts[1].params.to_json(), r#"{"max_tokens":9}"#);
    assert_eq!(prompts[2].row.as_deref(), Some(r#"{"prompt":"c"}"#));
    assert_eq!(prompts[3].row.as_deref(), Some(r#"{"id": "x\ty", "prompt": ""}"#));
    let scanned = files.scan_with(&rules).unwrap();
    let source = &scanned.source;
    assert!(source.any_messages && source.any_text && !source.openai_batch);
    assert_eq!((source.rows, scanned.data_columns.as_slice()), (4, &["topic".to_owned()][..]));
    assert_eq!(scanned.notes.len(), 2, "an empty prompt, blank lines: {:?}", scanned.notes);
}

#[test]
fn batch_rows_have_their_prompt_in_a_body() {
    let row = |id: &str, url: &str, body: &str| {
        format!(
            "{{\"custom_id\": \"{id}\", \"method\": \"POST\", \"url\": \"{url}\", \"body\": {body}}}\n"
        )
    };
    let body = r#"{"model": "m", "messages": [{"role": "user"}], "tools": [ 1 ], "stream": true, "stream_options": {}, "priority": 4}"#;
    let good = row("a", "/v1/chat/completions", body)
        + &row("b", "/v1/completions", r#"{"prompt": "p", "n": 2}"#);
    let files = jsonl_input(&good);
    let prompts = files.read_prompts(&InputRules::default());
    assert_eq!(prompt_ids(&prompts), ["\"a\"", "\"b\""]);
    assert_eq!((prompts[0].route, prompts[1].route), (Some(Route::Chat), Some(Route::Completions)));
    assert_eq!(
        (prompts[0].params.to_json().as_str(), prompts[0].priority),
        (r#"{"tools":[1]}"#, 4)
    );
    let scanned = files.scan_with(&InputRules::default()).unwrap();
    assert!(scanned.source.openai_batch);
    assert_eq!(scanned.source.models, ["m"]);
    assert!(
        scanned.notes[0].starts_with("ignored parameter: stream (1 row, first: "),
        "{:?}",
        scanned.notes
    );

    let bad = [
        row("a", "/v1/embeddings", "{}"),
        row("b", "/v1/completions", r#"{"messages": [{"role": "user"}]}"#),
        row("c", "/v1/chat/completions", r#"{"prompt": "p"}"#),
        row("d", "/v1/completions", "[]"),
        row("e", "/v1/completions", r#"{"prompt": ["p"]}"#),
        "{\"custom_id\": \"f\"}\n".into(),
        row("g", "/v1/completions", r#"{"prompt": "p"}"#).replace("POST", "GET"),
        row("h", "/v1/completions", "{}"),
    ];
    let error = jsonl_input(&bad.concat()).scan_error(&InputRules::default());
    for reason in [
        "8 invalid rows (nothing was sent):",
        "line 1: `url` must be /v1/completions or /v1/chat/completions, found \"/v1/embeddings\"",
        "line 2: `url` is for prompts",
        "line 3: `url` is for messages",
        "line 4: `body` must be an object, found a list",
        "line 5: `prompt` must be a text, a list of messages or a list of token ids, found a list with a string",
        "line 6: an OpenAI batch row has the fields custom_id, method, url, body; `method` is missing",
        "line 7: `method` must be \"POST\", found \"GET\"",
        "line 8: the body has neither `prompt` nor `messages`",
    ] {
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

#[test]
fn every_invalid_row_is_listed_with_its_line() {
    let text = b"{\"prompt\": 3}\n\n{\"prompt\": null}\n{\"prompt\": \"a\", \"messages\": []}\n{}\n[1]\n{\"prompt\": \"a\", \"params\": {\"x\" 1}}\n\
        {\"messages\": []}\n{\"messages\": [{}]}\n{\"prompt\": \"\xff\"}\n{\"prompt\": \"a\", \"id\": []}\n{\"prompt\": \"a\"\n{\"prompt\": \"a\", \"n\": 0}";
    let files = TestInput::new(&[("in.jsonl", text)]);
    let error = files.scan_error(&InputRules::default());
    let expected = "12 invalid rows (nothing was sent):
  in.jsonl line 1: `prompt` must be a text, a list of messages or a list of token ids, found a number
  in.jsonl lines 3, 5: the row has neither `prompt` nor `messages`
  in.jsonl line 4: the row has both `prompt` and `messages`, but must have one of them
  in.jsonl line 6: a row must be an object or a string, found a list
  in.jsonl line 7: not valid JSON at byte 32: expected `:`
  in.jsonl line 8: `messages` is empty
  in.jsonl line 9: `messages[0]` has no role
  in.jsonl line 10: not UTF-8 at byte 13 of the row
  in.jsonl line 11: `id` must be a string or a number, found a list
  in.jsonl line 12: not valid JSON at byte 14: EOF while parsing an object
  in.jsonl line 13: `n` must be at least 1, found 0
hint: the row has the fields prompt; a row needs `prompt` or `messages`, or pass a template (--template)";
    assert_eq!(error, expected);
}

#[test]
fn invalid_rows_may_fail_alone_and_keep_their_index() {
    let files = TestInput::new(&[
        ("a.jsonl", b"{\"id\": \"x\", \"prompt\": 1}\n\"good\"\n{\"prompt\"\n"),
        ("b.txt", b"line\n\xff\n"),
    ]);
    let prompts = files.read_prompts(&fail_rules());
    assert_eq!(
        (prompt_texts(&prompts), prompt_ids(&prompts)),
        (vec!["good", "line"], vec!["\"1\"", "\"3\""])
    );
    let bad = files.scan_with(&fail_rules()).unwrap().bad_rows;
    let places: Vec<_> = bad.iter().map(|row| (row.index, row.file, row.line)).collect();
    assert_eq!(places, [(0, 0, 1), (2, 0, 3), (4, 1, 2)]);
    assert_eq!(bad[0].id, Some(PromptId::from_json("\"x\"".into())));
}

#[test]
fn twenty_invalid_rows_are_listed_and_the_rest_is_counted() {
    let error = jsonl_input(&"{}\n".repeat(50)).scan_error(&InputRules::default());
    assert!(
        error.starts_with("50 invalid rows")
            && error.contains(", 19, 20: the row has neither")
            && !error.contains("21")
    );
    assert!(error.contains("  and 30 more\n"), "{error}");
}

#[test]
fn tables_have_columns_and_records_of_many_lines() {
    let text = "\u{feff}id,prompt,temperature,params\r\n7,\"two\nlines\",hot,\"{\"\"max_tokens\"\": 5,\n\"\"x\"\": [1, 2]}\"\r\n,\"\",,\r\nx,y,z,";
    let files = TestInput::new(&[("in.csv", text.as_bytes())]);
    let rules = InputRules { keep_row: true, ..InputRules::default() };
    let prompts = files.read_prompts(&rules);
    assert_eq!(prompt_texts(&prompts), ["two\nlines", "", "y"]);
    assert_eq!(prompt_ids(&prompts), ["\"7\"", "\"1\"", "\"x\""]);
    assert_eq!(prompts[0].params.to_json(), r#"{"max_tokens":5,"x":[1,2]}"#);
    assert_eq!(
        prompts[2].row.as_deref(),
        Some(r#"{"id":"x","prompt":"y","temperature":"z","params":""}"#)
    );
    assert_eq!(files.scan_with(&rules).unwrap().source.files[0].columns[2], "temperature");

    let tsv = TestInput::new(&[("in.tsv", b"prompt\tx\na,b\t1\n")]);
    assert_eq!(prompt_texts(&tsv.read_prompts(&InputRules::default())), ["a,b"]);
}

#[test]
fn errors_in_a_table_are_reported_with_their_lines() {
    let csv = |text: &str| {
        TestInput::new(&[("in.csv", text.as_bytes())]).scan_error(&InputRules::default())
    };
    assert!(csv("promt,x\na,b\n").starts_with(
        "in.csv: no `prompt` or `messages` column (columns: promt, x)\nhint: rename `promt` to `prompt`"
    ));
    assert!(csv("prompt,prompt\n").contains("two columns named `prompt`"));
    let error = csv("prompt,params\n\"a\nb\",\nc\nd,[]\ne,\"{\nf,\n");
    assert!(error.contains("in.csv line 4: the row has 1 field, but the header has 2"), "{error}");
    assert!(error.contains("in.csv line 5: `params` must be an object, found a list"), "{error}");
    assert!(
        error.contains("in.csv line 6: a quote that opens in this row is never closed"),
        "{error}"
    );
}

#[test]
fn the_index_runs_over_all_files_and_an_empty_file_is_valid() {
    let files = TestInput::new(&[
        ("a.txt", b"one\r\ntwo"),
        ("b.csv", b""),
        ("c.jsonl", b"\"three\"\n"),
        ("d.txt", b"\n\n"),
    ]);
    let prompts = files.read_prompts(&InputRules::default());
    assert_eq!(
        (prompt_texts(&prompts), prompt_ids(&prompts)),
        (vec!["one", "two", "three"], vec!["\"0\"", "\"1\"", "\"2\""])
    );
    let files = files.scan_with(&InputRules::default()).unwrap().source.files;
    assert_eq!(
        files.iter().map(|file| (file.first, file.rows)).collect::<Vec<_>>(),
        [(0, 2), (2, 0), (2, 1), (3, 0)]
    );

    let none = TestInput::new(&[("a.jsonl", b"")]).scan_with(&template_rules("{item}")).unwrap();
    assert_eq!((none.source.rows, none.first_prompt, none.source.openai_batch), (0, None, false));
}

#[test]
fn duplicate_ids_are_refused_with_both_locations() {
    let files = TestInput::new(&[
        ("a.jsonl", b"{\"id\": \"x\", \"prompt\": \"1\"}\n\n{\"prompt\": \"2\"}\n"),
        ("b.jsonl", b"{\"id\": \"\\u0078\", \"prompt\": \"3\"}\n{\"id\": 1, \"prompt\": \"4\"}\n"),
        ("c.csv", b"id,prompt\ny,\"a\nb\"\nx,c\n"),
    ]);
    let expected = "3 rows have a duplicate id:
  b.jsonl line 1: id \"x\" is already used in a.jsonl line 1
  b.jsonl line 2: id \"1\" is already used in a.jsonl line 3
  c.csv line 4: id \"x\" is already used in a.jsonl line 1
hint: a row without an id has its index, from 0, as id; pass --duplicate-ids keep to allow duplicates";
    let dir = format!("{}/", files.folder.path().display());
    assert_eq!(files.scan_error(&InputRules::default()).replace(&dir, ""), expected);
    let keep = InputRules { duplicate_ids: DuplicateIdAction::Keep, ..InputRules::default() };
    assert_eq!(files.read_prompts(&keep).len(), 6);
}

#[test]
fn line_numbers_are_right_far_into_a_file() {
    let mut text = "\"a\"\n\n".repeat(10_000);
    text.push_str("{\"id\": \"9999\", \"prompt\": \"\"}\n{\"id\": \"x\", \"prompt\": \"\"}\n\n{\"id\": \"x\", \"prompt\": \"\"}");
    let error = jsonl_input(&text).scan_error(&InputRules::default());
    assert!(
        error.contains("line 20001: id \"9999\" is already used in in.jsonl line 19999"),
        "{error}"
    );
    assert!(
        error.contains("line 20004: id \"x\" is already used in in.jsonl line 20002"),
        "{error}"
    );
}

#[test]
fn the_models_that_rows_name_are_counted_and_carried_by_their_prompts() {
    let rows = "{\"prompt\": \"a\"}\n{\"prompt\": \"b\", \"model\": \"m\"}\n{\"prompt\": \"c\", \"params\": {\"model\": \"k\"}}\n{\"prompt\": \"d\", \"model\": \"m\"}\n";
    let files = jsonl_input(rows);
    let scanned = files.scan_with(&InputRules::default()).unwrap();
    assert_eq!(scanned.source.models, ["m", "k"]);
    let counts = scanned.models.named().iter().map(|model| (model.count, model.first.1));
    assert_eq!(counts.collect::<Vec<_>>(), [(2, 2), (1, 3)]);
    let models = |rules: &InputRules| -> Vec<Option<String>> {
        let prompts = files.read_prompts(rules).into_iter();
        prompts.map(|prompt| prompt.model.map(|model| model.to_string())).collect()
    };
    let named = |name: &str| Some(name.to_owned());
    assert_eq!(models(&InputRules::default()), [None, named("m"), named("k"), named("m")]);
    let ignore = InputRules { ignore_row_model: true, ..InputRules::default() };
    assert!(files.scan_with(&ignore).unwrap().source.models.is_empty());
    assert_eq!(models(&ignore), [None, None, None, None]);
}

#[test]
fn templates_take_columns_of_every_format() {
    let prompts = |name: &str, text: &str, rules: &str| {
        let files = TestInput::new(&[(name, text.as_bytes())]);
        let prompts = files.read_prompts(&template_rules(rules));
        prompt_texts(&prompts).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        prompts("a.txt", "x {item}\ny\n", "<{item}|{{ item }}>"),
        ["<x {item}|x {item}>", "<y|y>"]
    );
    assert_eq!(prompts("a.csv", "q,params\n\"1\n2\",\n", "{{q}}?"), ["1\n2?"]);
    assert_eq!(prompts("a.csv", "q,r\n1,2\n", "{item}"), [r#"{"q":"1","r":"2"}"#]);
    let rows =
        "{\"q\": \"a\\n\", \"l\": [1, {\"b\": 2}], \"temperature\": \"warm\", \"prompt\": \"p\"}\n";
    assert_eq!(
        prompts("a.jsonl", rows, "{{q}}{{l}}{{temperature}}{item}"),
        ["a\n[1,{\"b\":2}]warmp"]
    );
    assert_eq!(prompts("a.jsonl", "{\"q\": 1.50}\n\"s\"\n", "{item}"), ["{\"q\":1.50}", "s"]);
    let params =
        "{\"q\": \"a\", \"max_tokens\": 5, \"model\": \"data\", \"params\": {\"max_tokens\": 6}}";
    assert_eq!(
        jsonl_input(params).read_prompts(&template_rules("{{q}}"))[0].params.to_json(),
        r#"{"max_tokens":6}"#
    );
}

#[test]
fn a_placeholder_that_no_row_has_is_an_error_and_one_that_some_rows_lack_makes_them_invalid() {
    let files = jsonl_input("{\"question\": \"a\"}\n{\"question\": \"b\", \"hint\": 1}\n");
    let error = files.scan_error(&template_rules("{{qestion}}"));
    assert_eq!(
        error,
        "the template uses {{qestion}}, but no row has that column (columns: question)\nhint: did you mean {{question}}?"
    );
    assert_eq!(
        error,
        files.scan_error(&InputRules {
            bad_rows: BadRowAction::Fail,
            ..template_rules("{{qestion}}")
        })
    );
    let error = files.scan_error(&template_rules("{{question}} {{hint}}"));
    assert!(
        error.contains("line 1: no value in column \"hint\", which the template uses"),
        "{error}"
    );
    let both =
        InputRules { bad_rows: BadRowAction::Fail, ..template_rules("{{question}} {{hint}}") };
    assert_eq!(prompt_texts(&files.read_prompts(&both)), ["b 1"]);
    let error =
        jsonl_input("{\"messages\": [{\"role\": \"user\"}]}").scan_error(&template_rules("{item}"));
    assert!(
        error.contains("the row has `messages`, which cannot be combined with a template"),
        "{error}"
    );
    assert!(
        files.scan_error(&template_rules("none")).starts_with("invalid template: no placeholder")
    );
}

#[test]
fn fields_of_the_request_are_parameters_and_others_that_look_like_them_are_named() {
    let rows = concat!(
        "{\"prompt\": \"a\", \"tools\": [{}], \"top_logprobs\": 3, \"user\": \"u\", \"topic\": \"x\", \"max_token\": 5}\n",
        "{\"prompt\": \"b\", \"documents\": \"a text\", \"topic\": \"y\", \"max_token\": 6, \"params\": {\"temprature\": 1}}\n",
        "{\"prompt\": \"c\", \"extra_body\": {\"top_k\": 3}, \"guided_json\": {}, \"seed\": 3, \"max_tokens\": 9}\n",
    );
    let files = jsonl_input(rows);
    let prompts = files.read_prompts(&InputRules::default());
    let params: Vec<String> = prompts.iter().map(|prompt| prompt.params.to_json()).collect();
    assert_eq!(
        params,
        [
            r#"{"tools":[{}],"top_logprobs":3,"user":"u"}"#,
            r#"{"temprature":1}"#,
            r#"{"max_tokens":9,"seed":3}"#
        ]
    );
    let scanned = files.scan_with(&InputRules::default()).unwrap();
    assert_eq!(scanned.data_columns, ["topic"]);
    assert!(scanned.row_params.contains(&("tools".into(), 1)), "{:?}", scanned.row_params);
    assert_eq!((scanned.answer_tokens, scanned.unlimited_rows), (9, 2));
    let folder = format!("{}/", files.folder.path().display());
    let notes = scanned.notes.join("\n").replace(&folder, "");
    for note in [
        "`max_token` looks like `max_tokens`; it counts as data and is not sent (2 rows, first: in.jsonl line 1)",
        "`documents` counts as data here and is not sent, since its value is not a list of objects (1 row, first: in.jsonl line 2)",
        "`params.temprature` looks like `temperature`; servers ignore unknown fields (1 row, first: in.jsonl line 2)",
        "`extra_body` holds request parameters and is not read; put them into `params` or at the top level (1 row, first: in.jsonl line 3)",
        "`guided_json` is not a parameter of vLLM; use `structured_outputs` with `json`",
    ] {
        assert!(notes.contains(note), "{note}\n{notes}");
    }
    let rules = |unknown_fields| InputRules { unknown_fields, ..InputRules::default() };
    let refused = files.scan_error(&rules(UnknownFieldAction::Refuse));
    assert!(
        refused.starts_with("5 fields look like request parameters without an effect (nothing was sent):\n  `max_token`"),
        "{refused}"
    );
    assert!(refused.ends_with("hint: fix the rows, or pass --unknown-fields warn"), "{refused}");
    assert!(files.scan_with(&rules(UnknownFieldAction::Ignore)).unwrap().notes.is_empty());
}

#[test]
fn in_tables_and_with_templates_parameters_come_from_params_only() {
    let csv = "prompt,temperature,max_tokens,params\na,21.5,8,\"{\"\"max_token\"\": 3}\"\n";
    let files = TestInput::new(&[("in.csv", csv.as_bytes())]);
    let prompts = files.read_prompts(&InputRules::default());
    assert_eq!(prompts[0].params.to_json(), r#"{"max_token":3}"#);
    let notes = files.scan_with(&InputRules::default()).unwrap().notes.join("\n");
    assert!(notes.contains("`max_tokens` counts as data and is not sent; in tables"), "{notes}");
    assert!(notes.contains("`params.max_token` looks like `max_tokens`"), "{notes}");
    assert!(!notes.contains("temperature"), "{notes}");
    let used = files.scan_with(&template_rules("{{prompt}} {{max_tokens}}")).unwrap();
    assert_eq!(used.notes.len(), 1, "{:?}", used.notes);
    assert_eq!(used.data_columns, ["temperature"]);
}

#[test]
fn a_batch_file_stays_one_and_a_stray_row_in_it_is_invalid() {
    let row = |id: &str, body: &str| {
        format!(
            "{{\"custom_id\": \"{id}\", \"method\": \"POST\", \"url\": \"/v1/chat/completions\", \"body\": {body}}}\n"
        )
    };
    let good =
        row("a", r#"{"messages": [{"role": "user"}], "best_of": 2, "extra_body": {"top_k": 1}}"#);
    let stray = "{\"id\": \"plain\", \"prompt\": \"Hi\"}\n";
    let other = row("b", r#"{"messages": [{"role": "user"}], "suffix": "x"}"#);
    for text in [
        format!("{good}{stray}{other}"),
        format!("{stray}{good}{other}"),
        format!("{good}{other}{stray}"),
    ] {
        let files = jsonl_input(&text);
        let scanned = files.scan_with(&fail_rules()).unwrap();
        assert!(scanned.source.openai_batch);
        assert_eq!(scanned.bad_rows[0].id, Some(PromptId::from_json("\"plain\"".into())));
        assert_eq!(files.read_prompts(&fail_rules()).len(), 2);
        let error = files.scan_error(&InputRules::default());
        let reason = "the file is an OpenAI batch file, and this row is not: an OpenAI batch row has the fields custom_id";
        assert!(error.contains(reason), "{error}");
        assert_eq!((scanned.answer_tokens, scanned.unlimited_rows), (0, 2));
        let notes = scanned.notes.join("\n");
        for note in [
            "`body.best_of` is a parameter of completions only",
            "`body.suffix` is a parameter of completions only",
            "`body.extra_body` holds request parameters and is not read; put them directly into `body`",
        ] {
            assert!(notes.contains(note), "{note}\n{notes}");
        }
    }
    // A batch row among plain ones is asked as it is, and changes nothing for the others.
    let plain = jsonl_input(&format!(
        "{}{good}",
        stray.replace("plain", "0") + "\"b\"\n{\"prompt\": \"c\"}\n"
    ));
    let scanned = plain.scan_with(&InputRules::default()).unwrap();
    assert!(!scanned.source.openai_batch && scanned.bad_rows.is_empty());
}

#[test]
fn a_prompt_may_be_a_conversation_or_token_ids() {
    let rows = concat!(
        "{\"prompt\": [{\"role\": \"user\", \"content\": \"a\"}], \"completion\": [{\"role\": \"assistant\"}]}\n",
        "{\"prompt\": [1, 22, 333]}\n",
        "{\"prompt\": null, \"messages\": [{\"role\": \"user\"}]}\n",
    );
    let prompts = jsonl_input(rows).read_prompts(&InputRules::default());
    assert_eq!(
        [&prompts[0].input, &prompts[1].input, &prompts[2].input],
        [
            &PromptInput::Messages(r#"[{"role": "user", "content": "a"}]"#.into()),
            &PromptInput::TokenIds("[1,22,333]".into()),
            &PromptInput::Messages(r#"[{"role": "user"}]"#.into())
        ]
    );
    let bad =
        "{\"prompt\": []}\n{\"prompt\": [1, -2]}\n{\"prompt\": [1, \"a\"]}\n{\"prompt\": [[1]]}\n";
    let error = jsonl_input(bad).scan_error(&InputRules::default());
    for reason in [
        "line 1: `prompt` is an empty list",
        "line 2: `prompt[1]` is not a token id: -2",
        "line 3: `prompt[1]` is not a token id: \"a\"",
        "line 4: `prompt` must be a text, a list of messages or a list of token ids, found a list with a list",
    ] {
        assert!(error.contains(reason), "{reason}\n{error}");
    }
}

#[test]
fn columns_of_the_prompt_are_named_in_every_format() {
    let prompts = |name: &str, text: &str, rules: &InputRules| {
        let files = TestInput::new(&[(name, text.as_bytes())]);
        let prompts = files.read_prompts(rules);
        prompt_texts(&prompts).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let by_prompt =
        |name: &str| InputRules { prompt_column: Some(name.into()), ..InputRules::default() };
    let by_messages =
        |name: &str| InputRules { messages_column: Some(name.into()), ..InputRules::default() };
    let row = r#"{"question": "q", "prompt": 7, "messages": 8, "data": {"turns": ["t"]}}"#;
    assert_eq!(prompts("a.jsonl", row, &by_prompt("question")), ["q"]);
    assert_eq!(prompts("a.jsonl", row, &by_prompt("data.turns[0]")), ["t"]);
    assert_eq!(prompts("a.csv", "question,x\nq,1\n", &by_prompt("question")), ["q"]);
    let shared = r#"[{"from":"human","value":"h"},{"from":"gpt","value":"g"}]"#;
    let asked = r#"[{"role":"user","content":"h"},{"role":"assistant","content":"g"}]"#;
    let row = format!("{{\"conversations\": {shared}}}");
    assert_eq!(prompts("a.jsonl", &row, &by_messages("conversations")), [asked]);
    let cell = format!("talk,x\n\"{}\",1\n", shared.replace('"', "\"\""));
    assert_eq!(prompts("a.csv", &cell, &by_messages("talk")), [asked]);
    let cell = cell.replace("talk", "messages");
    assert_eq!(prompts("a.csv", &cell, &InputRules::default()), [asked]);

    let error = jsonl_input("{\"text\": \"x\"}").scan_error(&by_prompt("question"));
    assert!(error.contains("line 1: the row has no `question`"), "{error}");
    let files = TestInput::new(&[("a.csv", b"q,x\n1,2\n")]);
    let error = files.scan_error(&by_messages("talk"));
    assert!(error.starts_with("a.csv: no `talk` column (columns: q, x)"), "{error}");
}

#[test]
fn the_answer_that_ends_a_conversation_is_told_and_left_out_on_request() {
    let rows = concat!(
        "{\"messages\": [{\"role\": \"user\"}, {\"role\": \"assistant\", \"content\": \"x\"}]}\n",
        "{\"messages\": [{\"role\": \"user\"}, {\"role\": \"assistant\", \"content\": \"x\"}], \"continue_final_message\": true}\n",
    );
    let files = jsonl_input(rows);
    let scanned = files.scan_with(&InputRules::default()).unwrap();
    let told = "conversations end with an assistant message and are sent so; --drop-final-answer";
    assert!(
        scanned.notes[0].starts_with(told) && scanned.notes[0].contains("1 row"),
        "{:?}",
        scanned.notes
    );
    let rules = InputRules { drop_final_answer: true, ..InputRules::default() };
    let prompts = files.read_prompts(&rules);
    assert_eq!(prompt_text(&prompts[0]), r#"[{"role": "user"}]"#);
    assert!(prompt_text(&prompts[1]).contains("assistant"));
    assert!(files.scan_with(&rules).unwrap().notes.is_empty());
    let only = jsonl_input("{\"messages\": [{\"role\": \"assistant\"}]}").scan_error(&rules);
    assert!(only.contains("no message but the final answer"), "{only}");
}

#[test]
fn what_python_writes_is_read_where_nothing_is_asked_of_it() {
    let rows = concat!(
        "{\"id\": \"cut\", \"prompt\": \"smile \\ud83d\", \"score\": NaN}\n",
        "{\"prompt\": \"b\", \"score\": [1, -Infinity], \"max_tokens\": 3}\n",
        "{\"prompt\": \"whole \\ud83d\\ude00\"}\n",
    );
    let files = jsonl_input(rows);
    let rules = InputRules { keep_row: true, ..InputRules::default() };
    let prompts = files.read_prompts(&rules);
    assert_eq!(prompt_texts(&prompts), ["smile \u{fffd}", "b", "whole \u{1f600}"]);
    assert_eq!(
        prompts[0].row.as_deref(),
        Some(r#"{"id": "cut", "prompt": "smile \ufffd", "score": null}"#)
    );
    assert_eq!(prompts[1].params.to_json(), r#"{"max_tokens":3}"#);
    let scanned = files.scan_with(&rules).unwrap();
    let notes = scanned.notes.join("\n");
    assert!(notes.contains("halves of surrogate pairs read as U+FFFD (1 row, first: "), "{notes}");
    assert!(notes.contains("NaN or Infinity read as null (2 rows, first: "), "{notes}");
    assert_eq!(scanned.data_columns, ["score"]);

    let bad = "{\"prompt\": NaN}\n{\"prompt\": \"a\", \"temperature\": NaN}\n{\"prompt\": \"a\", \"params\": {\"x\": Infinity}}\n";
    let error = jsonl_input(bad).scan_error(&InputRules::default());
    for reason in [
        "line 2: `temperature` is or holds NaN or Infinity",
        "line 3: `params` is or holds NaN or Infinity",
        "line 1: `prompt` is or holds NaN or Infinity",
    ] {
        assert!(error.contains(reason), "{reason}\n{error}");
    }
    let template = jsonl_input(rows).scan_error(&template_rules("{{prompt}} {{score}}"));
    assert!(template.contains("lines 1, 3: no value in column \"score\""), "{template}");
}

#[test]
fn templates_reach_into_rows_and_null_is_absent_in_every_format() {
    let rows = concat!(
        "{\"meta\": {\"title\": \"T1\", \"a.b\": 1}, \"choices\": [\"red\", \"green\"]}\n",
        "{\"meta\": {\"title\": null}, \"choices\": [\"me\", \"you\"]}\n",
    );
    let files = jsonl_input(rows);
    let rules = InputRules {
        bad_rows: BadRowAction::Fail,
        ..template_rules(
            "{{meta.title}} {{choices[0]}} {{choices.1}} {{choices[-1]}} {{item.choices}}",
        )
    };
    let expected = r#"T1 red green green ["red","green"]"#;
    assert_eq!(prompt_texts(&files.read_prompts(&rules)), [expected]);
    let bad = &files.scan_with(&rules).unwrap().bad_rows[0].reason;
    assert_eq!(bad, "no value in column \"meta.title\", which the template uses");
    let error = files.scan_error(&template_rules("{{meta.titel}}"));
    assert!(
        error.ends_with("(columns: meta, choices)\nhint: did you mean {{meta.title}}?"),
        "{error}"
    );
    let error = files.scan_error(&template_rules("{{title}}"));
    assert!(error.ends_with("hint: did you mean {{meta.title}}?"), "{error}");
    let csv = TestInput::new(&[("a.csv", b"meta,x\n\"{\"\"title\"\": \"\"T\"\"}\",\n")]);
    assert_eq!(prompt_texts(&csv.read_prompts(&template_rules("{{meta.title}}<{{x}}>"))), ["T<>"]);
    let talk = jsonl_input("{\"messages\": [{\"role\": \"user\", \"content\": \"c\"}]}\n");
    let prompts = talk.read_prompts(&template_rules("{{messages[0].content}}!"));
    assert_eq!(prompt_texts(&prompts), ["c!"]);
}

#[test]
fn a_file_that_changes_after_the_scan_is_detected() {
    let files = jsonl_input("\"a\"\n\"b\"\n");
    let scanned = files.scan_with(&InputRules::default()).unwrap();
    assert!(is_source_visible(&scanned.source));
    let path = &files.files[0].path;
    let written = fs::metadata(path).unwrap().modified().unwrap();
    fs::write(path, "\"a\"\n\"c\"\n").unwrap();
    fs::File::options().write(true).open(path).unwrap().set_modified(written).unwrap();
    assert!(!is_source_visible(&scanned.source), "size and time are the same, the text is not");
    fs::File::options().append(true).open(path).unwrap().write_all(b"\"d\"\n").unwrap();
    assert!(!is_source_visible(&scanned.source));
    let mut reader = PromptReader::new(
        &scanned.source,
        &InputRules::default(),
        leases_of(scanned.table.row_ranges(0, 2)),
    );
    let error = reader.next().unwrap().unwrap_err().to_string();
    assert!(error.contains("in.jsonl has changed since the scan"), "{error}");
    assert!(reader.next().is_none());
    fs::remove_file(path).unwrap();
    assert!(!is_source_visible(&scanned.source));
}

#[test]
fn a_source_survives_json_and_its_fingerprint_depends_on_the_text() {
    let one = jsonl_input("\"a\"\n").scan_with(&InputRules::default()).unwrap().source;
    let json = serde_json::to_string(&one).unwrap();
    assert_eq!(serde_json::from_str::<InputSource>(&json).unwrap(), one);
    let same = jsonl_input("\"a\"\n").scan_with(&InputRules::default()).unwrap().source;
    let other = jsonl_input("\"b\"\n").scan_with(&InputRules::default()).unwrap().source;
    assert_eq!(one.fingerprint, same.fingerprint);
    assert_ne!(one.fingerprint, other.fingerprint);
    let rules: InputRules =
        serde_json::from_str(&serde_json::to_string(&fail_rules()).unwrap()).unwrap();
    assert_eq!(rules, fail_rules());
}

/// Writes a Parquet file with these rows and spools it.
#[cfg(feature = "parquet")]
fn parquet_input(
    fields: Vec<arrow_schema::Field>,
    rows: &str,
    rules: &InputRules,
) -> Result<TestInput, InputError> {
    let schema = std::sync::Arc::new(arrow_schema::Schema::new(fields));
    let mut decoder = arrow_json::ReaderBuilder::new(schema.clone()).build_decoder().unwrap();
    decoder.decode(rows.as_bytes()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let packed = folder.path().join("in.parquet");
    let file = fs::File::create(&packed).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, schema, None).unwrap();
    decoder.flush().unwrap().iter().for_each(|batch| writer.write(batch).unwrap());
    writer.close().unwrap();
    let found = InputFinder::default().find_files(&[packed.to_str().unwrap().to_owned()])?;
    let copy = InputIntake::new(rules, folder.path().join("spool")).prepare_file(&found[0])?;
    assert_eq!(copy.name, packed);
    Ok(TestInput { files: vec![copy], folder })
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_rows_have_parameters_in_params_and_all_other_columns_are_data() {
    use arrow_schema::{DataType::*, Field};
    let text = |name: &str| Field::new(name, Utf8, true);
    let message = Struct(vec![text("role"), text("content"), text("name")].into());
    let fields = || {
        vec![
            Field::new("id", Int64, true),
            text("prompt"),
            Field::new("messages", DataType::new_list(message.clone(), true), true),
            Field::new("temperature", Float64, true),
            text("params"),
        ]
    };
    use arrow_schema::DataType;
    let rows = r#"
        {"id": 7, "prompt": "a\n\"b\"", "temperature": 21.5, "params": "{\"seed\": 3}"}
        {"messages": [{"role": "user", "content": "hi"}], "params": " "}
        {"id": 9, "prompt": "c", "params": null}"#;
    let rules = InputRules { keep_row: true, ..InputRules::default() };
    let prompts = parquet_input(fields(), rows, &rules).unwrap().read_prompts(&rules);
    let ids: Vec<&str> = prompts.iter().map(|prompt| prompt.id.as_json()).collect();
    assert_eq!(ids, ["7", "\"1\"", "9"]);
    let inputs: Vec<&str> = prompts.iter().map(|prompt| prompt.input.as_str()).collect();
    assert_eq!(inputs, ["a\n\"b\"", r#"[{"role":"user","content":"hi"}]"#, "c"]);
    assert_eq!(prompts[0].params.to_json(), r#"{"seed":3}"#);
    assert_eq!(prompts[1].params.to_json(), "{}");
    assert!(prompts[0].row.as_ref().unwrap().contains(r#""temperature":21.5"#));

    let rules = template_rules("{{temperature}} {{prompt}}");
    let rows = r#"{"prompt": "a", "temperature": 0.5} {"prompt": "b", "temperature": 1}"#;
    let prompts = parquet_input(fields(), rows, &rules).unwrap().read_prompts(&rules);
    let inputs: Vec<&str> = prompts.iter().map(|prompt| prompt.input.as_str()).collect();
    assert_eq!(inputs, ["0.5 a", "1.0 b"]);

    let rows = r#"{"messages": "[{\"role\": \"user\", \"content\": \"hi\"}]"} {"messages": "no"}"#;
    let told = parquet_input(vec![text("messages")], rows, &fail_rules()).unwrap();
    let prompts = told.read_prompts(&fail_rules());
    assert_eq!(prompts[0].input.as_str(), r#"[{"role": "user", "content": "hi"}]"#);
    let error = told.scan_error(&InputRules::default());
    assert!(error.contains("in.parquet row 2: `messages` must be"), "{error}");

    let bad =
        parquet_input(fields(), r#"{"prompt": "a"} {"prompt": "b", "temperature": 1} {}"#, &rules);
    let error = bad.unwrap().scan_error(&rules);
    for line in [
        "in.parquet row 1: no value in column \"temperature\", which the template uses",
        "in.parquet row 3: no value in column \"temperature\", \"prompt\", which the template uses",
    ] {
        assert!(error.contains(line), "{error}");
    }
    let bad =
        parquet_input(fields(), r#"{"prompt": "a", "params": "seed"} {}"#, &InputRules::default());
    let error = bad.unwrap().scan_error(&InputRules::default());
    assert!(error.contains("in.parquet row 1: `params`"), "{error}");
    assert!(error.contains("row 2: the row has neither `prompt` nor `messages`"), "{error}");
    let Err(error) = parquet_input(vec![text("Prompt")], "{}", &InputRules::default()) else {
        panic!("no prompt")
    };
    assert!(error.to_string().contains("in.parquet: no `prompt` or `messages` column"), "{error}");
    assert!(error.to_string().contains("Prompt"), "{error}");
}

#[cfg(feature = "parquet")]
#[test]
fn parquet_columns_are_named_and_reached_into_as_in_other_formats() {
    use arrow_schema::{DataType::*, Field};
    let text = |name: &str| Field::new(name, Utf8, true);
    let message = Struct(vec![text("from"), text("value")].into());
    let fields = || {
        vec![
            Field::new("talk", arrow_schema::DataType::new_list(message.clone(), true), true),
            Field::new("meta", Struct(vec![text("title")].into()), true),
            Field::new("max_tokens", Int64, true),
        ]
    };
    let rows = r#"{"talk": [{"from": "human", "value": "a"}], "meta": {"title": "T"}, "max_tokens": 3}
        {"meta": {"title": null}}"#;
    let prompts = |rules: InputRules| {
        let rules = InputRules { bad_rows: BadRowAction::Fail, ..rules };
        let files = parquet_input(fields(), rows, &rules).unwrap();
        let notes = files.scan_with(&rules).unwrap().notes.join("\n");
        assert!(notes.contains("`max_tokens` counts as data and is not sent"), "{notes}");
        prompt_texts(&files.read_prompts(&rules)).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let named = InputRules { messages_column: Some("talk".into()), ..InputRules::default() };
    assert_eq!(prompts(named), [r#"[{"role":"user","content":"a"}]"#]);
    let named = InputRules { prompt_column: Some("meta.title".into()), ..InputRules::default() };
    assert_eq!(prompts(named), ["T"]);
    assert_eq!(prompts(template_rules("{{meta.title}}: {{talk[0].value}}")), ["T: a"]);
}

#[test]
fn a_row_above_the_limit_fails_alone_in_bounded_memory() {
    let long = "x".repeat(records::MAX_ROW_BYTES + 1000);
    for (name, text, line) in [
        ("in.txt", format!("one\n{long}\r\n\ntwo"), 2),
        ("in.jsonl", format!("\"one\"\n\"{long}\"\n\"two\"\n"), 2),
        ("in.csv", format!("prompt\none\n\"{}\"\ntwo\n", "a\n".repeat(long.len() / 2)), 3),
        ("in.tsv", format!("prompt\tx\none\t\n{long}\t\ntwo\t\n"), 3),
    ] {
        let files = TestInput::new(&[(name, text.as_bytes())]);
        let error = files.scan_error(&InputRules::default());
        assert!(
            error.contains(&format!("{name} line {line}: the row is longer than 64 MiB\n")),
            "{name}: {}",
            &error[..error.len().min(500)]
        );
        assert!(error.starts_with("1 invalid row "));
        assert_eq!(prompt_texts(&files.read_prompts(&fail_rules())), ["one", "two"], "{name}");
    }
}

#[test]
fn a_quote_that_is_never_closed_costs_its_line_alone() {
    let csv = |text: &str| TestInput::new(&[("in.csv", text.as_bytes())]);
    let rows = "prompt,x\na,\"1\n2\"\nb,\"3\nc,4\nd,\"5\"\n\"e\"f,6\n\"g\",\"7\"\"\"\n";
    let error = csv(rows).scan_error(&InputRules::default());
    for reason in [
        "2 invalid rows",
        "in.csv line 4: a quote that opens in this row is never closed",
        "in.csv line 7: text follows a closing quote",
    ] {
        assert!(error.contains(reason), "{error}");
    }
    assert_eq!(prompt_texts(&csv(rows).read_prompts(&fail_rules())), ["a", "c", "d", "g"]);
    // The rest of the file is larger than any row.
    let line = format!("i,{}\n", "7".repeat(1000));
    let many = line.repeat(records::MAX_ROW_BYTES / 1000 + 10);
    let files = csv(&format!("prompt,x\nh,\"6\n{many}"));
    let scanned = files.scan_with(&fail_rules()).unwrap();
    assert_eq!((scanned.bad_rows.len(), scanned.bad_rows[0].line), (1, 2));
    assert_eq!(scanned.source.rows as usize, 1 + many.len() / line.len());
}

#[test]
fn quotes_of_a_tsv_are_letters_unless_a_field_is_properly_quoted() {
    let texts = |text: &str| {
        let rules = InputRules { template: Some("{{text}}".into()), ..fail_rules() };
        let files = TestInput::new(&[("in.tsv", text.as_bytes())]);
        let prompts = files.read_prompts(&rules);
        prompt_texts(&prompts).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let marco = "id\ttext\n1\t\"To be or\n2\tnot to be\"\n3\tthird\n4\t5\" pipe\n5\t\"Yes,\" she said.\n6\tfoo \"bar\"\n";
    let expected =
        ["\"To be or", "not to be\"", "third", "5\" pipe", "\"Yes,\" she said.", "foo \"bar\""];
    assert_eq!(texts(marco), expected);
    assert_eq!(texts(&marco.replace('\n', "\r")), expected);
    assert_eq!(texts("id\ttext\n1\t\"open\n2\tb\n3\tc\n"), ["\"open", "b", "c"]);
    // As pandas writes tabs, quotes and line ends.
    let pandas = "id\ttext\tx\n1\t\"a\tb\"\t\n2\t\"say \"\"x\"\"\"\t\n3\t\"one\n\ntwo \"\"three\"\"\nfour\"\t\n4\t\"\"\t\"v\nw\"\n";
    assert_eq!(texts(pandas), ["a\tb", "say \"x\"", "one\n\ntwo \"three\"\nfour", ""]);
    let notes = |text: &str| {
        let files = TestInput::new(&[("in.tsv", text.as_bytes())]);
        let rules = InputRules { template: Some("{{text}}".into()), ..fail_rules() };
        files.scan_with(&rules).unwrap().notes
    };
    assert!(notes(marco)[0].contains("quotes read as letters"), "{:?}", notes(marco));
    assert!(notes(marco)[0].ends_with("in.tsv line 2)"), "{:?}", notes(marco));
    assert!(!notes(pandas).concat().contains("quotes"), "{:?}", notes(pandas));
}

#[test]
fn a_lone_carriage_return_ends_a_line_in_every_format_and_separators_of_unicode_do_not() {
    let texts = |name: &str, text: &str| {
        let files = TestInput::new(&[(name, text.as_bytes())]);
        let prompts = files.read_prompts(&InputRules::default());
        prompt_texts(&prompts).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(texts("a.csv", "id,prompt\r1,\"o\rne\"\r2,two\r"), ["o\rne", "two"]);
    assert_eq!(texts("a.tsv", "id\tprompt\r1\tone\r2\ttwo"), ["one", "two"]);
    assert_eq!(
        texts("a.txt", "one\rtwo\r\r\nthree\nfour\r\nfive"),
        ["one", "two", "three", "four", "five"]
    );
    assert_eq!(texts("a.jsonl", "\"one\"\r{\"prompt\":\"two\"}\r"), ["one", "two"]);
    let text = "a\u{2028}b\u{85}c\u{2029}d\u{b}e\u{c}f\0g";
    assert_eq!(texts("a.txt", text), [text]);
    let error =
        TestInput::new(&[("a.txt", b"one\rtwo\r\r\n\xff")]).scan_error(&InputRules::default());
    assert!(error.contains("a.txt line 4: not UTF-8"), "{error}");
    assert!(error.contains("--encoding windows-1252"), "{error}");
}

#[test]
fn blank_lines_are_counted_with_the_first_one() {
    let files = TestInput::new(&[("a.txt", b"one\n"), ("b.txt", b"two\n\n \nthree\n")]);
    let notes = files.scan_with(&InputRules::default()).unwrap().notes;
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with("2 blank lines skipped (first: "), "{notes:?}");
    assert!(notes[0].ends_with("b.txt line 2)"), "{notes:?}");
}

#[test]
fn a_table_without_a_header_has_numbered_columns() {
    let table = |name: &str, text: &str, has_header: bool, rules: &InputRules| {
        let mut files = TestInput::new(&[(name, text.as_bytes())]);
        files.files[0].layout.has_header = has_header;
        files.scan_with(rules).map(|scanned| {
            let prompts = files.read_prompts(rules);
            let texts = prompt_texts(&prompts).into_iter().map(str::to_owned).collect::<Vec<_>>();
            (texts, scanned.source.fingerprint)
        })
    };
    let rules = template_rules("{{1}}: {{3}}");
    let mmlu = "\"What, then?\",a,b\r\nWhy?,\"c\nd\",e\r\n";
    let (texts, fingerprint) = table("a.csv", mmlu, false, &rules).unwrap();
    assert_eq!(texts, ["What, then?: b", "Why?: e"]);
    let (texts, _) = table("a.tsv", "7\t\"x\t8\n9\ty\t1\n", false, &rules).unwrap();
    assert_eq!(texts, ["7: 8", "9: 1"]);
    let (_, other) = table("a.csv", mmlu, true, &template_rules("{{a}}")).unwrap();
    assert_ne!(fingerprint, other, "other rows are another input");
    let error = table("a.csv", "7,What?\n8,Why?\n", true, &InputRules::default()).unwrap_err();
    assert!(error.to_string().contains("pass --csv-header no"), "{error}");
    let error = table("a.csv", "7,What?\n", false, &InputRules::default()).unwrap_err();
    assert!(
        error.to_string().contains("pass a template, such as --template '{{1}} {{2}}'"),
        "{error}"
    );
    let (_, semicolons) = {
        let mut files = TestInput::new(&[("a.csv", b"prompt,x\na,b\n")]);
        files.files[0].layout.delimiter = b';';
        (0, files.scan_with(&template_rules("{item}")).unwrap().source.fingerprint)
    };
    let (_, commas) = table("a.csv", "prompt,x\na,b\n", true, &template_rules("{item}")).unwrap();
    assert_ne!(semicolons, commas, "another delimiter is another input");
}

#[test]
fn folders_give_columns_to_rows_of_every_format() {
    let mut files = TestInput::new(&[
        ("a.jsonl", b"{\"q\":\"1\"}\n{\"q\":\"2\",\"lang\":\"own\"}\n\"3\"\n"),
        ("b.csv", b"q\n4\n"),
        ("c.txt", b"5\n"),
    ]);
    let column = |name: &str, value: Option<&str>| PartitionColumn {
        name: name.into(),
        value: value.map(str::to_owned),
    };
    let plain = files.scan_with(&template_rules("{item}")).unwrap().source.fingerprint;
    for file in &mut files.files {
        file.partition = vec![column("lang", Some("en us")), column("none", None)];
    }
    let rules = InputRules { keep_row: true, ..template_rules("{{lang}} {item}") };
    let prompts = files.read_prompts(&rules);
    let all: Vec<_> =
        prompts.iter().map(|it| (prompt_text(it), it.row.as_deref().unwrap())).collect();
    assert_eq!(
        all,
        [
            ("en us {\"q\":\"1\"}", "{\"lang\":\"en us\",\"q\":\"1\"}"),
            ("own {\"q\":\"2\",\"lang\":\"own\"}", "{\"q\":\"2\",\"lang\":\"own\"}"),
            ("en us 3", "{\"lang\":\"en us\",\"prompt\":\"3\"}"),
            ("en us {\"q\":\"4\"}", "{\"lang\":\"en us\",\"q\":\"4\"}"),
            ("en us 5", "{\"lang\":\"en us\",\"prompt\":\"5\"}"),
        ]
    );
    let scanned = files.scan_with(&rules).unwrap();
    assert_ne!(scanned.source.fingerprint, plain);
    let error = files.scan_error(&template_rules("{{none}}"));
    assert!(error.contains("lang, none"), "{error}");
}

/// Any partition into ranges must give the rows of the whole.
fn cut_anywhere(files: &TestInput, rules: &InputRules, cuts: &[u64]) {
    let Ok(scanned) = files.scan_with(rules) else { return };
    let rows = scanned.source.rows;
    let all = read_ranges(&scanned, rules, scanned.table.row_ranges(0, rows));
    assert_eq!(all.len() + scanned.bad_rows.len(), rows as usize);
    let mut cuts: Vec<u64> = cuts.iter().map(|cut| cut % (rows + 1)).chain([0, rows]).collect();
    cuts.sort_unstable();
    let parts: Vec<_> =
        cuts.windows(2).map(|cut| scanned.table.row_ranges(cut[0], cut[1])).collect();
    let apart: Vec<Prompt> =
        parts.iter().flat_map(|part| read_ranges(&scanned, rules, part.clone())).collect();
    assert_eq!(apart, all);
    assert_eq!(read_ranges(&scanned, rules, parts.concat()), all);
    let mut turned = read_ranges(&scanned, rules, parts.into_iter().rev().flatten().collect());
    turned.sort_by_key(|prompt| prompt.index);
    assert_eq!(turned, all);
}

const NAMES: [&str; 4] = ["a.jsonl", "b.txt", "c.csv", "d.tsv"];

fn any_row() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z{}\", \t\r]{0,12}",
        "\"[a-zé]{0,8}\"",
        "[\"\t,a\r\n]{0,9}",
        (0_u32..40, "[a-zé\\\\n]{0,9}")
            .prop_map(|(id, text)| format!("{{\"id\":\"i{id}\",\"prompt\":\"{text}\"}}")),
        Just("{\"messages\":[{\"role\":\"user\"}],\"max_tokens\":4}".to_owned()),
        Just("{\"prompt\":3}".to_owned()),
        Just("1,\"two\nlines\"".to_owned()),
        Just(String::new()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_bytes_are_rows_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300), cuts: [u64; 3]) {
        let table = [b"prompt,id\n", bytes.as_slice()].concat();
        let tabs = [b"prompt\tid\n", bytes.as_slice()].concat();
        for name in NAMES {
            for bytes in [&bytes, &table, &tabs] {
                let files = TestInput::new(&[(name, bytes)]);
                cut_anywhere(&files, &InputRules::default(), &cuts);
                let rules = InputRules { keep_row: true, duplicate_ids: DuplicateIdAction::Keep, ..fail_rules() };
                cut_anywhere(&files, &rules, &cuts);
            }
        }
    }

    #[test]
    fn any_cut_of_any_rows_reads_the_same(
        rows in prop::collection::vec(any_row(), 0..30),
        end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
        torn: bool,
        cuts: [u64; 5],
    ) {
        let mut text = rows.join(end);
        if !torn { text.push_str(end); }
        let table = format!("prompt,id{end}{text}");
        let tabs = format!("prompt\tid{end}{text}");
        let files = TestInput::new(&[
            ("a.jsonl", text.as_bytes()),
            ("b.txt", text.as_bytes()),
            ("c.csv", table.as_bytes()),
            ("d.tsv", tabs.as_bytes()),
        ]);
        let rules = InputRules { duplicate_ids: DuplicateIdAction::Keep, ..fail_rules() };
        cut_anywhere(&files, &rules, &cuts);
        cut_anywhere(&files, &InputRules { template: Some("{item}!".into()), keep_row: true, ..rules }, &cuts);
    }
}

/// A measurement: `cargo test --release --lib input::tests::scan_speed -- --ignored --nocapture`.
#[test]
#[ignore = "it takes seconds and means something in release only"]
fn scan_speed() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        "It was a dark and stormy night, and the rain fell in torrents over the roofs. ".repeat(3);
    let rows = |row: &dyn Fn(usize) -> String, name: &str| {
        let path = folder.path().join(name);
        let mut file = std::io::BufWriter::new(fs::File::create(&path).unwrap());
        for index in 0..900_000 {
            writeln!(file, "{}", row(index)).unwrap();
        }
        file.flush().unwrap();
        path
    };
    let text = &text[..200];
    let plain = rows(&|_| format!("{{\"prompt\": \"{text}\"}}"), "plain.jsonl");
    let full = rows(
        &|at| {
            format!(
                "{{\"id\": \"row-{at}\", \"prompt\": \"{text}\\n\", \"max_tokens\": 64, \"temperature\": 0.5, \"topic\": \"x\"}}"
            )
        },
        "full.jsonl",
    );
    let chat = rows(
        &|at| {
            format!(
                "{{\"id\": {at}, \"messages\": [{{\"role\": \"user\", \"content\": \"{text}\"}}]}}"
            )
        },
        "chat.jsonl",
    );
    let lines = rows(&|_| text.to_owned(), "lines.txt");
    let table = rows(
        &|at| if at == 0 { "id,prompt".into() } else { format!("{at},\"{text}\"") },
        "table.csv",
    );
    for (path, rules) in [
        (&plain, InputRules::default()),
        (&full, InputRules::default()),
        (&chat, InputRules::default()),
        (&plain, template_rules("Q: {{prompt}} A:")),
        (&lines, InputRules::default()),
        (&table, InputRules::default()),
    ] {
        measure_speed(path, &rules);
    }
}

fn measure_speed(path: &Path, rules: &InputRules) {
    let files = [InputFile::new(path.to_path_buf(), layout_of(path))];
    let begin = std::time::Instant::now();
    let scanned = scan_files(&files, rules).unwrap();
    let scanning = begin.elapsed().as_secs_f64();
    let begin = std::time::Instant::now();
    let read =
        PromptReader::new(&scanned.source, rules, leases_of(scanned.table.row_ranges(0, u64::MAX)))
            .count();
    let reading = begin.elapsed().as_secs_f64();
    assert_eq!(read as u64, scanned.source.rows);
    let megabytes = scanned.source.files[0].size as f64 / 1e6;
    let name = path.file_name().unwrap().to_string_lossy();
    writeln!(
        std::io::stderr(),
        "{name} {} {megabytes:.0} MB: scan {:.0} MB/s, read {:.0} MB/s",
        if rules.template.is_some() { "with a template" } else { "" },
        megabytes / scanning,
        megabytes / reading
    )
    .unwrap();
    assert!(megabytes / scanning > 300.0, "{name}: {:.0} MB/s", megabytes / scanning);
}
