//! The README and the manual, held against the program: commands exist as they are written, and shown output is printed.
//!
//! A fenced block with the tag `console` is run: lines that begin with `$ ` are commands (a line that ends with `\` goes on
//! in the next one), the lines below a command are its output, standard output and standard error together and without
//! the log's lines. `…` stands for any text, a line of its own for any number of lines. All blocks of a page run one after
//! the other in one new folder, beside four simulated servers that take the place of ports 8000 to 8003. A block with the
//! tag `sh` is not run, so each of its commands must need something that a test does not have.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{job::mpiexec, work::Work};

/// The seconds that a documented command may take.
const COMMAND_DEADLINE_S: u32 = 120;

/// Words of commands that need a batch system, several nodes, a GPU, or minutes of building or waiting. Scripts and batch
/// jobs have tests of their own.
const NOT_RUN: [&str; 8] = [
    "qsub",
    "srun",
    "#SBATCH",
    "--ppn 1",
    "vllm serve",
    "scripts/",
    "cargo ",
    "vllm-sim --port 8000",
];

/// How pages name the four servers.
const DOCUMENTED_SERVERS: &str = "--base-port 8000 --endpoints-per-node 4";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md and the manual, by name.
fn pages() -> Vec<(String, String)> {
    let mut paths = vec![root().join("README.md")];
    let manual = fs::read_dir(root().join("src/docs")).unwrap().map(|it| it.unwrap().path());
    paths.extend(manual.filter(|it| it.extension().is_some_and(|it| it == "md")));
    paths.sort();
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    let pages: Vec<_> =
        paths.iter().map(|it| (name(it), fs::read_to_string(it).unwrap())).collect();
    assert!(pages.len() > 20, "the manual is not where this test looks for it");
    pages
}

