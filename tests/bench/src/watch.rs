//! One rank, watched from beside: a command that is started in the rank's place, which starts the program and writes
//! down what it has cost.
//!
//! Launchers differ in whether their own resource usage holds their ranks', and none tells one rank from another. A child
//! of the launcher's child is a rank all the same: it inherits the environment and the open files by which MPI finds the
//! others. A program without a launcher is watched too: the kernel counts the memory of the process that a program was
//! started from as the program's own, and this one is small where the bench holds all prompts. It owns that command and
//! its files.

use crate::child;
use crate::scenario::Broken;
use rustix::process::{Signal, set_parent_process_death_signal};
use serde_json::{Value, json};
use std::fs::read_to_string;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

/// What the command is called on this program's command line: `watch-rank FOLDER PROGRAM ARGUMENTS…`.
pub const NAME: &str = "watch-rank";

/// What a rank has cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Usage {
    pub cpu_s: f64,
    pub peak_rss_mb: f64,
}

/// The command.
pub fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(2).collect();
    let [folder, program, arguments @ ..] = words.as_slice() else { return ExitCode::from(2) };
    match watch(Path::new(folder), program, arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("bench {NAME}: {program}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn watch(folder: &Path, program: &str, arguments: &[String]) -> io::Result<u8> {
    // A launcher that is killed ends its ranks, or (Open MPI's) leaves that to MPI, which this process never starts.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let rank = ["PMI_RANK", "OMPI_COMM_WORLD_RANK", "PALS_RANKID", "PMIX_RANK"];
    let rank = rank.iter().find_map(|name| std::env::var(name).ok());
    let rank = rank.unwrap_or_else(|| "0".to_owned());
    let mut command = Command::new(program);
    command.args(arguments);
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe {
        // Whoever ends this rank knows of this process only.
        command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
    }
    let ended = child::run(&mut command, Duration::MAX, Duration::MAX, || ())?;
    let cost = json!({"cpu_s": ended.cpu.as_secs_f64(), "peak_rss_bytes": ended.peak_rss_bytes});
    std::fs::write(folder.join(format!("{rank}.json")), cost.to_string())?;
    // As a shell says that a signal has ended it.
    Ok(ended.code.map_or(128 + 9, |code| code as u8))
}

/// What was written down of so many ranks, in their order.
pub fn read(folder: &Path, ranks: usize) -> Result<Vec<Usage>, Broken> {
    let one = |rank: usize| {
        let path = folder.join(format!("{rank}.json"));
        let text = read_to_string(path).map_err(Broken::at("what a rank has cost"))?;
        usage(&text).ok_or_else(|| Broken(format!("rank {rank} has cost {text:?}")))
    };
    (0..ranks).map(one).collect()
}

fn usage(text: &str) -> Option<Usage> {
    let cost: Value = serde_json::from_str(text).ok()?;
    let peak_rss_mb = cost["peak_rss_bytes"].as_f64()? / 1e6;
    Some(Usage { cpu_s: cost["cpu_s"].as_f64()?, peak_rss_mb })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ranks_have_cost_is_read_in_their_order_and_none_may_be_missing() {
        let folder = tempfile::tempdir().unwrap();
        for (rank, bytes) in [(1, 2_000_000), (0, 1_000_000)] {
            let text = json!({"cpu_s": 0.5, "peak_rss_bytes": bytes}).to_string();
            std::fs::write(folder.path().join(format!("{rank}.json")), text).unwrap();
        }
        let read_back = read(folder.path(), 2).unwrap();
        assert_eq!(read_back[0], Usage { cpu_s: 0.5, peak_rss_mb: 1.0 });
        assert_eq!(read_back[1].peak_rss_mb, 2.0);
        assert!(read(folder.path(), 3).is_err());
    }
}
