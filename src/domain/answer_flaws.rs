//! Flaws of an answer: it was cut at its token limit, is blank, or is a refusal.
//!
//! An answer with flaws counts as answered, and its flaws are told wherever counts are. An answer of several sequences
//! has the flaws of all of them.

use serde::{Deserialize, Serialize};

use super::Merge;

/// Set of flaws, ordered by severity: of two answers to a prompt, the one with the lower value is the better one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AnswerFlaws(u8);

/// Number of answers with each flaw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FlawCounts {
    /// Answers that ended at their token limit (`finish_reason` is `length`).
    #[serde(default)]
    pub cut: u64,
    /// Answers without visible text, tool call or refusal.
    #[serde(default)]
    pub blank: u64,
    /// Answers that the model refused (`refusal`), or that a content filter ended.
    #[serde(default)]
    pub refused: u64,
}

impl AnswerFlaws {
    pub(crate) const NONE: Self = Self(0);
    const CUT: Self = Self(1);
    const BLANK: Self = Self(2);
    const REFUSED: Self = Self(4);

    /// Returns the flaws of one sequence. `is_empty` is whether it has neither visible text nor a tool call.
    #[must_use]
    pub(crate) fn of_sequence(
        finish_reason: Option<&str>,
        is_empty: bool,
        has_refusal: bool,
    ) -> Self {
        let end = match finish_reason {
            Some("length") => Self::CUT,
            Some("content_filter") => Self::REFUSED,
            _ => Self::NONE,
        };
        match (has_refusal || end == Self::REFUSED, is_empty) {
            (true, _) => end.union(Self::REFUSED),
            (false, true) => end.union(Self::BLANK),
            (false, false) => end,
        }
    }

    /// Returns whether a field with this JSON has content: it is neither null nor empty.
    #[must_use]
    pub(crate) fn is_json_content(json: &str) -> bool {
        !matches!(json, "null" | "[]" | "[ ]" | "{}" | "\"\"")
    }

    /// Returns the set with this number; `None` if there is no such set.
    #[must_use]
    pub(crate) fn from_bits(bits: u8) -> Option<Self> {
        (bits < 8).then_some(Self(bits))
    }

    #[must_use]
    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    #[must_use]
    pub(crate) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub(crate) fn is_cut(self) -> bool {
        self.0 & Self::CUT.0 != 0
    }

    fn is_blank(self) -> bool {
        self.0 & Self::BLANK.0 != 0
    }

    fn is_refused(self) -> bool {
        self.0 & Self::REFUSED.0 != 0
    }
}

impl FlawCounts {
    /// Counts `answers` answers with these flaws.
    pub(crate) fn add(&mut self, flaws: AnswerFlaws, answers: u64) {
        self.cut += answers * u64::from(flaws.is_cut());
        self.blank += answers * u64::from(flaws.is_blank());
        self.refused += answers * u64::from(flaws.is_refused());
    }

    /// Returns the counts that are not zero, each with its name.
    pub(crate) fn named_counts(self) -> impl Iterator<Item = (u64, &'static str)> {
        let counts = [(self.cut, "cut"), (self.blank, "blank"), (self.refused, "refused")];
        counts.into_iter().filter(|(count, _)| *count > 0)
    }
}

impl Merge for FlawCounts {
    fn merge(&mut self, other: Self) {
        self.cut += other.cut;
        self.blank += other.blank;
        self.refused += other.refused;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_has_the_flaws_of_its_end_and_content() {
        let named = |end, is_empty, has_refusal| {
            let mut counts = FlawCounts::default();
            counts.add(AnswerFlaws::of_sequence(end, is_empty, has_refusal), 1);
            counts.named_counts().map(|(_, name)| name).collect::<Vec<_>>()
        };
        assert!(named(Some("stop"), false, false).is_empty());
        assert!(named(None, false, false).is_empty());
        assert_eq!(named(Some("length"), false, false), ["cut"]);
        assert_eq!(named(Some("length"), true, false), ["cut", "blank"]);
        assert_eq!(named(Some("stop"), true, false), ["blank"]);
        assert_eq!(named(Some("stop"), true, true), ["refused"], "a refusal says why it is blank");
        assert_eq!(named(Some("content_filter"), true, false), ["refused"]);
        assert_eq!(named(Some("content_filter"), false, false), ["refused"]);
    }

    #[test]
    fn a_partial_text_is_better_than_none() {
        let [sound, cut, blank, refused] = [
            AnswerFlaws::NONE,
            AnswerFlaws::of_sequence(Some("length"), false, false),
            AnswerFlaws::of_sequence(Some("stop"), true, false),
            AnswerFlaws::of_sequence(Some("stop"), true, true),
        ];
        assert!(sound < cut && cut < blank && blank < refused);
        assert!(blank < cut.union(blank) && cut.union(blank).is_cut());
    }
}
