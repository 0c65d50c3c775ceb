//! The fields of all rows, counted by name.
//!
//! Owns the counts. The parser decides what a row makes of a field; names that look like request parameters are judged
//! once, when all rows have been seen.

use serde::{Deserialize, Serialize};

use super::totals::{FileLine, OccurrenceCount};
use crate::input::row::fields::{FieldPlace, FieldSink, FieldUse, describe_doubt};

/// Distinct fields that are counted. The rest is only known to exist.
const MAX_FIELDS: usize = 1000;

/// Counts of the fields of a chunk or of the input, in the order of their first rows.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct FieldCensus {
    fields: Vec<FieldCount>,
    /// Occurrences of fields beyond the limit.
    unlisted: OccurrenceCount,
    /// Number of the field that is expected next: rows mostly have the same fields in the same order.
    #[serde(skip)]
    next: usize,
}

/// The occurrences of a field in one use.
#[derive(Debug, Serialize, Deserialize)]
struct FieldCount {
    place: FieldPlace,
    name: String,
    field_use: FieldUse,
    seen: OccurrenceCount,
}

/// A field that looks like a request parameter and has no effect.
#[derive(Debug)]
pub(crate) struct DoubtfulField<'c> {
    /// A sentence that begins with the field's name.
    pub reason: String,
    pub seen: &'c OccurrenceCount,
}

/// Receives the fields of one row.
pub(crate) struct RowFields<'c> {
    census: &'c mut FieldCensus,
    at: FileLine,
}

impl FieldCensus {
    /// Returns a receiver for the fields of the row at this place.
    pub(crate) fn of_row(&mut self, at: FileLine) -> RowFields<'_> {
        RowFields { census: self, at }
    }

    /// Adds the counts of the next chunk, which has `lines` lines before it.
    pub(crate) fn append_chunk(&mut self, other: Self, lines: u64) {
        for FieldCount { place, name, field_use, seen } in other.fields {
            self.count_of(place, &name, field_use).append_chunk(seen, lines);
        }
        self.unlisted.append_chunk(other.unlisted, lines);
    }

    /// Returns the fields that look like request parameters and have no effect.
    pub(crate) fn doubtful_fields(&self) -> impl Iterator<Item = DoubtfulField<'_>> {
        self.fields.iter().filter_map(|field| {
            let reason = describe_doubt(field.place, &field.name, field.field_use)?;
            Some(DoubtfulField { reason, seen: &field.seen })
        })
    }

    /// Returns the names of fields that are data, without those that look like request parameters.
    pub(crate) fn data_names(&self) -> Vec<String> {
        let is_data = |field: &&FieldCount| {
            !matches!(field.place, FieldPlace::Params | FieldPlace::Body)
                && field.field_use == FieldUse::Unknown
                && describe_doubt(field.place, &field.name, field.field_use).is_none()
        };
        self.fields.iter().filter(is_data).map(|field| field.name.clone()).collect()
    }

    /// Returns the request parameters that rows set, with the number of rows.
    pub(crate) fn parameter_counts(&self) -> Vec<(String, u64)> {
        let mut counts: Vec<(String, u64)> = Vec::new();
        for field in &self.fields {
            let is_sent = match field.place {
                FieldPlace::Params | FieldPlace::Body => true,
                _ => field.field_use == FieldUse::Parameter,
            };
            // They are not sent: one is the run's choice, the others configure streaming.
            if !is_sent || matches!(field.name.as_str(), "model" | "stream" | "stream_options") {
                continue;
            }
            match counts.iter_mut().find(|(name, _)| *name == field.name) {
                Some((_, count)) => *count += field.seen.count,
                None => counts.push((field.name.clone(), field.seen.count)),
            }
        }
        counts
    }

    /// Returns the occurrences of fields that were not looked at, because there are too many names.
    pub(crate) fn unlisted(&self) -> &OccurrenceCount {
        &self.unlisted
    }

    fn count_of(
        &mut self,
        place: FieldPlace,
        name: &str,
        field_use: FieldUse,
    ) -> &mut OccurrenceCount {
        let is_it = |field: &FieldCount| {
            field.name == name && field.place == place && field.field_use == field_use
        };
        let found = match self.fields.get(self.next) {
            Some(field) if is_it(field) => Some(self.next),
            _ => self.fields.iter().position(is_it),
        };
        let at = match found {
            Some(at) => at,
            None if self.fields.len() < MAX_FIELDS => {
                let seen = OccurrenceCount::default();
                self.fields.push(FieldCount { place, name: name.to_owned(), field_use, seen });
                self.fields.len() - 1
            }
            None => return &mut self.unlisted,
        };
        self.next = at + 1;
        &mut self.fields[at].seen
    }
}

impl FieldSink for RowFields<'_> {
    const IS_ACTIVE: bool = true;

    fn note_field(&mut self, place: FieldPlace, name: &str, field_use: FieldUse) {
        self.census.count_of(place, name, field_use).record_at(self.at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_counted_by_name_and_use_in_the_order_of_their_first_rows() {
        let mut first = FieldCensus::default();
        let mut second = FieldCensus::default();
        for line in [1, 2, 3] {
            let (census, line) = if line == 1 { (&mut first, 1) } else { (&mut second, line - 1) };
            let mut row = census.of_row((0, line));
            row.note_field(FieldPlace::Row, "topic", FieldUse::Unknown);
            row.note_field(FieldPlace::Row, "seed", FieldUse::Parameter);
            row.note_field(FieldPlace::Params, "seed", FieldUse::Parameter);
            row.note_field(FieldPlace::Params, "max_token", FieldUse::Unknown);
        }
        second.of_row((0, 3)).note_field(FieldPlace::Row, "max_token", FieldUse::Unknown);
        first.append_chunk(second, 1);
        assert_eq!(first.data_names(), ["topic"]);
        assert_eq!(first.parameter_counts(), [("seed".into(), 6), ("max_token".into(), 3)]);
        let doubts: Vec<_> =
            first.doubtful_fields().map(|it| (it.seen.count, it.seen.first)).collect();
        assert_eq!(doubts, [(3, (0, 1)), (1, (0, 4))]);
    }

    #[test]
    fn fields_beyond_the_limit_are_only_counted() {
        let mut census = FieldCensus::default();
        for name in 0..MAX_FIELDS + 5 {
            let mut row = census.of_row((0, 1));
            row.note_field(FieldPlace::Row, &format!("f{name}"), FieldUse::Unknown);
        }
        assert_eq!((census.data_names().len(), census.unlisted().count), (MAX_FIELDS, 5));
    }
}
