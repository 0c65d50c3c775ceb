//! All answers one after the other, in the input's order: as one text, or as one JSON list.
//!
//! The list is made as the originals' structured merge is: an answer's array gives its elements, any other JSON value is
//! an element, each as it was written. What is no JSON is counted and the first are named.
//!
//! Memory: whoever adds answers in the input's order writes each [`Joined::note`] to a file as it comes, and nothing is
//! held; a value that has to merge ([`Joined::add`]) holds the texts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::{
    FIRST, extract,
    observed::{FirstExamples, ObservedCounts, Place, Seen},
};
use crate::domain::Merge;

/// The pieces and their counts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AnswerConcat {
    /// Between texts; none for a JSON list.
    separator: Option<String>,
    counted: ObservedCounts,
    unreadable: FirstExamples,
    values: u64,
    pieces: BTreeMap<Place, String>,
}

impl AnswerConcat {
    /// Texts, with this between them.
    #[must_use]
    pub fn texts(separator: &str) -> Self {
        Self::with_separator(Some(separator.into()))
    }

    /// A JSON list.
    #[must_use]
    pub fn list() -> Self {
        Self::with_separator(None)
    }

    fn with_separator(separator: Option<String>) -> Self {
        let (counted, pieces) = Default::default();
        Self { separator, counted, unreadable: FirstExamples::of(FIRST), values: 0, pieces }
    }

    /// Counts an answer and gives its piece, if it has one; failed and blank answers have none.
    pub fn note(&mut self, seen: &Seen<'_>) -> Option<String> {
        let text = self.counted.text(seen)?;
        if self.separator.is_some() {
            self.values += 1;
            // As it stands, white space around it too: a text may begin with an indented line.
            return seen.said.ok().map(str::to_owned);
        }
        let elements = extract::json(text).and_then(list_elements);
        match elements {
            Ok(elements) => {
                self.values += elements.len() as u64;
                let elements: Vec<&str> = elements.iter().map(|it| it.get()).collect();
                (!elements.is_empty()).then(|| elements.join(self.between()))
            }
            Err(why) => {
                self.unreadable.add(seen, || why);
                None
            }
        }
    }

    /// Counts an answer and holds its piece.
    pub fn add_answer(&mut self, seen: &Seen<'_>) {
        if let Some(piece) = self.note(seen) {
            self.pieces.insert(seen.place, piece);
        }
    }

    /// What stands before all pieces.
    #[must_use]
    pub fn head(&self) -> &'static str {
        if self.separator.is_some() { "" } else { "[\n" }
    }

    /// What stands between two pieces.
    #[must_use]
    pub fn between(&self) -> &str {
        self.separator.as_deref().unwrap_or(",\n")
    }

    /// What stands after all pieces.
    #[must_use]
    pub fn closing_text(&self) -> &'static str {
        match (&self.separator, self.values) {
            (None, _) => "\n]\n",
            (Some(_), 0) => "",
            (Some(_), _) => "\n",
        }
    }

    /// The pieces that are held, as one text.
    #[must_use]
    pub fn text(&self) -> String {
        let pieces: Vec<&str> = self.pieces.values().map(String::as_str).collect();
        format!("{}{}{}", self.head(), pieces.join(self.between()), self.closing_text())
    }

    /// The counts.
    #[must_use]
    pub fn finish(&self) -> Value {
        let mut finished = self.counted.finish();
        let name = if self.separator.is_some() { "texts" } else { "values" };
        finished[name] = self.values.into();
        if self.separator.is_none() {
            finished["unreadable"] = self.unreadable.finish();
        }
        finished
    }
}

fn list_elements(json: &RawValue) -> Result<Vec<&RawValue>, String> {
    if !json.get().trim_start().starts_with('[') {
        return Ok(vec![json]);
    }
    serde_json::from_str(json.get()).map_err(|error| error.to_string())
}

impl Merge for AnswerConcat {
    fn merge(&mut self, other: Self) {
        self.counted.merge(other.counted);
        self.unreadable.merge(other.unreadable);
        self.values += other.values;
        self.pieces.extend(other.pieces);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::tests::{answer, failure};

    #[test]
    fn texts_stand_in_the_inputs_order_without_blank_and_failed_ones() {
        let mut all = AnswerConcat::texts("\n---\n");
        for (index, text) in [(3, "c"), (2, "  b\n"), (1, " \n"), (0, "a")] {
            all.add_answer(&answer(index, text));
        }
        all.add_answer(&failure(4, "refused"));
        assert_eq!(all.text(), "a\n---\n  b\n\n---\nc\n");
        let it = all.finish();
        assert_eq!((&it["texts"], &it["blank"], &it["failed"]), (&3.into(), &1.into(), &1.into()));
    }

    #[test]
    fn arrays_are_taken_apart_once_and_code_fences_are_read_through() {
        let mut all = AnswerConcat::list();
        let texts = [
            "[1, [2, 3]]",
            "{\"a\": 1.50}",
            "```json\n[\"x\"]\n```",
            "[]",
            "not JSON",
            "12345678901234567890123",
        ];
        for (index, text) in (0..).zip(texts) {
            all.add_answer(&answer(index, text));
        }
        // Numbers are as they were written: no digit of a large one is lost.
        let numbers = "[\n1,\n[2, 3],\n{\"a\": 1.50},\n\"x\",\n12345678901234567890123\n]\n";
        assert_eq!(all.text(), numbers);
        let it = all.finish();
        assert_eq!((&it["values"], &it["unreadable"]["count"]), (&5.into(), &1.into()));
        assert_eq!(it["unreadable"]["first"][0]["index"], 4);
    }

    #[test]
    fn where_all_answers_failed_the_text_and_the_list_are_empty() {
        let mut all = AnswerConcat::texts("\n");
        all.add_answer(&failure(0, "refused"));
        assert_eq!(all.text(), "");
        let mut all = AnswerConcat::list();
        all.add_answer(&failure(0, "refused"));
        assert_eq!(
            serde_json::from_str::<Vec<Value>>(&all.text()).expect("JSON"),
            Vec::<Value>::new()
        );
    }
}
