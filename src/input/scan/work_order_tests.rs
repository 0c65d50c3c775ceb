//! Tests of the order of work against its rules.

use proptest::prelude::*;

use super::sort_keys::{SortKey, SortKeys, SortKeysBuilder};

/// A row to generate: its text, its priority and the exact length of its answer, if given.
#[derive(Clone, Debug)]
struct RowSpec {
    length: usize,
    text: u8,
    priority: i64,
    given: Option<u64>,
    bad: bool,
}

fn any_row() -> impl Strategy<Value = RowSpec> {
    let length = prop_oneof![0_usize..2000, Just(600), Just(2500), Just(9000)];
    let priority = prop_oneof![8 => Just(0), 1 => -2_i64..3];
    let given = prop::option::weighted(0.2, 0_u64..4000);
    (length, 0_u8..12, priority, given, prop::bool::weighted(0.05)).prop_map(
        |(length, text, priority, given, bad)| RowSpec { length, text, priority, given, bad },
    )
}

fn sort_keys_of(rows: &[RowSpec]) -> SortKeys {
    let mut keys = SortKeysBuilder::default();
    for row in rows {
        if row.bad {
            keys.add_bad_row();
            continue;
        }
        let given = row.given.map(|tokens| tokens.to_string());
        let param = |name: &str| match name {
            "ignore_eos" => given.as_ref().map(|_| "true"),
            "max_tokens" => given.as_deref(),
            _ => None,
        };
        let text = char::from(b'a' + row.text).to_string().repeat(row.length);
        keys.add_row(&text, row.priority, param);
    }
    keys.finish()
}

fn row_of_length(length: usize) -> RowSpec {
    RowSpec { length, text: 0, priority: 0, given: None, bad: false }
}

fn rows_of_lengths(lengths: &[usize]) -> Vec<RowSpec> {
    lengths.iter().map(|&length| row_of_length(length)).collect()
}

fn work_order_of(rows: &[RowSpec]) -> Option<Vec<u32>> {
    sort_keys_of(rows).work_order(rows.len() as u64, |_| true)
}

#[test]
fn long_prompts_go_first_and_exact_answer_lengths_compare_with_prompt_lengths() {
    assert_eq!(work_order_of(&rows_of_lengths(&[100, 400, 100, 403])), Some(vec![1, 3, 0, 2]));
    let mut rows = rows_of_lengths(&[400, 400, 400]);
    rows[1].given = Some(4000);
    rows[2].given = Some(2);
    assert_eq!(work_order_of(&rows), Some(vec![1, 0, 2]), "100 tokens stand for the first");
}

#[test]
fn priorities_come_first_and_prefix_groups_stay_together() {
    let mut rows = rows_of_lengths(&[100, 300, 100, 300]);
    (rows[0].priority, rows[1].priority) = (2, -1);
    assert_eq!(work_order_of(&rows), Some(vec![0, 3, 2, 1]));
    // The two rows of a group are placed where its first row is; the longer one goes first.
    let mut rows = rows_of_lengths(&[700, 1800, 520, 1000]);
    (rows[1].text, rows[3].text) = (1, 2);
    assert_eq!(work_order_of(&rows), Some(vec![1, 3, 0, 2]));
    rows[2].length = 1900;
    assert_eq!(work_order_of(&rows), Some(vec![1, 3, 2, 0]));
}

#[test]
fn uniform_rows_keep_the_order_of_the_input() {
    assert_eq!(work_order_of(&[]), None);
    let lengths: Vec<usize> = (0..3000).map(|at| 256 + at % 254).collect();
    assert_eq!(work_order_of(&rows_of_lengths(&lengths)), None, "within a factor of two");
    let mut rows = rows_of_lengths(&lengths);
    rows[7].length = 16;
    rows[9].bad = true;
    assert_eq!(work_order_of(&rows), None, "one in a thousand may differ");
    rows.iter_mut().skip(20).step_by(500).for_each(|row| row.length = 16);
    assert!(work_order_of(&rows).is_some());
    rows.iter_mut().for_each(|row| *row = RowSpec { priority: 3, ..row_of_length(200) });
    assert_eq!(work_order_of(&rows), None, "of one priority, whatever it is");
    rows[1].priority = 4;
    assert_eq!(work_order_of(&rows).unwrap()[..3], [1, 0, 2]);
    assert_eq!(
        sort_keys_of(&rows).work_order(rows.len() as u64, |row| row != 1),
        None,
        "it is done already"
    );
    assert_eq!(
        work_order_of(&rows_of_lengths(&[4000, 1000, 200])),
        None,
        "that is the order already"
    );
}

