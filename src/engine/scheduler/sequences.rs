//! The sequences of a prompt at a server that makes only one per request: pure.
//!
//! Owns the sum of an answer from several requests. That the server makes fewer than `n` sequences is found out in
//! `endpoint_state::server_features`; sequences that are not valid are asked for again in `invalid_answer`.

use std::sync::Arc;

use crate::{
    domain::PromptAnswer,
    endpoint::BatchParams,
    engine::{
        EnginePolicy,
        queue::{Batch, PromptTask},
    },
};

/// Returns whether an answer to a request with these parameters may lack sequences. The common case costs nothing.
pub(crate) fn may_lack_sequences(
    task: &PromptTask,
    answer: &PromptAnswer,
    params: &BatchParams,
) -> bool {
    answer.choices.len() < params.n
        || task.invalid_tries().is_some_and(|tries| tries.is_collecting())
}

/// Keeps the sequences of an answer and returns the request for the next one; the answer itself if it completes the
/// prompt's sequences, or has as many as were ever asked for.
pub(crate) fn ask_for_rest(
    policy: &EnginePolicy,
    params: &Arc<BatchParams>,
    mut task: PromptTask,
    answer: PromptAnswer,
) -> Result<Batch, Box<(PromptTask, PromptAnswer)>> {
    let wanted = policy.batch_params(task.prompt(), None).n;
    let kept = task.invalid_tries().map_or(0, |tries| tries.valid_count());
    let made = answer.choices.len();
    if kept + made >= wanted {
        return Err(Box::new((task, answer)));
    }
    task.invalid_tries_mut().record_sequences(answer);
    let mut next = (**params).clone();
    next.n = 1;
    next.params.remove("n");
    // The same seed would give the same sequence again.
    if let Some(seed) = params.params.get("seed").and_then(|seed| seed.parse::<i64>().ok()) {
        next.params.set("seed", seed.wrapping_add(made as i64).to_string());
    }
    Ok(Batch::new(next.into(), vec![task]))
}
