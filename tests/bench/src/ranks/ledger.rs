//! Rank 0's book at the size of the whole machine: how much it would hear, what its calls cost, and whether ranks end
//! together.
//!
//! It starts the play in a process of its own and reads its figures.

use super::play::NAME;
use crate::child;
use crate::scenario::{Bench, Broken, Figures, Row, Scenario, Size};
use serde_json::{Value, json};
use std::fs::{File, read_to_string};
use std::process::{Command, Stdio};
use std::time::Duration;

pub fn scenarios(size: Size) -> Vec<Scenario> {
    let (ranks, prompts, slots) = size.pick((120_000, 100_000_000, 12), (1_200, 300_000, 12));
    vec![Scenario {
        name: "ledger",
        title: "the book alone: 120,000 ranks, 100 million prompts",
        why: "All nodes of the machine with a rank for each of their twelve tiles, and 833 prompts for \
              each rank. Twelve slots a rank are few: more would mean fewer messages a prompt. A prompt \
              takes 2 to 6 s on the fastest rank and up to 2.5 times as long on the slowest, so that a \
              rank asks more rarely than its report of every 5 s is due, until leases shrink at the \
              end. Without a network: a message takes no time. Once: the play is always the same.",
        rows: vec![
            Row::of("share", "share of the bound", ""),
            Row::of("idle_share", "a slot's idle time, of the bound", ""),
            Row::of("messages", "messages", ""),
            Row::of("messages_per_prompt", "messages a prompt", ""),
            Row::of("messages_per_s", "messages/s at rank 0", ""),
            Row::of("worst_messages_per_s", "messages in the worst second", ""),
            Row::of("worst_second_s", "when that is", "s").bound("end_s"),
            Row::of("worst_busy", "the book's CPU in the worst second", "s"),
            Row::of("ns_a_grant", "a grant", "ns"),
            Row::of("ns_a_settle", "a settle", "ns"),
            Row::of("ns_a_settled_prompt", "settling, a prompt", "ns"),
            Row::of("ledger_s", "the book's CPU in all", "s"),
            Row::of("memory_mb", "the book's memory", "MB"),
        ],
        once: true,
        parameters: json!({"ranks": ranks, "prompts": prompts, "slots": slots}),
        measure: Box::new(move |bench| measure(bench, [ranks, prompts, slots])),
    }]
}

fn measure(bench: &Bench, job: [u32; 3]) -> Result<Figures, Broken> {
    let folder = tempfile::tempdir().map_err(Broken::at("a folder for the play"))?;
    let said = folder.path().join("said.json");
    let file = File::create(&said).map_err(Broken::at("a file for the play"))?;
    let mut command = Command::new(bench.own.join("bench"));
    command.arg(NAME).args(job.map(|number| number.to_string())).stdin(Stdio::null()).stdout(file);
    let limit = Duration::from_secs(1_800);
    let ended = child::run(&mut command, limit, limit, || ())
        .map_err(Broken::at("the play cannot be started"))?;
    let text = read_to_string(&said).unwrap_or_default();
    figures(&text).filter(|_| ended.code == Some(0)).ok_or_else(|| {
        Broken(format!("the play said {text:?}, exit code {:?}, late {}", ended.code, ended.late))
    })
}

/// None unless everything was settled.
fn figures(text: &str) -> Option<Figures> {
    let Value::Object(told) = serde_json::from_str(text).ok()? else { return None };
    let figures: Option<Figures> =
        told.into_iter().map(|(name, figure)| Some((name, figure.as_f64()?))).collect();
    figures.filter(|it| it.get("open") == Some(&0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_play_that_left_something_open_says_nothing() {
        assert_eq!(figures("{\"open\":0,\"share\":0.9}").unwrap()["share"], 0.9);
        assert_eq!(figures("{\"open\":1,\"share\":0.9}"), None);
        assert_eq!(figures(""), None);
    }
}