proptest! {
    #[test]
    fn the_order_contains_the_open_rows_and_follows_its_rules(
        rows in prop::collection::vec(any_row(), 0..120),
        done in prop::collection::vec(any::<bool>(), 120),
        some_done: bool,
    ) {
        let keys = sort_keys_of(&rows);
        let is_open = |row: u64| !some_done || !done[row as usize];
        let open: Vec<u32> = (0..rows.len() as u32).filter(|&row| is_open(row.into())).collect();
        let Some(order) = keys.work_order(rows.len() as u64, is_open) else {
            let priorities: Vec<_> = open.iter().map(|&row| keys.row_priority(row.into())).collect();
            prop_assert!(priorities.is_sorted_by(|one, next| one >= next), "{priorities:?}");
            return Ok(());
        };
        let mut sorted = order.clone();
        sorted.sort_unstable();
        prop_assert_eq!(&sorted, &open, "a permutation of the open rows");
        for (&row, its) in open.iter().zip(open.iter().map(|&row| &rows[row as usize])) {
            prop_assert_eq!(keys.row_priority(row.into()), if its.bad { 0 } else { its.priority });
        }

        let of: Vec<SortKey> = keys.iter_keys().collect();
        let middle = |key: &SortKey| key.class.map_or(0.0, crate::domain::LengthClass::typical_length);
        // The rules, stated directly: a group is placed at its first open row's position, groups before other rows and
        // in the order of their first rows, then by index.
        let mut expected: Vec<u32> = open.clone();
        expected.sort_by(|&one, &other| {
            let rank = |row: u32| {
                let key = of[row as usize];
                let first = match key.prefix_group {
                    0 => row,
                    family => *open.iter().find(|&&it| of[it as usize].prefix_group == family).unwrap(),
                };
                let class = (-middle(&of[first as usize]), key.prefix_group == 0, key.prefix_group);
                (-keys.row_priority(row.into()), class, -middle(&key), row)
            };
            rank(one).partial_cmp(&rank(other)).unwrap()
        });
        prop_assert_eq!(order, expected);
    }
}

/// A measurement: `cargo test --release --lib scan::work_order_tests::work_order_speed -- --ignored --nocapture`.
#[test]
#[ignore = "it means something in release only"]
fn work_order_speed() {
    use std::io::Write as _;
    let say = |what: &str, seconds: f64| {
        writeln!(std::io::stderr(), "{what}: {seconds:.2} s").unwrap();
    };
    for (what, least, groups, priorities) in [
        ("mixed lengths", 50, 1, false),
        ("pairs of long texts", 520, 5_000_000, false),
        ("many priorities", 50, 1, true),
    ] {
        let mut keys = SortKeysBuilder::default();
        let mut text = "x".repeat(4000);
        for row in 0..10_000_000_u64 {
            let length = least + (row * 7919 % 1400) as usize;
            let group = format!("{:08}", row * 7_368_787 % groups);
            text.replace_range(..8, &group);
            keys.add_row(
                &text[..length],
                if priorities { (row * 7919 % 1000) as i64 } else { 0 },
                |_| None,
            );
        }
        let begin = std::time::Instant::now();
        let keys = keys.finish();
        say(&format!("{what}: families"), begin.elapsed().as_secs_f64());
        let begin = std::time::Instant::now();
        let order = keys.work_order(10_000_000, |_| true);
        say(
            &format!("{what}: order of {:?}", order.map(|it| it.len())),
            begin.elapsed().as_secs_f64(),
        );
    }
}
