//! Synthetic prompts of a given length, generated from numbers and all different.

/// Words that are a single token in common vocabularies.
const WORDS: [&str; 64] = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
    "problem",
    "hand",
    "part",
    "place",
    "case",
    "week",
    "company",
    "system",
    "program",
    "question",
    "work",
    "government",
    "number",
    "night",
    "point",
    "home",
    "water",
    "room",
    "mother",
    "area",
    "money",
    "story",
    "fact",
    "month",
    "lot",
    "right",
    "study",
    "book",
    "eye",
    "job",
    "word",
    "business",
    "issue",
    "side",
    "kind",
    "head",
    "house",
    "service",
    "friend",
    "father",
    "power",
    "hour",
    "game",
    "line",
    "end",
    "member",
    "law",
];

/// Instruction at the end of the text, so that texts have no common prefix for a cache.
const TASK: &str = ". Write a story with these words.";
/// Approximate tokens of the instruction.
const TASK_TOKENS: usize = 8;

/// Generates a text of about this number of tokens, at least one. Texts with another seed or number differ from their
/// first words on, so that prefix caches do not help. Texts that are not very short end with an instruction, so that
/// answers have some length.
#[must_use]
pub(crate) fn generate_text(seed: u64, number: u64, tokens: usize) -> String {
    let mut state = mix_bits(seed ^ mix_bits(number));
    let mut text = String::with_capacity(tokens * 7);
    let task = if tokens > 2 * TASK_TOKENS { TASK } else { "" };
    let words = if task.is_empty() { tokens.max(1) } else { tokens - TASK_TOKENS };
    for at in 0..words {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = WORDS[(mix_bits(state) % WORDS.len() as u64) as usize];
        if at > 0 {
            text.push(' ');
        }
        text.push_str(word);
    }
    text + task
}

/// Mixes the bits of a number with the finalizer of splitmix64.
fn mix_bits(number: u64) -> u64 {
    let one = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let other = (one ^ (one >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    other ^ (other >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn texts_have_the_requested_length_and_distinct_beginnings() {
        let texts: Vec<String> =
            (0..40).flat_map(|seed| (0..100).map(move |it| generate_text(seed, it, 20))).collect();
        assert!(texts.iter().all(|text| (18..=20).contains(&text.split(' ').count())));
        assert!(texts.iter().all(|text| text.ends_with(TASK)));
        let heads: HashSet<String> =
            texts.iter().map(|it| it.split(' ').take(8).collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(heads.len(), texts.len());
        assert_eq!(generate_text(7, 3, 20), generate_text(7, 3, 20));
        assert_eq!(generate_text(7, 3, 9).split(' ').count(), 9);
        assert!(!generate_text(7, 3, 0).is_empty());
    }
}
