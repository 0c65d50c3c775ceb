//! `aurora-swarm completions`.

use clap::Args;
use clap_complete::{Shell, aot};

use crate::{
    console,
    job::{JobError, JobVerdict},
};

/// Print completions of this command line for a shell
#[derive(Args)]
#[command(after_help = "\
Examples:
  source <(aurora-swarm completions bash)
  aurora-swarm completions fish > ~/.config/fish/completions/aurora-swarm.fish")]
pub(super) struct CompletionsArgs {
    /// Name of the shell
    #[arg(value_enum)]
    shell: Shell,
}

impl CompletionsArgs {
    pub(super) fn run(self) -> Result<JobVerdict, JobError> {
        console::print_stdout(&completion_script(self.shell));
        Ok(JobVerdict::Done)
    }
}

fn completion_script(shell: Shell) -> String {
    let all = super::build_command();
    let visible = all.get_subcommands().filter(|command| !command.is_hide_set()).cloned();
    let mut command = clap::Command::new("aurora-swarm")
        .version("")
        .disable_help_subcommand(true)
        .subcommands(visible);
    let mut script = Vec::new();
    aot::generate(shell, &mut command, "aurora-swarm", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn completions_list_every_visible_command() {
        for shell in Shell::value_variants() {
            let script = completion_script(*shell);
            for word in ["run", "check", "plan", "status", "merge", "completions", "max-tokens"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
            assert!(!script.contains("guard"), "{shell}");
        }
    }

    #[test]
    fn completions_offer_the_values_of_options() {
        let script = completion_script(Shell::Bash);
        for words in ["stop fail", "auto completions chat", "share exact off", "auto never require"]
        {
            assert!(script.contains(words), "{words}");
        }
    }
}
