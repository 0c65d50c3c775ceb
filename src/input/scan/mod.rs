//! The scan: one pass over the input before any prompt is sent. It rejects invalid rows and records where rows lie.
//!
//! Owns everything that concerns all rows together: duplicate ids, placeholders that no row has, the fingerprint. The pass itself runs chunk by chunk (`chunk_scan`), on this rank or on others; chunks are merged in
//! order, so that the result does not depend on how the input was cut. Memory is 9 bytes per row, 16 more for a row
//! with an id, and 5 to 13 for a long one.

pub(crate) mod chunk_scan;
#[cfg(test)]
pub(crate) mod chunk_tests;
pub(crate) mod duplicate_ids;
pub(crate) mod field_census;
pub(crate) mod prefix_groups;
pub(crate) mod row_hashes;
pub(crate) mod row_models;
pub(crate) mod row_table;
pub(crate) mod sort_keys;
pub(crate) mod totals;
pub(crate) mod work_order;
#[cfg(test)]
pub(crate) mod work_order_tests;

use super::{
    BadRowAction, BadRowLocation, ChunkScan, DuplicateId, InputChunk, InputError, InputFile,
    InputListing, InputLocation, InputRules, InputSource, RowTable, SourceFile, UnknownFieldAction,
    error::{BadRow, MAX_LISTED, MissingPrompt, count_rows},
    files::ListedFile,
    fingerprint::{FingerprintHasher, combine_fingerprints, hash_ends},
    records::{InputRecord, RecordReader},
    row::{
        ParsedRow, RejectedRow, RowParser,
        object::lacks_prompt,
        suggest::{describe_row_without_prompt, suggest_column, suggest_image_column},
        template::PromptTemplate,
    },
};
use std::path::{Path, PathBuf};

use crate::domain::{Prompt, raw_json::JsonMembers};
use chunk_scan::ScanStop;
use duplicate_ids::IdHashes;
use row_hashes::RowHasher;
use row_models::{MAX_ROW_MODELS, RowModels};
use sort_keys::{SortKeys, SortKeysBuilder};
use totals::{FileLine, OccurrenceCount, PlaceholderCoverage, RowTotals};

/// Result of the scan of all files.
#[derive(Debug)]
pub(crate) struct ScannedInput {
    /// The input as it is broadcast to all ranks.
    pub source: InputSource,
    /// The offsets of its rows, kept by rank 0.
    pub table: RowTable,
    /// The keys that determine the order of work, kept by rank 0.
    pub keys: SortKeys,
    /// The first valid prompt, with its template filled in.
    pub first_prompt: Option<Prompt>,
    /// Names of the fields that are neither prompt, id nor parameters.
    pub data_columns: Vec<String>,
    /// Names of the parameters that rows set, with the number of rows.
    pub row_params: Vec<(String, u64)>,
    /// Tokens that all answers with a limit may have.
    pub answer_tokens: u64,
    /// Number of rows whose answers have no limit.
    pub unlimited_rows: u64,
    /// The models that rows name, and which row names which, kept by rank 0; none if row models are ignored.
    pub models: RowModels,
    /// Notes for the log, such as ignored parameters.
    pub notes: Vec<String>,
    /// With [`BadRowAction::Fail`]: the invalid rows, which are failed outcomes from the start.
    pub bad_rows: Vec<BadRow>,
}

/// Scans uncompressed files in this order.
///
/// # Errors
/// Anything that makes the input unusable. Invalid rows are reported together.
pub(crate) fn scan_files(
    files: &[InputFile],
    rules: &InputRules,
) -> Result<ScannedInput, InputError> {
    let input = InputListing::new(files)?;
    let mut scan = InputScan::new(&input, rules)?;
    for piece in input.split_chunks() {
        scan.add_chunk(piece.scan_rows(&input, rules))?;
    }
    scan.finish()
}

