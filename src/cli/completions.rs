//! `aurora-swarm completions`.

use clap::Args;
use clap_complete::{Shell, aot};

use crate::{
    console,
    job::{JobError, Verdict},
};

/// Completions of this command line for a shell, to standard output
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    source <(aurora-swarm completions bash)\n  \
    aurora-swarm completions fish > ~/.config/fish/completions/aurora-swarm.fish")]
pub(super) struct Completions {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Local.
    pub(super) fn run(self) -> Result<Verdict, JobError> {
        console::print(&script(self.shell));
        Ok(Verdict::Done)
    }
}

fn script(shell: Shell) -> String {
    let all = super::command();
    let shown = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut command = clap::Command::new("aurora-swarm").version("").subcommands(shown);
    let mut script = Vec::new();
    aot::generate(shell, &mut command, "aurora-swarm", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_hears_of_every_command_and_none_of_the_hidden_ones() {
        for shell in Shell::value_variants() {
            let script = script(*shell);
            for word in ["run", "check", "plan", "status", "merge", "completions", "max-tokens"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
            assert!(!script.contains("guard"), "{shell}");
        }
    }
}
