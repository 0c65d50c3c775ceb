//! `aurora-swarm help`: help of commands and the pages of the manual; also usage lines and hints of errors.
//!
//! The pages are in `docs`; help texts of options are beside the options.

use std::fmt::{self, Write};

use clap::{
    ArgMatches, Args,
    error::{ContextKind, ContextValue, ErrorKind},
};

use crate::{
    console,
    docs::PAGES,
    job::{JobError, JobVerdict},
    settings::{SettingsError, nearest_name},
};

/// Print help of a command, or a page of the manual
///
/// Without a name it lists all commands and topics.
#[derive(Args)]
#[command(after_help = "\
Examples:
  aurora-swarm help run
  aurora-swarm help resume
  aurora-swarm help --topic bench | less")]
pub(super) struct HelpArgs {
    /// Command, or topic of the manual
    #[arg(value_name = "COMMAND|TOPIC")]
    names: Vec<String>,
    /// Print the page of the manual even if a command has the same name
    #[arg(long)]
    topic: bool,
}

impl HelpArgs {
    pub(super) fn run(self) -> Result<JobVerdict, JobError> {
        console::print_stdout(&self.text()?);
        Ok(JobVerdict::Done)
    }

    fn text(&self) -> Result<String, JobError> {
        let [first, ..] = &self.names[..] else { return Ok(list_names()) };
        let command = (!self.topic).then(|| command_help(&self.names)).flatten();
        let page = || PAGES.iter().find(|(topic, _)| topic == first).map(|(_, page)| as_text(page));
        command.or_else(page).ok_or_else(|| JobError::Settings(unknown_name(&self.names.join(" "))))
    }
}

/// Returns the long help of a command, found by its names from the outside in.
fn command_help(names: &[String]) -> Option<String> {
    let mut root = super::build_command();
    root.build();
    let found = names.iter().try_fold(&mut root, |command, name| {
        command.find_subcommand_mut(name).filter(|it| !it.is_hide_set())
    });
    found.map(|command| command.render_long_help().to_string())
}

fn command_summaries() -> Vec<(String, String)> {
    let root = super::build_command();
    let visible = root.get_subcommands().filter(|command| !command.is_hide_set());
    let summary =
        |command: &clap::Command| command.get_about().map(ToString::to_string).unwrap_or_default();
    visible.map(|command| (command.get_name().to_owned(), summary(command))).collect()
}

/// Lists all commands and topics with their summaries.
fn list_names() -> String {
    let mut text = String::from("Commands (aurora-swarm help COMMAND):\n");
    let title =
        |page: &str| page.lines().next().unwrap_or_default().trim_start_matches("# ").to_owned();
    for (name, summary) in command_summaries() {
        let _ = writeln!(text, "  {name:<16}{summary}");
    }
    text.push_str("\nTopics of the manual (aurora-swarm help [--topic] TOPIC):\n");
    for (topic, page) in PAGES {
        let _ = writeln!(text, "  {topic:<16}{}", title(page));
    }
    text
}

fn unknown_name(name: &str) -> SettingsError {
    let commands = command_summaries().into_iter().map(|(command, _)| command);
    let topics = PAGES.iter().map(|(topic, _)| (*topic).to_owned());
    let hint = nearest_name(name, commands.chain(topics))
        .map(|nearest| format!("\nhint: did you mean {nearest:?}?"))
        .unwrap_or_default();
    SettingsError::usage(format!("unknown command or topic {name:?}{hint}\n\n{}", list_names()))
}

/// Replaces links to other pages by the command that prints them; the rest of the Markdown is readable as it is.
fn as_text(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    let mut rest = page;
    while let Some((before, after)) = rest.split_once("](") {
        let Some((target, after)) = after.split_once(')') else { break };
        let Some((before, label)) = before.rsplit_once('[') else { break };
        let topic = target.split('#').next().unwrap_or(target).trim_end_matches(".md");
        text.push_str(before);
        if label.trim_end_matches(".md") == topic {
            let _ = write!(text, "`help {topic}`");
        } else {
            let _ = write!(text, "{label} (`help {topic}`)");
        }
        rest = after;
    }
    text.push_str(rest);
    text
}

