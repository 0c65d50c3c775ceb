//! How long an answer is expected to be: pure.
//!
//! Owns length classes and what this run has shown of them. The long ones go first, so that the last minute is short
//! ones; classes in steps of √2 serve that as well as a full sort, so prompts need not be compared with each other.

use crate::domain::{Params, Prompt};

/// A class of expected lengths: answers whose length is given, or prompts of about one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Class(u8);

/// Two classes an octave.
const STEPS: f64 = 2.0;
/// Classes of one kind: 2^24 tokens are beyond any context.
const OF_A_KIND: u8 = 49;
const ALL: usize = 2 * OF_A_KIND as usize;
/// Answers of a class before they count for more than a guess.
const ENOUGH: u64 = 8;
/// Answers between two looks at the order.
const EVERY: u64 = 256;

/// What the answers so far were like.
#[derive(Debug)]
pub(super) struct Lengths {
    shown: [Shown; ALL],
    /// Classes, the longest expected answers first.
    order: Vec<Class>,
    since: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Shown {
    answers: u64,
    tokens: u64,
}

impl Class {
    /// Of a prompt whose request has these parameters.
    pub(super) fn of(prompt: &Prompt, params: &Params) -> Self {
        let exact = params.get("ignore_eos") == Some("true");
        match params.number("max_tokens").filter(|_| exact) {
            Some(tokens) => Self(step(tokens)),
            None => Self(OF_A_KIND + step(prompt.input.as_str().len() as u64 / 4)),
        }
    }

    /// Is the answer's length given rather than guessed?
    fn is_exact(self) -> bool {
        self.0 < OF_A_KIND
    }

    /// The length that gave the class, about: tokens of the answer, or of the prompt.
    fn middle(self) -> f64 {
        (f64::from(self.0 % OF_A_KIND) / STEPS).exp2()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "at most 2 × log2 of a u64"
)]
fn step(tokens: u64) -> u8 {
    let step = (tokens.max(1) as f64).log2() * STEPS;
    (step as u8).min(OF_A_KIND - 1)
}

impl Default for Lengths {
    fn default() -> Self {
        let mut lengths = Self { shown: [Shown::default(); ALL], order: Vec::new(), since: 0 };
        lengths.sort();
        lengths
    }
}

impl Lengths {
    /// An answer of so many tokens.
    pub(super) fn saw(&mut self, class: Class, tokens: u64) {
        let shown = &mut self.shown[usize::from(class.0)];
        shown.answers += 1;
        shown.tokens += tokens;
        self.since += 1;
        if self.since >= EVERY {
            self.since = 0;
            self.sort();
        }
    }

    /// All classes, the longest expected answers first.
    pub(super) fn order(&self) -> &[Class] {
        &self.order
    }

    /// Where nothing was shown yet, an answer is taken to be as long as its prompt: often wrong, and as good as any other
    /// order where it is.
    fn expected(&self, class: Class) -> f64 {
        let shown = self.shown[usize::from(class.0)];
        if class.is_exact() || shown.answers < ENOUGH {
            class.middle()
        } else {
            shown.tokens as f64 / shown.answers as f64
        }
    }

    fn sort(&mut self) {
        let mut order: Vec<Class> = (0..2 * OF_A_KIND).map(Class).collect();
        order.sort_by(|&a, &b| self.expected(b).total_cmp(&self.expected(a)));
        self.order = order;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Id, Input};

    fn prompt(length: usize) -> Prompt {
        Prompt {
            index: 0,
            id: Id::of_index(0),
            input: Input::Text("x".repeat(length)),
            params: Params::default(),
            route: None,
            priority: 0,
            row: None,
        }
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
            Class::of(&prompt(10_000), &params)
        };
        assert!(place(&lengths, given(800)) < place(&lengths, given(100)));
        let guessed = |length| Class::of(&prompt(length), &Params::default());
        assert!(place(&lengths, guessed(4000)) < place(&lengths, guessed(400)));
        assert_eq!(lengths.order().len(), ALL);
        let _ = (given(0), given(u64::MAX), guessed(0));
    }

    #[test]
    fn what_was_shown_wins_over_the_guess() {
        let mut lengths = Lengths::default();
        let (short, long) = (
            Class::of(&prompt(100), &Params::default()),
            Class::of(&prompt(9000), &Params::default()),
        );
        for _ in 0..EVERY {
            lengths.saw(short, 700);
            lengths.saw(long, 20);
        }
        assert!(place(&lengths, short) < place(&lengths, long));
    }
}
