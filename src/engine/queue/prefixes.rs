//! The prefixes that prompts share: pure.
//!
//! Owns prefix groups, that is prompts with the same first bytes, found one by one as prompts arrive. A group goes to
//! one endpoint whole, because its prefix cache then computes the common beginning once; that pays when the prefixes in
//! use together exceed a cache. Knows hashes of texts and no tasks: where the tasks of a group wait is in
//! `prefix_groups`.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use crate::domain::PrefixKeys;

/// Prompts of a group, at most: a prefix of more prompts is in every endpoint's cache all the time.
const MAX_GROUP_SIZE: u32 = 512;
/// Prefixes that are remembered. Beyond, those seen only once are dropped first.
const MAX_PREFIXES: usize = 1 << 16;

/// The number of a prefix group.
pub(crate) type PrefixGroupKey = u32;

/// The group that a new prompt belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PrefixMembership {
    /// No other prompt begins like it so far.
    Ungrouped,
    /// A new group of this prompt and the ungrouped one with the given arrival number.
    NewGroup(PrefixGroupKey, u64),
    ExistingGroup(PrefixGroupKey),
    /// No group: the one it would join has just become too large and ceases to be one.
    DissolvedGroup(PrefixGroupKey),
}

#[derive(Clone, Copy, Debug)]
enum PrefixEntry {
    /// The prefix of one prompt, by its arrival number.
    SinglePrompt(u64),
    /// The prefix of a group, and the group's size.
    Group(PrefixGroupKey, u32),
    /// The prefix of more than [`MAX_GROUP_SIZE`] prompts.
    TooCommon,
}

/// The prefixes seen so far, in bounded memory.
#[derive(Debug, Default)]
pub(crate) struct PrefixIndex {
    entries: HashMap<u64, PrefixEntry>,
    hasher: RandomState,
    last_group_id: PrefixGroupKey,
}

impl PrefixIndex {
    /// Adds the prompt with this arrival number. The longest prefix that it shares decides its group.
    pub(crate) fn add_prompt(&mut self, number: u64, text: &str) -> PrefixMembership {
        let prefixes = PrefixKeys::of_text(text);
        if prefixes.level_count() == 0 {
            return PrefixMembership::Ungrouped;
        }
        self.limit_memory();
        let mut membership = PrefixMembership::Ungrouped;
        for prefix in prefixes {
            let key = self.hasher.hash_one(prefix);
            let entry = self.entries.entry(key).or_insert(PrefixEntry::SinglePrompt(number));
            match *entry {
                _ if membership != PrefixMembership::Ungrouped => break,
                PrefixEntry::SinglePrompt(first) if first == number => {}
                PrefixEntry::SinglePrompt(first) => {
                    self.last_group_id += 1;
                    *entry = PrefixEntry::Group(self.last_group_id, 2);
                    membership = PrefixMembership::NewGroup(self.last_group_id, first);
                }
                PrefixEntry::Group(group, MAX_GROUP_SIZE) => {
                    *entry = PrefixEntry::TooCommon;
                    membership = PrefixMembership::DissolvedGroup(group);
                }
                PrefixEntry::Group(group, count) => {
                    *entry = PrefixEntry::Group(group, count + 1);
                    membership = PrefixMembership::ExistingGroup(group);
                }
                PrefixEntry::TooCommon => {}
            }
        }
        membership
    }

    fn limit_memory(&mut self) {
        if self.entries.len() < MAX_PREFIXES {
            return;
        }
        self.entries.retain(|_, entry| !matches!(entry, PrefixEntry::SinglePrompt(_)));
        // Half of the room must be free afterwards: otherwise every further prompt would scan all entries.
        if self.entries.len() >= MAX_PREFIXES / 2 {
            self.entries.retain(|_, entry| matches!(entry, PrefixEntry::TooCommon));
        }
        if self.entries.len() >= MAX_PREFIXES / 2 {
            self.entries.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_common_prefix_makes_the_group() {
        let mut index = PrefixIndex::default();
        let header = "h".repeat(600);
        let document = |name: &str| format!("{header}{}", name.repeat(2000));
        assert_eq!(index.add_prompt(0, "short"), PrefixMembership::Ungrouped);
        assert_eq!(index.add_prompt(1, &document("a")), PrefixMembership::Ungrouped);
        assert_eq!(
            index.add_prompt(2, &document("b")),
            PrefixMembership::NewGroup(1, 1),
            "the header"
        );
        assert_eq!(
            index.add_prompt(3, &document("b")),
            PrefixMembership::NewGroup(2, 2),
            "header and document"
        );
        assert_eq!(index.add_prompt(4, &document("b")), PrefixMembership::ExistingGroup(2));
        assert_eq!(index.add_prompt(5, &header), PrefixMembership::ExistingGroup(1));
    }

    #[test]
    fn a_prefix_of_every_prompt_makes_no_group() {
        let mut index = PrefixIndex::default();
        let text = "s".repeat(700);
        let all: Vec<PrefixMembership> =
            (0..700).map(|number| index.add_prompt(number, &text)).collect();
        assert_eq!(all[0], PrefixMembership::Ungrouped);
        assert_eq!(all[1], PrefixMembership::NewGroup(1, 0));
        let limit = MAX_GROUP_SIZE as usize;
        assert_eq!(all[limit], PrefixMembership::DissolvedGroup(1));
        assert!(all[limit + 1..].iter().all(|it| *it == PrefixMembership::Ungrouped));
    }

    #[test]
    fn memory_is_bounded() {
        let mut index = PrefixIndex::default();
        for number in 0..3 * MAX_PREFIXES as u64 {
            index.add_prompt(number, &format!("{number:0>600}"));
        }
        assert!(index.entries.len() <= MAX_PREFIXES + 1);
    }
}
