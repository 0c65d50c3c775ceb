//! Hedged requests: prompts that are in flight twice, here or at another rank.
//!
//! Owns which of two answers counts (the first), and which prompts of a request would gain by a hedge. Whether a
//! request is stuck or slow is `tail_policy`'s rule; the scheduler sends the hedges.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use super::tail_policy::{self, RequestAge};
use crate::engine::{endpoint_state::EndpointPool, queue::Batch};

/// The interval at which requests in flight are checked for hedging.
pub(crate) const HEDGE_INTERVAL: Duration = Duration::from_millis(100);

/// The prompts that are in flight twice.
#[derive(Debug)]
pub(crate) struct HedgeTracker {
    hedged_prompts: HashMap<u64, HedgedPrompt>,
    /// Indexes of prompts that another rank has settled, and that were here or on their way here.
    settled_elsewhere: HashSet<u64>,
    next_check: Instant,
}

/// A prompt with two requests in flight at this rank.
#[derive(Clone, Copy, Debug)]
struct HedgedPrompt {
    request_ids: [u64; 2],
    is_settled: bool,
}

/// The effect of a reply on a prompt that may be in flight twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReplyClaim {
    /// The reply decides about the prompt.
    Counts,
    /// The reply settles the prompt, and this other request need not answer it any more.
    Supersedes(u64),
    /// The other request has settled the prompt, or will: nothing is to be done here.
    Superseded,
}

impl HedgeTracker {
    pub(crate) fn new(now: Instant) -> Self {
        Self { hedged_prompts: HashMap::new(), settled_elsewhere: HashSet::new(), next_check: now }
    }

    pub(crate) fn next_check(&self) -> Instant {
        self.next_check
    }

    pub(crate) fn schedule_check(&mut self, now: Instant) {
        self.next_check = now + HEDGE_INTERVAL;
    }

    /// Returns whether no prompt is in flight twice: the look-up per prompt can be spared.
    pub(crate) fn is_empty(&self) -> bool {
        self.hedged_prompts.is_empty() && self.settled_elsewhere.is_empty()
    }

    pub(crate) fn record_hedge(&mut self, index: u64, request_ids: [u64; 2]) {
        self.hedged_prompts.insert(index, HedgedPrompt { request_ids, is_settled: false });
    }

    /// Forgets the hedges of a cancelled request: all its prompts are settled.
    pub(crate) fn forget_hedges(&mut self, batch: &Batch) {
        for task in batch.tasks() {
            self.hedged_prompts.remove(&task.index());
        }
    }

    pub(crate) fn add_settled_elsewhere(&mut self, indexes: HashSet<u64>) {
        self.settled_elsewhere.extend(indexes);
    }

    pub(crate) fn is_settled_elsewhere(&self, index: u64) -> bool {
        self.settled_elsewhere.contains(&index)
    }

    /// Returns whether the prompt needs no further answer, or one of its two requests has answered it.
    pub(crate) fn is_settled(&self, index: u64) -> bool {
        self.settled_elsewhere.contains(&index)
            || self.hedged_prompts.get(&index).is_some_and(|hedged| hedged.is_settled)
    }

    /// Decides about the reply of a request to one of its prompts; `is_answered` is false for a failure.
    pub(crate) fn claim_reply(
        &mut self,
        request_id: u64,
        index: u64,
        is_answered: bool,
    ) -> ReplyClaim {
        if self.settled_elsewhere.contains(&index) {
            return ReplyClaim::Superseded;
        }
        let Some(hedged) = self.hedged_prompts.get_mut(&index) else { return ReplyClaim::Counts };
        if hedged.is_settled || !is_answered {
            // Either both requests are back, or this one failed and the prompt is left to the other.
            self.hedged_prompts.remove(&index);
            return ReplyClaim::Superseded;
        }
        hedged.is_settled = true;
        let other = hedged.request_ids.into_iter().find(|&other| other != request_id);
        other.map_or(ReplyClaim::Counts, ReplyClaim::Supersedes)
    }
}

/// Returns the prompts of a request to `endpoint` that would gain by a hedge at endpoint `target`, one per batch.
pub(crate) fn hedge_candidates(
    batch: &Batch,
    endpoint: usize,
    elapsed: Duration,
    target: usize,
    endpoints: &EndpointPool,
) -> Vec<Batch> {
    let current = &endpoints[endpoint];
    if target == endpoint && current.give_up_time().is_some() {
        // It takes long, and would take as long again.
        return Vec::new();
    }
    let age = RequestAge {
        elapsed,
        p50_latency: current.p50_latency(batch.len()),
        p99_latency: current.p99_latency(batch.len()),
    };
    let target_p50 = endpoints[target].p50_latency(1);
    if !tail_policy::should_hedge(age, target_p50, target != endpoint) {
        return Vec::new();
    }
    let tasks = batch.tasks().iter().filter(|task| !task.is_hedged());
    tasks.map(|task| Batch::new(batch.params().clone(), vec![task.hedged_copy()])).collect()
}
