//! `aurora-swarm merge`.

use clap::{Args, ValueEnum};

use crate::{
    job::{self, JobError, JobVerdict},
    output::AnswerFormat,
    settings::AggregateSpec,
};

/// The ordered output again, from a run's shard files
#[derive(Args)]
#[command(after_help = "Examples:\n  aurora-swarm merge answers.jsonl\n  \
    aurora-swarm merge answers.jsonl --partial --output so-far.csv --output-format csv\n  \
    aurora-swarm merge answers.jsonl --aggregate majority:/verdict --aggregate failures")]
pub(super) struct MergeArgs {
    /// The run: its --output FILE, or its folder
    run: String,
    /// Take what there is, though prompts are open
    #[arg(long)]
    partial: bool,
    /// Where to [default: the run's own output; with prompts open, that name and .partial]
    #[arg(long, short, value_name = "FILE")]
    output: Option<String>,
    /// Its format [default: the run's]
    #[arg(long, value_name = "FORMAT")]
    output_format: Option<MergeFormat>,
    /// What all answers come to together, as in `run`; again for more [default: the run's]
    #[arg(long, value_name = "WHAT")]
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
    /// Local.
    pub(super) fn run(self) -> Result<JobVerdict, JobError> {
        let format = self.output_format.map(|shape| match shape {
            MergeFormat::Jsonl => AnswerFormat::Jsonl,
            MergeFormat::OpenaiBatch => AnswerFormat::OpenaiBatch,
            MergeFormat::Csv => AnswerFormat::Csv,
            MergeFormat::Parquet => AnswerFormat::Parquet,
        });
        job::merge_shards(&self.run, self.partial, self.output.as_deref(), format, self.aggregate)
    }
}
