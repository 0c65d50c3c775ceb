//! `aurora-swarm bench sweep|compare|models`.

use clap::{Args, Subcommand, value_parser};

use super::{flags, new_invocation};
use crate::{
    comm::Comm,
    job::{self, BenchOptions, Invocation, JobError, JobVerdict},
    serve::IdleSupervisor,
    settings::{AutoOrCount, Environment, HumanDuration, SettingsLayer},
};

/// Measure servers: batch sizes, batched against single requests, models
///
/// Measures with the scheduler that `run` uses, on one rank or on all: each rank sends to its own servers, all start
/// together, and rank 0 prints a table of the sums. Only the report is written.
#[derive(Args)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Subcommand)]
enum BenchCommand {
    Sweep(Box<SweepArgs>),
    Compare(Box<CompareArgs>),
    Models(Box<BenchModelsArgs>),
}

/// Find the best batch size and concurrency
///
/// Measures each batch size with each concurrency limit: a warm-up, then repeats, always with prompts that no server
/// has seen. Prompts are rows of INPUT, or synthetic. Failed measurements stay in the table with their reason. With
/// --output FILE.json the plot FILE.svg is written too.
#[derive(Args)]
#[command(
    after_help = "All options: aurora-swarm bench sweep --help    Manual: aurora-swarm help --topic bench",
    after_long_help = "\
Examples:
  aurora-swarm bench sweep --endpoint http://127.0.0.1:8000 --max-tokens 128 \\
      --output sweep.json
  mpiexec -n 4 --ppn 1 aurora-swarm bench sweep prompts.jsonl --base-port 8000 \\
      --endpoints-per-node 12 --batch-sizes 1,8,64 --windows 64,256,auto

For answers of equal length: --extra-body '{\"ignore_eos\": true}'

Exit codes:
  0   a best setting was found
  2   wrong command line
  3   every measurement failed
  5   bad config file, environment or input
  6   no server was ready
  75  stopped early

Manual: aurora-swarm help --topic bench"
)]
struct SweepArgs {
    /// Prompts per request: numbers, or auto
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = parse_nonzero_size,
          default_value = "1,2,4,8,16,32,64", help_heading = MEASUREMENT_HEADING)]
    batch_sizes: Vec<AutoOrCount>,
    /// Concurrency limits, prompts in flight per server: numbers, or auto
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = parse_nonzero_size,
          default_value = "auto", help_heading = MEASUREMENT_HEADING)]
    windows: Vec<AutoOrCount>,
    #[command(flatten)]
    common: BenchCommonArgs<3, flags::EndpointArgs>,
}

/// Compare batched with single requests, on the same prompts
///
/// Sends the prompts in batches of --batch-size [16] and one by one, with the same concurrency limit. Neither way finds
/// the other's prompts in prefix caches if servers can keep these apart (vLLM 0.11 and later), and both go first in
/// turn. With the default temperature of 0 the answers should be equal.
#[derive(Args)]
#[command(
    after_help = "All options: aurora-swarm bench compare --help    Manual: aurora-swarm help --topic bench",
    after_long_help = "\
Examples:
  aurora-swarm bench compare prompts.jsonl --endpoint http://127.0.0.1:8000 --max-tokens 32
  aurora-swarm bench compare --batch-size auto --prompts 1000 --prompt-tokens 500

Exit codes:
  0   all prompts were answered both ways
  2   wrong command line
  3   some prompts were not answered
  5   bad config file, environment or input
  6   no server was ready
  75  stopped early

Manual: aurora-swarm help --topic bench"
)]
struct CompareArgs {
    #[command(flatten)]
    common: BenchCommonArgs<4, flags::EndpointArgs>,
}

/// Measure models or servers one after the other
///
/// Reports latency, tokens per second and an answer of each, with the same prompts for all, one at a time
/// (--concurrency), and the number of runs that answered every prompt.
#[derive(Args)]
#[command(
    after_help = "All options: aurora-swarm bench models --help    Manual: aurora-swarm help --topic bench",
    after_long_help = "\
Examples:
  aurora-swarm bench models --endpoint http://127.0.0.1:8000 --endpoint http://127.0.0.1:8001
  aurora-swarm bench models --model small --model large --repeats 5 --max-tokens 64 \\
      --output models.json
  mpiexec -n 4 --ppn 1 aurora-swarm bench models --base-port 8000 \\
      --endpoints-per-node 12 --per-endpoint

Exit codes:
  0   every run answered every prompt
  2   wrong command line
  3   some prompts were not answered
  5   bad config file, environment or input
  6   no server was ready
  75  stopped early

