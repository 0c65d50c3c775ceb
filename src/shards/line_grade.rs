//! Grades of outcomes, and which of several outcomes of a prompt counts. Pure.

use super::header::shard_file_name;
use crate::domain::AnswerFlaws;

/// Grade of an outcome: an answer with its flaws, or a failure. Better outcomes have lower grades.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LineGrade(u8);

/// Precedence among outcomes of the same prompt: the lowest value counts.
///
/// The better grade comes first, so success beats failure. Among equals the earliest session and then the lowest rank
/// come first, except for cut answers: a later one had the limit that the user asked for last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LinePrecedence {
    grade: LineGrade,
    /// Session and rank; complements for cut answers.
    order: (u32, u32),
}

impl LineGrade {
    pub(crate) const FAILED: Self = Self(8);
    /// Number of bits of [`Self::bits`].
    pub(crate) const BITS: u32 = 4;

    #[must_use]
    pub(crate) fn answered(flaws: AnswerFlaws) -> Self {
        Self(flaws.bits())
    }

    /// Returns the grade with this number, as [`Self::bits`] gives it.
    #[must_use]
    pub(crate) fn from_bits(bits: u64) -> Self {
        u8::try_from(bits)
            .ok()
            .and_then(AnswerFlaws::from_bits)
            .map_or(Self::FAILED, Self::answered)
    }

    #[must_use]
    pub(crate) fn bits(self) -> u64 {
        self.0.into()
    }

    /// Returns the flaws of an answer; `None` for a failure.
    #[must_use]
    pub(crate) fn flaws(self) -> Option<AnswerFlaws> {
        AnswerFlaws::from_bits(self.0)
    }

    #[must_use]
    pub(crate) fn is_answered(self) -> bool {
        self != Self::FAILED
    }

    /// Returns whether the latest of several outcomes with this grade counts, and not the earliest.
    #[must_use]
    pub(crate) fn prefers_latest(self) -> bool {
        self.flaws().is_some_and(AnswerFlaws::is_cut)
    }
}

impl LinePrecedence {
    #[must_use]
    pub(crate) fn new(grade: LineGrade, start: u32, rank: u32) -> Self {
        let order = if grade.prefers_latest() { (!start, !rank) } else { (start, rank) };
        Self { grade, order }
    }

    /// Encodes the precedence in one number of the same order. Sessions are numbered below 2^28.
    #[must_use]
    pub(crate) fn to_key(self) -> u64 {
        const START_BITS: u32 = 28;
        let (start, rank) = self.order;
        let start = u64::from(start) & ((1 << START_BITS) - 1);
        self.grade.bits() << (32 + START_BITS) | start << 32 | u64::from(rank)
    }

    /// Returns the name of the shard file that has the line.
    #[must_use]
    pub(crate) fn file_name(self) -> String {
        let (start, rank) = self.order;
        if self.grade.prefers_latest() {
            shard_file_name(!start, !rank as usize)
        } else {
            shard_file_name(start, rank as usize)
        }
    }

    #[must_use]
    pub(crate) fn grade(self) -> LineGrade {
        self.grade
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut() -> LineGrade {
        LineGrade::answered(AnswerFlaws::of_sequence(Some("length"), false, false))
    }

    fn sound() -> LineGrade {
        LineGrade::answered(AnswerFlaws::NONE)
    }

    #[test]
    fn a_whole_answer_beats_a_cut_one_and_the_latest_cut_one_beats_a_failure() {
        let sorted = [
            LinePrecedence::new(sound(), 1, 7),
            LinePrecedence::new(sound(), 2, 0),
            LinePrecedence::new(cut(), 3, 1),
            LinePrecedence::new(cut(), 3, 0),
            LinePrecedence::new(cut(), 1, 0),
            LinePrecedence::new(LineGrade::FAILED, 1, 0),
            LinePrecedence::new(LineGrade::FAILED, 2, 0),
        ];
        assert!(sorted.is_sorted(), "{sorted:?}");
        assert!(sorted.map(LinePrecedence::to_key).is_sorted());
        assert_eq!(sorted[1].file_name(), "0002-00000.jsonl");
        assert_eq!(sorted[2].file_name(), "0003-00001.jsonl");
    }

    proptest! {
        #[test]
        fn keys_have_the_order_of_the_precedence(
            a in (0u64..9, 0u32..1 << 28, any::<u32>()), b in (0u64..9, 0u32..1 << 28, any::<u32>()),
        ) {
            let of = |(bits, start, rank)| LinePrecedence::new(LineGrade::from_bits(bits), start, rank);
            prop_assert_eq!(of(a).cmp(&of(b)), of(a).to_key().cmp(&of(b).to_key()));
            prop_assert_eq!(LineGrade::from_bits(a.0).bits(), a.0);
        }
    }
}
