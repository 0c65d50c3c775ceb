//! Is it the job that is wrong, and not its prompts? Pure.
//!
//! Owns fail-fast: a wrong parameter fails every row in the same way. While nothing was answered yet, such failures are
//! held back; if the first hundred are all of a kind, none of them is written and the prompts stay open.

use std::time::Duration;

use crate::domain::{FailureKind, Outcome, PromptResult};

/// What is held back.
#[derive(Debug)]
pub(crate) struct FailFast {
    threshold: usize,
    held_failures: Vec<PromptResult>,
    /// So many were told of: the same are not told of again.
    reported_count: usize,
    /// Something was answered, or somebody said that others were: failures are the prompts' own.
    disarmed: bool,
}

/// A refusal that comes later than this is none.
pub(crate) const STARTUP_HOLD: Duration = Duration::from_millis(60);

impl FailFast {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            threshold: most.max(1),
            held_failures: Vec::new(),
            reported_count: 0,
            disarmed: false,
        }
    }

    /// Takes an outcome in; what is to be written goes to `out`.
    pub(crate) fn filter_outcome(&mut self, settled: PromptResult, out: &mut Vec<PromptResult>) {
        if self.disarmed {
            out.push(settled);
            return;
        }
        let kind = match &settled.outcome {
            Outcome::Answered(_) => None,
            Outcome::Failed(failure) => Some(failure.kind),
        };
        match kind {
            // What only a prompt itself can be guilty of says nothing of the job.
            Some(FailureKind::EmptyPrompt | FailureKind::BadRow | FailureKind::TooLong) => {
                out.push(settled);
            }
            Some(kind) if self.held_kind().is_none_or(|held| held == kind) => {
                self.held_failures.push(settled)
            }
            _ => {
                out.push(settled);
                self.release_held(out);
            }
        }
    }

    /// How many there are and what they say, once it is no chance, or nothing else is to come.
    pub(crate) fn check_threshold(&mut self, all_done: bool) -> Option<(u64, String)> {
        let count = self.held_failures.len();
        if self.disarmed || count <= self.reported_count || (count < self.threshold && !all_done) {
            return None;
        }
        self.reported_count = count;
        match &self.held_failures.last()?.outcome {
            Outcome::Failed(failure) => {
                Some((self.held_failures.len() as u64, failure.message.clone()))
            }
            Outcome::Answered(_) => None,
        }
    }

    /// Is it time to send no more, after so many requests? A parameter that is wrong is refused at once: so nothing floods
    /// the servers before a moment has passed, and once there are such failures, before there is an answer.
    pub(crate) fn should_hold_requests(&self, requests: u64, since_start: Duration) -> bool {
        let unknown = since_start < STARTUP_HOLD || !self.held_failures.is_empty();
        !self.disarmed && unknown && requests >= self.threshold as u64
    }

    /// They are too few to tell: as many again are held back.
    pub(crate) fn raise_threshold(&mut self) {
        self.threshold = self.threshold.max(self.held_failures.len()) * 2;
    }

    /// They are the prompts' own failures after all.
    pub(crate) fn release_held(&mut self, out: &mut Vec<PromptResult>) {
        self.disarmed = true;
        out.append(&mut self.held_failures);
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
            params: RequestParams::default(),
            route: None,
            priority: 0,
            row: None,
            row_hash: RowHash::UNKNOWN,
        };
        let outcome = match kind {
            None => Outcome::Answered(PromptAnswer::default()),
            Some(kind) => Outcome::Failed(PromptFailure {
                kind,
                message: "no such knob".into(),
                status: None,
            }),
        };
        PromptResult { prompt, outcome, endpoint: None, latency: 0.0, attempts: 1 }
    }

    #[test]
    fn failures_of_one_kind_are_held_until_another_outcome() {
        let (mut alike, mut out) = (FailFast::new(3), Vec::new());
        alike.filter_outcome(result_of_kind(Some(FailureKind::BadRequest)), &mut out);
        alike.filter_outcome(result_of_kind(Some(FailureKind::TooLong)), &mut out);
        assert_eq!((out.len(), alike.check_threshold(false)), (1, None));
        assert_eq!(
            alike.check_threshold(true),
            Some((1, "no such knob".into())),
            "there will be no more"
        );
        alike.filter_outcome(result_of_kind(Some(FailureKind::BadRequest)), &mut out);
        alike.filter_outcome(result_of_kind(Some(FailureKind::BadRequest)), &mut out);
        assert_eq!(
            (out.len(), alike.check_threshold(false)),
            (1, Some((3, "no such knob".into())))
        );
        alike.release_held(&mut out);
        assert_eq!((out.len(), alike.check_threshold(true)), (4, None));
    }

    #[test]
    fn requests_are_held_until_the_first_answer() {
        let (mut alike, mut out) = (FailFast::new(8), Vec::new());
        assert!(
            !alike.should_hold_requests(7, Duration::ZERO)
                && alike.should_hold_requests(8, Duration::ZERO)
        );
        assert!(!alike.should_hold_requests(8, STARTUP_HOLD), "answers take longer than refusals");
        alike.filter_outcome(result_of_kind(Some(FailureKind::BadRequest)), &mut out);
        assert!(alike.should_hold_requests(8, STARTUP_HOLD));
        alike.filter_outcome(result_of_kind(None), &mut out);
        assert!(!alike.should_hold_requests(8, Duration::ZERO));
    }

    #[test]
    fn an_answer_or_another_failure_disarms_fail_fast() {
        for other in [None, Some(FailureKind::Refused)] {
            let (mut alike, mut out) = (FailFast::new(2), Vec::new());
            alike.filter_outcome(result_of_kind(Some(FailureKind::BadRequest)), &mut out);
            alike.filter_outcome(result_of_kind(other), &mut out);
            assert_eq!(out.len(), 2);
            (0..5).for_each(|_| {
                alike.filter_outcome(result_of_kind(Some(FailureKind::BadRequest)), &mut out)
            });
            assert_eq!((out.len(), alike.check_threshold(true)), (7, None));
        }
    }
}
