//! How long an answer may be, and what is left out of a group that is too large for the model.
//!
//! **The budget.** An answer may have as many tokens as the user says, else as many as the group needs: those of its texts
//! and [`CONTINGENCY`] more, and at least twice a leaf's. In either case at most half of the context: the other half is for
//! the texts.
//!
//! **The cut.** The texts have the context less the answer's budget, the buffer and the template. Where they need more,
//! each gets its fair share: whoever needs less than an even share keeps all, and what that leaves is shared evenly among
//! the others. A text is cut at its end, between characters, and says so.
//!
//! Tokens are taken to have [`BYTES`] bytes: fewer than in most texts, so that what fits here fits the server.

/// Bytes a token.
const BYTES_PER_TOKEN: u64 = 3;
/// Tokens beyond those of the texts.
const EXTRA_ANSWER_TOKENS: u64 = 512;
/// Bytes of the words that say what was cut.
const MARK: u64 = 64;

/// What the answers of groups may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBudget {
    /// Tokens of an answer, where the user says so.
    pub fixed_tokens: Option<u64>,
    /// A leaf's.
    pub leaf_tokens: u64,
    /// The model's prompt and answer together, in tokens, where that is known.
    pub context: Option<u64>,
    /// Tokens left free.
    pub buffer: u64,
}

/// What fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupLimits {
    /// Tokens of the answer.
    pub max_tokens: u64,
    /// No text may be longer, in bytes with its mark.
    pub longest: Option<u64>,
}

/// How many tokens so many bytes are taken to have.
#[must_use]
pub fn estimate_tokens(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN)
}

impl TokenBudget {
    /// For texts of these lengths, in bytes, and so many bytes around them.
    #[must_use]
    pub fn fit_group(&self, lengths: &[u64], around: u64) -> GroupLimits {
        let all: u64 = lengths.iter().sum();
        let needed =
            (estimate_tokens(all) + EXTRA_ANSWER_TOKENS).max(self.leaf_tokens.saturating_mul(2));
        let max_tokens = self.fixed_tokens.unwrap_or(needed);
        let Some(context) = self.context else { return GroupLimits { max_tokens, longest: None } };
        let max_tokens = max_tokens.min(context / 2).max(1);
        let room = context.saturating_sub(max_tokens).saturating_sub(self.buffer);
        let room = room.saturating_mul(BYTES_PER_TOKEN).saturating_sub(around);
        GroupLimits { max_tokens, longest: (all > room).then(|| fair_share(lengths, room)) }
    }
}

/// The length at which texts are cut, so that all of them together fit.
fn fair_share(lengths: &[u64], room: u64) -> u64 {
    let mut lengths = lengths.to_vec();
    lengths.sort_unstable();
    let (mut left, mut texts) = (room, lengths.len() as u64);
    for length in lengths {
        let share = left / texts;
        if length > share {
            return share;
        }
        (left, texts) = (left - length, texts - 1);
    }
    u64::MAX
}

/// The text with at most so many bytes and a mark in the place of the rest; as it is where it is not longer. True if it was
/// cut.
pub(super) fn cut(text: &mut String, longest: u64) -> bool {
    let length = text.len() as u64;
    if length <= longest {
        return false;
    }
    let mut keep =
        usize::try_from(longest.saturating_sub(MARK)).unwrap_or(usize::MAX).min(text.len());
    while !text.is_char_boundary(keep) {
        keep -= 1; // 0 is one
    }
    text.truncate(keep);
    let left_out = length - text.len() as u64;
    text.push_str(&format!("\n[cut: {left_out} of {length} bytes are left out]"));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BUDGET: TokenBudget =
        TokenBudget { fixed_tokens: None, leaf_tokens: 512, context: None, buffer: 512 };

    #[test]
    fn an_answer_has_what_the_user_says_or_what_the_group_needs_and_never_more_than_half() {
        let max_tokens =
            |budget: TokenBudget, lengths: &[u64]| budget.fit_group(lengths, 100).max_tokens;
        assert_eq!(max_tokens(BUDGET, &[30, 30]), 1024, "twice a leaf's");
        assert_eq!(max_tokens(BUDGET, &[3_000, 6_000]), 3_512, "its texts' and 512");
        assert_eq!(max_tokens(TokenBudget { fixed_tokens: Some(7), ..BUDGET }, &[3_000, 6_000]), 7);
        let small = TokenBudget { context: Some(4_096), ..BUDGET };
        assert_eq!(max_tokens(small, &[3_000, 6_000]), 2_048);
        assert_eq!(max_tokens(TokenBudget { fixed_tokens: Some(4_000), ..small }, &[30]), 2_048);
    }

    #[test]
    fn short_texts_stay_whole_and_the_rest_is_shared() {
        assert_eq!(fair_share(&[10, 1_000, 2_000], 610), 300);
        assert_eq!(fair_share(&[10, 100, 2_000], 610), 500);
        assert_eq!(fair_share(&[10, 100], 110), u64::MAX);
        assert_eq!(BUDGET.fit_group(&[1 << 40], 0).longest, None, "nobody knows what would fit");
    }

    #[test]
    fn a_cut_is_between_characters_and_says_so() {
        let mut text = "é".repeat(100);
        assert!(!cut(&mut text, 200));
        assert!(cut(&mut text, 67));
        assert_eq!(text, "é\n[cut: 198 of 200 bytes are left out]");
        let mut text = "abc".to_owned();
        assert!(cut(&mut text, 0), "even where there is no room at all");
        assert_eq!(text, "\n[cut: 3 of 3 bytes are left out]");
    }

    proptest! {
        #[test]
        fn truncated_texts_fit_and_use_the_space(
            lengths in prop::collection::vec(1u64..5_000, 1..30), context in 3_000u64..20_000, around in 0u64..500,
        ) {
            let budget = TokenBudget { context: Some(context), ..BUDGET };
            let fit = budget.fit_group(&lengths, around);
            prop_assert!(fit.max_tokens <= context / 2);
            let room = (context - fit.max_tokens - 512) * BYTES_PER_TOKEN - around;
            let mut sum = 0;
            for &length in &lengths {
                let mut text = "x".repeat(length as usize);
                let longest = fit.longest.unwrap_or(u64::MAX);
                prop_assert_eq!(cut(&mut text, longest), length > longest);
                prop_assert!(longest < MARK || text.len() as u64 <= longest);
                sum += text.len() as u64;
            }
            if fit.longest.is_none_or(|it| it >= MARK) {
                prop_assert!(sum <= room, "{sum} in {room}");
            }
            if fit.longest.is_some() {
                prop_assert!(lengths.iter().sum::<u64>() > room, "cut only where it must be");
            }
        }
    }
}
