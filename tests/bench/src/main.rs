//! The program: which benchmarks run, how often, and where their figures go.
//!
//! It owns flags, the order of runs and the exit code: a missed bar is a figure and no failure, a
//! broken scenario (wrong counts, a crash, a deadline) is one. It knows no scenario.
#![allow(unreachable_pub, reason = "a program has no outside: `pub` is what a module shows others")]

mod case;
mod check;
mod child;
mod engine;
mod flags;
mod http;
mod launch;
mod lengths;
mod machine;
mod product;
mod ranks;
mod reduce;
mod report;
mod scenario;
mod schedule;
mod servers;
mod stats;
mod watch;
mod work;

use clap::Parser;
use scenario::{Bench, Done, Repeat, Scenario, Size};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// A suite: its name and its scenarios. A further suite is a further line.
type Suite = (&'static str, fn(Size) -> Vec<Scenario>);
const SUITES: &[Suite] =
    &[("engine", engine::scenarios), ("ranks", ranks::scenarios), ("reduce", reduce::scenarios)];

/// Whole processes of aurora-swarm against simulated servers, held against the design's bars.
#[derive(Parser)]
#[command(version)]
struct Flags {
    /// Which suite.
    #[arg(default_value = "engine", value_parser = SUITES.iter().map(|(name, _)| *name).collect::<Vec<_>>())]
    suite: String,
    /// Once each and smaller: to see that everything works, not for figures.
    #[arg(long)]
    quick: bool,
    /// Only scenarios whose name contains this; again for more.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// How often each scenario is measured (some that take very long: once).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeats: Option<u32>,
    /// Where all figures go, as JSON; default: bench/SUITE.json beside the programs' folder.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Name the scenarios and say how large they are, and why; measure nothing.
    #[arg(long)]
    list: bool,
    /// A word on what is measured, for the JSON file.
    #[arg(long, default_value = "")]
    label: String,
    /// The folder of the programs `aurora-swarm` and `vllm-sim`; default: where this one is.
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
}

fn main() -> ExitCode {
    // What this program starts itself as, for its own ends; nobody else has to know.
    match std::env::args().nth(1).as_deref() {
        Some(watch::NAME) => return watch::main(),
        Some(ranks::PLAY) => return ranks::play(),
        _ => {}
    }
    let flags = Flags::parse();
    match run(&flags) {
        Ok(broken) if broken.is_empty() => ExitCode::SUCCESS,
        Ok(broken) => {
            eprintln!("bench: broken: {}", broken.join(", "));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the suite and returns the names of the broken scenarios.
fn run(flags: &Flags) -> Result<Vec<String>, String> {
    let size = if flags.quick { Size::Quick } else { Size::Full };
    let suite = SUITES.iter().find(|(name, _)| *name == flags.suite).ok_or("no such suite")?;
    let mut scenarios = suite.1(size);
    scenarios.retain(|s| flags.only.is_empty() || flags.only.iter().any(|o| s.name.contains(o)));
    if scenarios.is_empty() {
        return Err(format!("no scenario is called like {:?} (--list names them)", flags.only));
    }
    if flags.list {
        for scenario in &scenarios {
            println!("{}: {}\n    {}", scenario.name, scenario.title, scenario.why);
        }
        return Ok(Vec::new());
    }
    let own = own_folder()?;
    let bench = Bench { programs: programs(flags, &own)?, own };
    let repeats = flags.repeats.unwrap_or(if flags.quick { 1 } else { 3 });
    let name = format!("{}{}.json", flags.suite, if flags.quick { "-quick" } else { "" });
    let out =
        flags.out.clone().unwrap_or_else(|| bench.programs.with_file_name("bench").join(name));
    let machine = machine::facts(&bench);
    let mut done = Vec::new();
    for scenario in scenarios {
        eprintln!("{}: {}", scenario.name, scenario.title);
        let repeats = if scenario.once { 1 } else { repeats };
        let repeats = (1..=repeats).map(|nth| measure(&bench, &scenario, nth, repeats)).collect();
        done.push(Done { scenario, repeats });
        // After each scenario: what was measured is not lost when a later one is interrupted.
        write(&out, &report::json(&flags.suite, &flags.label, size, &machine, &done))?;
    }
    print!("{}", report::table(&done));
    if flags.quick {
        println!("(--quick: the bars are for full sizes, and these are not)");
    }
    println!("everything is in {}", out.display());
    Ok(done.iter().filter(|d| d.broken()).map(|d| d.scenario.name.to_owned()).collect())
}

fn measure(bench: &Bench, scenario: &Scenario, nth: u32, of: u32) -> Repeat {
    let load_before = machine::load();
    let began = Instant::now();
    let outcome = (scenario.measure)(bench);
    let repeat = Repeat { load_before, seconds: began.elapsed().as_secs_f64(), outcome };
    eprintln!("  {nth}/{of} {}", report::in_short(scenario, &repeat));
    repeat
}

fn own_folder() -> Result<PathBuf, String> {
    let me = std::env::current_exe().map_err(|e| format!("who am I? {e}"))?;
    Ok(me.parent().map(Path::to_owned).unwrap_or_default())
}

fn programs(flags: &Flags, own: &Path) -> Result<PathBuf, String> {
    let folder = flags.programs.clone().unwrap_or_else(|| own.to_owned());
    // A launcher starts programs, and does not look where this one was told to.
    let folder = std::path::absolute(&folder).unwrap_or(folder);
    match ["aurora-swarm", "vllm-sim"].iter().find(|name| !folder.join(name).exists()) {
        Some(name) => Err(format!("there is no {name} in {}", folder.display())),
        None => Ok(folder),
    }
}

fn write(path: &Path, json: &serde_json::Value) -> Result<(), String> {
    let write = || {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, format!("{json:#}\n"))
    };
    write().map_err(|e| format!("{} cannot be written: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_scenario_has_a_name_of_its_own_in_its_suite_and_says_why() {
        for (suite, scenarios) in SUITES {
            for size in [Size::Full, Size::Quick] {
                let all = scenarios(size);
                let names: HashSet<&str> = all.iter().map(|s| s.name).collect();
                assert_eq!(names.len(), all.len(), "{suite}");
                assert!(all.iter().all(|s| !s.why.is_empty() && !s.rows.is_empty()), "{suite}");
            }
        }
    }
}
