//! Tests that the chunks do not show in the result: chunks of any size, scanned independently, give the result of one.

use std::{fs, path::Path};

use proptest::prelude::*;

use crate::input::*;

/// Scans in chunks of `bytes` bytes. Chunk scans are serialised, as they are between ranks.
fn scan_in_chunks(
    input: &InputListing,
    rules: &InputRules,
    bytes: u64,
) -> Result<ScannedInput, InputError> {
    let mut scan = InputScan::new(input, rules)?;
    let chunks = input.split_chunks_of(bytes);
    // In reverse, because a rank that scans a later chunk knows nothing of the earlier ones.
    let scans: Vec<ChunkScan> =
        chunks.iter().rev().map(|chunk| chunk.scan_rows(input, rules)).collect();
    for scanned in scans.iter().rev() {
        let json = serde_json::to_string(scanned).expect("plain data");
        scan.add_chunk(serde_json::from_str(&json).expect("the same value"))?;
    }
    scan.finish()
}

/// Formats everything in a scan's result for comparison.
fn describe_scan(scanned: &ScannedInput) -> String {
    let ScannedInput {
        source,
        table,
        keys,
        first_prompt: first,
        data_columns: data,
        row_params,
        answer_tokens,
        unlimited_rows,
        models,
        notes,
        bad_rows: bad,
    } = scanned;
    let path = |file: u32| source.files.get(file as usize).map(|file| file.path.as_path());
    let rows: Vec<_> = (0..source.rows)
        .map(|row| (table.row_ranges(row, row + 1), table.locate_line(row, path).unwrap()))
        .collect();
    let all: Vec<_> = keys.iter_keys().collect();
    let priorities: Vec<_> = (0..source.rows).map(|row| keys.row_priority(row)).collect();
    let order = keys.work_order(source.rows, |_| true);
    let is_good = |row: &u64| all[*row as usize].class.is_some();
    let numbers = (0..source.rows).filter(is_good).map(|row| models.number_of_row(row));
    let models = (models.named().to_vec(), numbers.collect::<Vec<_>>());
    format!(
        "{source:#?}\n{rows:?}\n{all:?}\n{priorities:?}\n{order:?}\n{first:?}\n{data:?}\n{row_params:?}\n{answer_tokens} {unlimited_rows}\n{models:?}\n{notes:?}\n{bad:?}"
    )
}

fn any_row() -> impl Strategy<Value = String> {
    let prompt = |name: &str, value: &str| format!("{{\"prompt\":\"x\",\"{name}\":{value}}}");
    prop_oneof![
        4 => "[a-zé{} \t\r]{0,12}",
        4 => "\"[a-zé]{0,8}\"",
        4 => (0_u32..60, "[a-zé]{0,9}")
            .prop_map(|(id, text)| format!("{{\"id\":{id},\"prompt\":\"{text}\"}}")),
        2 => (-2_i64..3).prop_map(move |priority| prompt("priority", &priority.to_string())),
        2 => (0_u32..3, 500_usize..600)
            .prop_map(|(text, length)| format!("\"{}\"", text.to_string().repeat(length))),
        1 => "[km]".prop_map(move |name| prompt("model", &format!("\"{name}\""))),
        1 => Just(prompt("stream", "true")),
        1 => Just("{\"messages\":[{\"role\":\"user\"}],\"max_tokens\":4}".to_owned()),
        1 => Just("{\"prompt\":3}".to_owned()),
        1 => Just("{\"prompt\":[3, 4],\"max_tokens\":2,\"score\":NaN}".to_owned()),
        1 => Just("{\"prompt\":\"\\ud83d\",\"max_token\":2}".to_owned()),
        1 => Just("{\"custom_id\":\"b\",\"method\":\"POST\",\"url\":\"/v1/completions\",\"body\":{\"prompt\":\"x\"}}".to_owned()),
        1 => Just("{\"q\":3}".to_owned()),
        3 => Just(String::new()),
    ]
}

fn any_rules() -> impl Strategy<Value = InputRules> {
    let template = prop_oneof![
        4 => Just(None),
        1 => Just(Some("{{prompt}}".to_owned())),
        1 => Just(Some("{{nobody}} {item}".to_owned())),
    ];
    let fail = prop::bool::weighted(0.7);
    let keep = prop::bool::weighted(0.7);
    (template, fail, keep, any::<bool>()).prop_map(|(template, fail, keep, ignore_row_model)| {
        InputRules {
            template,
            ignore_row_model,
            bad_rows: if fail { BadRowAction::Fail } else { BadRowAction::Stop },
            duplicate_ids: if keep { DuplicateIdAction::Keep } else { DuplicateIdAction::Refuse },
            ..InputRules::default()
        }
    })
}

