//! Which prompts begin alike: pure.
//!
//! Owns families, that is prompts with the same first bytes, found while they come in, one after the other. Families go
//! to one endpoint whole, since its prefix cache then computes their beginning once; that pays when the beginnings in use
//! together are more than a cache holds. Knows hashes of texts and no tasks.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use crate::domain::PrefixKeys;

/// A family of more is no family: what so many begin with is in every endpoint's cache all the time.
const MAX_GROUP_SIZE: u32 = 512;
/// Beginnings kept in mind. Beyond, those seen only once are forgotten.
const MAX_PREFIXES: usize = 1 << 16;

/// A family's number.
pub(crate) type PrefixGroupKey = u32;

/// Where a prompt belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PrefixMembership {
    /// Nobody else begins so, as yet.
    Ungrouped,
    /// To this family, and so does the prompt that had come as number `with`, alone until now.
    NewGroup(PrefixGroupKey, u64),
    /// To this family.
    ExistingGroup(PrefixGroupKey),
    /// To a family that has just become too large to be one.
    DissolvedGroup(PrefixGroupKey),
}

#[derive(Clone, Copy, Debug)]
enum PrefixEntry {
    /// One prompt, by its number.
    SinglePrompt(u64),
    /// A family of so many.
    Group(PrefixGroupKey, u32),
    /// Too many.
    TooCommon,
}

/// The beginnings seen so far.
#[derive(Debug, Default)]
pub(crate) struct PrefixIndex {
    entries: HashMap<u64, PrefixEntry>,
    hasher: RandomState,
    last_group_id: PrefixGroupKey,
}

impl PrefixIndex {
    /// Takes in the text of prompt `number`. The deepest level at which it has company decides.
    pub(crate) fn add_prompt(&mut self, number: u64, text: &str) -> PrefixMembership {
        let beginnings = PrefixKeys::of_text(text);
        if beginnings.level_count() == 0 {
            return PrefixMembership::Ungrouped;
        }
        if self.entries.len() >= MAX_PREFIXES {
            self.entries.retain(|_, begins| !matches!(begins, PrefixEntry::SinglePrompt(_)));
            // Families of long ago are not worth a look at all of them with every prompt.
            if self.entries.len() >= MAX_PREFIXES / 2 {
                self.entries.retain(|_, begins| matches!(begins, PrefixEntry::TooCommon));
            }
            if self.entries.len() >= MAX_PREFIXES / 2 {
                self.entries.clear();
            }
        }
        let mut belongs = PrefixMembership::Ungrouped;
        for beginning in beginnings {
            let key = self.hasher.hash_one(beginning);
            let begins = self.entries.entry(key).or_insert(PrefixEntry::SinglePrompt(number));
            match *begins {
                _ if belongs != PrefixMembership::Ungrouped => break,
                PrefixEntry::SinglePrompt(first) if first == number => {}
                PrefixEntry::SinglePrompt(first) => {
                    self.last_group_id += 1;
                    *begins = PrefixEntry::Group(self.last_group_id, 2);
                    belongs = PrefixMembership::NewGroup(self.last_group_id, first);
                }
                PrefixEntry::Group(family, MAX_GROUP_SIZE) => {
                    *begins = PrefixEntry::TooCommon;
                    belongs = PrefixMembership::DissolvedGroup(family);
                }
                PrefixEntry::Group(family, count) => {
                    *begins = PrefixEntry::Group(family, count + 1);
                    belongs = PrefixMembership::ExistingGroup(family);
                }
                PrefixEntry::TooCommon => {}
            }
        }
        belongs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_common_prefix_makes_the_group() {
        let mut prefixes = PrefixIndex::default();
        let header = "h".repeat(600);
        let document = |name: &str| format!("{header}{}", name.repeat(2000));
        assert_eq!(prefixes.add_prompt(0, "short"), PrefixMembership::Ungrouped);
        assert_eq!(prefixes.add_prompt(1, &document("a")), PrefixMembership::Ungrouped);
        assert_eq!(
            prefixes.add_prompt(2, &document("b")),
            PrefixMembership::NewGroup(1, 1),
            "the header"
        );
        assert_eq!(
            prefixes.add_prompt(3, &document("b")),
            PrefixMembership::NewGroup(2, 2),
            "header and document"
        );
        assert_eq!(prefixes.add_prompt(4, &document("b")), PrefixMembership::ExistingGroup(2));
        assert_eq!(prefixes.add_prompt(5, &header), PrefixMembership::ExistingGroup(1));
    }

    #[test]
    fn a_prefix_of_every_prompt_makes_no_group() {
        let mut prefixes = PrefixIndex::default();
        let text = "s".repeat(700);
        let all: Vec<PrefixMembership> =
            (0..700).map(|number| prefixes.add_prompt(number, &text)).collect();
        assert_eq!(all[0], PrefixMembership::Ungrouped);
        assert_eq!(all[1], PrefixMembership::NewGroup(1, 0));
        assert_eq!(all[MAX_GROUP_SIZE as usize], PrefixMembership::DissolvedGroup(1));
        assert!(
            all[MAX_GROUP_SIZE as usize + 1..].iter().all(|it| *it == PrefixMembership::Ungrouped)
        );
    }

    #[test]
    fn memory_is_bounded() {
        let mut prefixes = PrefixIndex::default();
        for number in 0..3 * MAX_PREFIXES as u64 {
            prefixes.add_prompt(number, &format!("{number:0>600}"));
        }
        assert!(prefixes.entries.len() <= MAX_PREFIXES + 1);
    }
}
