//! The consequences of a failed request for its prompts: pure but for the jitter of retries.
//!
//! Owns retries with back-off, the count of attempts against `--retries`, and the split of refused batches. What a
//! fault is was found by `endpoint::fault`; what it means for the endpoint is in `endpoint_state`. Nothing happens
//! here: the [`Disposition`] is applied in `completion`.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::{
    domain::{FailureKind, PromptFailure},
    endpoint::RequestFault,
    engine::{
        endpoint_state::MAX_RETRY_AFTER,
        queue::{Batch, PromptTask},
    },
};

/// The attempts, in multiples of `--retries`, from which failures count even if the servers are not healthy.
const UNHEALTHY_ATTEMPTS_FACTOR: u32 = 8;

/// Attempts at a prompt that takes longer than a proxy waits, at most.
const MAX_SLOW_TRIES: u32 = 3;

/// The circumstances of a failed request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FaultContext {
    pub(crate) endpoint: usize,
    /// Whether the endpoint has answered since it was last suspended.
    pub(crate) answered_since_up: bool,
    pub(crate) ever_answered: bool,
    /// Whether every prompt that is left was sent before.
    pub(crate) only_retries_left: bool,
    /// Whether every prompt of the job has used up its tries in an earlier session.
    pub(crate) only_exhausted_left: bool,
    /// Whether the request ran into a time limit that is tighter than the configured one.
    pub(crate) hit_tightened_timeout: bool,
    /// The time after which a proxy has given up the request, if that is why it failed: the prompts take too long.
    pub(crate) gave_up_after: Option<Duration>,
    pub(crate) timed_out: bool,
    /// Whether the prompts of a failed list are to be sent one by one.
    pub(crate) needs_singles: bool,
    pub(crate) max_tries: u32,
}

/// The next step for the prompts of a failed request.
#[derive(Debug)]
pub(crate) enum Disposition {
    /// Send the halves, each whole and before everything else.
    Split(Batch),
    /// Send each prompt alone, before others of their kind: the failure may be that of the list.
    SendSingly(Batch),
    /// Send the batch whole, before everything else.
    SendWhole(Batch),
    /// Send the prompts again, before others of their kind: the failure was not theirs.
    Return(Batch),
    /// Send the prompts again after a pause; the server has too much to do.
    Delay {
        batch: Batch,
        delay: Duration,
    },
    /// Send the prompts again after a pause that have attempts left, and fail the others.
    Retry {
        batch: Batch,
        delay: Duration,
        exhausted: Batch,
        failure: PromptFailure,
    },
    /// Send the prompts again, one by one and after all others, that have attempts left, and fail the others.
    Postpone {
        batch: Batch,
        exhausted: Batch,
        failure: PromptFailure,
    },
    Fail {
        batch: Batch,
        failure: PromptFailure,
    },
}

/// Decides about the prompts of a failed request.
pub(crate) fn resolve_fault(
    fault: RequestFault,
    batch: Batch,
    context: FaultContext,
) -> Disposition {
    match fault {
        RequestFault::UnusableList { .. } => Disposition::SendSingly(batch),
        RequestFault::Prompt { too_long: false, .. }
            if batch.len() > 1 && context.needs_singles =>
        {
            Disposition::SendSingly(batch)
        }
        RequestFault::Prompt { .. } | RequestFault::ListTooLong if batch.len() > 1 => {
            Disposition::Split(batch)
        }
        RequestFault::Prompt { too_long, message, status } => {
            let kind = if too_long { FailureKind::TooLong } else { FailureKind::Refused };
            fail(batch, kind, message, Some(status))
        }
        RequestFault::ListTooLong => {
            let message = "the server refuses even a batch of one prompt".to_owned();
            fail(batch, FailureKind::BadRequest, message, Some(400))
        }
        RequestFault::Request { message, status } => {
            let status = Some(status).filter(|&status| status > 0);
            fail(batch, FailureKind::BadRequest, message, status)
        }
        RequestFault::TooManyTokens { tokens_left, message } => {
            reduce_max_tokens(batch, tokens_left, message)
        }
        RequestFault::Busy { retry_after, .. } => {
            // A pause of hours is cut to a minute: by then another client's burst may be over.
            let asked = retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
            let delay = asked.max(refusal_backoff(batch.max_attempts().unwrap_or(1)));
            Disposition::Delay { batch: batch.avoiding(context.endpoint), delay }
        }
        RequestFault::Transient { .. } if batch.len() > 1 => retry_list(batch, context),
        RequestFault::Transient { message, status } => retry(batch, &message, status, context),
        RequestFault::Denied { .. } | RequestFault::EndpointDown { .. } => {
            Disposition::Return(batch)
        }
    }
}

