//! Fail-fast: whether the job is wrong, and not its prompts. Pure.
//!
//! Owns the failures that are held back. A wrong parameter fails every row in the same way: while no prompt was
//! answered, such failures are held back, and if the first hundred are of one kind, none of them is written and the
//! prompts stay open. The decision over all ranks is the coordinator's, in `job::dispatch::fail_fast`.

use std::time::Duration;

use crate::domain::{FailureKind, Outcome, PromptResult};

/// The failures that are held back, until an outcome of another kind disarms fail-fast.
#[derive(Debug)]
pub(crate) struct FailFast {
    threshold: usize,
    held_failures: Vec<PromptResult>,
    /// The failures that were reported; the same number is not reported twice.
    reported_count: usize,
    /// Whether a prompt was answered, here or elsewhere: failures are the prompts' own.
    is_disarmed: bool,
}

/// The time in which a server refuses a wrong parameter; a refusal that comes later is of another kind.
pub(crate) const STARTUP_HOLD: Duration = Duration::from_millis(60);

impl FailFast {
    /// `threshold` is the number of like failures that stop the job.
    pub(crate) fn new(threshold: usize) -> Self {
        Self {
            threshold: threshold.max(1),
            held_failures: Vec::new(),
            reported_count: 0,
            is_disarmed: false,
        }
    }

    /// Passes an outcome on to `released`, or holds it back.
    pub(crate) fn filter_outcome(
        &mut self,
        result: PromptResult,
        released: &mut Vec<PromptResult>,
    ) {
        if self.is_disarmed {
            released.push(result);
            return;
        }
        let kind = match &result.outcome {
            Outcome::Answered(_) => None,
            Outcome::Failed(failure) => Some(failure.kind),
        };
        match kind {
            // The server has answered: tokens were spent, and the answer is to be kept.
            Some(FailureKind::Invalid) => {
                released.push(result);
                self.release_held(released);
            }
            // These are a prompt's own fault and say nothing about the job.
            Some(FailureKind::EmptyPrompt | FailureKind::BadRow | FailureKind::TooLong) => {
                released.push(result);
            }
            Some(kind) if self.held_kind().is_none_or(|held| held == kind) => {
                self.held_failures.push(result);
            }
            _ => {
                released.push(result);
                self.release_held(released);
            }
        }
    }

    /// Returns the number of held failures and the message of the last one, once they reach the threshold, or are all
    /// that there will be.
    pub(crate) fn check_threshold(&mut self, all_done: bool) -> Option<(u64, String)> {
        let count = self.held_failures.len();
        if self.is_disarmed || count <= self.reported_count || (count < self.threshold && !all_done)
        {
            return None;
        }
        self.reported_count = count;
        match &self.held_failures.last()?.outcome {
            Outcome::Failed(failure) => Some((count as u64, failure.message.clone())),
            Outcome::Answered(_) => None,
        }
    }

    /// Returns whether no request is to be sent for now beside the `in_flight` requests. A wrong parameter is refused at
    /// once: a short hold at the start keeps a wrong job from flooding the servers, and held failures prolong it until
    /// there is an answer.
    pub(crate) fn should_hold_requests(&self, in_flight: usize, since_start: Duration) -> bool {
        let is_undecided = since_start < STARTUP_HOLD || !self.held_failures.is_empty();
        !self.is_disarmed && is_undecided && in_flight + self.held_failures.len() >= self.threshold
    }

    /// Takes the held failures, which are not the prompts' own: other ranks answer. Returns the indexes of their prompts
    /// and the message of the last one.
    pub(crate) fn take_held(&mut self) -> (Vec<u64>, String) {
        let held = std::mem::take(&mut self.held_failures);
        self.reported_count = 0;
        let message = match held.last().map(|result| &result.outcome) {
            Some(Outcome::Failed(failure)) => failure.message.clone(),
            Some(Outcome::Answered(_)) | None => String::new(),
        };
        (held.iter().map(|result| result.prompt.index).collect(), message)
    }

    /// Doubles the threshold: the held failures are too few to decide.
    pub(crate) fn raise_threshold(&mut self) {
        self.threshold = self.threshold.max(self.held_failures.len()) * 2;
    }

    /// Disarms fail-fast: the held failures are the prompts' own.
    pub(crate) fn release_held(&mut self, released: &mut Vec<PromptResult>) {
        self.is_disarmed = true;
        released.append(&mut self.held_failures);
    }

