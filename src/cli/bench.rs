//! `aurora-swarm bench sweep|compare|models`.

use clap::{Args, Subcommand, value_parser};

use super::{flags, new_invocation};
use crate::{
    comm::Comm,
    job::{self, BenchOptions, Invocation, JobError, JobVerdict},
    serve::IdleSupervisor,
    settings::{AutoOrCount, Environment, HumanDuration, SettingsLayer},
};

/// What servers can do: batch sizes, batched against single requests, models
///
/// Measures with the engine that `run` uses, on one rank or on all: each rank asks its own servers, all begin together, and
/// rank 0 prints a table of their sums. Only the report is written.
#[derive(Args)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    what: BenchCommand,
}

#[derive(Subcommand)]
enum BenchCommand {
    Sweep(Box<SweepArgs>),
    Compare(Box<CompareArgs>),
    Models(Box<BenchModelsArgs>),
}

/// Which batch size and window bring most
///
/// Every batch size with every window: a warm-up, then repeats, each with prompts that no server has seen. Prompts are rows of
/// INPUT, or made up. What fails stays in the table with its reason. With --output FILE.json also a plot, FILE.svg and
/// FILE.png.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    aurora-swarm bench sweep --endpoint http://127.0.0.1:8000 --max-tokens 128 --output sweep.json\n  \
    mpiexec -n 4 --ppn 1 aurora-swarm bench sweep prompts.jsonl --base-port 8000 --endpoints-per-node 12 \\\n      \
        --batch-sizes 1,8,64 --windows 64,256,auto\n\n\
    Answers of one length, whatever the model says: --extra-body '{\"ignore_eos\": true}'.\n\
    Exit codes: 0 there is a best, 2 usage, 3 every cell failed, 5 settings or input, 6 no endpoint was ready, 75 ended early.")]
struct SweepArgs {
    /// Prompts a request: numbers, or auto
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = parse_nonzero_size,
          default_value = "1,2,4,8,16,32,64", help_heading = flags::NON_SETTING_HEADING)]
    batch_sizes: Vec<AutoOrCount>,
    /// Prompts in flight at each endpoint: numbers, or auto
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = parse_nonzero_size,
          default_value = "auto", help_heading = flags::NON_SETTING_HEADING)]
    windows: Vec<AutoOrCount>,
    #[command(flatten)]
    asking: BenchCommonArgs<3, flags::EndpointArgs>,
}

/// The same prompts batched and single
///
/// In lists of --batch-size (16, where nothing is said) and one by one, with the same window. Neither finds the other's prompts
/// in prefix caches where servers can keep these apart (vLLM from 0.11 on), and both go first in turn. At temperature 0, where
/// nothing is said, answers should be equal.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    aurora-swarm bench compare prompts.jsonl --endpoint http://127.0.0.1:8000 --max-tokens 32\n  \
    aurora-swarm bench compare --batch-size auto --prompts 1000 --prompt-tokens 500\n\n\
    Exit codes: 0 all answered both ways, 2 usage, 3 some were not, 5 settings or input, 6 no endpoint was ready, 75 ended early.")]
struct CompareArgs {
    #[command(flatten)]
    asking: BenchCommonArgs<4, flags::EndpointArgs>,
}

/// Models, or endpoints, one after the other
///
/// Latency, tokens a second and an answer of each, with the same prompts for all, one at a time (--concurrency); and how many runs
/// answered every prompt.
#[derive(Args)]
#[command(after_help = "Examples:\n  \
    aurora-swarm bench models --endpoint http://127.0.0.1:8000 --endpoint http://127.0.0.1:8001\n  \
    aurora-swarm bench models --model small --model large --repeats 5 --max-tokens 64 --output models.json\n  \
    mpiexec -n 4 --ppn 1 aurora-swarm bench models --base-port 8000 --endpoints-per-node 12 --per-endpoint\n\n\
    Exit codes: 0 every run answered every prompt, 2 usage, 3 some did not, 5 settings or input, 6 no endpoint was ready, 75 ended early.")]
struct BenchModelsArgs {
    /// A served model; again for more [default: all that are served]
    #[arg(long, value_name = "NAME", help_heading = flags::NON_SETTING_HEADING)]
    model: Vec<String>,
    /// Each endpoint by itself
    #[arg(long, help_heading = flags::NON_SETTING_HEADING)]
    per_endpoint: bool,
    #[command(flatten)]
    asking: BenchCommonArgs<3, flags::ServerArgs>,
}

/// What all three are told: how to measure, and what to ask whom.
#[derive(Args)]
struct BenchCommonArgs<const REPEATS: u32, Whom: Args> {
    #[command(flatten)]
    measures: MeasurementArgs<REPEATS>,
    #[command(flatten)]
    _rows: flags::InputArgs,
    #[command(flatten)]
    _whom: Whom,
    #[command(flatten)]
    _requests: flags::RequestArgs,
    #[command(flatten)]
    running: flags::RuntimeArgs,
}

/// How; so many repeats where nothing is said.
#[derive(Args)]
#[command(next_help_heading = flags::NON_SETTING_HEADING)]
struct MeasurementArgs<const REPEATS: u32> {
    /// Prompts, as `run` reads them; without any they are made up
    #[arg(value_name = "INPUT")]
    inputs: Vec<String>,
    /// How often each thing is measured, after a warm-up
    #[arg(long, value_name = "N", default_value_t = REPEATS, value_parser = value_parser!(u32).range(1..=1000))]
    repeats: u32,
    /// Prompts of a measurement, for each endpoint [default: sweep 8 windows full, 512 where it is auto; compare 256; models 8]
    #[arg(long, value_name = "N", value_parser = value_parser!(u64).range(1..=10_000_000))]
    prompts: Option<u64>,
    /// The length of prompts that are made up, about
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = value_parser!(u32).range(1..=10_000_000))]
    prompt_tokens: u32,
    /// A measurement that takes longer has failed
    #[arg(long, value_name = "TIME", default_value = "10m")]
    time_limit: HumanDuration,
    /// The report as JSON; what is drawn goes beside it
    #[arg(long, short, value_name = "FILE.json")]
    output: Option<String>,
    /// Replace a report that is there
    #[arg(long)]
    overwrite: bool,
    /// Print JSON instead of the table
    #[arg(long)]
    json: bool,
}

fn parse_nonzero_size(text: &str) -> Result<AutoOrCount, String> {
    match text.parse()? {
        AutoOrCount::Count(0) => Err("0 is no size: give numbers from 1 on, or auto".into()),
        amount => Ok(amount),
    }
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
        let running = match &self.what {
            BenchCommand::Sweep(it) => &it.asking.running,
            BenchCommand::Compare(it) => &it.asking.running,
            BenchCommand::Models(it) => &it.asking.running,
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
        let given = Invocation { guard, ..new_invocation(config, flags, environment) };
        match self.what {
            BenchCommand::Sweep(it) => {
                let sizes = (&it.batch_sizes[..], &it.windows[..]);
                job::bench_sweep(comm, given, it.asking.measures.into_measurement(), sizes)
            }
            BenchCommand::Compare(it) => {
                job::bench_compare(comm, given, it.asking.measures.into_measurement())
            }
            BenchCommand::Models(it) => {
                let which = (&it.model[..], it.per_endpoint);
                job::bench_models(comm, given, it.asking.measures.into_measurement(), which)
            }
        }
    }
}
