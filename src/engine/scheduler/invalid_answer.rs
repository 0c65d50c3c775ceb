//! Answers that are not valid: the check of replies, and the consequences for a prompt.
//!
//! Owns both. The check runs on a thread beside the event loop, since a long answer and a large schema may take a
//! while; the rules themselves are in `validation`. A prompt gets up to `--retries` answers: after one that was cut it
//! is asked with twice the room, in a conversation with the reason, otherwise as it was, if it can come out otherwise.
//! Nothing happens here: the [`NextTry`] is applied in `completion`.

use std::{collections::HashMap, sync::Arc};

use crate::{
    domain::{AnswerChoice, FailureKind, PromptAnswer, PromptFailure, Route},
    endpoint::{BatchParams, RequestFault, ServerReply},
    engine::{
        EnginePolicy,
        queue::{Batch, FollowUp, PromptTask},
    },
    validation::{AnswerCheck, InvalidText},
};

/// The answers of a reply that are not valid, by position in the batch: of each sequence the reason, if there is one.
pub(crate) type InvalidReasons = HashMap<usize, Vec<Option<InvalidText>>>;

/// The next step for a prompt whose answer is not valid.
#[derive(Debug)]
pub(crate) enum NextTry {
    /// Ask again, before other prompts of its kind.
    AskAgain(Batch),
    Fail(Box<PromptTask>, PromptFailure),
}

/// The longest answer that is repeated to the model, in characters: its context has to hold the next one too.
const MAX_REPEATED_CHARS: usize = 4_000;
/// The largest schema that is repeated to the model, in bytes.
const MAX_REPEATED_SCHEMA: usize = 4_000;

/// Checks the answers of a reply, without blocking the event loop.
#[expect(
    clippy::disallowed_methods,
    reason = "engine owns tasks; the request's future awaits this one"
)]
pub(crate) async fn check_reply(
    reply: Result<ServerReply, RequestFault>,
    check: Option<Arc<AnswerCheck>>,
) -> Result<(ServerReply, InvalidReasons), RequestFault> {
    let reply = reply?;
    let Some(check) = check else { return Ok((reply, InvalidReasons::new())) };
    let checked = tokio::task::spawn_blocking(move || {
        let reasons = find_invalid(&reply.answers.answers, &check);
        (reply, reasons)
    });
    checked.await.map_err(|error| RequestFault::Transient {
        message: format!("the answer could not be checked: {error}"),
        status: None,
    })
}

fn find_invalid(answers: &[Option<PromptAnswer>], check: &AnswerCheck) -> InvalidReasons {
    // A call of a tool is no text to be checked.
    let calls_tool =
        |choice: &AnswerChoice| choice.fields.iter().any(|(name, _)| name == "tool_calls");
    let reason = |choice: &AnswerChoice| match calls_tool(choice) {
        true => None,
        false => check.validate(&choice.text).err(),
    };
    let reasons = |answer: &PromptAnswer| -> Vec<Option<InvalidText>> {
        answer.choices.iter().map(reason).collect()
    };
    let answers = answers.iter().enumerate();
    let checked =
        answers.filter_map(|(position, answer)| Some((position, reasons(answer.as_ref()?))));
    checked.filter(|(_, reasons)| reasons.iter().any(Option::is_some)).collect()
}

