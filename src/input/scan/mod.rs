//! The scan: one pass over the input before any work, which finds what is wrong with it and where its rows lie.
//!
//! Owns what can be said only of all rows together: ids that stand twice, one model, a placeholder that no row has, the
//! fingerprint. The pass itself goes piece by piece (`part`), here or elsewhere; what the pieces show is put together in
//! their order, so that nothing in the result tells how the input was cut. Memory is 9 bytes a row, 16 more for a row that
//! has an id, and 5 to 13 for one that is long.

pub(crate) mod chunk_scan;
#[cfg(test)]
pub(crate) mod chunk_tests;
pub(crate) mod duplicate_ids;
pub(crate) mod prefix_groups;
pub(crate) mod row_hashes;
pub(crate) mod row_table;
pub(crate) mod sort_keys;
pub(crate) mod totals;
pub(crate) mod work_order;
#[cfg(test)]
pub(crate) mod work_order_tests;

use serde::{Deserialize, Serialize};

use super::{
    BadRowAction, BadRowLocation, ChunkScan, DuplicateId, FileCompression, InputChunk, InputError,
    InputFile, InputListing, InputLocation, InputRules, InputSource, RowTable, SourceFile,
    error::MAX_LISTED,
    records::{InputRecord, RecordReader},
    row::{RejectedRow, Row, RowParser, suggest::suggest_column, template::PromptTemplate},
    source::{FingerprintHasher, combined_fingerprint, hash_ends},
};
use crate::domain::{Prompt, PromptId};
use chunk_scan::Stop;
use duplicate_ids::IdHashes;
use row_hashes::RowHasher;
use sort_keys::{SortKeys, SortKeysBuilder};
use totals::{FileLine, OccurrenceCount, PlaceholderCoverage, RowModels, RowTotals};

/// What the scan found.
#[derive(Debug)]
pub struct ScannedInput {
    /// The input, for all ranks.
    pub source: InputSource,
    /// Where its rows lie.
    pub table: RowTable,
    /// What the order of work goes by.
    pub keys: SortKeys,
    /// The first prompt, rendered.
    pub first: Option<Prompt>,
    /// What the row of that prompt has besides what counts.
    pub data_columns: Vec<String>,
    /// The one model that rows name. Nothing where what they name does not count.
    pub row_model: Option<String>,
    /// What is worth saying.
    pub notes: Vec<String>,
    /// With [`BadRows::Fail`]: the rows that are failed outcomes before any work.
    pub bad_rows: Vec<BadRow>,
}

/// A row that is no prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadRow {
    /// Its place in the whole input, from 0.
    pub index: u64,
    /// Its id, where that much could be read.
    pub id: Option<PromptId>,
    /// Which file of the source.
    pub file: u32,
    /// The line, from 1.
    pub line: u64,
    /// What is wrong.
    pub reason: String,
}

/// Scans plain files in this order.
///
/// # Errors
/// Everything that keeps the input from being used; bad rows all at once.
pub fn scan(files: &[InputFile], rules: &InputRules) -> Result<ScannedInput, InputError> {
    let input = InputListing::new(files)?;
    let mut scan = InputScan::new(&input, rules)?;
    for piece in input.split_chunks() {
        scan.add(piece.scan_rows(&input, rules))?;
    }
    scan.finish()
}

/// A scan that is put together from its parts.
pub struct InputScan<'i> {
    input: &'i InputListing,
    rules: &'i InputRules,
    template: Option<PromptTemplate>,
    files: Vec<SourceFile>,
    table: RowTable,
    /// Of the file that is under way: what is known of its blocks, how many lines begin in them, its header, its first row.
    fingerprint: FingerprintHasher,
    lines: u64,
    columns: Vec<String>,
    first_row: u64,
    ids: IdHashes,
    keys: SortKeysBuilder,
    bad_rows: Vec<BadRow>,
    bad_count: u64,
    coverage: PlaceholderCoverage,
    models: RowModels,
    totals: RowTotals,
    first: Option<u64>,
}

impl<'i> InputScan<'i> {
    /// Of these files; nothing is read yet.
    ///
    /// # Errors
    /// A template that cannot be read.
    pub fn new(input: &'i InputListing, rules: &'i InputRules) -> Result<Self, InputError> {
        let template = rules.template.as_deref().map(PromptTemplate::parse).transpose();
        let template = template.map_err(InputError::InvalidTemplate)?;
        let placeholders = template.as_ref().map_or(0, |template| template.names().len());
        Ok(Self {
            input,
            rules,
            template,
            files: Vec::new(),
            table: RowTable::default(),
            fingerprint: FingerprintHasher::default(),
            lines: 0,
            columns: Vec::new(),
            first_row: 0,
            ids: IdHashes::default(),
            keys: SortKeysBuilder::default(),
            bad_rows: Vec::new(),
            bad_count: 0,
            coverage: PlaceholderCoverage::of(placeholders),
            models: RowModels::default(),
            totals: RowTotals::default(),
            first: None,
        })
    }

