//! The token budget of a group's answer, and the truncation of groups that do not fit the model's context.
//!
//! **Budget.** The answer's limit is `--max-tokens-aggregation`, but at most half of the context. Without that option it
//! is what the group needs, the tokens of its texts plus [`EXTRA_ANSWER_TOKENS`] and at least twice a leaf's limit, but
//! at most a quarter of the context: a small context is for the texts first.
//!
//! **Truncation.** The texts share the context less the answer's budget, the buffer and the template. If they need
//! more, each gets a fair share: texts below an even share stay whole, and the space they leave is divided evenly among
//! the others. A text is truncated at its end, between characters, and ends with a note of the bytes left out.
//!
//! A token counts as [`BYTES_PER_TOKEN`] bytes, fewer than in most texts, so that a prompt that fits here fits the
//! server.

/// Assumed length of a token in bytes.
const BYTES_PER_TOKEN: u64 = 3;
/// Tokens that an answer may have beyond those of its texts.
const EXTRA_ANSWER_TOKENS: u64 = 512;
/// Space for the note at the end of a truncated text, in bytes.
const CUT_NOTE_BYTES: u64 = 64;

/// Token limits that all groups of a tree share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenBudget {
    /// Answer limit that the user has set, in tokens.
    pub fixed_tokens: Option<u64>,
    /// Answer limit of a leaf, in tokens.
    pub leaf_tokens: u64,
    /// Context length of the model in tokens, if known.
    pub context_tokens: Option<u64>,
    /// Safety margin in the context, in tokens.
    pub buffer: u64,
}

/// Limits of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupLimits {
    /// Answer limit in tokens.
    pub max_tokens: u64,
    /// Length above which a text is truncated, in bytes including the note; `None` if all texts fit.
    pub max_text_bytes: Option<u64>,
}

/// Estimates the number of tokens of a text, rounded up.
#[must_use]
pub(crate) fn estimate_tokens(bytes: u64) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN)
}

impl TokenBudget {
    /// Computes the limits of a group from the lengths of its texts and the `around` bytes of its template.
    #[must_use]
    pub(crate) fn fit_group(&self, lengths: &[u64], around: u64) -> GroupLimits {
        let all: u64 = lengths.iter().sum();
        let needed =
            (estimate_tokens(all) + EXTRA_ANSWER_TOKENS).max(self.leaf_tokens.saturating_mul(2));
        let max_tokens = self.fixed_tokens.unwrap_or(needed);
        let Some(context) = self.context_tokens else {
            return GroupLimits { max_tokens, max_text_bytes: None };
        };
        let most = if self.fixed_tokens.is_some() { context / 2 } else { context / 4 };
        let max_tokens = max_tokens.min(most).max(1);
        let room = context.saturating_sub(max_tokens).saturating_sub(self.buffer);
        let room = room.saturating_mul(BYTES_PER_TOKEN).saturating_sub(around);
        GroupLimits { max_tokens, max_text_bytes: (all > room).then(|| fair_share(lengths, room)) }
    }
}

/// Returns the length at which texts have to be truncated so that their sum fits into `room` bytes.
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

/// Truncates a text to `longest` bytes, including a note of the bytes left out. Returns the bytes left out, 0 for a text
/// that is not longer.
pub(super) fn truncate_text(text: &mut String, longest: u64) -> u64 {
    let length = text.len() as u64;
    if length <= longest {
        return 0;
    }
    let mut keep = usize::try_from(longest.saturating_sub(CUT_NOTE_BYTES))
        .unwrap_or(usize::MAX)
        .min(text.len());
    while !text.is_char_boundary(keep) {
        keep -= 1; // 0 is a boundary
    }
    text.truncate(keep);
    let left_out = length - text.len() as u64;
    text.push_str(&format!("\n[truncated: {left_out} of {length} bytes left out]"));
    left_out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BUDGET: TokenBudget =
        TokenBudget { fixed_tokens: None, leaf_tokens: 512, context_tokens: None, buffer: 512 };

    #[test]
    fn an_answer_gets_the_users_limit_or_its_groups_need_and_a_part_of_the_context_at_most() {
        let max_tokens =
            |budget: TokenBudget, lengths: &[u64]| budget.fit_group(lengths, 100).max_tokens;
        assert_eq!(max_tokens(BUDGET, &[30, 30]), 1024, "twice a leaf's");
        assert_eq!(max_tokens(BUDGET, &[3_000, 6_000]), 3_512, "its texts' tokens and 512");
        assert_eq!(max_tokens(TokenBudget { fixed_tokens: Some(7), ..BUDGET }, &[3_000, 6_000]), 7);
        let small = TokenBudget { context_tokens: Some(4_096), ..BUDGET };
        assert_eq!(max_tokens(small, &[3_000, 6_000]), 1_024, "a quarter of the context");
        assert_eq!(max_tokens(TokenBudget { fixed_tokens: Some(4_000), ..small }, &[30]), 2_048);
    }

    #[test]
    fn short_texts_stay_whole_and_the_rest_is_shared() {
        assert_eq!(fair_share(&[10, 1_000, 2_000], 610), 300);
        assert_eq!(fair_share(&[10, 100, 2_000], 610), 500);
        assert_eq!(fair_share(&[10, 100], 110), u64::MAX);
        assert_eq!(BUDGET.fit_group(&[1 << 40], 0).max_text_bytes, None, "the context is unknown");
    }

    #[test]
    fn texts_are_truncated_between_characters_with_a_note() {
        let mut text = "é".repeat(100);
        assert_eq!(truncate_text(&mut text, 200), 0);
        assert_eq!(truncate_text(&mut text, 67), 198);
        assert_eq!(text, "é\n[truncated: 198 of 200 bytes left out]");
        let mut text = "abc".to_owned();
        assert_eq!(truncate_text(&mut text, 0), 3, "even without any space");
        assert_eq!(text, "\n[truncated: 3 of 3 bytes left out]");
    }

    proptest! {
        #[test]
        fn truncated_texts_fit_and_use_the_space(
            lengths in prop::collection::vec(1u64..5_000, 1..30), context in 3_000u64..20_000, around in 0u64..500,
        ) {
            let budget = TokenBudget { context_tokens: Some(context), ..BUDGET };
            let fit = budget.fit_group(&lengths, around);
            prop_assert!(fit.max_tokens <= context / 4);
            let room = (context - fit.max_tokens - 512) * BYTES_PER_TOKEN - around;
            let mut sum = 0;
            for &length in &lengths {
                let mut text = "x".repeat(length as usize);
                let longest = fit.max_text_bytes.unwrap_or(u64::MAX);
                prop_assert_eq!(truncate_text(&mut text, longest) > 0, length > longest);
                prop_assert!(longest < CUT_NOTE_BYTES || text.len() as u64 <= longest);
                sum += text.len() as u64;
            }
            if fit.max_text_bytes.is_none_or(|it| it >= CUT_NOTE_BYTES) {
                prop_assert!(sum <= room, "{sum} in {room}");
            }
            if fit.max_text_bytes.is_some() {
                prop_assert!(lengths.iter().sum::<u64>() > room, "truncated only if necessary");
            }
        }
    }
}