/// The fenced blocks of a page with this tag.
fn blocks<'p>(page: &'p str, tag: &str) -> Vec<Vec<&'p str>> {
    let mut found = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        if let Some(its_tag) = line.strip_prefix("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|it| !it.starts_with("```")).collect();
            if its_tag == tag {
                found.push(block);
            }
        }
    }
    found
}

/// Lines of a script, with continued lines joined and comments dropped.
fn joined_commands(lines: &[&str]) -> Vec<String> {
    let mut commands = vec![String::new()];
    for line in lines {
        let line = line.split(" # ").next().unwrap().trim_end();
        let (text, goes_on) = match line.strip_suffix('\\') {
            Some(text) => (text, true),
            None => (line, false),
        };
        let command = commands.last_mut().unwrap();
        command.push_str(text.trim_start());
        if goes_on {
            command.push(' ');
        } else {
            commands.push(String::new());
        }
    }
    commands
}

/// The long options of each command, as `--help` lists them.
fn options_in_help(command: &str) -> BTreeSet<String> {
    let mut program = Command::new(env!("CARGO_BIN_EXE_aurora-swarm"));
    program.args(command.split(' ')).arg("--help");
    let output = program.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "aurora-swarm {command} --help: {text}");
    long_options(&text).into_iter().collect()
}

fn long_options(text: &str) -> Vec<String> {
    let words = text.split(|it: char| !(it.is_ascii_alphanumeric() || it == '-'));
    let is_option = |it: &&str| it.starts_with("--") && it.len() > 3 && it.as_bytes()[2] != b'-';
    words.filter(is_option).map(str::to_owned).collect()
}

#[test]
fn documented_options_exist() {
    let mut known: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let (mut wrong, mut checked) = (Vec::new(), 0);
    for (name, page) in pages() {
        for block in blocks(&page, "sh").into_iter().chain(blocks(&page, "console")) {
            for command in joined_commands(&block) {
                let Some((_, tail)) = command.split_once("aurora-swarm ") else { continue };
                // Quoted text is for others (a server's command line, a template); what follows a pipe as well.
                let outside_quotes: String = tail.split('\'').step_by(2).collect();
                let own = outside_quotes.split(['|', '>', ';']).next().unwrap();
                let mut words = own.split_whitespace();
                let Some(mut subcommand) = words.next().map(str::to_owned) else { continue };
                if !subcommand.chars().all(|it| it.is_ascii_lowercase()) {
                    continue;
                }
                if subcommand == "bench" {
                    subcommand = format!("bench {}", words.next().unwrap_or("sweep"));
                }
                if matches!(subcommand.as_str(), "help" | "man" | "completions") {
                    continue;
                }
                let options =
                    known.entry(subcommand.clone()).or_insert_with(|| options_in_help(&subcommand));
                for option in long_options(own) {
                    checked += 1;
                    if !options.contains(&option) && option != "--help" {
                        wrong.push(format!("{name}: aurora-swarm {subcommand} has no {option}"));
                    }
                }
            }
        }
    }
    assert!(checked > 50, "only {checked} options were found in the pages");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn commands_that_can_be_run_are_run() {
    let mut wrong = Vec::new();
    for (name, page) in pages() {
        for block in blocks(&page, "sh") {
            if !NOT_RUN.iter().any(|word| block.iter().any(|line| line.contains(word))) {
                wrong.push(format!("{name}: {}", block.join("\n")));
            }
        }
    }
    assert!(wrong.is_empty(), "make console blocks of these:\n{}", wrong.join("\n"));
}

/// Whether a line of output is what a page shows: `…` stands for any text.
fn line_matches(shown: &str, printed: &str) -> bool {
    let (shown, printed) = (shown.trim_end(), printed.trim_end());
    let mut parts = shown.split('…');
    let Some(mut rest) = printed.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let tail: Vec<&str> = parts.collect();
    let Some((last, middle)) = tail.split_last() else { return rest.is_empty() };
    for part in middle {
        match rest.split_once(part) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    rest.ends_with(last)
}

fn output_matches(shown: &[&str], printed: &[&str]) -> bool {
    match shown.split_first() {
        None => printed.is_empty(),
        Some((line, below)) if line.trim() == "…" => {
            (0..=printed.len()).any(|skipped| output_matches(below, &printed[skipped..]))
        }
        Some((line, below)) => printed
            .split_first()
            .is_some_and(|(first, rest)| line_matches(line, first) && output_matches(below, rest)),
    }
}

#[test]
fn shown_output_is_compared_with_care() {
    assert!(line_matches("speed  … prompts/s", "speed  210 prompts/s  "));
    assert!(!line_matches("speed  … prompts/s", "speed  210 tokens/s"));
    assert!(output_matches(&["a", "…", "d"], &["a", "b", "c", "d"]));
    assert!(!output_matches(&["a", "d"], &["a", "b", "d"]));
    assert!(!output_matches(&[], &["more"]));
}

/// A log line begins with a time: `2026-…` in a file, `HH:MM:SS` on a terminal.
fn is_log_line(line: &str) -> bool {
    let bytes = line.as_bytes();
    bytes.len() > 20
        && bytes[..4].iter().all(u8::is_ascii_digit)
        && bytes[4] == b'-'
        && bytes[10] == b'T'
}

/// Runs a command as a page writes it, and returns what it prints, without the log.
fn run_documented(command: &str, work: &Work, servers: &str) -> String {
    let binaries = Path::new(env!("CARGO_BIN_EXE_aurora-swarm")).parent().unwrap();
    let launcher = PathBuf::from(mpiexec());
    let path = std::env::var("PATH").unwrap();
    let path = match launcher.parent().filter(|it| it.is_absolute()) {
        Some(folder) => format!("{}:{}:{path}", binaries.display(), folder.display()),
        None => format!("{}:{path}", binaries.display()),
    };
    let script = format!("exec 2>&1; {}", command.replace(DOCUMENTED_SERVERS, servers));
    let output = Command::new("timeout")
        .args([&COMMAND_DEADLINE_S.to_string(), "bash", "-c", &script])
        .current_dir(work.folder())
        .env("PATH", path)
        .output()
        .unwrap();
    assert_ne!(output.status.code(), Some(124), "no end within {COMMAND_DEADLINE_S} s: {command}");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter(|it| !is_log_line(it)).map(|it| format!("{it}\n")).collect()
}

#[test]
fn console_blocks_print_what_the_pages_show() {
    let (mut wrong, mut run) = (Vec::new(), 0);
    for (name, page) in pages() {
        let blocks = blocks(&page, "console");
        if blocks.is_empty() {
            continue;
        }
        let work = Work::instant(4);
        let servers: Vec<String> =
            work.fleet.urls().iter().map(|it| format!("--endpoint {it}")).collect();
        for block in blocks {
            let mut lines = block.into_iter().peekable();
            while let Some(line) = lines.next() {
                let Some(first) = line.strip_prefix("$ ") else {
                    panic!("{name}: output without a command: {line}")
                };
                let mut command = first.to_owned();
                while command.ends_with('\\') {
                    command.push('\n');
                    command.push_str(lines.next().unwrap_or_default());
                }
                let mut shown = Vec::new();
                while let Some(line) = lines.next_if(|it| !it.starts_with("$ ")) {
                    shown.push(line);
                }
                let printed = run_documented(&command, &work, &servers.join(" "));
                run += 1;
                if !output_matches(&shown, &printed.lines().collect::<Vec<_>>()) {
                    wrong.push(format!(
                        "{name}: $ {command}\n--- shown\n{}\n--- printed\n{printed}",
                        shown.join("\n")
                    ));
                }
            }
        }
    }
    assert!(run >= 10, "only {run} commands of the pages were run");
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}