    /// Takes in what the next piece shows; all pieces have to come in their order.
    ///
    /// # Errors
    /// Where the piece could not be read to its end: there is nothing more to scan then.
    pub fn add(&mut self, part: ChunkScan) -> Result<(), InputError> {
        let InputChunk { file: number, from, to } = part.chunk;
        let Some(file) = self.input.files.get(number as usize) else { return Ok(()) };
        if from == 0 {
            self.table.begin_file();
            self.first_row = self.table.rows();
            self.columns = part.columns;
            self.lines = 0;
        }
        if let Some(stop) = part.stop {
            return Err(stop.into_input_error(file, self.lines));
        }
        let (rows, lines) = (self.table.rows(), self.lines);
        self.fingerprint.add(&part.block_hashes);
        self.table.append_chunk(part.rows, lines);
        self.lines += part.lines;
        self.first = self.first.or(part.first.map(|row| rows + row));
        self.ids.append_chunk(part.ids, rows);
        self.keys.append_chunk(part.keys);
        self.coverage.append_chunk(part.coverage);
        self.models.append_chunk(part.models, lines, self.rules.model.as_deref());
        self.totals.append_chunk(part.totals, lines);
        self.bad_count += part.bad_count;
        let room = match self.rules.bad_rows {
            BadRowAction::Fail => usize::MAX,
            BadRowAction::Stop => MAX_LISTED - self.bad_rows.len().min(MAX_LISTED),
        };
        let whole = |bad: BadRow| BadRow { index: rows + bad.index, line: lines + bad.line, ..bad };
        self.bad_rows.extend(part.bad_rows.into_iter().take(room).map(whole));
        if to == file.size { self.end_file(number) } else { Ok(()) }
    }

    fn end_file(&mut self, number: u32) -> Result<(), InputError> {
        let Some(file) = self.input.files.get(number as usize) else { return Ok(()) };
        self.table.end_file(file.size);
        let (path, size) = (file.path.clone(), file.size);
        let io = |source| InputError::Io { doing: "cannot read it again", path, source };
        let ends = hash_ends(&file.open()?, size).map_err(io)?;
        self.files.push(SourceFile {
            path: file.path.clone(),
            size,
            mtime: file.mtime,
            format: file.format,
            packing: FileCompression::Plain,
            fingerprint: std::mem::take(&mut self.fingerprint).finish(),
            ends_hash: ends,
            rows: self.table.rows() - self.first_row,
            first: self.first_row,
            columns: std::mem::take(&mut self.columns),
        });
        Ok(())
    }

    /// That was the last piece.
    ///
    /// # Errors
    /// Everything that keeps the input from being used; bad rows all at once.
    pub fn finish(mut self) -> Result<ScannedInput, InputError> {
        self.check_columns()?;
        self.check_bad_rows()?;
        self.check_models()?;
        self.check_ids()?;
        let notes = self.collect_notes();
        let (first, data) = self.first_prompt()?.unzip();
        let rows = self.table.rows();
        let source = InputSource {
            fingerprint: combined_fingerprint(&self.files),
            files: self.files,
            rows,
            any_messages: self.totals.messages > 0,
            any_text: self.totals.texts > 0,
            openai_batch: self.totals.batch_rows > 0
                && self.totals.batch_rows + self.bad_count == rows,
            longest_row: self.totals.longest_row,
        };
        let row_model = self.models.first_named.map(|(model, _)| model);
        let data = data.unwrap_or_default();
        let (table, keys, bad) = (self.table, self.keys.finish(), self.bad_rows);
        Ok(ScannedInput {
            source,
            table,
            keys,
            first,
            data_columns: data,
            row_model,
            notes,
            bad_rows: bad,
        })
    }

