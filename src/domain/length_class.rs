//! Length classes: the expected length of an answer, from what is known of its prompt before it is sent.
//!
//! Owns the classes. Prompts with long expected answers go first in the order of work, so that the tail of a run
//! consists of short ones. Classes in steps of √2 serve that as well as a full sort, so prompts need not be compared
//! with each other. Latencies observed per class are in `engine/queue/length_estimates.rs`.

/// A class of expected lengths: answers of a given length, or prompts of about one length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LengthClass(u8);

/// Classes per octave, that is per factor of two.
const STEPS_PER_OCTAVE: f64 = 2.0;
/// Number of classes of each kind. The longest is 2^24 tokens, beyond any context.
const CLASSES_PER_KIND: u8 = 49;

impl LengthClass {
    /// Number of classes of both kinds.
    pub(crate) const COUNT: usize = 2 * CLASSES_PER_KIND as usize;

    /// Returns the class of a prompt with a text of `bytes` bytes. `param` returns the parameters of its request by
    /// name.
    pub(crate) fn of_prompt<'p>(bytes: usize, param: impl Fn(&str) -> Option<&'p str>) -> Self {
        let exact = param("ignore_eos") == Some("true");
        let limit = || param("max_completion_tokens").or_else(|| param("max_tokens"));
        match exact.then(|| limit()?.parse().ok()).flatten() {
            Some(tokens) => Self(length_step(tokens)),
            None => Self(CLASSES_PER_KIND + length_step(bytes as u64 / 4)),
        }
    }

    /// Returns all classes in the order of their indexes.
    pub(crate) fn all_classes() -> impl Iterator<Item = Self> {
        (0..2 * CLASSES_PER_KIND).map(Self)
    }

    /// Returns the index of the class among all, below [`LengthClass::COUNT`].
    #[must_use]
    pub(crate) fn class_index(self) -> usize {
        usize::from(self.0)
    }

    /// Returns the index in one byte, for storage.
    #[must_use]
    pub(crate) fn to_code(self) -> u8 {
        self.0
    }

    /// Returns the class of a stored byte, or `None` if there is no such class.
    #[must_use]
    pub(crate) fn from_code(code: u8) -> Option<Self> {
        (code < 2 * CLASSES_PER_KIND).then_some(Self(code))
    }

    /// Whether the answer's length is given (`ignore_eos` with `max_tokens`) rather than estimated.
    #[must_use]
    pub(crate) fn is_exact(self) -> bool {
        self.0 < CLASSES_PER_KIND
    }

    /// Returns the approximate length of the class in tokens, of the answer if it is given or else of the prompt.
    #[must_use]
    pub(crate) fn typical_length(self) -> f64 {
        (f64::from(self.0 % CLASSES_PER_KIND) / STEPS_PER_OCTAVE).exp2()
    }

    /// Returns the next longer class of the same kind.
    #[must_use]
    pub(crate) fn next_longer(self) -> Option<Self> {
        (!(self.0 + 1).is_multiple_of(CLASSES_PER_KIND)).then_some(Self(self.0 + 1))
    }
}

/// Returns the logarithm of the number to base √2, rounded down.
fn length_step(tokens: u64) -> u8 {
    let tokens = tokens.max(1);
    let octave = tokens.ilog2();
    // Integer arithmetic, because the scan runs this per row: is the number at least √2 times the octave's beginning?
    let upper = u128::from(tokens).pow(2) >> (2 * octave) >= 2;
    u8::try_from(2 * octave + u32::from(upper)).unwrap_or(u8::MAX).min(CLASSES_PER_KIND - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_length_is_exact_only_if_the_answer_cannot_end_earlier() {
        let of = |eos: &'static str, max_tokens: &'static str| {
            LengthClass::of_prompt(4000, |name| match name {
                "ignore_eos" => Some(eos),
                "max_tokens" => Some(max_tokens),
                _ => None,
            })
        };
        assert!(of("true", "64").is_exact() && !of("false", "64").is_exact());
        assert!(!of("true", "many").is_exact());
        assert_eq!(
            (of("true", "64").typical_length(), of("false", "64")),
            (64.0, LengthClass::of_prompt(4000, |_| None))
        );
        assert!(of("true", "64") < of("true", "91") && of("true", "64") == of("true", "90"));
        for tokens in (1..3000).chain([u64::MAX >> 1, u64::MAX]) {
            let expected =
                ((tokens as f64).log2() * STEPS_PER_OCTAVE).min(f64::from(CLASSES_PER_KIND - 1));
            assert_eq!(length_step(tokens), expected as u8, "{tokens}");
        }
        let all: Vec<LengthClass> = LengthClass::all_classes().collect();
        assert_eq!(all.len(), LengthClass::COUNT);
        assert!(all.iter().all(|&class| LengthClass::from_code(class.to_code()) == Some(class)));
        assert_eq!(
            all.iter().filter(|class| class.next_longer().is_none()).count(),
            2,
            "the longest of both kinds"
        );
        assert_eq!(LengthClass::from_code(u8::MAX), None);
    }
}
