//! The results of prompts on their way to the writer: pure.
//!
//! Owns the results that are not handed over yet, those that fail-fast holds back, the pause until the coordinator
//! decides about them, and the rank's tally. Which outcome a prompt has is decided in `completion`; writing is the
//! engine's writer thread's.

use std::time::Duration;

use super::fail_fast::FailFast;
use crate::domain::{FailureKind, Outcome, Prompt, PromptFailure, PromptResult, Tally};

/// The results between their requests and the writer.
#[derive(Debug)]
pub(crate) struct ResultBuffer {
    fail_fast: FailFast,
    pending: Vec<PromptResult>,
    tally: Tally,
    /// Whether refusals by endpoints that have answered nothing are not final, since other ranks answer.
    are_refusals_returned: bool,
    /// Whether fail-fast has tripped: no request is sent until the coordinator decides whether the job is wrong.
    is_paused: bool,
}

impl ResultBuffer {
    pub(crate) fn new(fail_fast_threshold: usize) -> Self {
        Self {
            fail_fast: FailFast::new(fail_fast_threshold),
            pending: Vec::new(),
            tally: Tally::default(),
            are_refusals_returned: false,
            is_paused: false,
        }
    }

    pub(crate) fn push_result(&mut self, mut result: PromptResult) {
        // Results may wait here and at the writer, which shows images as short texts.
        result.prompt.drop_image_data();
        self.fail_fast.filter_outcome(result, &mut self.pending);
    }

    /// Fails a prompt that is not sent.
    pub(crate) fn reject_prompt(&mut self, prompt: Prompt, kind: FailureKind, message: String) {
        let failure = PromptFailure { kind, message, status: None };
        let outcome = Outcome::Failed(failure);
        self.push_result(PromptResult {
            prompt,
            outcome,
            endpoint: None,
            latency: 0.0,
            attempts: 0,
            invalid: None,
        });
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes the results that are to be written, and counts them.
    pub(crate) fn take_pending(&mut self) -> Vec<PromptResult> {
        // Counted only now: failures that are held back may never be written.
        let results = std::mem::take(&mut self.pending);
        results.iter().for_each(|result| self.tally.record_result(result));
        results
    }

    /// Returns the number and the message of the held failures if fail-fast trips now; requests are paused then.
    /// `all_done` is whether nothing is left that could have another outcome.
    pub(crate) fn check_fail_fast(&mut self, all_done: bool) -> Option<(u64, String)> {
        if self.is_paused {
            return None;
        }
        let tripped = self.fail_fast.check_threshold(all_done);
        self.is_paused = tripped.is_some();
        tripped
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Ends the pause: the held failures are the prompts' own.
    pub(crate) fn proceed(&mut self) {
        self.is_paused = false;
        self.fail_fast.release_held(&mut self.pending);
    }

    /// Ends the pause: other ranks answer, so the held failures are the endpoints' own. Returns the indexes of their
    /// prompts, which have no outcome, and the message of the last failure.
    pub(crate) fn take_held(&mut self) -> (Vec<u64>, String) {
        (self.is_paused, self.are_refusals_returned) = (false, true);
        self.fail_fast.take_held()
    }

    /// Returns whether refusals by endpoints that have answered nothing are not final, since other ranks answer.
    pub(crate) fn are_refusals_returned(&self) -> bool {
        self.are_refusals_returned
    }

    /// Ends the pause: the held failures are too few to decide, and as many again are held.
    pub(crate) fn keep_holding(&mut self) {
        self.is_paused = false;
        self.fail_fast.raise_threshold();
    }

    /// Returns whether no further request is to be sent until the first outcomes are known.
    pub(crate) fn should_hold_requests(&self, in_flight: usize, since_start: Duration) -> bool {
        self.fail_fast.should_hold_requests(in_flight, since_start)
    }

    pub(crate) fn count_request(&mut self) {
        self.tally.requests += 1;
    }

    pub(crate) fn count_retries(&mut self, prompts: usize) {
        self.tally.retried += prompts as u64;
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(crate) fn into_tally(self) -> Tally {
        self.tally
    }
}
