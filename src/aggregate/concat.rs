//! Concatenation of all answers in the input's order, as one text or as one JSON list.
//!
//! The JSON list follows the structured merge of the Python Aurora-Swarm: an array contributes its elements, any other
//! JSON value is one element, and each keeps its original spelling. Answers that are not JSON are counted, with the
//! first as examples.
//!
//! Memory: a caller that visits answers in the input's order writes each [`AnswerConcat::count_piece`] to a file at
//! once, and nothing is kept. A concatenation that has to merge ([`AnswerConcat::add_answer`]) keeps the texts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::{
    EXAMPLE_LIMIT, extract,
    observed::{AnswerPosition, FirstExamples, ObservedAnswer, ObservedCounts},
};
use crate::domain::Merge;

/// Answers as one text or one JSON list, with counts.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct AnswerConcat {
    /// Text between two answers; `None` for a JSON list.
    separator: Option<String>,
    counts: ObservedCounts,
    unreadable: FirstExamples,
    values: u64,
    pieces: BTreeMap<AnswerPosition, String>,
}

impl AnswerConcat {
    /// Creates an empty text with this separator between answers.
    #[must_use]
    pub(crate) fn new_text(separator: &str) -> Self {
        Self::with_separator(Some(separator.into()))
    }

    /// Creates an empty JSON list.
    #[must_use]
    pub(crate) fn new_json_list() -> Self {
        Self::with_separator(None)
    }

    fn with_separator(separator: Option<String>) -> Self {
        let (counted, pieces) = Default::default();
        Self {
            separator,
            counts: counted,
            unreadable: FirstExamples::with_limit(EXAMPLE_LIMIT),
            values: 0,
            pieces,
        }
    }

    /// Counts an answer and returns its piece of the output; failed and blank answers have none.
    pub(crate) fn count_piece(&mut self, answer: &ObservedAnswer<'_>) -> Option<String> {
        let text = self.counts.count_and_trim(answer)?;
        if self.separator.is_some() {
            self.values += 1;
            // Untrimmed, since a text may begin with an indented line.
            return answer.outcome.ok().map(str::to_owned);
        }
        let elements = extract::parse_json(text).and_then(list_elements);
        match elements {
            Ok(elements) => {
                self.values += elements.len() as u64;
                let elements: Vec<&str> = elements.iter().map(|element| element.get()).collect();
                (!elements.is_empty()).then(|| elements.join(self.separator_text()))
            }
            Err(reason) => {
                self.unreadable.add_example(answer, || reason);
                None
            }
        }
    }

    /// Counts an answer and keeps its piece in memory.
    pub(crate) fn add_answer(&mut self, answer: &ObservedAnswer<'_>) {
        if let Some(piece) = self.count_piece(answer) {
            self.pieces.insert(answer.position, piece);
        }
    }

    /// Returns the text before the first piece.
    #[must_use]
    pub(crate) fn opening_text(&self) -> &'static str {
        if self.separator.is_some() { "" } else { "[\n" }
    }

    /// Returns the text between two pieces.
    #[must_use]
    pub(crate) fn separator_text(&self) -> &str {
        self.separator.as_deref().unwrap_or(",\n")
    }

    /// Returns the text after the last piece.
    #[must_use]
    pub(crate) fn closing_text(&self) -> &'static str {
        match (&self.separator, self.values) {
            (None, _) => "\n]\n",
            (Some(_), 0) => "",
            (Some(_), _) => "\n",
        }
    }

    /// Joins the pieces in memory, in the input's order.
    #[cfg(test)]
    pub(crate) fn render_text(&self) -> String {
        let pieces: Vec<&str> = self.pieces.values().map(String::as_str).collect();
        format!(
            "{}{}{}",
            self.opening_text(),
            pieces.join(self.separator_text()),
            self.closing_text()
        )
    }

    /// Returns the counts as JSON; the text itself is not included.
    #[must_use]
    pub(crate) fn to_json(&self) -> Value {
        let mut finished = self.counts.to_json();
        let name = if self.separator.is_some() { "texts" } else { "values" };
        finished[name] = self.values.into();
        if self.separator.is_none() {
            finished["unreadable"] = self.unreadable.to_json();
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
        self.counts.merge(other.counts);
        self.unreadable.merge(other.unreadable);
        self.values += other.values;
        self.pieces.extend(other.pieces);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::tests::{test_answer, test_failure};

    #[test]
    fn texts_are_in_input_order_without_blank_and_failed_ones() {
        let mut all = AnswerConcat::new_text("\n---\n");
        for (index, text) in [(3, "c"), (2, "  b\n"), (1, " \n"), (0, "a")] {
            all.add_answer(&test_answer(index, text));
        }
        all.add_answer(&test_failure(4, "refused"));
        assert_eq!(all.render_text(), "a\n---\n  b\n\n---\nc\n");
        let result = all.to_json();
        assert_eq!(
            (&result["texts"], &result["blank"], &result["failed"]),
            (&3.into(), &1.into(), &1.into())
        );
    }

    #[test]
    fn arrays_are_flattened_once_and_code_fences_are_parsed() {
        let mut all = AnswerConcat::new_json_list();
        let texts = [
            "[1, [2, 3]]",
            "{\"a\": 1.50}",
            "```json\n[\"x\"]\n```",
            "[]",
            "not JSON",
            "12345678901234567890123",
        ];
        for (index, text) in (0..).zip(texts) {
            all.add_answer(&test_answer(index, text));
        }
        // Numbers keep their spelling, so a large one loses no digit.
        let numbers = "[\n1,\n[2, 3],\n{\"a\": 1.50},\n\"x\",\n12345678901234567890123\n]\n";
        assert_eq!(all.render_text(), numbers);
        let result = all.to_json();
        assert_eq!((&result["values"], &result["unreadable"]["count"]), (&5.into(), &1.into()));
        assert_eq!(result["unreadable"]["first"][0]["index"], 4);
    }

    #[test]
    fn where_all_answers_failed_the_text_and_the_list_are_empty() {
        let mut all = AnswerConcat::new_text("\n");
        all.add_answer(&test_failure(0, "refused"));
        assert_eq!(all.render_text(), "");
        let mut all = AnswerConcat::new_json_list();
        all.add_answer(&test_failure(0, "refused"));
        assert_eq!(
            serde_json::from_str::<Vec<Value>>(&all.render_text()).expect("JSON"),
            Vec::<Value>::new()
        );
    }
}
