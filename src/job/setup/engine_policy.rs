//! The engine's policy, made from the settings and the selected model.
//!
//! Owns that translation, for a run and for the benches, and the size of the fail-fast sample, of which each rank's engine
//! gets its share. What the fields mean is in `engine/policy.rs`.

use std::sync::Arc;

use super::{chat_template::compile_renderer, run_plan::ModelSelection};
use crate::{
    domain::JobModels,
    engine::{EnginePolicy, SizeMode, TokenCounting},
    settings::{AutoOrCount, Settings, ThinkTagPolicy, UsageMode},
    validation::AnswerCheck,
};

/// Number of first outcomes of all ranks that mean a wrong job (fail-fast) if all are the same failure.
pub(crate) const FAIL_FAST_SAMPLE: usize = 100;

/// Lower limit of a rank's share of the sample: fewer failures say too little about a rank.
const MIN_FAIL_FAST_SAMPLE: usize = 8;

/// Makes the policy of a rank's engine. `working_ranks` is the number of ranks with endpoints, which share the fail-fast
/// sample. `keep_bodies` is whether answers keep the replies as the server sent them.
pub(crate) fn engine_policy(
    settings: &Settings,
    selection: &ModelSelection,
    working_ranks: usize,
    keep_bodies: bool,
) -> Result<EnginePolicy, String> {
    let (schema, check) = (settings.schema.as_deref(), settings.check.as_deref());
    let has_rules = schema.is_some() || check.is_some();
    let answer_check = has_rules.then(|| AnswerCheck::compile(schema, check)).transpose();
    let renderer = selection.chat_template.as_ref().map(compile_renderer).transpose();
    Ok(EnginePolicy {
        models: JobModels::new(selection.models.clone()),
        text_route: selection.text_route,
        default_params: settings.sampling_params(),
        batch_row_params: settings.batch_row_params(),
        system_prompt: settings.system.clone(),
        renderer: renderer.map_err(|error| error.to_string())?,
        concurrency: amount_to_size(settings.concurrency),
        batch_size: if settings.no_batch {
            SizeMode::Fixed(1)
        } else {
            amount_to_size(settings.batch_size)
        },
        max_batch_wait: settings.max_wait.to_duration(),
        rate_limit: settings.rate_limit,
        timeout: settings.timeout.to_duration(),
        timeout_per_sequence: settings.timeout_per_sequence.to_duration(),
        max_tries: settings.retries,
        only_exhausted_left: false,
        context_buffer: settings.buffer,
        no_progress_timeout: settings.ready_timeout.to_duration(),
        token_counting: match settings.usage {
            UsageMode::Off => TokenCounting::Off,
            UsageMode::Share => TokenCounting::Share,
            UsageMode::Exact => TokenCounting::Exact,
        },
        keep_bodies,
        split_thinking: settings.think_tags == ThinkTagPolicy::Auto,
        fail_fast_threshold: FAIL_FAST_SAMPLE.div_ceil(working_ranks).max(MIN_FAIL_FAST_SAMPLE),
        answer_check: answer_check.map_err(|error| error.to_string())?.map(Arc::new),
        answer_schema: settings.schema.clone(),
    })
}

fn amount_to_size(amount: AutoOrCount) -> SizeMode {
    match amount {
        AutoOrCount::Auto => SizeMode::Auto,
        AutoOrCount::Count(size) => SizeMode::Fixed(size),
    }
}
