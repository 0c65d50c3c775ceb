//! `aurora-swarm merge`.

use clap::{Args, ValueEnum};

use crate::{
    job::{self, JobError, JobVerdict},
    output::AnswerFormat,
    settings::AggregateSpec,
};

/// Rebuild the output file from a run folder
#[derive(Args)]
#[command(after_help = "\
Examples:
  aurora-swarm merge answers.jsonl
  aurora-swarm merge answers.jsonl --partial --output so-far.csv --output-format csv
  aurora-swarm merge answers.jsonl --aggregate majority:/verdict --aggregate failures

Exit codes:
  0  the file was written
  2  wrong command line
  5  no run found, or prompts remain and --partial is missing")]
pub(super) struct MergeArgs {
    /// The run: its --output FILE, or its folder
    run: String,
    /// Merge the answers so far, although prompts remain
    #[arg(long)]
    partial: bool,
    /// Output file [default: the run's own; with --partial, that name and .partial]
    #[arg(long, short, value_name = "FILE")]
    output: Option<String>,
    /// Output format [default: the run's]
    #[arg(long, value_name = "FORMAT")]
    output_format: Option<MergeFormat>,
    /// Aggregate over all answers, as in `run` (repeatable) [default: the run's]
    #[arg(long, value_name = "KIND")]
    aggregate: Vec<AggregateSpec>,
}

#[derive(Clone, Copy, ValueEnum)]
enum MergeFormat {
    Jsonl,
    OpenaiBatch,
    Csv,
    Parquet,
}

impl MergeArgs {
    pub(super) fn run(self) -> Result<JobVerdict, JobError> {
        let format = self.output_format.map(|format| match format {
            MergeFormat::Jsonl => AnswerFormat::Jsonl,
            MergeFormat::OpenaiBatch => AnswerFormat::OpenaiBatch,
            MergeFormat::Csv => AnswerFormat::Csv,
            MergeFormat::Parquet => AnswerFormat::Parquet,
        });
        job::merge_shards(&self.run, self.partial, self.output.as_deref(), format, self.aggregate)
    }
}
