//! What may be typed: the only place that knows clap. One subcommand a file, exit codes in one file.
//!
//! Owns names, help texts and the way from arguments to a [`Layer`] of settings. What a setting means, which values fit
//! and what goes together with what is `settings`' business: arguments travel as texts.

mod bench;
mod check;
mod completions;
mod exit;
mod flags;
mod merge;
mod panic_test;
mod plan;
mod reduce;
mod report;
mod run;
mod status;
mod supervisor;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{
    comm::{self, Comm, LauncherInfo},
    console,
    job::{Invocation, JobError, JobVerdict},
    serve,
    settings::{Environment, SettingsLayer},
    site::NodeInfo,
};

/// Answers a large set of prompts with the vLLM servers of an HPC job, and loses none of them.
#[derive(Parser)]
#[command(name = "aurora-swarm", version, max_term_width = 100, arg_required_else_help = true)]
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
    Completions(completions::CompletionsArgs),
    #[command(hide = true)]
    Guard(supervisor::GuardArgs),
    #[command(hide = true)]
    Panic(panic_test::PanicArgs),
}

/// The whole program: parses, runs one command, gives its exit code. Collective for the commands that start MPI.
#[must_use]
pub fn run(environment: Environment) -> u8 {
    // Before MPI: clap ends the process by itself on --help and on mistakes, and all ranks are given the same.
    let matches = build_command().get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let (flags, given) = collect_flags(&build_command(), &matches);
    console::init_logging(
        flags::log_format(given),
        flags::is_quiet(given),
        environment.get("AURORA_SWARM_LOG"),
    );
    match cli.command {
        CliCommand::Plan(plan) => report_outcome(&plan.run(flags, environment)),
        CliCommand::Status(status) => report_outcome(&status.run()),
        CliCommand::Merge(merge) => report_outcome(&merge.run()),
        CliCommand::Report(again) => report_outcome(&again.run()),
        CliCommand::Completions(completions) => report_outcome(&completions.run()),
        CliCommand::Run(run) => {
            let guard = start_supervisor_if_needed(run.config_path(), &flags, &environment);
            run_on_ranks(&environment.clone(), |comm| run.run(comm, flags, environment, guard))
        }
        CliCommand::Reduce(reduce) => {
            let guard = start_supervisor_if_needed(reduce.config_path(), &flags, &environment);
            run_on_ranks(&environment.clone(), |comm| reduce.run(comm, flags, environment, guard))
        }
        CliCommand::Check(check) => {
            let guard = start_supervisor_if_needed(check.config_path(), &flags, &environment);
            run_on_ranks(&environment.clone(), |comm| check.run(comm, flags, environment, guard))
        }
        CliCommand::Bench(bench) => {
            let guard = start_supervisor_if_needed(bench.config_path(), &flags, &environment);
            run_on_ranks(&environment.clone(), |comm| bench.run(comm, flags, environment, guard))
        }
        CliCommand::Guard(guard) => guard.run(environment),
        CliCommand::Panic(panic) => run_on_ranks(&environment, |comm| panic.run(comm)),
    }
}

/// A flag that is given again counts the last time, so that scripts can end with "$@".
fn build_command() -> clap::Command {
    let last_counts = |command: clap::Command| command.args_override_self(true);
    Cli::command().mut_subcommands(|command| last_counts(command).mut_subcommands(last_counts))
}

/// Starts MPI, where a launcher did, around a command that every rank runs.
fn run_on_ranks(
    environment: &Environment,
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
    let ended = command(comm.as_mut());
    let code = report_outcome(&ended);
    if matches!(ended, Err(JobError::Comm(_))) {
        // It may be this rank's alone, and the others wait in a collective that it will never come to.
        comm.abort(code);
    }
    comm.finalize();
    code
}

/// Says on rank 0 what is wrong, and gives the code.
fn report_outcome(ended: &Result<JobVerdict, JobError>) -> u8 {
    if let Err(error) = ended
        && !matches!(error, JobError::OtherRank(_))
    {
        console::print_error(error);
    }
    exit::exit_code(ended.as_ref().copied().map_err(JobError::class))
}

/// The flags of the innermost command as a layer of settings: what was typed, by the argument's long name; and all that it
/// was given.
fn collect_flags<'m>(
    command: &clap::Command,
    given: &'m ArgMatches,
) -> (SettingsLayer, &'m ArgMatches) {
    if let Some((name, given)) = given.subcommand()
        && let Some(command) = command.find_subcommand(name)
    {
        return collect_flags(command, given);
    }
    let typed = command.get_arguments().filter_map(|argument| {
        let id = argument.get_id().as_str();
        let ours = argument.get_help_heading() != Some(flags::NON_SETTING_HEADING);
        let here = given.value_source(id) == Some(clap::parser::ValueSource::CommandLine);
        let key = argument.get_long().filter(|_| ours && here)?;
        let values = given.try_get_raw(id).ok()??;
        Some((key.to_owned(), values.map(|value| value.to_string_lossy().into_owned()).collect()))
    });
    (SettingsLayer::from_flags(typed), given)
}

fn new_invocation(
    config: Option<String>,
    flags: SettingsLayer,
    environment: Environment,
) -> Invocation {
    Invocation { config, flags, environment, guard: None, exit_code: exit::exit_code }
}

/// A guard, if anybody here says that there are servers to start. Before MPI starts, so before rank 0 has resolved the
/// settings: one that turns out not to be needed is ended. What is wrong with the file is said then, too.
fn start_supervisor_if_needed(
    config: Option<&str>,
    flags: &SettingsLayer,
    environment: &Environment,
) -> Option<serve::IdleSupervisor> {
    let named = |layer: &SettingsLayer| layer.has_key("serve");
    let file = || config.and_then(|path| SettingsLayer::from_file(path).ok());
    let wanted = named(flags) || named(&SettingsLayer::from_environment(environment));
    (wanted || file().is_some_and(|layer| named(&layer))).then(serve::IdleSupervisor::spawn_idle)
}
