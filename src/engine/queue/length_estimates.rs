//! The lengths of answers that this run has observed: pure.
//!
//! Owns the expected length of each length class. The longest answers go first, so that the tail of a run is short; an
//! observed mean replaces the guess that made the class. The classes themselves are in `domain::length_class`.

use crate::domain::LengthClass;

/// Answers of a class from which their mean counts for more than the guess.
const MIN_OBSERVED_ANSWERS: u64 = 8;
/// Answers after which the classes are sorted again.
const REORDER_INTERVAL: u64 = 256;

/// The answers observed so far, and the order of classes that follows from them.
#[derive(Debug)]
pub(crate) struct LengthEstimates {
    observed: [ObservedLengths; LengthClass::COUNT],
    /// All classes, the longest expected answers first.
    class_order: Vec<LengthClass>,
    answers_since_sort: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct ObservedLengths {
    answers: u64,
    tokens: u64,
}

impl Default for LengthEstimates {
    fn default() -> Self {
        let mut estimates = Self {
            observed: [ObservedLengths::default(); LengthClass::COUNT],
            class_order: Vec::new(),
            answers_since_sort: 0,
        };
        estimates.sort_classes();
        estimates
    }
}

impl LengthEstimates {
    pub(crate) fn record_answer(&mut self, class: LengthClass, tokens: u64) {
        let observed = &mut self.observed[class.class_index()];
        observed.answers += 1;
        observed.tokens += tokens;
        self.answers_since_sort += 1;
        if self.answers_since_sort >= REORDER_INTERVAL {
            self.answers_since_sort = 0;
            self.sort_classes();
        }
    }

    /// Returns all classes, the longest expected answers first.
    pub(crate) fn class_order(&self) -> &[LengthClass] {
        &self.class_order
    }

    fn expected_tokens(&self, class: LengthClass) -> f64 {
        let observed = self.observed[class.class_index()];
        if class.is_exact() || observed.answers < MIN_OBSERVED_ANSWERS {
            // Without observations an answer is taken to be as long as its prompt: often wrong, and no worse than any
            // other order where it is.
            class.typical_length()
        } else {
            observed.tokens as f64 / observed.answers as f64
        }
    }

    fn sort_classes(&mut self) {
        let mut order: Vec<LengthClass> = LengthClass::all_classes().collect();
        order.sort_by(|&a, &b| self.expected_tokens(b).total_cmp(&self.expected_tokens(a)));
        self.class_order = order;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::RequestParams;

    fn class_of(length: usize, params: &RequestParams) -> LengthClass {
        LengthClass::of_prompt(length, |name| params.get(name))
    }

    fn position_of(estimates: &LengthEstimates, class: LengthClass) -> usize {
        estimates.class_order().iter().position(|&it| it == class).expect("every class is listed")
    }

    #[test]
    fn given_lengths_and_long_prompts_go_first() {
        let estimates = LengthEstimates::default();
        let given = |tokens: u64| {
            let mut params = RequestParams::default();
            params.set("max_tokens", tokens.to_string());
            params.set("ignore_eos", "true");
            class_of(10_000, &params)
        };
        assert!(position_of(&estimates, given(800)) < position_of(&estimates, given(100)));
        let guessed = |length| class_of(length, &RequestParams::default());
        assert!(position_of(&estimates, guessed(4000)) < position_of(&estimates, guessed(400)));
        assert_eq!(estimates.class_order().len(), LengthClass::COUNT);
        let _ = (given(0), given(u64::MAX), guessed(0));
    }

    #[test]
    fn observed_lengths_win_over_the_guess() {
        let mut estimates = LengthEstimates::default();
        let short = class_of(100, &RequestParams::default());
        let long = class_of(9000, &RequestParams::default());
        for _ in 0..REORDER_INTERVAL {
            estimates.record_answer(short, 700);
            estimates.record_answer(long, 20);
        }
        assert!(position_of(&estimates, short) < position_of(&estimates, long));
    }
}