/// A scan in progress: merges the scans of chunks in input order.
pub(crate) struct InputScan<'i> {
    input: &'i InputListing,
    rules: &'i InputRules,
    template: Option<PromptTemplate>,
    files: Vec<SourceFile>,
    table: RowTable,
    /// State of the current file: its fingerprint so far, the lines before the next chunk, its header, its first row.
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
    first_good: Option<u64>,
}

impl<'i> InputScan<'i> {
    /// Starts a scan of these files. Nothing is read yet.
    ///
    /// # Errors
    /// A prompt template that cannot be parsed.
    pub(crate) fn new(input: &'i InputListing, rules: &'i InputRules) -> Result<Self, InputError> {
        let template = rules.parse_template();
        let template = template.map_err(InputError::InvalidTemplate)?;
        let placeholders =
            template.as_ref().map_or(0, |template| template.placeholder_names().len());
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
            coverage: PlaceholderCoverage::with_placeholders(placeholders),
            models: RowModels::default(),
            totals: RowTotals::default(),
            first_good: None,
        })
    }

    /// Merges the scan of the next chunk. Chunks must arrive in input order.
    ///
    /// # Errors
    /// A chunk that could not be read to its end. The scan cannot continue then.
    pub(crate) fn add_chunk(&mut self, scanned: ChunkScan) -> Result<(), InputError> {
        let InputChunk { file: number, from, to } = scanned.chunk;
        let Some(file) = self.input.files.get(number as usize) else { return Ok(()) };
        if from == 0 {
            self.table.begin_file();
            self.first_row = self.table.row_count();
            self.columns = scanned.columns;
            self.lines = 0;
        }
        if let Some(stop) = scanned.stop {
            return Err(stop.into_input_error(file));
        }
        let (rows, lines) = (self.table.row_count(), self.lines);
        self.fingerprint.add_blocks(&scanned.block_hashes);
        self.table.append_chunk(scanned.row_offsets, lines);
        self.lines += scanned.lines;
        self.first_good = self.first_good.or(scanned.first_good.map(|row| rows + row));
        self.ids.append_chunk(scanned.ids, rows);
        self.keys.append_chunk(scanned.keys);
        self.coverage.append_chunk(scanned.coverage);
        self.models.append_chunk(scanned.models, lines);
        self.totals.append_chunk(scanned.totals, lines);
        self.bad_count += scanned.bad_count;
        let capacity = match self.rules.bad_rows {
            BadRowAction::Fail => usize::MAX,
            BadRowAction::Stop => MAX_LISTED - self.bad_rows.len().min(MAX_LISTED),
        };
        let in_input =
            |bad: BadRow| BadRow { index: rows + bad.index, line: lines + bad.line, ..bad };
        self.bad_rows.extend(scanned.bad_rows.into_iter().take(capacity).map(in_input));
        if to == file.size { self.end_file(number) } else { Ok(()) }
    }

    fn end_file(&mut self, number: u32) -> Result<(), InputError> {
        let Some(file) = self.input.files.get(number as usize) else { return Ok(()) };
        self.table.end_file(file.size);
        let (path, size) = (file.path.clone(), file.size);
        let io = |source| InputError::Io { action: "cannot read again", path, source };
        let ends = hash_ends(&file.open()?, size).map_err(io)?;
        self.files.push(SourceFile {
            path: file.path.clone(),
            folder: original_folder(file),
            size,
            mtime: file.mtime,
            layout: file.layout,
            partition: file.partition.clone(),
            fingerprint: std::mem::take(&mut self.fingerprint).finish(),
            ends_hash: ends,
            rows: self.table.row_count() - self.first_row,
            first: self.first_row,
            columns: std::mem::take(&mut self.columns),
            batch: file.batch,
        });
        Ok(())
    }

    /// Finishes the scan after the last chunk.
    ///
    /// # Errors
    /// Anything that makes the input unusable. Invalid rows are reported together.
    pub(crate) fn finish(mut self) -> Result<ScannedInput, InputError> {
        // A misspelt placeholder makes every row invalid; the message about it comes first.
        self.check_columns()?;
        self.check_image_columns()?;
        self.check_bad_rows()?;
        self.check_models()?;
        self.check_ids()?;
        self.check_fields()?;
        let notes = self.collect_notes();
        let first = self.first_prompt()?;
        let rows = self.table.row_count();
        let source = InputSource {
            fingerprint: combine_fingerprints(
                self.files
                    .iter()
                    .map(|file| (file.layout, &*file.partition, file.fingerprint.as_str())),
            ),
            files: self.files,
            rows,
            any_messages: self.totals.messages > 0,
            any_text: self.totals.texts > 0,
            any_token_ids: self.totals.token_ids > 0,
            openai_batch: self.totals.batch_rows > 0
                && self.totals.batch_rows + self.bad_count == rows,
            longest_row: self.totals.longest_row,
            models: self.models.named().iter().map(|model| model.name.clone()).collect(),
            any_unnamed: self.models.any_unnamed(),
        };
        Ok(ScannedInput {
            source,
            table: self.table,
            keys: self.keys.finish(),
            first_prompt: first,
            data_columns: self.totals.fields.data_names(),
            row_params: self.totals.fields.parameter_counts(),
            answer_tokens: self.totals.answer_tokens,
            unlimited_rows: self.totals.unlimited,
            models: self.models,
            notes,
            bad_rows: self.bad_rows,
        })
    }

    /// Reads the first valid prompt again.
    fn first_prompt(&self) -> Result<Option<Prompt>, InputError> {
        let Some(index) = self.first_good else { return Ok(None) };
        let folder = |index| self.files.iter().rev().find(|file| file.first <= index);
        let folder = folder(index).map(|file| file.folder.clone()).unwrap_or_default();
        let prompt = |parser: &RowParser<'_>,
                      record: &InputRecord<'_>,
                      row: Result<ParsedRow<'_>, RejectedRow>| {
            let row = row.ok()?;
            let hash = RowHasher::new(parser.layout, parser.columns, parser.partition)
                .hash_record(record, row.id.is_some());
            let model = row.options.model.as_deref().filter(|_| !self.rules.ignore_row_model);
            let model = model.map(Into::into);
            Some(row.into_prompt(index, hash, model, &folder))
        };
        Ok(self.reread_row(index, prompt)?.flatten())
    }

    fn check_columns(&self) -> Result<(), InputError> {
        let names =
            self.template.as_ref().map(PromptTemplate::placeholder_names).unwrap_or_default();
        match self.coverage.never_found().and_then(|at| names.get(at)) {
            None => Ok(()),
            Some(name) => {
                let hint = suggest_column(name, &self.coverage.available);
                Err(InputError::UnknownPlaceholder { name: name.clone(), hint })
            }
        }
    }

    /// Refuses image columns that no row has. In tables they are checked against the header.
    fn check_image_columns(&self) -> Result<(), InputError> {
        let columns = self.rules.image_columns.iter().enumerate();
        let mut missing = columns.filter(|&(at, _)| !self.totals.has_images(at));
        let Some((_, name)) = missing.next() else { return Ok(()) };
        let names =
            |_: &RowParser<'_>, record: &InputRecord<'_>, _: Result<ParsedRow<'_>, RejectedRow>| {
                record_columns(record.bytes)
            };
        let columns = self.reread_row(0, names)?.unwrap_or_default();
        // Its values may all be null or invalid; then the rows have their own messages.
        if self.table.row_count() == 0 || columns.is_empty() || columns.contains(name) {
            return Ok(());
        }
        let hint = suggest_image_column(name, &columns);
        Err(InputError::UnknownImageColumn { name: name.clone(), hint })
    }

    fn check_bad_rows(&mut self) -> Result<(), InputError> {
        if self.rules.bad_rows == BadRowAction::Fail || self.bad_count == 0 {
            return Ok(());
        }
        let bad = std::mem::take(&mut self.bad_rows);
        let named = |bad: BadRow| BadRowLocation {
            location: self.line_location((bad.file, bad.line)),
            reason: bad.reason,
        };
        let without_prompt = bad.iter().find(|bad| lacks_prompt(&bad.reason));
        let missing_prompt =
            without_prompt.map(|bad| self.missing_prompt(bad.index)).transpose()?.flatten();
        Err(InputError::BadRows {
            missing_prompt,
            first: bad.into_iter().map(named).collect(),
            count: self.bad_count,
        })
    }

    /// Describes a row without a prompt.
    fn missing_prompt(&self, index: u64) -> Result<Option<MissingPrompt>, InputError> {
        let hint = |parser: &RowParser<'_>,
                    record: &InputRecord<'_>,
                    _: Result<ParsedRow<'_>, RejectedRow>| {
            describe_row_without_prompt(&parser.column_paths(record).columns, record.bytes)
        };
        let described = self.reread_row(index, hint)?;
        let no_row_has_one = self.first_good.is_none();
        Ok(described.map(|(fields, advice)| MissingPrompt {
            fields,
            advice: no_row_has_one.then_some(advice),
        }))
    }

    /// Refuses fields that look like request parameters, if the rules say so.
    fn check_fields(&self) -> Result<(), InputError> {
        if self.rules.unknown_fields != UnknownFieldAction::Refuse {
            return Ok(());
        }
        let fields = self.describe_doubtful_fields();
        if fields.is_empty() { Ok(()) } else { Err(InputError::DoubtfulFields { fields }) }
    }

    /// Returns a sentence for each field that looks like a request parameter and has no effect.
    fn describe_doubtful_fields(&self) -> Vec<String> {
        let described = self.totals.fields.doubtful_fields().map(|field| {
            let rows = count_rows(field.seen.count);
            format!("{} ({rows}, first: {})", field.reason, self.line_location(field.seen.first))
        });
        described.collect()
    }

    fn check_models(&self) -> Result<(), InputError> {
        match self.models.surplus() {
            None => Ok(()),
            Some((model, at)) => Err(InputError::TooManyModels {
                location: self.line_location(*at),
                model: model.clone(),
                limit: MAX_ROW_MODELS,
            }),
        }
    }

    fn check_ids(&mut self) -> Result<(), InputError> {
        let duplicates = std::mem::take(&mut self.ids).find_duplicates(self.table.row_count());
        let (mut count, mut listed) = (duplicates.len() as u64, Vec::new());
        // Equal hashes are verified by reading both ids again, but only until enough duplicates are listed. Beyond
        // those, a collision of 64-bit hashes would only change the count.
        for (first, later) in duplicates {
            if listed.len() == MAX_LISTED {
                break;
            }
            let (id, other) = (self.row_id(first)?, self.row_id(later)?);
            if id == other {
                listed.push(DuplicateId {
                    id,
                    first: self.row_location(first)?,
                    duplicate: self.row_location(later)?,
                });
            } else {
                count -= 1;
            }
        }
        if listed.is_empty() {
            Ok(())
        } else {
            Err(InputError::DuplicateIds { first: listed, count })
        }
    }

    fn row_id(&self, index: u64) -> Result<String, InputError> {
        let name = |_: &RowParser<'_>,
                    _: &InputRecord<'_>,
                    row: Result<ParsedRow<'_>, RejectedRow>| match row {
            Ok(row) => row.id.map(|name| name.text.into_owned()),
            Err(bad) => bad.id_text,
        };
        Ok(self.reread_row(index, name)?.flatten().unwrap_or_else(|| index.to_string()))
    }

    /// Reads and parses a row again.
    fn reread_row<T>(
        &self,
        index: u64,
        parse: impl FnOnce(&RowParser<'_>, &InputRecord<'_>, Result<ParsedRow<'_>, RejectedRow>) -> T,
    ) -> Result<Option<T>, InputError> {
        use std::io::{Read as _, Seek as _, SeekFrom};
        let Some(range) = self.table.row_ranges(index, index + 1).pop() else { return Ok(None) };
        let number = range.file as usize;
        let (scanned, listed) = (&self.files[number], &self.input.files[number]);
        let mut file = scanned.open()?;
        let io = |source| InputError::Io {
            action: "cannot seek to a row",
            path: scanned.path.clone(),
            source,
        };
        file.seek(SeekFrom::Start(range.offset)).map_err(io)?;
        let mut records =
            RecordReader::new(file.take(range.bytes), range.offset, scanned.layout, 1 << 12)
                .with_fields(scanned.columns.len());
        let record = records
            .next_record()
            .map_err(|error| ScanStop::from_read_error(error).into_input_error(listed))?;
        let parser = RowParser {
            layout: scanned.layout,
            columns: &scanned.columns,
            partition: &scanned.partition,
            template: self.template.as_ref(),
            rules: self.rules,
            batch_file: scanned.batch,
        };
        Ok(record.map(|record| parse(&parser, &record, parser.parse_record(&record))))
    }

    fn row_location(&self, index: u64) -> Result<InputLocation, InputError> {
        let path = |file: u32| self.files.get(file as usize).map(|file| file.path.as_path());
        let at = self.table.locate_line(index, path).map_err(|source| {
            let path = self.files.first().map(|file| file.path.clone()).unwrap_or_default();
            InputError::Io { action: "cannot count lines", path, source }
        })?;
        Ok(self.line_location(at))
    }

    fn line_location(&self, (file, line): FileLine) -> InputLocation {
        let file = self.input.files.get(file as usize);
        let (file, unit) = file.map(|file| (file.name.clone(), file.unit)).unwrap_or_default();
        InputLocation { file, line, unit }
    }

    fn note_blank_lines(&self) -> Option<String> {
        let OccurrenceCount { count, first } = self.totals.blank_lines;
        let lines = if count == 1 { "blank line" } else { "blank lines" };
        let first = self.line_location(first);
        (count > 0).then(|| format!("{count} {lines} skipped (first: {first})"))
    }

    fn collect_notes(&self) -> Vec<String> {
        let RowTotals {
            streams,
            empty,
            surrogates,
            not_numbers,
            final_answers,
            fields,
            ambiguous_quotes,
            ..
        } = &self.totals;
        let note = |seen: &OccurrenceCount, what: &str| {
            let (rows, location) = (count_rows(seen.count), self.line_location(seen.first));
            (seen.count > 0).then(|| format!("{what} ({rows}, first: {location})"))
        };
        let mut notes: Vec<String> = [
            note(streams, "ignored parameter: stream"),
            note(empty, "empty prompts, counted as failed"),
            note(surrogates, "halves of surrogate pairs read as U+FFFD"),
            note(not_numbers, "NaN or Infinity read as null"),
            note(
                ambiguous_quotes,
                "quotes read as letters, although a quoted text of several lines may begin there",
            ),
            self.note_blank_lines(),
            note(
                final_answers,
                "conversations end with an assistant message and are sent so; --drop-final-answer leaves it out, \
                 continue_final_message continues it",
            ),
        ]
        .into_iter()
        .flatten()
        .collect();
        if self.rules.unknown_fields != UnknownFieldAction::Ignore {
            let mut doubtful = self.describe_doubtful_fields();
            let more = doubtful.len().saturating_sub(MAX_LISTED);
            doubtful.truncate(MAX_LISTED);
            notes.extend(doubtful);
            if more > 0 {
                notes.push(format!("{more} more fields look like request parameters"));
            }
            notes.extend(note(fields.unlisted(), "fields with too many names to be checked"));
        }
        notes
    }
}

/// Returns the folder of a file, of the original one if the file is a spooled copy. The folder of standard input is the
/// current one.
fn original_folder(file: &ListedFile) -> PathBuf {
    let original = std::path::absolute(&file.name).unwrap_or_default();
    original.parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Returns the names of a JSON row's members; none for any other row.
fn record_columns(record: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(record).unwrap_or_default();
    JsonMembers::parse(text.trim_ascii()).map(|members| members.member_names()).unwrap_or_default()
}
