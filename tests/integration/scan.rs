//! Large inputs: ranks read them over together, and nothing shows who read what.

use std::fmt::Write as _;

use serde_json::json;

use crate::support::work::{Work, assert_equal};

/// Enough for ranks to share; prompts are few and short, since it is their rows that are long.
const BYTES: usize = 150 << 20;

/// Rows of about 100 kB each, with what is between them.
fn rows(of: impl Fn(usize) -> Option<String>) -> String {
    let mut text = String::with_capacity(BYTES + (1 << 20));
    let filler = "lorem ipsum ".repeat(8000);
    for at in 0.. {
        if text.len() >= BYTES {
            return text;
        }
        let row = of(at).unwrap_or_else(|| format!("\"prompt\":\"What is {at}?\""));
        let blank = if at % 7 == 0 { "\n" } else { "" };
        writeln!(text, "{{{row},\"data\":\"{}\"}}{blank}", &filler[..90_000 + at % 5000]).unwrap();
    }
    text
}

#[test]
fn a_large_input_is_read_over_by_ranks_together_as_by_one() {
    let work = Work::instant(3);
    let priority = |at: usize| {
        (at % 100 == 3)
            .then(|| format!("\"id\":\"row {at}\",\"prompt\":\"Why {at}?\",\"priority\":2"))
    };
    let input = work.file("large.jsonl", rows(priority));
    let few = work.file("small.jsonl", "\"one more\"\n");
    let run = |output: &str| work.run_to(&input, output).args([&few, "--max-tokens", "4"]);
    let together = "input scan started";
    run("together.jsonl").ranks(3).run().with_code(0).complains(together);
    let alone = run("alone.jsonl").run().with_code(0);
    assert!(!alone.err.contains(together), "{}", alone.err);
    assert_equal(&work.answers("together.jsonl"), &work.answers("alone.jsonl"));
    for key in ["fingerprint", "rows", "counts"] {
        assert_eq!(
            work.manifest("together.jsonl")[key],
            work.manifest("alone.jsonl")[key],
            "{key}"
        );
    }
    assert_eq!(work.manifest("together.jsonl")["counts"]["open"], json!(0));
}

#[test]
fn what_is_wrong_with_a_large_input_is_said_once_and_with_its_lines() {
    let work = Work::instant(1);
    // One bad row in each piece, and an id that stands in the first and in the last.
    let wrong = |at: usize| match at {
        10 | 800 | 1600 => Some("\"promt\":1".to_owned()),
        _ => None,
    };
    let said = |name: &str, ranks: Option<usize>, words: &str| {
        let job = work.run(&work.path(name).to_string_lossy());
        let ended = match ranks {
            None => job.run(),
            Some(ranks) => job.ranks(ranks).run(),
        };
        let ended = ended.with_code(5);
        assert!(!work.has("answers.jsonl.run"), "{}", ended.err);
        assert_eq!(ended.err.matches(words).count(), 1, "{}", ended.err);
        let begin = ended.err.find(words).expect("it was just counted");
        // (what a launcher adds begins with a ruler)
        let ours = ended.err[begin..].lines().take_while(|line| !line.starts_with("----"));
        ours.take(5).collect::<Vec<_>>().join("\n")
    };
    work.file("bad.jsonl", rows(wrong));
    let alone = said("bad.jsonl", None, "3 invalid rows (nothing was sent):");
    // Rows with the same fault share a line.
    assert!(alone.contains("lines 13, 916, 1830:"), "{alone}");
    assert_eq!(said("bad.jsonl", Some(3), "3 invalid rows (nothing was sent):"), alone);

    // A row that has no end ends the scan in the middle.
    let mut text = rows(|_| None);
    text.insert_str(70 << 20, &"x".repeat(70 << 20));
    work.file("long.jsonl", text);
    let words = "the row is longer than 64 MiB";
    assert_eq!(said("long.jsonl", Some(3), words), said("long.jsonl", None, words));
}
