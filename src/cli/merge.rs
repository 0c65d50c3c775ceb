//! `aurora-swarm merge`.

use clap::{Args, ValueEnum};

use crate::{
    job::{self, JobError, JobVerdict, MergeRequest},
    output::AnswerFormat,
    settings::AggregateSpec,
};

/// Rebuild the output file from a run folder
#[derive(Args)]
#[command(after_help = "\
Examples:
  aurora-swarm merge answers.jsonl
  aurora-swarm merge answers.jsonl --output answers.csv
  aurora-swarm merge answers.jsonl --partial --output so-far.parquet --overwrite
  aurora-swarm merge answers.jsonl --aggregate majority:/verdict --aggregate failures

Exit codes:
  0  the file was written
  2  wrong command line
  5  no run found, prompts remain and --partial is missing, or --output must not be replaced")]
pub(super) struct MergeArgs {
    /// The run: its --output FILE, or its folder
    run: String,
    /// Merge the answers so far, although prompts remain
    #[arg(long)]
    partial: bool,
    /// Output file [default: the run's own; with --partial answers.partial.jsonl for answers.jsonl]
    ///
    /// The endings .jsonl, .csv, .tsv and .parquet choose the format; .gz or .zst after one of the first three compresses
    /// the file.
    #[arg(long, short, value_name = "FILE")]
    output: Option<String>,
    /// Output format [default: by the ending of --output, else the run's]
    #[arg(long, value_name = "FORMAT")]
    output_format: Option<MergeFormat>,
    /// Replace an existing --output that is not the run's own
    ///
    /// An input of the run is never replaced.
    #[arg(long)]
    overwrite: bool,
    /// Aggregate over all answers, as in `run` (repeatable) [default: the run's]
    ///
    /// Earlier aggregates beside the output are kept and computed again. An output that is complete already is not
    /// written again.
    #[arg(long, value_name = "KIND")]
    aggregate: Vec<AggregateSpec>,
}

#[derive(Clone, Copy, ValueEnum)]
enum MergeFormat {
    Jsonl,
    OpenaiBatch,
    Csv,
    Tsv,
    Parquet,
}

impl MergeArgs {
    pub(super) fn run(self) -> Result<JobVerdict, JobError> {
        let format = self.output_format.map(|format| match format {
            MergeFormat::Jsonl => AnswerFormat::Jsonl,
            MergeFormat::OpenaiBatch => AnswerFormat::OpenaiBatch,
            MergeFormat::Csv => AnswerFormat::Csv,
            MergeFormat::Tsv => AnswerFormat::Tsv,
            MergeFormat::Parquet => AnswerFormat::Parquet,
        });
        let Self { run, partial, overwrite, output, aggregate, .. } = self;
        job::merge_shards(&MergeRequest { run, partial, overwrite, output, format, aggregate })
    }
}