/// Returns the usage line of the innermost command in `matches`, and where to find more.
pub(super) fn usage_line(command: &mut clap::Command, matches: &ArgMatches) -> String {
    match matches.subcommand() {
        Some((name, matches)) if command.find_subcommand(name).is_some() => {
            command.find_subcommand_mut(name).map_or_else(String::new, |it| usage_line(it, matches))
        }
        _ => format!("{}\n\nFor more information, try '--help'.", command.render_usage()),
    }
}

/// An error in the command line that clap cannot find, printed as clap prints its own.
#[derive(Debug)]
pub(super) struct UsageError<'a> {
    pub(super) error: &'a SettingsError,
    pub(super) usage: &'a str,
}

impl fmt::Display for UsageError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n\n{}", self.error, self.usage)
    }
}

impl std::error::Error for UsageError<'_> {}

/// Options of other programs that users try, with what to do instead.
const FOREIGN_OPTIONS: [(&str, &str); 3] = [
    ("--api-key", "keys for servers go into the variable AURORA_SWARM_API_KEY"),
    ("--verbose", "set the variable AURORA_SWARM_LOG=debug for a detailed log"),
    ("-v", "set the variable AURORA_SWARM_LOG=debug for a detailed log"),
];

/// Replaces clap's suggestions by better ones for [`FOREIGN_OPTIONS`].
pub(super) fn add_hint(mut error: clap::Error) -> clap::Error {
    if error.kind() != ErrorKind::UnknownArgument {
        return error;
    }
    let typed = error.get(ContextKind::InvalidArg).map(ToString::to_string).unwrap_or_default();
    if let Some((_, hint)) = FOREIGN_OPTIONS.iter().find(|(option, _)| *option == typed) {
        error.remove(ContextKind::SuggestedArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![(*hint).into()]));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    fn help(names: &[&str], topic: bool) -> Result<String, JobError> {
        HelpArgs { names: names.iter().map(ToString::to_string).collect(), topic }.text()
    }

    #[test]
    fn commands_topics_and_both_lists_are_printed() {
        assert!(help(&["run"], false).is_ok_and(|it| it.contains("--max-tokens")));
        assert!(help(&["bench", "sweep"], false).is_ok_and(|it| it.contains("--batch-sizes")));
        assert!(help(&["resume"], false).is_ok_and(|it| it.starts_with("# ")));
        assert!(help(&["bench"], true).is_ok_and(|it| it.starts_with("# ")));
        let list = help(&[], false).expect("a list");
        assert!(list.contains("quickstart") && list.contains("run") && !list.contains("guard"));
    }

    #[test]
    fn an_unknown_topic_suggests_the_nearest_and_lists_all() {
        for names in [&["resme"][..], &["guard"]] {
            assert!(help(names, false).is_err(), "{names:?}");
        }
        let error = help(&["resme"], false).expect_err("unknown").to_string();
        assert!(
            error.contains("did you mean \"resume\"?") && error.contains("quickstart"),
            "{error}"
        );
    }

    #[test]
    fn links_become_commands() {
        let page = "See [input.md](input.md) and [the codes](exit-codes.md#launchers), a[0].";
        assert_eq!(as_text(page), "See `help input` and the codes (`help exit-codes`), a[0].");
    }

    #[test]
    fn options_of_other_programs_get_a_hint() {
        let error = super::super::build_command()
            .try_get_matches_from(["aurora-swarm", "run", "x", "--api-key", "k"])
            .expect_err("unknown");
        assert!(add_hint(error).to_string().contains("AURORA_SWARM_API_KEY"));
    }
}
