//! What this run has shown of how long answers are: pure.
//!
//! Owns the expectation of each length class. The long ones go first, so that the last minute is short ones; what was
//! shown of a class wins over the guess that made it.

use crate::domain::LengthClass;

/// Answers of a class before they count for more than a guess.
const MIN_OBSERVED_ANSWERS: u64 = 8;
/// Answers between two looks at the order.
const REORDER_INTERVAL: u64 = 256;

/// What the answers so far were like.
#[derive(Debug)]
pub(crate) struct LengthEstimates {
    observed: [ObservedLengths; LengthClass::COUNT],
    /// Classes, the longest expected answers first.
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
        let mut lengths = Self {
            observed: [ObservedLengths::default(); LengthClass::COUNT],
            class_order: Vec::new(),
            answers_since_sort: 0,
        };
        lengths.sort_classes();
        lengths
    }
}

impl LengthEstimates {
    /// An answer of so many tokens.
    pub(crate) fn record_answer(&mut self, class: LengthClass, tokens: u64) {
        let shown = &mut self.observed[class.class_index()];
        shown.answers += 1;
        shown.tokens += tokens;
        self.answers_since_sort += 1;
        if self.answers_since_sort >= REORDER_INTERVAL {
            self.answers_since_sort = 0;
            self.sort_classes();
        }
    }

    /// All classes, the longest expected answers first.
    pub(crate) fn class_order(&self) -> &[LengthClass] {
        &self.class_order
    }

    /// Where nothing was shown yet, an answer is taken to be as long as its prompt: often wrong, and as good as any other
    /// order where it is.
    fn expected_tokens(&self, class: LengthClass) -> f64 {
        let shown = self.observed[class.class_index()];
        if class.is_exact() || shown.answers < MIN_OBSERVED_ANSWERS {
            class.typical_length()
        } else {
            shown.tokens as f64 / shown.answers as f64
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

    fn position_of(lengths: &LengthEstimates, class: LengthClass) -> usize {
        lengths.class_order().iter().position(|&it| it == class).expect("every class has a place")
    }

    #[test]
    fn given_lengths_and_long_prompts_go_first() {
        let lengths = LengthEstimates::default();
        let given = |tokens: u64| {
            let mut params = RequestParams::default();
            params.set("max_tokens", tokens.to_string());
            params.set("ignore_eos", "true");
            class_of(10_000, &params)
        };
        assert!(position_of(&lengths, given(800)) < position_of(&lengths, given(100)));
        let guessed = |length| class_of(length, &RequestParams::default());
        assert!(position_of(&lengths, guessed(4000)) < position_of(&lengths, guessed(400)));
        assert_eq!(lengths.class_order().len(), LengthClass::COUNT);
        let _ = (given(0), given(u64::MAX), guessed(0));
    }

    #[test]
    fn observed_lengths_win_over_the_guess() {
        let mut lengths = LengthEstimates::default();
        let (short, long) =
            (class_of(100, &RequestParams::default()), class_of(9000, &RequestParams::default()));
        for _ in 0..REORDER_INTERVAL {
            lengths.record_answer(short, 700);
            lengths.record_answer(long, 20);
        }
        assert!(position_of(&lengths, short) < position_of(&lengths, long));
    }
}
