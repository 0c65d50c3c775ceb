//! The models that rows name, and which row names which.
//!
//! Owns the numbering by first appearance and its compact storage: nothing per row while all rows name the same model,
//! or none; else one byte per row. Which endpoints serve a model is found by probing.

use serde::{Deserialize, Serialize};

use super::totals::FileLine;
use crate::domain::{BitSet, MAX_JOB_MODELS};

/// Models that rows may name, at most; one number is left for the job's own.
pub(crate) const MAX_ROW_MODELS: usize = MAX_JOB_MODELS - 1;

/// Number of the model that a row names, from 1 in the order of first appearance; 0 if it names none.
pub(crate) type RowModelNumber = u8;

/// The models that rows name.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct RowModels {
    named: Vec<NamedModel>,
    /// Whether a row names none.
    any_unnamed: bool,
    numbers: RowModelNumbers,
    /// The first model beyond [`MAX_ROW_MODELS`], and its row.
    surplus: Option<(String, FileLine)>,
}

/// A model that rows name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NamedModel {
    pub name: String,
    /// Number of rows that name it.
    pub count: u64,
    /// The first of these rows.
    pub first: FileLine,
}

/// The model number of each row.
#[derive(Debug, Default, Serialize, Deserialize)]
struct RowModelNumbers {
    row_count: u64,
    /// The number of all rows, while they have the same. None while there are only rows that may have any.
    common: Option<RowModelNumber>,
    /// The number of each row, once they differ.
    mixed: Vec<RowModelNumber>,
}

impl RowModels {
    /// Adds the next row, which names this model or none.
    pub(crate) fn add_row(&mut self, model: Option<&str>, at: FileLine) {
        self.any_unnamed |= model.is_none();
        let number = model.map_or(0, |name| self.number_or_insert(name, 1, at));
        self.numbers.push(number);
    }

    /// Adds the next row, which is invalid and is never sent: it may have any number.
    pub(crate) fn add_bad_row(&mut self) {
        self.numbers.push_any(1);
    }

    /// Adds the models of the next chunk, which has `lines` lines before it.
    pub(crate) fn append_chunk(&mut self, other: Self, lines: u64) {
        let below = |(file, line): FileLine| (file, line + lines);
        let mut renumbered = vec![0];
        for NamedModel { name, count, first } in other.named {
            renumbered.push(self.number_or_insert(&name, count, below(first)));
        }
        let surplus = other.surplus.map(|(name, at)| (name, below(at)));
        self.surplus = self.surplus.take().or(surplus);
        self.any_unnamed |= other.any_unnamed;
        self.numbers.append(other.numbers, &renumbered);
    }

    /// Returns the models in the order of their first rows.
    pub(crate) fn named(&self) -> &[NamedModel] {
        &self.named
    }

    /// Returns whether a row names no model.
    pub(crate) fn any_unnamed(&self) -> bool {
        self.any_unnamed
    }

    /// Returns the first model beyond the limit, and the row that names it.
    pub(crate) fn surplus(&self) -> Option<&(String, FileLine)> {
        self.surplus.as_ref()
    }

    /// Returns the number of the model that a row names.
    pub(crate) fn number_of_row(&self, row: u64) -> RowModelNumber {
        self.numbers.get(row)
    }

    /// Returns the number of rows that are not in `done`, by model number.
    pub(crate) fn count_open(&self, done: &BitSet) -> Vec<u64> {
        let mut counts = vec![0; self.named.len() + 1];
        for (from, to) in done.missing_ranges() {
            if self.numbers.mixed.is_empty() {
                counts[usize::from(self.numbers.last())] += to - from;
            } else {
                (from..to).for_each(|row| counts[usize::from(self.number_of_row(row))] += 1);
            }
        }
        counts
    }

    fn number_or_insert(&mut self, name: &str, count: u64, at: FileLine) -> RowModelNumber {
        // Neighbouring rows often name the same model.
        let last = usize::from(self.numbers.last()).checked_sub(1);
        let last = last.filter(|&last| self.named.get(last).is_some_and(|it| it.name == name));
        let known = last.or_else(|| self.named.iter().position(|model| model.name == name));
        let position = known.unwrap_or_else(|| {
            self.named.push(NamedModel { name: name.to_owned(), count: 0, first: at });
            self.named.len() - 1
        });
        match RowModelNumber::try_from(position + 1) {
            Ok(number) => {
                self.named[position].count += count;
                number
            }
            Err(_) => {
                // The scan ends with an error; a number is needed until then.
                let model = self.named.pop().map(|model| model.name).unwrap_or_default();
                self.surplus.get_or_insert((model, at));
                0
            }
        }
    }
}