/// Decides about a prompt whose answer is not valid; `params` are those of its request.
pub(crate) fn resolve_invalid(
    policy: &EnginePolicy,
    params: &Arc<BatchParams>,
    mut task: PromptTask,
    answer: PromptAnswer,
    reasons: &[Option<InvalidText>],
) -> NextTry {
    let invalid = || {
        let choices = answer.choices.iter().zip(reasons);
        choices.filter_map(|(choice, reason)| Some((choice, reason.as_ref()?)))
    };
    let is_cut = |choice: &AnswerChoice| choice.finish_reason.as_deref() == Some("length");
    let was_cut = invalid().any(|(choice, _)| is_cut(choice));
    let needs_room = invalid().any(|(choice, reason)| is_cut(choice) && reason.is_incomplete);
    let (text, reason) = invalid()
        .next()
        .map(|(choice, invalid)| (choice.text.clone(), invalid.reason.clone()))
        .unwrap_or_default();
    let reason = if was_cut { format!("it was cut by max_tokens, and {reason}") } else { reason };
    let is_valid: Vec<bool> = reasons.iter().map(Option::is_none).collect();
    let tries = task.invalid_tries_mut();
    tries.record_answer(answer, &is_valid, &reason);
    tries.set_follow_up(None);
    let (count, valid) = (tries.count(), tries.valid_count());
    if count >= policy.max_tries {
        let plural = if count == 1 { "" } else { "s" };
        return fail(
            task,
            format!("no valid answer in {count} attempt{plural}; the last one: {reason}"),
        );
    }
    let mut next = (**params).clone();
    let sequences = policy.batch_params(task.prompt(), None).n;
    if sequences > 1 {
        next.n = sequences.saturating_sub(valid).max(1);
        next.params.set("n", next.n.to_string());
    }
    let has_room = was_cut && add_room(&mut next, policy, &task);
    if needs_room {
        if !has_room {
            return fail(task, format!("no valid answer, and no room for a longer one: {reason}"));
        }
    // (several sequences are to be independent of each other: they are drawn again)
    } else if sequences == 1
        && let Some(follow_up) = follow_up(policy, params, &text, &reason)
    {
        let added = [follow_up.answer.as_str(), &follow_up.message].concat();
        let limit = next.params.answer_limit();
        if let Some(fitted) =
            policy.max_tokens_beside(next.model_number, limit, &task.prompt().input, &added)
        {
            next.params.set_answer_limit(fitted);
        }
        next.allow_lists = false;
        task.invalid_tries_mut().set_follow_up(Some(follow_up));
    } else if is_greedy(params) {
        return fail(
            task,
            format!("no valid answer, and temperature 0 gives the same again: {reason}"),
        );
    } else if let Some(seed) = params.params.get("seed").and_then(|seed| seed.parse::<i64>().ok()) {
        next.params.set("seed", seed.wrapping_add(1).to_string());
    }
    NextTry::AskAgain(Batch::new(next.into(), vec![task]))
}

fn fail(task: PromptTask, message: String) -> NextTry {
    let failure = PromptFailure { kind: FailureKind::Invalid, message, status: Some(200) };
    NextTry::Fail(Box::new(task), failure)
}

/// Doubles the limit of the answer. Returns false if there is no more room.
fn add_room(params: &mut BatchParams, policy: &EnginePolicy, task: &PromptTask) -> bool {
    let Some(limit) = params.params.answer_limit() else { return false };
    let doubled = policy.doubled_max_tokens(params.model_number, limit, &task.prompt().input);
    if let Some(doubled) = doubled {
        params.params.set_answer_limit(doubled);
    }
    doubled.is_some()
}

pub(crate) fn is_greedy(params: &BatchParams) -> bool {
    let temperature = params.params.get("temperature").and_then(|it| it.parse::<f64>().ok());
    temperature == Some(0.0)
}

/// Returns the messages that continue the conversation; none where there is no conversation, or the model goes on with
/// a message that was begun.
fn follow_up(
    policy: &EnginePolicy,
    params: &BatchParams,
    answer: &str,
    reason: &str,
) -> Option<FollowUp> {
    let continues_message = params.params.get("continue_final_message") == Some("true");
    if params.route != Route::Chat || continues_message {
        return None;
    }
    let wanted = match policy.answer_schema.as_deref() {
        Some(schema) if schema.len() <= MAX_REPEATED_SCHEMA => {
            format!("one JSON value that is valid by this JSON schema, and nothing else: {schema}")
        }
        Some(_) => "one JSON value that is valid by the JSON schema, and nothing else.".to_owned(),
        None => "a valid answer, and nothing else.".to_owned(),
    };
    let answer = match answer.char_indices().nth(MAX_REPEATED_CHARS) {
        Some((end, _)) => format!("{}…", &answer[..end]),
        None => answer.to_owned(),
    };
    let message = format!("Your answer is not valid: {reason}.\nAnswer again with {wanted}");
    Some(FollowUp { answer, message })
}
