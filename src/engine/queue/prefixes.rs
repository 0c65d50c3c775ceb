//! Which prompts begin alike: pure.
//!
//! Owns families, that is prompts with the same first bytes, found while they come in, one after the other. Families go
//! to one endpoint whole, since its prefix cache then computes their beginning once; that pays when the beginnings in use
//! together are more than a cache holds. Knows hashes of texts and no tasks.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
};

use crate::domain::Beginnings;

/// A family of more is no family: what so many begin with is in every endpoint's cache all the time.
const MOST: u32 = 512;
/// Beginnings kept in mind. Beyond, those seen only once are forgotten.
const KEPT: usize = 1 << 16;

/// A family's number.
pub(crate) type Family = u32;

/// Where a prompt belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Belongs {
    /// Nobody else begins so, as yet.
    Alone,
    /// To this family, and so does the prompt that had come as number `with`, alone until now.
    Founds(Family, u64),
    /// To this family.
    To(Family),
    /// To a family that has just become too large to be one.
    Dissolves(Family),
}

#[derive(Clone, Copy, Debug)]
enum Begins {
    /// One prompt, by its number.
    One(u64),
    /// A family of so many.
    Family(Family, u32),
    /// Too many.
    Everybody,
}

/// The beginnings seen so far.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    seen: HashMap<u64, Begins>,
    hasher: RandomState,
    families: Family,
}

impl Prefixes {
    /// Takes in the text of prompt `number`. The deepest level at which it has company decides.
    pub(crate) fn add(&mut self, number: u64, text: &str) -> Belongs {
        let beginnings = Beginnings::of(text);
        if beginnings.levels() == 0 {
            return Belongs::Alone;
        }
        if self.seen.len() >= KEPT {
            self.seen.retain(|_, begins| !matches!(begins, Begins::One(_)));
            // Families of long ago are not worth a look at all of them with every prompt.
            if self.seen.len() >= KEPT / 2 {
                self.seen.retain(|_, begins| matches!(begins, Begins::Everybody));
            }
            if self.seen.len() >= KEPT / 2 {
                self.seen.clear();
            }
        }
        let mut belongs = Belongs::Alone;
        for beginning in beginnings {
            let key = self.hasher.hash_one(beginning);
            let begins = self.seen.entry(key).or_insert(Begins::One(number));
            match *begins {
                _ if belongs != Belongs::Alone => break,
                Begins::One(first) if first == number => {}
                Begins::One(first) => {
                    self.families += 1;
                    *begins = Begins::Family(self.families, 2);
                    belongs = Belongs::Founds(self.families, first);
                }
                Begins::Family(family, MOST) => {
                    *begins = Begins::Everybody;
                    belongs = Belongs::Dissolves(family);
                }
                Begins::Family(family, count) => {
                    *begins = Begins::Family(family, count + 1);
                    belongs = Belongs::To(family);
                }
                Begins::Everybody => {}
            }
        }
        belongs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_common_beginning_makes_the_family() {
        let mut prefixes = Prefixes::default();
        let header = "h".repeat(600);
        let document = |name: &str| format!("{header}{}", name.repeat(2000));
        assert_eq!(prefixes.add(0, "short"), Belongs::Alone);
        assert_eq!(prefixes.add(1, &document("a")), Belongs::Alone);
        assert_eq!(prefixes.add(2, &document("b")), Belongs::Founds(1, 1), "the header");
        assert_eq!(prefixes.add(3, &document("b")), Belongs::Founds(2, 2), "header and document");
        assert_eq!(prefixes.add(4, &document("b")), Belongs::To(2));
        assert_eq!(prefixes.add(5, &header), Belongs::To(1));
    }

    #[test]
    fn what_everybody_begins_with_makes_no_family() {
        let mut prefixes = Prefixes::default();
        let text = "s".repeat(700);
        let all: Vec<Belongs> = (0..700).map(|number| prefixes.add(number, &text)).collect();
        assert_eq!(all[0], Belongs::Alone);
        assert_eq!(all[1], Belongs::Founds(1, 0));
        assert_eq!(all[MOST as usize], Belongs::Dissolves(1));
        assert!(all[MOST as usize + 1..].iter().all(|it| *it == Belongs::Alone));
    }

    #[test]
    fn memory_is_bounded() {
        let mut prefixes = Prefixes::default();
        for number in 0..3 * KEPT as u64 {
            prefixes.add(number, &format!("{number:0>600}"));
        }
        assert!(prefixes.seen.len() <= KEPT + 1);
    }
}
