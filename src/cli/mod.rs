//! The command line: the only place that knows clap. One file per subcommand, exit codes in one file.
//!
//! Owns names, help texts and the conversion of arguments to a [`SettingsLayer`]. Types, ranges and rules of settings
//! are in `settings`: arguments travel as texts. The manual pages that `help TOPIC` prints are in `docs`.

mod bench;
mod check;
mod completions;
mod exit;
mod flags;
mod help;
mod man;
mod merge;
mod panic_test;
mod plan;
mod reduce;
mod report;
mod run;
mod status;
mod supervisor;

use clap::{Arg, ArgAction, ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{
    comm::{self, Comm, LauncherInfo},
    console,
    job::{Invocation, JobError, JobVerdict},
    serve,
    settings::{Environment, SettingsLayer, environment_variable},
    site::NodeInfo,
};

/// Send large prompt sets to vLLM servers on HPC nodes; resumable
#[derive(Parser)]
#[command(
    name = "aurora-swarm",
    version,
    max_term_width = 100,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "Manual: aurora-swarm help    First steps: aurora-swarm help quickstart"
)]
struct Cli {
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Subcommand)]
enum CliCommand {
    Run(run::RunArgs),
    Reduce(reduce::ReduceArgs),
    Check(check::CheckArgs),
    Bench(bench::BenchArgs),
    Plan(plan::PlanArgs),
    Status(status::StatusArgs),
    Merge(merge::MergeArgs),
    Report(report::ReportArgs),
    Help(help::HelpArgs),
    Man(man::ManArgs),
    Completions(completions::CompletionsArgs),
    #[command(hide = true)]
    Guard(supervisor::GuardArgs),
    #[command(hide = true)]
    Panic(panic_test::PanicArgs),
}

/// Runs the whole program and returns its exit code. Collective for the commands that start MPI.
#[must_use]
pub fn run(environment: Environment) -> u8 {
    // Before MPI starts: on --help and on mistakes clap ends the process, which is safe since all ranks have the same
    // arguments.
    let matches =
        build_command().try_get_matches().unwrap_or_else(|error| help::add_hint(error).exit());
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let mut command = build_command();
    command.build();
    let (flags, command_matches) = collect_flags(&command, &matches);
    let (format, is_quiet) = (flags::log_format(command_matches), flags::is_quiet(command_matches));
    if let Err(error) = console::init_logging(format, is_quiet, &environment) {
        console::print_error(&error);
        return exit::BAD_SETTINGS;
    }
    let usage = help::usage_line(&mut command, &matches);
    run_command(cli.command, flags, environment, &usage)
}

fn run_command(
    command: CliCommand,
    flags: SettingsLayer,
    environment: Environment,
    usage: &str,
) -> u8 {
    let shared = environment.clone();
    let supervisor = |config| start_supervisor_if_needed(config, &flags, &environment);
    match command {
        CliCommand::Plan(plan) => report_outcome(&plan.run(flags, environment), usage),
        CliCommand::Status(status) => report_outcome(&status.run(), usage),
        CliCommand::Merge(merge) => report_outcome(&merge.run(), usage),
        CliCommand::Report(report) => report_outcome(&report.run(), usage),
        CliCommand::Help(help) => report_outcome(&help.run(), usage),
        CliCommand::Man(man) => report_outcome(&man.run(), usage),
        CliCommand::Completions(completions) => report_outcome(&completions.run(), usage),
        CliCommand::Run(run) => {
            let guard = supervisor(run.config_path());
            run_on_ranks(&shared, usage, |comm| run.run(comm, flags, environment, guard))
        }
        CliCommand::Reduce(reduce) => {
            let guard = supervisor(reduce.config_path());
            run_on_ranks(&shared, usage, |comm| reduce.run(comm, flags, environment, guard))
        }
        CliCommand::Check(check) => {
            let guard = supervisor(check.config_path());
            run_on_ranks(&shared, usage, |comm| check.run(comm, flags, environment, guard))
        }
        CliCommand::Bench(bench) => {
            let guard = supervisor(bench.config_path());
            run_on_ranks(&shared, usage, |comm| bench.run(comm, flags, environment, guard))
        }
        CliCommand::Guard(guard) => guard.run(environment),
        CliCommand::Panic(panic) => run_on_ranks(&shared, usage, |comm| panic.run(comm)),
    }
}