Manual: aurora-swarm help --topic bench"
)]
struct BenchModelsArgs {
    /// Served model to measure (repeatable) [default: all served models]
    #[arg(long, value_name = "NAME", help_heading = MEASUREMENT_HEADING)]
    model: Vec<String>,
    /// Measure each endpoint by itself
    #[arg(long, help_heading = MEASUREMENT_HEADING)]
    per_endpoint: bool,
    #[command(flatten)]
    common: BenchCommonArgs<3, flags::ServerArgs>,
}

/// Heading of options about the measurement, which are not settings.
const MEASUREMENT_HEADING: &str = "Measurement";

/// Arguments of all three measurements.
#[derive(Args)]
struct BenchCommonArgs<const REPEATS: u32, Target: Args> {
    #[command(flatten)]
    measurement: MeasurementArgs<REPEATS>,
    #[command(flatten)]
    _input: flags::InputArgs,
    #[command(flatten)]
    _target: Target,
    #[command(flatten)]
    _requests: flags::RequestArgs,
    #[command(flatten)]
    running: flags::RuntimeArgs,
}

/// Options about the measurement; `REPEATS` is the default number of repeats.
#[derive(Args)]
#[command(next_help_heading = MEASUREMENT_HEADING)]
struct MeasurementArgs<const REPEATS: u32> {
    /// Files, folders or globs with prompts, as for `run` [default: synthetic prompts]
    #[arg(value_name = "INPUT", help_heading = None::<&str>)]
    inputs: Vec<String>,
    /// Repeats of each measurement, after a warm-up
    #[arg(long, value_name = "N", default_value_t = REPEATS, value_parser = value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// Prompts per measurement and server
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..=10_000_000))]
    prompts: Option<u64>,
    /// Approximate length of synthetic prompts, in tokens
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = value_parser!(u32).range(1..=10_000_000))]
    prompt_tokens: u32,
    /// Time after which a measurement counts as failed
    #[arg(long, value_name = "TIME", default_value = "10m")]
    time_limit: HumanDuration,
    /// Write the report as JSON, with plots beside it
    #[arg(long, short, value_name = "FILE.json")]
    output: Option<String>,
    /// Replace an existing report
    #[arg(long)]
    overwrite: bool,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
}

fn parse_nonzero_size(text: &str) -> Result<AutoOrCount, String> {
    match text.parse()? {
        AutoOrCount::Count(0) => Err("must be auto or at least 1".into()),
        size => Ok(size),
    }
}

/// Adds to each measurement's `--prompts` the default of that measurement.
pub(super) fn with_default_prompts(bench: clap::Command) -> clap::Command {
    let defaults = [
        ("sweep", "8 times the concurrency limit; 512 with auto"),
        ("compare", "256"),
        ("models", "8"),
    ];
    defaults.into_iter().fold(bench, |bench, (name, default)| {
        let help = format!("Prompts per measurement and server [default: {default}]");
        bench.mut_subcommand(name, |command| command.mut_arg("prompts", |it| it.help(help)))
    })
}

impl<const REPEATS: u32> MeasurementArgs<REPEATS> {
    fn into_measurement(self) -> BenchOptions {
        BenchOptions {
            inputs: self.inputs,
            repeats: self.repeats,
            prompts: self.prompts,
            prompt_tokens: usize::try_from(self.prompt_tokens).unwrap_or(usize::MAX),
            time_limit: self.time_limit,
            output: self.output,
            overwrite: self.overwrite,
            json: self.json,
        }
    }
}

impl BenchArgs {
    pub(super) fn config_path(&self) -> Option<&str> {
        let running = match &self.command {
            BenchCommand::Sweep(sweep) => &sweep.common.running,
            BenchCommand::Compare(compare) => &compare.common.running,
            BenchCommand::Models(models) => &models.common.running,
        };
        running.config.as_deref()
    }

    /// Collective.
    pub(super) fn run(
        self,
        comm: &mut dyn Comm,
        flags: SettingsLayer,
        environment: Environment,
        guard: Option<IdleSupervisor>,
    ) -> Result<JobVerdict, JobError> {
        let config = self.config_path().map(str::to_owned);
        let invocation = Invocation { guard, ..new_invocation(config, flags, environment) };
        match self.command {
            BenchCommand::Sweep(sweep) => {
                let options = sweep.common.measurement.into_measurement();
                job::bench_sweep(comm, invocation, options, &sweep.batch_sizes, &sweep.windows)
            }
            BenchCommand::Compare(compare) => {
                let options = compare.common.measurement.into_measurement();
                job::bench_compare(comm, invocation, options)
            }
            BenchCommand::Models(models) => {
                let options = models.common.measurement.into_measurement();
                job::bench_models(comm, invocation, options, &models.model, models.per_endpoint)
            }
        }
    }
}
