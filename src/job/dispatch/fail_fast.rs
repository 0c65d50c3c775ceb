//! Fail-fast across ranks: the decision whether ranks whose first outcomes are all the same failure mean a wrong job.
//!
//! Owns that decision, as a pure function over the ranks' states; the coordinator acts on it. That each engine holds
//! its failures back meanwhile and sends nothing is in `engine/scheduler/fail_fast.rs`.

use super::rank_state::RankState;
use crate::job::setup::engine_policy::FAIL_FAST_SAMPLE;

/// Decision about the failures that ranks hold back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum FailFastDecision {
    /// No rank holds failures back, or a rank with work has not reported yet.
    Wait,
    /// The failures are the prompts' own: they are written, and the ranks continue.
    Proceed,
    /// The failures are too few to judge: the ranks send as many prompts again.
    KeepHolding,
    /// The job is wrong; all first outcomes failed with this message.
    FailJob(String),
}

/// Decides on the failures that ranks hold back. `any_answered`: a prompt was answered, in this session or an earlier
/// one. `open_prompts` is the number of prompts without an outcome, on all ranks.
///
/// After any answer, or if the held failures are all that is left, the failures are the prompts' own. If every rank
/// with work holds failures, enough of them mean that the job is wrong, and with too few the ranks go on.
pub(crate) fn decide_fail_fast(
    ranks: &[RankState],
    has_work: impl Fn(usize) -> bool,
    any_answered: bool,
    open_prompts: u64,
) -> FailFastDecision {
    let mut held = ranks.iter().filter_map(|rank| rank.held_failures.as_ref());
    let Some(first) = held.next() else { return FailFastDecision::Wait };
    if any_answered {
        return FailFastDecision::Proceed;
    }
    let is_decided = |(rank, state): (usize, &RankState)| {
        !state.is_active() || state.held_failures.is_some() || !has_work(rank)
    };
    if !ranks.iter().enumerate().all(is_decided) {
        return FailFastDecision::Wait;
    }
    let count = first.count + held.map(|failures| failures.count).sum::<u64>();
    if count >= FAIL_FAST_SAMPLE as u64 {
        FailFastDecision::FailJob(first.message.clone())
    } else if count < open_prompts {
        FailFastDecision::KeepHolding
    } else {
        FailFastDecision::Proceed
    }
}

/// Whether another rank than this one is at work and has answered in this session: it gets the prompts that this rank,
/// which has answered nothing, holds back as failed.
pub(crate) fn does_other_rank_answer(ranks: &[RankState], rank: usize) -> bool {
    let answers = |state: &RankState| {
        state.is_active() && state.progress.endpoints_up > 0 && state.progress.tally.answered > 0
    };
    ranks.iter().enumerate().any(|(other, state)| other != rank && answers(state))
}

#[cfg(test)]
mod tests {
    use super::{super::rank_state::HeldFailures, *};

    /// Two ranks, of which the second holds no failures where `counts` has one entry.
    fn ranks_holding(counts: &[u64]) -> Vec<RankState> {
        let mut ranks = vec![RankState::new(1, false), RankState::new(1, false)];
        for (rank, &count) in ranks.iter_mut().zip(counts) {
            rank.held_failures =
                Some(HeldFailures { count, message: "HTTP 400".into(), told_to_hold: false });
        }
        ranks
    }

    #[test]
    fn ranks_wait_until_all_that_have_work_hold_failures() {
        let decide = |ranks: &[RankState], second_works| {
            decide_fail_fast(ranks, |rank| rank == 0 || second_works, false, 1000)
        };
        assert_eq!(decide(&ranks_holding(&[]), true), FailFastDecision::Wait);
        assert_eq!(decide(&ranks_holding(&[200]), true), FailFastDecision::Wait);
        let wrong = FailFastDecision::FailJob("HTTP 400".into());
        assert_eq!(decide(&ranks_holding(&[200]), false), wrong);
        let mut lost = ranks_holding(&[200]);
        lost[1].lost = true;
        assert_eq!(decide(&lost, true), wrong, "a lost rank is not waited for");
    }

    #[test]
    fn a_hundred_uniform_failures_fail_the_job_and_fewer_go_on() {
        let decide =
            |counts: &[u64], open| decide_fail_fast(&ranks_holding(counts), |_| true, false, open);
        assert_eq!(decide(&[50, 50], 1000), FailFastDecision::FailJob("HTTP 400".into()));
        assert_eq!(decide(&[50, 49], 1000), FailFastDecision::KeepHolding);
        assert_eq!(decide(&[50, 49], 99), FailFastDecision::Proceed, "no prompt is left to send");
    }

    #[test]
    fn failures_of_a_rank_go_to_others_only_if_these_answer() {
        let mut ranks = ranks_holding(&[50]);
        assert!(!does_other_rank_answer(&ranks, 0));
        ranks[1].progress.tally.answered = 1;
        ranks[1].progress.endpoints_up = 1;
        assert!(does_other_rank_answer(&ranks, 0) && !does_other_rank_answer(&ranks, 1));
        ranks[1].lost = true;
        assert!(!does_other_rank_answer(&ranks, 0));
    }

    #[test]
    fn after_any_answer_failures_are_the_prompts_own() {
        let decision = decide_fail_fast(&ranks_holding(&[200]), |_| true, true, 1000);
        assert_eq!(decision, FailFastDecision::Proceed);
    }
}