fn listing_of(folder: &Path, files: &[(&str, &str)], block: u64) -> InputListing {
    let write = |&(name, text): &(&str, &str)| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        InputFile::new(path.clone(), tests::layout_of(&path))
    };
    let files: Vec<_> = files.iter().map(write).collect();
    InputListing { block, ..InputListing::new(&files).unwrap() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(250))]

    #[test]
    fn any_partition_into_chunks_gives_the_result_of_one_chunk(
        rows in prop::collection::vec(any_row(), 0..40),
        more in prop::collection::vec(any_row(), 0..20),
        end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
        mark: bool,
        torn: bool,
        rules in any_rules(),
        block in 4_u64..300,
        chunk_sizes in prop::collection::vec(1_u64..900, 3),
    ) {
        let mut text = rows.join(end);
        if mark { text.insert(0, '\u{feff}'); }
        if !torn { text.push_str(end); }
        let table = format!("prompt,id{end}a,1{end}\"b\nc\",2{end}");
        let more = more.join(end);
        let tabs = format!("prompt\tid{end}\"a\t1{end}\"b{end}c\"\t2{end}{end}\"d{end}");
        let files = [
            ("a.jsonl", text.as_str()), ("b.csv", &table), ("c.txt", &more), ("d.jsonl", ""), ("e.tsv", &tabs),
        ];
        let folder = tempfile::tempdir().unwrap();
        let input = listing_of(folder.path(), &files, block);
        let whole = scan_in_chunks(&input, &rules, u64::MAX / 2);
        for bytes in chunk_sizes {
            let apart = scan_in_chunks(&input, &rules, bytes);
            match (&whole, &apart) {
                (Ok(whole), Ok(apart)) => prop_assert_eq!(describe_scan(whole), describe_scan(apart)),
                (Err(whole), Err(apart)) => prop_assert_eq!(whole.to_string(), apart.to_string()),
                (whole, apart) => prop_assert!(false, "{:?}\n{:?}", whole.is_ok(), apart.is_ok()),
            }
        }
    }
}

#[test]
fn a_row_across_chunks_belongs_to_the_chunk_it_begins_in() {
    let folder = tempfile::tempdir().unwrap();
    let long = "y".repeat(100);
    let input = listing_of(folder.path(), &[("a.txt", &format!("x\n{long}\n\nz"))], 4);
    let scanned = scan_in_chunks(&input, &InputRules::default(), 4).unwrap();
    assert_eq!(input.split_chunks_of(4).len(), 27);
    let places: Vec<_> =
        scanned.table.row_ranges(0, 1).into_iter().chain(scanned.table.row_ranges(1, 3)).collect();
    assert_eq!((places[0].offset, places[1].offset, scanned.source.rows), (0, 2, 3));
    let line = scanned.table.locate_line(2, |_| Some(&scanned.source.files[0].path)).unwrap();
    assert_eq!(line, (0, 4));
}

#[test]
fn a_file_that_changes_between_chunks_is_detected() {
    let folder = tempfile::tempdir().unwrap();
    let input = listing_of(folder.path(), &[("a.txt", "one\ntwo\nthree\n")], 4);
    assert!(input.is_visible());
    let (chunks, rules) = (input.split_chunks_of(4), InputRules::default());
    let mut scan = InputScan::new(&input, &rules).unwrap();
    scan.add_chunk(chunks[0].scan_rows(&input, &rules)).unwrap();
    fs::write(&input.files[0].path, "one\ntwo\nthree\nfour\n").unwrap();
    assert!(!input.is_visible());
    let error = scan.add_chunk(chunks[1].scan_rows(&input, &rules)).unwrap_err().to_string();
    assert!(error.contains("a.txt has changed since the scan"), "{error}");
}

#[test]
fn chunks_are_multiples_of_blocks_and_tables_are_one_chunk() {
    let file = |name: &str, size| files::ListedFile {
        path: name.into(),
        name: name.into(),
        layout: tests::layout_of(Path::new(name)),
        unit: RowUnit::Line,
        partition: Vec::new(),
        size,
        mtime: 0,
        batch: false,
    };
    let block = fingerprint::BLOCK_BYTES;
    let files = vec![file("a.txt", 100 * block + 1), file("b.csv", 100 * block), file("c.txt", 0)];
    let input = InputListing { files, block };
    let chunks = input.split_chunks();
    assert_eq!(
        chunks.iter().map(|chunk| chunk.file).collect::<Vec<_>>(),
        [&[0; 26][..], &[1, 2]].concat()
    );
    assert!(chunks.iter().all(|chunk| chunk.from.is_multiple_of(block)));
    assert_eq!(chunks.iter().map(|chunk| chunk.to - chunk.from).sum::<u64>(), input.total_bytes());
}
