//! Totals of the scan that add up row by row and chunk by chunk.
//!
//! Owns the counting. Which totals are errors is decided in `scan/mod.rs`.

use serde::{Deserialize, Serialize};

use super::field_census::FieldCensus;
use crate::domain::RequestParams;
use crate::input::row::{ColumnNames, ParsedRow, object::RowInput};

/// Number of a file and a line in it, from 1.
pub(crate) type FileLine = (u32, u64);

/// Counts over the rows of a chunk or of the input.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct RowTotals {
    pub texts: u64,
    pub messages: u64,
    pub token_ids: u64,
    pub batch_rows: u64,
    pub longest_row: u64,
    /// Tokens that all answers may have, as far as they are limited.
    pub answer_tokens: u64,
    /// Rows whose answers have no limit.
    pub unlimited: u64,
    pub streams: OccurrenceCount,
    pub empty: OccurrenceCount,
    /// Rows in which halves of surrogate pairs were replaced.
    pub surrogates: OccurrenceCount,
    /// Rows in which NaN or infinities were read as null.
    pub not_numbers: OccurrenceCount,
    /// Conversations that end with the assistant's message and are sent so.
    pub final_answers: OccurrenceCount,
    pub fields: FieldCensus,
    /// Image columns, by number, in which some row has a value.
    images_in: Vec<usize>,
    /// Lines without a row.
    pub blank_lines: OccurrenceCount,
    /// Lines whose quotes were taken as letters, although they could begin a text of several lines.
    pub ambiguous_quotes: OccurrenceCount,
}

/// Number of occurrences, with the position of the first.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct OccurrenceCount {
    pub count: u64,
    pub first: FileLine,
}

/// The template's placeholders for which some row had a column.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct PlaceholderCoverage {
    found: Vec<bool>,
    /// Whether any row lacked a column.
    any_missing: bool,
    /// Columns of the first row that lacked one, and the paths into it.
    pub available: ColumnNames,
}

impl RowTotals {
    pub(crate) fn add_row(&mut self, row: &ParsedRow<'_>, defaults: &RequestParams, at: FileLine) {
        let own = &row.options.params;
        let n = own.get_u64("n").or_else(|| defaults.get_u64("n")).unwrap_or(1);
        match own.answer_limit().or_else(|| defaults.answer_limit()) {
            Some(tokens) => {
                self.answer_tokens = self.answer_tokens.saturating_add(tokens.saturating_mul(n));
            }
            None => self.unlimited += 1,
        }
        if row.has_surrogates {
            self.surrogates.record_at(at);
        }
        if row.has_not_numbers {
            self.not_numbers.record_at(at);
        }
        if row.ends_with_answer() {
            self.final_answers.record_at(at);
        }
        for column in row.images.columns_found() {
            self.add_image_column(column);
        }
        match &row.input {
            // Only conversations have images.
            RowInput::Text(_) if !row.images.is_empty() => self.messages += 1,
            RowInput::Text(text) => {
                self.texts += 1;
                if text.trim_ascii_start().is_empty() {
                    self.empty.record_at(at);
                }
            }
            RowInput::Messages(_) => self.messages += 1,
            RowInput::TokenIds(_) => self.token_ids += 1,
        }
        self.batch_rows += u64::from(row.route.is_some());
        if row.options.streams {
            self.streams.record_at(at);
        }
    }

    /// Whether a row has a value in this image column.
    pub(crate) fn has_images(&self, column: usize) -> bool {
        self.images_in.contains(&column)
    }

    fn add_image_column(&mut self, column: usize) {
        if !self.images_in.contains(&column) {
            self.images_in.push(column);
        }
    }

    /// Adds the counts of the next chunk, which has `lines` lines before it.
    pub(crate) fn append_chunk(&mut self, other: Self, lines: u64) {
        other.images_in.iter().for_each(|&column| self.add_image_column(column));
        self.texts += other.texts;
        self.messages += other.messages;
        self.token_ids += other.token_ids;
        self.batch_rows += other.batch_rows;
        self.longest_row = self.longest_row.max(other.longest_row);
        self.answer_tokens = self.answer_tokens.saturating_add(other.answer_tokens);
        self.unlimited += other.unlimited;
        self.streams.append_chunk(other.streams, lines);
        self.empty.append_chunk(other.empty, lines);
        self.surrogates.append_chunk(other.surrogates, lines);
        self.not_numbers.append_chunk(other.not_numbers, lines);
        self.final_answers.append_chunk(other.final_answers, lines);
        self.fields.append_chunk(other.fields, lines);
        self.blank_lines.append_chunk(other.blank_lines, lines);
        self.ambiguous_quotes.append_chunk(other.ambiguous_quotes, lines);
    }
}

impl OccurrenceCount {
    pub(crate) fn record_at(&mut self, at: FileLine) {
        if self.count == 0 {
            self.first = at;
        }
        self.count += 1;
    }

    pub(crate) fn append_chunk(&mut self, other: Self, lines: u64) {
        if self.count == 0 {
            self.first = (other.first.0, other.first.1 + lines);
        }
        self.count += other.count;
    }
}

impl PlaceholderCoverage {
    pub(crate) fn with_placeholders(placeholders: usize) -> Self {
        Self { found: vec![false; placeholders], ..Self::default() }
    }

    pub(crate) fn mark_all_found(&mut self) {
        self.found.fill(true);
    }

    /// Records a row that lacked these columns and had the `available` ones.
    pub(crate) fn mark_missing(
        &mut self,
        missing: &[usize],
        available: impl FnOnce() -> ColumnNames,
    ) {
        for (at, had) in self.found.iter_mut().enumerate() {
            *had |= !missing.contains(&at);
        }
        if !std::mem::replace(&mut self.any_missing, true) {
            self.available = available();
        }
    }

    pub(crate) fn append_chunk(&mut self, other: Self) {
        self.found.iter_mut().zip(other.found).for_each(|(had, its)| *had |= its);
        if other.any_missing && !std::mem::replace(&mut self.any_missing, true) {
            self.available = other.available;
        }
    }

    /// Returns the first placeholder that no row had a column for. If no row lacked a column, no row was checked.
    pub(crate) fn never_found(&self) -> Option<usize> {
        self.found.iter().position(|had| !had).filter(|_| self.any_missing)
    }
}
