//! What of a prompt's text decides whom it goes together with: its first bytes.
//!
//! Owns at which lengths beginnings are compared. Prompts that begin alike go to one endpoint, one after the other, since
//! its prefix cache then computes their beginning once. Knows no hashes and no families: who looks for them keeps them.

/// How many bytes have to be equal, at each level: a short system prompt, instructions, a document. Below the first a
/// prefix is computed again in less time than anybody would notice.
const PREFIX_LENGTHS: [usize; PrefixKeys::MAX_LEVELS] = [512, 2048, 8192];

/// The beginnings by which a text is compared with others, the longest first; none of a short one.
#[derive(Clone, Debug)]
pub struct PrefixKeys<'t> {
    text: &'t [u8],
    levels_left: usize,
}

impl<'t> PrefixKeys<'t> {
    /// The most that a text has.
    pub const MAX_LEVELS: usize = 3;

    /// Of this text.
    #[must_use]
    pub fn of(text: &'t str) -> Self {
        Self {
            text: text.as_bytes(),
            levels_left: PREFIX_LENGTHS.partition_point(|&it| it <= text.len()),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn levels(&self) -> usize {
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
    fn longer_texts_are_compared_at_more_lengths() {
        let lengths = |bytes: usize| -> Vec<usize> {
            PrefixKeys::of(&"x".repeat(bytes)).map(<[u8]>::len).collect()
        };
        assert!(lengths(511).is_empty());
        assert_eq!(lengths(512), [512]);
        assert_eq!(lengths(2048), [2048, 512]);
        assert_eq!(lengths(10_000), [8192, 2048, 512]);
    }
}