    fn held_kind(&self) -> Option<FailureKind> {
        match &self.held_failures.first()?.outcome {
            Outcome::Failed(failure) => Some(failure.kind),
            Outcome::Answered(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        Prompt, PromptAnswer, PromptFailure, PromptId, PromptInput, RequestParams, RowHash,
    };

    fn result_of_kind(kind: Option<FailureKind>) -> PromptResult {
        let prompt = Prompt {
            index: 0,
            id: PromptId::from_index(0),
            input: PromptInput::Text("x".into()),
            images: Vec::new(),
            params: RequestParams::default(),
            model: None,
            route: None,
            priority: 0,
            row: None,
            row_hash: RowHash::UNKNOWN,
        };
        let outcome = match kind {
            None => Outcome::Answered(PromptAnswer::default()),
            Some(kind) => Outcome::Failed(PromptFailure {
                kind,
                message: "unknown parameter".into(),
                status: None,
            }),
        };
        PromptResult { prompt, outcome, endpoint: None, latency: 0.0, attempts: 1, invalid: None }
    }

    #[test]
    fn failures_of_one_kind_are_held_until_another_outcome() {
        let (mut fail_fast, mut out) = (FailFast::new(3), Vec::new());
        fail_fast.filter_outcome(result_of_kind(Some(FailureKind::BadRequest)), &mut out);
        fail_fast.filter_outcome(result_of_kind(Some(FailureKind::TooLong)), &mut out);
        assert_eq!((out.len(), fail_fast.check_threshold(false)), (1, None));
        let tripped = fail_fast.check_threshold(true);
        assert_eq!(tripped, Some((1, "unknown parameter".into())), "there will be no more");
        fail_fast.filter_outcome(result_of_kind(Some(FailureKind::BadRequest)), &mut out);
        fail_fast.filter_outcome(result_of_kind(Some(FailureKind::BadRequest)), &mut out);
        let tripped = fail_fast.check_threshold(false);
        assert_eq!((out.len(), tripped), (1, Some((3, "unknown parameter".into()))));
        fail_fast.release_held(&mut out);
        assert_eq!((out.len(), fail_fast.check_threshold(true)), (4, None));
    }

    #[test]
    fn held_failures_that_are_taken_are_no_outcomes() {
        let (mut fail_fast, mut out) = (FailFast::new(2), Vec::new());
        for _ in 0..2 {
            fail_fast.filter_outcome(result_of_kind(Some(FailureKind::BadRequest)), &mut out);
        }
        assert!(fail_fast.check_threshold(false).is_some());
        assert_eq!(fail_fast.take_held(), (vec![0, 0], "unknown parameter".into()));
        assert_eq!((out.len(), fail_fast.check_threshold(true)), (0, None));
    }

    #[test]
    fn requests_are_held_until_the_first_answer() {
        let (mut fail_fast, mut out) = (FailFast::new(8), Vec::new());
        assert!(!fail_fast.should_hold_requests(7, Duration::ZERO));
        assert!(fail_fast.should_hold_requests(8, Duration::ZERO));
        assert!(
            !fail_fast.should_hold_requests(8, STARTUP_HOLD),
            "answers take longer than refusals"
        );
        fail_fast.filter_outcome(result_of_kind(Some(FailureKind::BadRequest)), &mut out);
        assert!(fail_fast.should_hold_requests(7, STARTUP_HOLD));
        assert!(!fail_fast.should_hold_requests(6, STARTUP_HOLD), "too few to decide");
        fail_fast.filter_outcome(result_of_kind(None), &mut out);
        assert!(!fail_fast.should_hold_requests(8, Duration::ZERO));
    }

    #[test]
    fn an_answer_or_another_failure_disarms_fail_fast() {
        for other in [None, Some(FailureKind::Refused), Some(FailureKind::Invalid)] {
            let (mut fail_fast, mut out) = (FailFast::new(2), Vec::new());
            fail_fast.filter_outcome(result_of_kind(Some(FailureKind::BadRequest)), &mut out);
            fail_fast.filter_outcome(result_of_kind(other), &mut out);
            assert_eq!(out.len(), 2);
            for _ in 0..5 {
                fail_fast.filter_outcome(result_of_kind(Some(FailureKind::BadRequest)), &mut out);
            }
            assert_eq!((out.len(), fail_fast.check_threshold(true)), (7, None));
        }
    }
}
