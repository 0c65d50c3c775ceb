//! The next step after a session: advice by the kinds of failures that there are and by why the session stopped. Pure.
//!
//! Owns the wording of the `next:` lines. Advice is given only if it helps: prompts that are too long fail again however
//! often they are sent.

use std::collections::BTreeMap;

use crate::{
    domain::FailureKind,
    report::format::{format_duration, pluralize},
};

/// Condition that ended a session early and that the same command alone does not mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopCause {
    /// The first outcomes were all the same failure.
    UniformFailures,
    /// No server was reachable.
    NoServer,
    /// Answers could not be written.
    WriteFailed,
    /// The input could not be read.
    InputUnreadable,
}

/// Facts that the advice depends on.
#[derive(Debug, Default)]
pub(crate) struct EndState {
    /// Prompts without an outcome.
    pub open: u64,
    /// Estimated seconds until none is open, if prompts were finished in this session.
    pub left_s: Option<f64>,
    /// Failed prompts by kind, as answers name the kinds.
    pub failures: BTreeMap<String, u64>,
    /// Answers that ended at their token limit.
    pub cut: u64,
    pub stop: Option<StopCause>,
}

/// Number of lines of advice.
const MAX_STEPS: usize = 2;

/// Returns the next steps, the most useful first; none if nothing is left to do.
#[must_use]
pub(crate) fn next_steps(state: &EndState) -> Vec<String> {
    // Open prompts come first: until there are none, the same command is the right step whatever has failed.
    if state.open > 0 {
        return vec![resume_step(state)];
    }
    let mut by_step = BTreeMap::<FailureStep, u64>::new();
    for (kind, count) in &state.failures {
        *by_step.entry(FailureStep::for_kind(kind)).or_default() += count;
    }
    let mut steps: Vec<_> = by_step.into_iter().filter(|(_, count)| *count > 0).collect();
    steps.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let is_single = steps.len() == 1;
    let failures = steps.into_iter().map(|(step, count)| {
        step.advice(&if is_single { "those prompts".into() } else { pluralize(count, "prompt") })
    });
    let cut = (state.cut > 0)
        .then(|| "--retry-cut with a larger --max-tokens resends the cut answers".to_owned());
    failures.chain(cut).take(MAX_STEPS).collect()
}

fn resume_step(state: &EndState) -> String {
    let open = pluralize(state.open, "prompt");
    let first = match state.stop {
        None => {
            let left = state.left_s.map(|left| format!(", about {} left", format_duration(left)));
            return format!("run the same command again ({open} open{})", left.unwrap_or_default());
        }
        Some(StopCause::UniformFailures) => "fix the cause of the error below",
        Some(StopCause::NoServer) => "start the servers",
        Some(StopCause::WriteFailed) => "free space for the output",
        Some(StopCause::InputUnreadable) => "make the input readable on all nodes",
    };
    format!("{first}, then run the command again ({open} open)")
}

/// Steps against failures, each for one or more kinds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum FailureStep {
    FixRows,
    Shorten,
    FixParameter,
    ReadReasons,
    ReadInvalid,
    RunAgain,
}

impl FailureStep {
    fn for_kind(kind: &str) -> Self {
        match serde_json::from_value::<FailureKind>(kind.into()) {
            Ok(FailureKind::EmptyPrompt | FailureKind::BadRow) => Self::FixRows,
            Ok(FailureKind::TooLong) => Self::Shorten,
            Ok(FailureKind::BadRequest) => Self::FixParameter,
            Ok(FailureKind::Exhausted) => Self::RunAgain,
            Ok(FailureKind::Invalid) => Self::ReadInvalid,
            Ok(FailureKind::Refused) | Err(_) => Self::ReadReasons,
        }
    }

    fn advice(self, prompts: &str) -> String {
        match self {
            Self::FixRows => {
                let rows = prompts.replace("prompt", "row");
                format!("fix {rows}; with --accept-changes the same command sends only them")
            }
            Self::Shorten => {
                format!("shorten {prompts}, or serve the model with a larger --max-model-len")
            }
            Self::FixParameter => {
                format!("fix the request parameter of {prompts}, then pass --retry-failed")
            }
            Self::ReadReasons => {
                format!("see `error` in the answers; --retry-failed resends {prompts}")
            }
            Self::ReadInvalid => {
                format!("see raw_response in the answers; --retry-failed asks {prompts} again")
            }
            Self::RunAgain => format!("run the same command again to retry {prompts}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kinds: &[(&str, u64)]) -> EndState {
        let failures = kinds.iter().map(|&(kind, count)| (kind.to_owned(), count)).collect();
        EndState { failures, ..EndState::default() }
    }

    #[test]
    fn advice_fits_the_failures_and_the_stop() {
        let open =
            |stop| EndState { open: 3, stop, left_s: Some(7.0), ..failed(&[("too_long", 4)]) };
        let cut = |state| EndState { cut: 2, ..state };
        let table: &[(EndState, &[&str])] = &[
            (EndState::default(), &[]),
            (open(None), &["run the same command again (3 prompts open, about 7s left)"]),
            (
                open(Some(StopCause::UniformFailures)),
                &["fix the cause of the error below, then run the command again (3 prompts open)"],
            ),
            (
                open(Some(StopCause::NoServer)),
                &["start the servers, then run the command again (3 prompts open)"],
            ),
            (
                open(Some(StopCause::WriteFailed)),
                &["free space for the output, then run the command again (3 prompts open)"],
            ),
            (
                open(Some(StopCause::InputUnreadable)),
                &[
                    "make the input readable on all nodes, then run the command again (3 prompts open)",
                ],
            ),
            (failed(&[("exhausted", 2)]), &["run the same command again to retry those prompts"]),
            (
                failed(&[("too_long", 2)]),
                &["shorten those prompts, or serve the model with a larger --max-model-len"],
            ),
            (
                failed(&[("bad_row", 2), ("empty_prompt", 1)]),
                &["fix those rows; with --accept-changes the same command sends only them"],
            ),
            (
                failed(&[("bad_request", 1)]),
                &["fix the request parameter of those prompts, then pass --retry-failed"],
            ),
            (
                failed(&[("refused", 9)]),
                &["see `error` in the answers; --retry-failed resends those prompts"],
            ),
            (
                failed(&[("too_long", 1), ("exhausted", 12), ("bad_row", 2)]),
                &[
                    "run the same command again to retry 12 prompts",
                    "fix 2 rows; with --accept-changes the same command sends only them",
                ],
            ),
            (
                cut(EndState::default()),
                &["--retry-cut with a larger --max-tokens resends the cut answers"],
            ),
            (
                cut(failed(&[("too_long", 1)])),
                &[
                    "shorten those prompts, or serve the model with a larger --max-model-len",
                    "--retry-cut with a larger --max-tokens resends the cut answers",
                ],
            ),
        ];
        for (state, expected) in table {
            assert_eq!(next_steps(state), *expected, "{state:?}");
        }
    }
}