/// Builds the command line with the parts that derive cannot express.
fn build_command() -> clap::Command {
    Cli::command().mut_subcommands(|command| {
        let is_bench = command.get_name() == "bench";
        let command = if is_bench { bench::with_default_prompts(command) } else { command };
        complete_command(command).mut_subcommands(complete_command)
    })
}

/// Lets a repeated option count the last time, so that scripts can end with "$@", except for `--output`: two names are a
/// mistake that costs a run. Names the variable of each setting in `--help`; and lists `--help` below "Running" if there is such a heading, so that arguments come first.
fn complete_command(command: clap::Command) -> clap::Command {
    const LAST_HEADING: &str = "Running";
    let command = command.mut_args(|argument| {
        let id = argument.get_id().clone();
        let takes_last = !matches!(argument.get_action(), ArgAction::Append) && id != "output";
        let argument = if takes_last { argument.overrides_with(id) } else { argument };
        let Some(key) = flags::setting_key(&argument) else { return argument };
        let variable = environment_variable(key);
        let help = argument.get_long_help().or_else(|| argument.get_help());
        let help = help.map(ToString::to_string).unwrap_or_default();
        argument.long_help(format!("{help}\n[env: {variable}]"))
    });
    if !command.get_arguments().any(|it| it.get_help_heading() == Some(LAST_HEADING)) {
        return command;
    }
    let help = Arg::new("help").short('h').long("help").action(ArgAction::Help);
    command.disable_help_flag(true).arg(
        help.help_heading(LAST_HEADING).help("Print help: common options (-h) or all (--help)"),
    )
}

/// Starts MPI, if a launcher started this process, around a command that every rank runs.
fn run_on_ranks(
    environment: &Environment,
    usage: &str,
    command: impl FnOnce(&mut dyn Comm) -> Result<JobVerdict, JobError>,
) -> u8 {
    let launcher =
        LauncherInfo::from_variables(|variable| environment.get(variable).map(str::to_owned));
    let mut comm = match comm::start_comm(&launcher) {
        Ok(comm) => comm,
        Err(error) => {
            console::print_error(&error);
            return exit::MPI_ERROR;
        }
    };
    console::set_log_identity(comm.rank(), &NodeInfo::this_node().host);
    let outcome = command(comm.as_mut());
    let code = report_outcome(&outcome, usage);
    if matches!(outcome, Err(JobError::Comm(_))) {
        // The error may concern this rank only, while the others wait in a collective that it will never join.
        comm.abort(code);
    }
    comm.finalize();
    code
}

/// Prints the error, with the usage line if the command line is wrong, and returns the exit code.
fn report_outcome(outcome: &Result<JobVerdict, JobError>, usage: &str) -> u8 {
    match outcome {
        Ok(_) | Err(JobError::OtherRank(_)) => {} // that rank prints the error
        Err(JobError::Settings(error)) if error.is_usage() => {
            console::print_error(&help::UsageError { error, usage });
        }
        Err(error) => console::print_error(error),
    }
    exit::exit_code(outcome.as_ref().copied().map_err(JobError::class))
}

/// Returns the settings that were typed for the innermost command, by the options' long names, and all its matches.
fn collect_flags<'m>(
    command: &clap::Command,
    matches: &'m ArgMatches,
) -> (SettingsLayer, &'m ArgMatches) {
    if let Some((name, matches)) = matches.subcommand()
        && let Some(command) = command.find_subcommand(name)
    {
        return collect_flags(command, matches);
    }
    let typed = command.get_arguments().filter_map(|argument| {
        let key = flags::setting_key(argument)?;
        let id = argument.get_id().as_str();
        let from_command_line = Some(clap::parser::ValueSource::CommandLine);
        if matches.value_source(id) != from_command_line {
            return None;
        }
        let values = matches.try_get_raw(id).ok()??;
        Some((key.to_owned(), values.map(|value| value.to_string_lossy().into_owned()).collect()))
    });
    (SettingsLayer::from_flags(typed), matches)
}

