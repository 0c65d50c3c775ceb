//! What this run has shown of how long answers are: pure.
//!
//! Owns the expectation of each length class. The long ones go first, so that the last minute is short ones; what was
//! shown of a class wins over the guess that made it.

use crate::domain::Class;

/// Answers of a class before they count for more than a guess.
const ENOUGH: u64 = 8;
/// Answers between two looks at the order.
const EVERY: u64 = 256;

/// What the answers so far were like.
#[derive(Debug)]
pub(crate) struct Lengths {
    shown: [Shown; Class::COUNT],
    /// Classes, the longest expected answers first.
    order: Vec<Class>,
    since: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    answers: u64,
    tokens: u64,
}

impl Default for Lengths {
    fn default() -> Self {
        let mut lengths =
            Self { shown: [Shown::default(); Class::COUNT], order: Vec::new(), since: 0 };
        lengths.sort();
        lengths
    }
}

impl Lengths {
    /// An answer of so many tokens.
    pub(crate) fn saw(&mut self, class: Class, tokens: u64) {
        let shown = &mut self.shown[class.number()];
        shown.answers += 1;
        shown.tokens += tokens;
        self.since += 1;
        if self.since >= EVERY {
            self.since = 0;
            self.sort();
        }
    }

    /// All classes, the longest expected answers first.
    pub(crate) fn order(&self) -> &[Class] {
        &self.order
    }

    /// Where nothing was shown yet, an answer is taken to be as long as its prompt: often wrong, and as good as any other
    /// order where it is.
    fn expected(&self, class: Class) -> f64 {
        let shown = self.shown[class.number()];
        if class.is_exact() || shown.answers < ENOUGH {
            class.middle()
        } else {
            shown.tokens as f64 / shown.answers as f64
        }
    }

    fn sort(&mut self) {
        let mut order: Vec<Class> = Class::all().collect();
        order.sort_by(|&a, &b| self.expected(b).total_cmp(&self.expected(a)));
        self.order = order;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Params;

    fn class(length: usize, params: &Params) -> Class {
        Class::of(length, |name| params.get(name))
    }

    fn place(lengths: &Lengths, class: Class) -> usize {
        lengths.order().iter().position(|&it| it == class).expect("every class has a place")
    }

    #[test]
    fn given_lengths_and_long_prompts_go_first() {
        let lengths = Lengths::default();
        let given = |tokens: u64| {
            let mut params = Params::default();
            params.set("max_tokens", tokens.to_string());
            params.set("ignore_eos", "true");
            class(10_000, &params)
        };
        assert!(place(&lengths, given(800)) < place(&lengths, given(100)));
        let guessed = |length| class(length, &Params::default());
        assert!(place(&lengths, guessed(4000)) < place(&lengths, guessed(400)));
        assert_eq!(lengths.order().len(), Class::COUNT);
        let _ = (given(0), given(u64::MAX), guessed(0));
    }

    #[test]
    fn what_was_shown_wins_over_the_guess() {
        let mut lengths = Lengths::default();
        let (short, long) = (class(100, &Params::default()), class(9000, &Params::default()));
        for _ in 0..EVERY {
            lengths.saw(short, 700);
            lengths.saw(long, 20);
        }
        assert!(place(&lengths, short) < place(&lengths, long));
    }
}