impl RowModelNumbers {
    fn push(&mut self, number: RowModelNumber) {
        if self.mixed.is_empty() && *self.common.get_or_insert(number) != number {
            self.spell_out();
        }
        if !self.mixed.is_empty() {
            self.mixed.push(number);
        }
        self.row_count += 1;
    }

    /// Adds rows that may have any number: that of the row before keeps them alike.
    fn push_any(&mut self, count: u64) {
        if !self.mixed.is_empty() {
            self.mixed.resize(self.mixed.len() + count as usize, self.last());
        }
        self.row_count += count;
    }

    fn append(&mut self, other: Self, renumbered: &[RowModelNumber]) {
        let renumber = |number: RowModelNumber| {
            renumbered.get(usize::from(number)).copied().unwrap_or_default()
        };
        let Some(common) = other.common.map(renumber) else {
            return self.push_any(other.row_count);
        };
        let own = *self.common.get_or_insert(common);
        let are_alike = other.mixed.is_empty() && self.mixed.is_empty() && own == common;
        if !are_alike {
            if self.mixed.is_empty() {
                self.spell_out();
            }
            if other.mixed.is_empty() {
                self.mixed.resize(self.mixed.len() + other.row_count as usize, common);
            } else {
                self.mixed.extend(other.mixed.into_iter().map(renumber));
            }
        }
        self.row_count += other.row_count;
    }

    fn spell_out(&mut self) {
        self.mixed = vec![self.last(); self.row_count as usize];
    }

    fn last(&self) -> RowModelNumber {
        self.mixed.last().copied().or(self.common).unwrap_or_default()
    }

    fn get(&self, row: u64) -> RowModelNumber {
        let number = usize::try_from(row).ok().and_then(|row| self.mixed.get(row));
        number.copied().unwrap_or_else(|| self.last())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn scan_rows(rows: &[Option<&str>]) -> RowModels {
        let mut models = RowModels::default();
        for (line, row) in (1..).zip(rows) {
            models.add_row(*row, (0, line));
        }
        models
    }

    #[test]
    fn rows_of_one_model_take_no_memory() {
        let mut models = RowModels::default();
        models.add_bad_row();
        models.append_chunk(scan_rows(&[Some("a"); 99]), 1);
        models.add_bad_row();
        models.append_chunk(scan_rows(&[Some("a"); 50]), 101);
        assert!(models.numbers.mixed.is_empty() && models.number_of_row(150) == 1);
        assert_eq!(models.named()[0], NamedModel { name: "a".into(), count: 149, first: (0, 2) });
        assert_eq!(models.count_open(&BitSet::new(151)), [0, 151]);
    }

    #[test]
    fn more_models_than_numbers_are_told_with_the_first_row_too_many() {
        let names: Vec<String> = (0..300).map(|number| format!("m{number}")).collect();
        let rows: Vec<Option<&str>> = names.iter().map(|name| Some(name.as_str())).collect();
        let models = scan_rows(&rows);
        assert_eq!(models.named().len(), MAX_ROW_MODELS);
        assert_eq!(models.surplus(), Some(&("m255".to_owned(), (0, 256))));
    }

    proptest! {
        #[test]
        fn chunks_give_what_one_scan_gives(rows in prop::collection::vec(0_usize..4, 0..40), cuts in prop::collection::vec(0_usize..40, 0..4)) {
            let names = [None, Some("a"), Some("b"), Some("c")];
            let rows: Vec<Option<&str>> = rows.into_iter().map(|row| names[row]).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(rows.len())).collect();
            cuts.extend([0, rows.len()]);
            cuts.sort_unstable();
            let whole = scan_rows(&rows);
            let mut chunked = RowModels::default();
            for cut in cuts.windows(2) {
                chunked.append_chunk(scan_rows(&rows[cut[0]..cut[1]]), cut[0] as u64);
            }
            prop_assert_eq!(chunked.named(), whole.named());
            prop_assert_eq!(chunked.any_unnamed(), rows.contains(&None));
            for (row, name) in rows.iter().enumerate() {
                let number = usize::from(chunked.number_of_row(row as u64));
                prop_assert_eq!(number.checked_sub(1).map(|at| whole.named()[at].name.as_str()), *name);
            }
        }
    }
}