fn new_invocation(
    config: Option<String>,
    flags: SettingsLayer,
    environment: Environment,
) -> Invocation {
    Invocation { config, flags, environment, guard: None, exit_code: exit::exit_code }
}

/// Starts a supervisor if any layer of this rank sets `serve`.
///
/// This happens before MPI starts, since a process with MPI must not fork, and so before rank 0 has resolved the
/// settings: a supervisor that turns out to be unnecessary is ended later, and errors in the file are reported then.
fn start_supervisor_if_needed(
    config: Option<&str>,
    flags: &SettingsLayer,
    environment: &Environment,
) -> Option<serve::IdleSupervisor> {
    let has_serve = |layer: &SettingsLayer| layer.has_key("serve");
    let file = || config.and_then(|path| SettingsLayer::from_file(path).ok());
    let typed = has_serve(flags) || has_serve(&SettingsLayer::from_environment(environment));
    (typed || file().is_some_and(|layer| has_serve(&layer))).then(serve::IdleSupervisor::spawn_idle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{SettingsError, resolve_layers};

    fn rendered_help(path: &[&str], long: bool) -> String {
        let mut root = build_command();
        root.build();
        let command = path
            .iter()
            .fold(&mut root, |command, name| command.find_subcommand_mut(name).expect("a command"));
        if long {
            command.render_long_help().to_string()
        } else {
            command.render_help().to_string()
        }
    }

    #[test]
    fn every_choice_of_an_option_is_a_value_of_its_setting() {
        let mut root = build_command();
        root.build();
        for name in ["run", "reduce", "check", "plan"] {
            for argument in root.find_subcommand(name).expect(name).get_arguments() {
                let Some(key) = flags::setting_key(argument) else { continue };
                let is_known = |error: SettingsError| {
                    !matches!(
                        error,
                        SettingsError::UnknownKey { .. } | SettingsError::InvalidValue { .. }
                    )
                };
                for word in argument.get_possible_values().iter().map(|it| it.get_name().to_owned())
                {
                    let layer = SettingsLayer::from_flags([(key.to_owned(), vec![word.clone()])]);
                    assert!(
                        resolve_layers([layer]).map_or_else(is_known, |_| true),
                        "{key} {word}"
                    );
                }
            }
        }
    }

    #[test]
    fn short_help_of_run_fits_a_screen_and_long_help_names_every_variable() {
        let short = rendered_help(&["run"], false);
        assert!(short.lines().count() <= 50, "{} lines:\n{short}", short.lines().count());
        assert!(short.contains("run [OPTIONS] --output <FILE> <INPUT>..."), "{short}");
        let arguments = short.find("Arguments:").expect("arguments");
        assert!(arguments < short.find("Input:").expect("input"), "{short}");
        let long = rendered_help(&["run"], true);
        for words in ["[env: AURORA_SWARM_MAX_TOKENS]", "[possible values: stop, fail]"] {
            assert!(long.contains(words), "{words}:\n{long}");
        }
    }

    #[test]
    fn examples_are_not_wrapped() {
        for path in [
            &["run"][..],
            &["reduce"],
            &["plan"],
            &["check"],
            &["bench", "sweep"],
            &["bench", "models"],
        ] {
            let help = rendered_help(path, true);
            let lines = help.lines().filter(|line| line.trim_start().starts_with("aurora-swarm "));
            let unindented: Vec<&str> = lines.filter(|line| !line.starts_with("  ")).collect();
            assert!(unindented.is_empty(), "{path:?}: {unindented:?}");
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        build_command().debug_assert();
    }
}