    /// The first prompt, and what its row has besides.
    fn first_prompt(&self) -> Result<Option<(Prompt, Vec<String>)>, InputError> {
        let Some(index) = self.first else { return Ok(None) };
        let prompt =
            |form: &RowParser<'_>, record: &InputRecord<'_>, row: Result<Row<'_>, RejectedRow>| {
                let row = row.ok()?;
                let hash = RowHasher::new(form.format, form.columns)
                    .hash_record(record, row.name.is_some());
                Some((row.into_prompt(index, hash), form.data_columns(record)))
            };
        Ok(self.again(index, prompt)?.flatten())
    }

    fn check_columns(&self) -> Result<(), InputError> {
        let names = self.template.as_ref().map(PromptTemplate::names).unwrap_or_default();
        match self.coverage.never_found().and_then(|at| names.get(at)) {
            None => Ok(()),
            Some(name) => {
                let hint = suggest_column(name, &self.coverage.available);
                Err(InputError::UnknownPlaceholder { name: name.clone(), hint })
            }
        }
    }

    fn check_bad_rows(&mut self) -> Result<(), InputError> {
        if self.rules.bad_rows == BadRowAction::Fail || self.bad_count == 0 {
            return Ok(());
        }
        let bad = std::mem::take(&mut self.bad_rows);
        let named = |bad: BadRow| BadRowLocation {
            place: self.place((bad.file, bad.line)),
            reason: bad.reason,
        };
        Err(InputError::BadRows {
            first: bad.into_iter().map(named).collect(),
            count: self.bad_count,
        })
    }

    fn check_models(&self) -> Result<(), InputError> {
        let RowModels { first_named: named, mismatches: others, mismatched_model: other } =
            &self.models;
        if others.count == 0 {
            return Ok(());
        }
        let place = self.place(others.first);
        Err(match (&self.rules.model, named) {
            (None, Some((model, at))) => InputError::MixedModels {
                first: self.place(*at),
                model: model.clone(),
                second: place,
                other: other.clone(),
            },
            (model, _) => InputError::ModelMismatch {
                place,
                named: other.clone(),
                model: model.clone().unwrap_or_default(),
                count: others.count,
            },
        })
    }

    fn check_ids(&mut self) -> Result<(), InputError> {
        let pairs = std::mem::take(&mut self.ids).find_duplicates(self.table.rows());
        let (mut count, mut named) = (pairs.len() as u64, Vec::new());
        // Equal hashes are looked at until enough are named; beyond, a false one among 64 bits would change a count.
        for (first, again) in pairs {
            if named.len() == MAX_LISTED {
                break;
            }
            let (id, other) = (self.row_id(first)?, self.row_id(again)?);
            if id == other {
                named.push(DuplicateId {
                    id,
                    first: self.row_location(first)?,
                    duplicate: self.row_location(again)?,
                });
            } else {
                count -= 1;
            }
        }
        if named.is_empty() {
            Ok(())
        } else {
            Err(InputError::DuplicateIds { first: named, count })
        }
    }

    /// A row's id, read again.
    fn row_id(&self, index: u64) -> Result<String, InputError> {
        let name =
            |_: &RowParser<'_>, _: &InputRecord<'_>, row: Result<Row<'_>, RejectedRow>| match row {
                Ok(row) => row.name.map(|name| name.text.into_owned()),
                Err(bad) => bad.name,
            };
        Ok(self.again(index, name)?.flatten().unwrap_or_else(|| index.to_string()))
    }

    /// A row, read again.
    fn again<T>(
        &self,
        index: u64,
        look: impl FnOnce(&RowParser<'_>, &InputRecord<'_>, Result<Row<'_>, RejectedRow>) -> T,
    ) -> Result<Option<T>, InputError> {
        use std::io::{Read as _, Seek as _, SeekFrom};
        let Some(stretch) = self.table.stretches(index, index + 1).pop() else { return Ok(None) };
        let number = stretch.file as usize;
        let (facts, listed) = (&self.files[number], &self.input.files[number]);
        let mut file = facts.open()?;
        let io = |source| InputError::Io {
            doing: "cannot go to a row",
            path: facts.path.clone(),
            source,
        };
        file.seek(SeekFrom::Start(stretch.offset)).map_err(io)?;
        let mut records =
            RecordReader::new(file.take(stretch.bytes), stretch.offset, facts.format, 1 << 12);
        let record =
            records.next().map_err(|trouble| Stop::of(trouble).into_input_error(listed, 0))?;
        let form = RowParser {
            format: facts.format,
            columns: &facts.columns,
            template: self.template.as_ref(),
            keep_row: self.rules.keep_row,
        };
        Ok(record.map(|record| look(&form, &record, form.read(&record))))
    }

    fn row_location(&self, index: u64) -> Result<InputLocation, InputError> {
        let path = |file: u32| self.files.get(file as usize).map(|file| file.path.as_path());
        let at = self.table.line(index, path).map_err(|source| {
            let path = self.files.first().map(|file| file.path.clone()).unwrap_or_default();
            InputError::Io { doing: "cannot count its lines", path, source }
        })?;
        Ok(self.place(at))
    }

    fn place(&self, (file, line): FileLine) -> InputLocation {
        let name = self.input.files.get(file as usize).map(|file| file.name.clone());
        InputLocation { file: name.unwrap_or_default(), line }
    }

    fn collect_notes(&self) -> Vec<String> {
        let RowTotals { streams, empty, .. } = &self.totals;
        let say = |seen: &OccurrenceCount, what: &str| {
            let (count, place) = (seen.count, self.place(seen.first));
            (count > 0).then(|| format!("{what} ({count} rows, first in {place})"))
        };
        [
            say(streams, "stream is ignored: an answer is whole or it is none"),
            say(empty, "empty prompts are not sent and count as failed"),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}