/// Decides about a list that failed as a whole, which counts against none of its prompts: one of them may be what the
/// server fails on, or the list itself.
fn retry_list(batch: Batch, context: FaultContext) -> Disposition {
    let batch = batch.avoiding(context.endpoint);
    // Halves that take too long as well would take their time one after the other.
    if context.needs_singles || context.timed_out || context.gave_up_after.is_some() {
        Disposition::SendSingly(batch)
    } else {
        Disposition::Split(batch)
    }
}

/// Decides about prompts that got no usable answer from an endpoint: another attempt for those that have one left.
pub(crate) fn retry(
    batch: Batch,
    message: &str,
    status: Option<u16>,
    context: FaultContext,
) -> Disposition {
    // More attempts at what takes too long would only take as long again.
    let max_tries = match context.gave_up_after {
        Some(_) => context.max_tries.min(MAX_SLOW_TRIES),
        None => context.max_tries,
    };
    let (params, mut tasks) = batch.into_parts();
    // A server that has answered nothing since it came up is not healthy, whatever it reports: its failures do not
    // count, unless the prompts were sent so often that they may be what breaks it. Where every prompt that is left has
    // failed before, a status counts as an answer: the prompts must not stay open for ever because no other prompt is
    // left that could show whether the server is healthy. Prompts that earlier sessions have tried in vain, and that are
    // all that is left, cost a session no more than their tries.
    let speaks = status.is_some() && context.ever_answered && context.only_retries_left;
    let counts = (context.answered_since_up || speaks || context.only_exhausted_left)
        && !context.hit_tightened_timeout
        || context.gave_up_after.is_some();
    for task in &mut tasks {
        let may_break_servers =
            task.attempts() >= max_tries.saturating_mul(UNHEALTHY_ATTEMPTS_FACTOR);
        task.record_failed_attempt(context.endpoint, counts || may_break_servers);
    }
    let (exhausted, again): (Vec<PromptTask>, Vec<PromptTask>) =
        tasks.into_iter().partition(|task| task.counted_tries() >= max_tries);
    let batch = Batch::new(params.clone(), again);
    let delay = batch.max_attempts().map_or(Duration::ZERO, retry_backoff);
    let exhausted = Batch::new(params, exhausted);
    let plural = if max_tries == 1 { "" } else { "s" };
    let slow = context.gave_up_after.map_or(String::new(), |time| {
        let seconds = time.as_secs_f64();
        format!("the server, or a proxy in front of it, gives up after about {seconds:.0} s; ")
    });
    let message =
        format!("no answer after {max_tries} attempt{plural}; {slow}the last error: {message}");
    let failure = PromptFailure { kind: FailureKind::Exhausted, message, status };
    if context.gave_up_after.is_some() {
        return Disposition::Postpone { batch, exhausted, failure };
    }
    Disposition::Retry { batch, delay, exhausted, failure }
}

/// Asks for no more tokens than the server counts as left.
fn reduce_max_tokens(batch: Batch, tokens_left: u64, message: String) -> Disposition {
    let asked = batch.params().params.answer_limit();
    if batch.len() > 1 {
        Disposition::Split(batch)
    } else if asked.is_none_or(|asked| asked > tokens_left) {
        Disposition::SendWhole(batch.with_max_tokens(tokens_left))
    } else {
        fail(batch, FailureKind::TooLong, message, Some(400))
    }
}

fn fail(batch: Batch, kind: FailureKind, message: String, status: Option<u16>) -> Disposition {
    Disposition::Fail { batch, failure: PromptFailure { kind, message, status } }
}

/// Returns the pause before another attempt: short at first, since most faults befall single requests, then half a
/// second, doubling to 8 s, with jitter. A server that needs longer is suspended, with pauses of its own.
fn retry_backoff(attempts: u32) -> Duration {
    match attempts {
        0 | 1 => backoff(Duration::from_millis(100), 0),
        _ => backoff(Duration::from_millis(500), attempts - 2),
    }
}

/// Returns the pause of a prompt that was refused: the endpoint has pauses of its own if it refuses many.
fn refusal_backoff(attempts: u32) -> Duration {
    backoff(Duration::from_millis(50), attempts.saturating_sub(1))
}

/// Returns `min_delay`, doubled `doublings` times up to 8 s, with jitter.
fn backoff(min_delay: Duration, doublings: u32) -> Duration {
    let mut steps = ExponentialBuilder::default()
        .with_min_delay(min_delay)
        .with_max_delay(Duration::from_secs(8))
        .without_max_times()
        .with_jitter()
        .build();
    steps.nth(doublings.min(16) as usize).unwrap_or_default()
}
