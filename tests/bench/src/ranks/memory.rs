//! Millions of prompts on four ranks: how much memory rank 0 and the others come to hold, and how long it all takes.
//!
//! Neither input nor answers are ever held here: the one is written row by row, the other is read so. It owns the disk's
//! part too: what a run needs is worked out first, and a disk without room for twice that is refused.

use super::RANKS;
use crate::case::first_request;
use crate::check;
use crate::flags::{ALWAYS, LISTS_OF_64, LOG_OF_RANKS, owned};
use crate::product::{Launch, Start};
use crate::scenario::{Bar, Bench, Broken, Figures, Row, Scenario, Size};
use crate::servers::Servers;
use crate::work::{self, Coster, Prompt};
use serde_json::json;
use std::path::Path;
use std::time::Duration;
use vllm_sim::Lengths;
use vllm_sim::cache::mix;

/// A row of input: the prompt and what JSON adds.
const INPUT_ROW: u64 = 114;
/// An answer's line, rather too long: the prompt again, a token, and who answered. It stands in a shard file and in the
/// output.
const ANSWER_ROW: u64 = 440;

pub fn scenarios(size: Size) -> Vec<Scenario> {
    vec![
        scenario(
            "memory-1m",
            "1 million prompts of 100 characters",
            "With the ten millions it tells what a prompt costs rank 0 from what a rank costs before \
             it has any.",
            size.pick(1_000_000, 20_000),
            false,
        ),
        scenario(
            "memory-10m",
            "10 million prompts of 100 characters",
            "The design's number. Answers of one token, in lists of 64, from servers that answer at \
             once: nothing but the number of prompts is large. 1.1 GB of input, about 4 GB of shard \
             files and as much of output. Measured once: minutes long, and peaks do not vary.",
            size.pick(10_000_000, 50_000),
            true,
        ),
    ]
}

fn scenario(
    name: &'static str,
    title: &'static str,
    why: &'static str,
    prompts: usize,
    once: bool,
) -> Scenario {
    let arguments = arguments();
    Scenario {
        name,
        title,
        why,
        rows: vec![
            Row::of("rank0_rss_mb", "peak memory of rank 0", "MB")
                .bar(Bar::AtMost(128.0 + 24e-6 * prompts as f64)),
            Row::of("others_rss_mb", "peak memory, largest rank but 0", "MB")
                .bar(Bar::AtMost(128.0)),
            Row::of("process_s", "mpiexec to its end", "s"),
            Row::of("prompts_per_s", "prompts/s, first request to last answer", ""),
            Row::of("scan_s", "scan", "s"),
            Row::of("gather_s", "gather", "s"),
            Row::of("served", "served / N", ""),
        ],
        once,
        parameters: json!({
            "servers": servers().args(), "prompts": prompts, "ranks": RANKS, "product": arguments,
            "disk_bytes": needed(prompts),
        }),
        measure: Box::new(move |bench| measure(bench, prompts, &arguments)),
    }
}

pub(super) fn servers() -> Servers {
    let mut servers = Servers::even(RANKS, Lengths::Fixed(8));
    servers.instant = true;
    servers
}

pub(super) fn arguments() -> Vec<String> {
    [ALWAYS, LISTS_OF_64, LOG_OF_RANKS, &["--max-tokens", "1"]]
        .into_iter()
        .flat_map(owned)
        .collect()
}

/// A hundred characters, of which the first are like no other prompt's: no two have a head in common.
pub(super) fn prompt(at: u64) -> Prompt {
    const REST: &str =
        " what is it that a great many short questions have in common with a long one? Answer me.";
    Prompt::plain(format!("{:012x}{REST:.88}", mix(at, 0xA1) >> 16))
}

/// The bytes that a run's files come to.
fn needed(prompts: usize) -> u64 {
    prompts as u64 * (INPUT_ROW + 2 * ANSWER_ROW)
}

/// Refused, unless there is room for twice what is needed: others write there too.
pub(super) fn room(folder: &Path, prompts: usize) -> Result<(), Broken> {
    let disk = rustix::fs::statvfs(folder).map_err(Broken::at("how much room the disk has"))?;
    enough(disk.f_bavail * disk.f_frsize, needed(prompts), folder)
}

fn enough(free: u64, needed: u64, folder: &Path) -> Result<(), Broken> {
    let gb = |bytes: u64| bytes as f64 / 1e9;
    (free >= 2 * needed).then_some(()).ok_or_else(|| {
        Broken(format!(
            "{prompts:.1} GB of files are too much for {folder}, where {free:.1} GB are free: twice as much has to be \
             (TMPDIR names another place)",
            prompts = gb(needed),
            folder = folder.display(),
            free = gb(free),
        ))
    })
}

fn measure(bench: &Bench, prompts: usize, arguments: &[String]) -> Result<Figures, Broken> {
    let folder = tempfile::tempdir().map_err(Broken::at("a folder for the run"))?;
    room(folder.path(), prompts)?;
    let (input, answers) = (folder.path().join("input.jsonl"), folder.path().join("answers.jsonl"));
    work::write((0..prompts as u64).map(prompt), &input)
        .map_err(Broken::at("writing the input"))?;
    let servers = servers();
    let coster = Coster::new(servers.policy(), 1);
    let running = servers.start(bench)?;
    let urls: Vec<&str> = running.urls.iter().map(String::as_str).collect();
    let ran = Start {
        command: "run",
        folder: folder.path(),
        input: &input,
        answers: &answers,
        urls: &urls,
        arguments,
        launch: Launch::Watched(RANKS),
        // Ten times as slow as two cores are.
        deadline: Duration::from_secs(120 + prompts as u64 / 2_000),
    }
    .run(bench, || ())?;
    let seen = running.finish()?;
    check::all_answered(&answers, prompts, |at| prompt(at as u64), &coster)?;
    let first = first_request(&seen);
    let last = seen.iter().map(|s| s.last_answer_us).max().unwrap_or_default() as f64 / 1e6;
    let served: u64 = seen.iter().map(|s| s.served).sum();
    let output = answers.metadata().map_err(Broken::at("the answers"))?.len();
    let mut figures = ran.costs();
    figures.extend(ran.stations(first));
    let more = [
        ("output_mb", output as f64 / 1e6),
        ("process_s", ran.ended.wall.as_secs_f64()),
        ("prompts_per_s", prompts as f64 / (last - first)),
        ("served", served as f64 / prompts as f64),
    ];
    figures.extend(more.map(|(name, figure)| (name.to_owned(), figure)));
    Ok(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_has_a_hundred_characters_and_a_head_of_its_own() {
        let heads: std::collections::HashSet<String> =
            (0..2000).map(|at| prompt(at).text[..12].to_owned()).collect();
        assert_eq!(heads.len(), 2000);
        assert!((0..100).all(|at| prompt(at).text.len() == 100));
    }

    #[test]
    fn a_disk_without_room_for_twice_as_much_is_refused() {
        let place = Path::new("/somewhere");
        assert_eq!(enough(20, 10, place), Ok(()));
        let refused = enough(19_000_000_000, 10_000_000_000, place).unwrap_err().0;
        assert!(refused.contains("10.0 GB") && refused.contains("19.0 GB"), "{refused}");
        assert!(needed(10_000_000) < 11_000_000_000);
    }
}
