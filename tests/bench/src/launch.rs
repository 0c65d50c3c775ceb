//! Starting ranks: the launcher's command line, whichever MPI it belongs to, and bare MPI programs by it.
//!
//! It owns the differences between launchers, and knows nothing of the product.

use crate::child;
use crate::scenario::{Bench, Broken};
use std::fs::{File, read_to_string};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes at rank 0 at a time: as many as the product's.
const ROUND: usize = 32 << 20;

/// The launcher of the MPI that the programs were linked with.
pub fn mpiexec() -> String {
    std::env::var("AURORA_MPIEXEC").unwrap_or_else(|_| env!("BUILD_MPIEXEC").to_owned())
}

/// What stands before the program on a command line for so many ranks. No variable of a launcher or of the product
/// leaks in: what a run is told stands in its parameters, and it is alone.
pub fn on_ranks(ranks: usize, program: &Path) -> Command {
    let mut command = alone(Path::new(&mpiexec()));
    if is_open_mpi() {
        // More ranks than cores, and perhaps as root, is what a bench on a small machine is.
        command.arg("--oversubscribe").envs([
            ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
            ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
            ("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"),
        ]);
    }
    command.args(["-n", &ranks.to_string()]).arg(program);
    command
}

/// The program without a launcher, in as clean an environment.
pub fn alone(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars() {
        if ["AURORA_SWARM_", "PMI", "OMPI_", "PALS_"].iter().any(|p| name.starts_with(p)) {
            command.env_remove(name);
        }
    }
    // hydra reads its standard input.
    command.stdin(Stdio::null());
    command
}

/// Asked once: a launcher takes its time to say who it is.
fn is_open_mpi() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let version = Command::new(mpiexec()).arg("--version").stdin(Stdio::null()).output();
        let text = version.map(|v| String::from_utf8_lossy(&v.stdout).into_owned());
        ["Open MPI", "OpenRTE", "PRRTE"].iter().any(|n| text.as_ref().is_ok_and(|t| t.contains(n)))
    })
}

/// The seconds from the launcher's start until the last of so many ranks is through MPI_Init.
pub fn bare_start(bench: &Bench, ranks: usize) -> Result<f64, Broken> {
    let began = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64());
    Ok(bare(bench, ranks, &["start"], "init_us ")? / 1e6 - began)
}

/// The seconds that a bare MPI_Gatherv of so many bytes takes, in the product's rounds.
pub fn bare_gather(bench: &Bench, ranks: usize, bytes: u64) -> Result<f64, Broken> {
    bare(bench, ranks, &["gather", &bytes.to_string(), &ROUND.to_string()], "seconds ")
}

fn bare(bench: &Bench, ranks: usize, words: &[&str], name: &str) -> Result<f64, Broken> {
    let folder = tempfile::tempdir().map_err(Broken::at("a folder for bare-mpi"))?;
    let said = folder.path().join("said.txt");
    let file = File::create(&said).map_err(Broken::at("a file for bare-mpi"))?;
    let mut command = on_ranks(ranks, &bench.own.join("bare-mpi"));
    command.args(words).stdout(file);
    let limit = Duration::from_secs(120);
    let ended = child::run(&mut command, limit, limit, || ())
        .map_err(Broken::at("mpiexec cannot be started"))?;
    let said = read_to_string(&said).unwrap_or_default();
    number(&said, name).filter(|_| ended.code == Some(0)).ok_or_else(|| {
        Broken(format!("bare-mpi on {ranks} ranks said {said:?}, exit code {:?}", ended.code))
    })
}

/// The number in the line that begins with a name.
fn number(said: &str, name: &str) -> Option<f64> {
    said.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_among_what_launchers_say() {
        assert_eq!(number("a warning\nseconds 1.25\n", "seconds "), Some(1.25));
        assert_eq!(number("init_us many\n", "init_us "), None);
    }

    #[test]
    fn a_command_line_names_the_ranks_and_then_the_program() {
        let command = on_ranks(4, Path::new("program"));
        let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
        assert_eq!(words[words.len() - 3..], ["-n", "4", "program"]);
    }
}
