//! Prefix keys: the beginnings of a prompt's text by which prompts are grouped.
//!
//! Owns the lengths at which beginnings are compared. Prompts with a common prefix go to one endpoint, one after the
//! other, so that its prefix cache computes the prefix once. The groups themselves are made in
//! `input/scan/prefix_groups.rs` and `engine/queue/prefix_groups.rs`.

/// Prefix length in bytes at each level: a short system prompt, instructions, a document. Shorter prefixes are
/// recomputed in negligible time.
const PREFIX_LENGTHS: [usize; PrefixKeys::MAX_LEVELS] = [512, 2048, 8192];

/// Iterator over the prefixes by which a text is compared with others, the longest first; empty for a short text.
#[derive(Clone, Debug)]
pub(crate) struct PrefixKeys<'t> {
    text: &'t [u8],
    levels_left: usize,
}

impl<'t> PrefixKeys<'t> {
    /// Maximum number of prefixes of a text.
    pub(crate) const MAX_LEVELS: usize = 3;

    /// Returns the prefixes of this text.
    #[must_use]
    pub(crate) fn of_text(text: &'t str) -> Self {
        Self {
            text: text.as_bytes(),
            levels_left: PREFIX_LENGTHS.partition_point(|&length| length <= text.len()),
        }
    }

    /// Returns the number of prefixes left.
    #[must_use]
    pub(crate) fn level_count(&self) -> usize {
        self.levels_left
    }
}

impl<'t> Iterator for PrefixKeys<'t> {
    type Item = &'t [u8];

    fn next(&mut self) -> Option<&'t [u8]> {
        self.levels_left = self.levels_left.checked_sub(1)?;
        self.text.get(..PREFIX_LENGTHS[self.levels_left])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_texts_have_more_prefixes() {
        let lengths = |bytes: usize| -> Vec<usize> {
            PrefixKeys::of_text(&"x".repeat(bytes)).map(<[u8]>::len).collect()
        };
        assert!(lengths(511).is_empty());
        assert_eq!(lengths(512), [512]);
        assert_eq!(lengths(2048), [2048, 512]);
        assert_eq!(lengths(10_000), [8192, 2048, 512]);
    }
}
