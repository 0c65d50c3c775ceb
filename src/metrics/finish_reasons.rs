//! Counts of finish reasons. Servers choose the names, so their length and number are bounded.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::domain::Merge;

/// Names that are always counted apart: those of vLLM and OpenAI.
const KNOWN_REASONS: [&str; 9] = [
    "abort",
    "content_filter",
    "error",
    "function_call",
    "length",
    "not reported",
    "repetition",
    "stop",
    "tool_calls",
];
/// Largest number of other names that are counted apart.
const MAX_OTHER_REASONS: usize = 20;
/// Length in characters to which a name is cut.
const MAX_NAME_CHARS: usize = 40;
/// Name under which all further reasons are counted.
const FURTHER_REASONS: &str = "(further reasons)";

/// Number of answers by finish reason.
///
/// If servers send too many names, those that come first in the alphabet are kept: the result is the same in whatever order
/// counts are added and merged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct FinishReasons(BTreeMap<String, u64>);

impl FinishReasons {
    pub(crate) fn add_reason(&mut self, reason: &str) {
        match self.0.get_mut(reason) {
            Some(count) => *count += 1,
            None => self.add_name(reason, 1),
        }
    }

    pub(crate) fn to_map(&self) -> BTreeMap<String, u64> {
        self.0.clone()
    }

    fn add_name(&mut self, reason: &str, count: u64) {
        let cut = reason.char_indices().nth(MAX_NAME_CHARS).map(|(end, _)| &reason[..end]);
        let name = cut.map_or_else(|| reason.to_owned(), |cut| format!("{cut}…"));
        *self.0.entry(name).or_default() += count;
        let is_other = |name: &&String| !is_always_kept(name);
        if self.0.keys().filter(is_other).count() > MAX_OTHER_REASONS
            && let Some(last) = self.0.keys().rfind(is_other).cloned()
        {
            let count = self.0.remove(&last).unwrap_or_default();
            *self.0.entry(FURTHER_REASONS.to_owned()).or_default() += count;
        }
    }
}

fn is_always_kept(name: &str) -> bool {
    name == FURTHER_REASONS || KNOWN_REASONS.contains(&name)
}

impl Merge for FinishReasons {
    fn merge(&mut self, other: Self) {
        for (name, count) in other.0 {
            self.add_name(&name, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded_in_length_and_number_and_counts_do_not_depend_on_the_order() {
        let name = |number: usize| format!("{:04}{}", number * 7919 % 3000, "x".repeat(20_000));
        let (mut forwards, mut parts) =
            (FinishReasons::default(), vec![FinishReasons::default(); 3]);
        for number in 0..3000 {
            for reason in [&*name(number), "stop", "length"] {
                forwards.add_reason(reason);
                parts[number % 3].add_reason(reason);
            }
        }
        let merged = parts.into_iter().rev().reduce(|mut all, part| {
            all.merge(part);
            all
        });
        assert_eq!(merged.as_ref(), Some(&forwards));
        let counts = forwards.to_map();
        assert_eq!(counts.values().sum::<u64>(), 9000);
        assert_eq!((counts["stop"], counts["length"], counts[FURTHER_REASONS]), (3000, 3000, 2980));
        assert_eq!(counts.len(), MAX_OTHER_REASONS + 3);
        assert!(counts.keys().all(|name| name.chars().count() <= MAX_NAME_CHARS + 1));
    }
}
