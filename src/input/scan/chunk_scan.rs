//! The scan of one chunk of the input.
//!
//! Owns the pass over a chunk. Rows and lines are counted from the chunk's beginning, because the number before it is
//! not known yet. Errors are values here too, because the first error in input order is the one to report. What
//! concerns all rows together is in `scan/mod.rs`. Memory is a buffer, 9 bytes per row, 16 more for a row with an id,
//! and 5 to 13 for a long one.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
};

use serde::{Deserialize, Serialize};

use super::{
    duplicate_ids::IdHashes,
    row_models::RowModels,
    row_table::RowOffsets,
    sort_keys::SortKeysBuilder,
    totals::{FileLine, OccurrenceCount, PlaceholderCoverage, RowTotals},
};
use crate::input::{
    BadRow, BadRowAction, DuplicateIdAction, InputChunk, InputError, InputListing, InputRules,
    error::MAX_LISTED,
    files::ListedFile,
    fingerprint::HashingReader,
    records::{LineTally, RecordReader},
    row::{ParsedRow, RejectedRow, RowParser, header::parse_header, suggest::suggest_image_column},
    source::mtime_nanos,
};

const READ_BUFFER_BYTES: usize = 1 << 20;

/// Result of the scan of a chunk. Ranks send it to rank 0.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ChunkScan {
    pub(crate) chunk: InputChunk,
    /// Hashes of the chunk's fingerprint blocks.
    pub(crate) block_hashes: Vec<u128>,
    /// Column names of a table.
    pub(crate) columns: Vec<String>,
    pub(crate) row_offsets: RowOffsets,
    /// Number of lines that begin in the chunk.
    pub(crate) lines: u64,
    /// Number of the first valid row in the chunk.
    pub(crate) first_good: Option<u64>,
    pub(crate) ids: IdHashes,
    pub(crate) keys: SortKeysBuilder,
    pub(crate) bad_rows: Vec<BadRow>,
    pub(crate) bad_count: u64,
    pub(crate) coverage: PlaceholderCoverage,
    pub(crate) models: RowModels,
    pub(crate) totals: RowTotals,
    /// Reason why the chunk was not read to its end.
    pub(crate) stop: Option<ScanStop>,
}

/// An error that ends a scan at once.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ScanStop {
    OpenFailed(SystemError),
    ReadFailed(SystemError),
    Changed,
    InvalidHeader(String),
    InvalidTemplate(String),
}

/// An I/O error in a form that can be sent to another rank.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SystemError {
    code: Option<i32>,
    message: String,
}

impl InputChunk {
    /// Scans the rows that begin in this chunk.
    #[must_use]
    pub(crate) fn scan_rows(self, input: &InputListing, rules: &InputRules) -> ChunkScan {
        let mut scan = ChunkScan {
            chunk: self,
            block_hashes: Vec::new(),
            columns: Vec::new(),
            row_offsets: RowOffsets::default(),
            lines: 0,
            first_good: None,
            ids: IdHashes::default(),
            keys: SortKeysBuilder::default(),
            bad_rows: Vec::new(),
            bad_count: 0,
            coverage: PlaceholderCoverage::default(),
            models: RowModels::default(),
            totals: RowTotals::default(),
            stop: None,
        };
        scan.stop = scan.read_chunk(input, rules).err();
        scan
    }
}

impl ChunkScan {
    fn read_chunk(&mut self, input: &InputListing, rules: &InputRules) -> Result<(), ScanStop> {
        let InputChunk { file, from, to } = self.chunk;
        let listed = input.files.get(file as usize).ok_or(ScanStop::Changed)?;
        let template = rules.parse_template();
        let template = template.map_err(ScanStop::InvalidTemplate)?;
        self.coverage = PlaceholderCoverage::with_placeholders(
            template.as_ref().map_or(0, |template| template.placeholder_names().len()),
        );

        // The byte before the chunk tells whether a line begins at the chunk's first byte.
        let before = from.saturating_sub(1);
        let mut opened = listed.open().map_err(ScanStop::from_open_error)?;
        opened.seek(SeekFrom::Start(before)).map_err(ScanStop::from_read_error)?;
        let hashed = HashingReader::new(opened, before, from..to, input.block);
        let buffer =
            usize::try_from(to - before).unwrap_or(READ_BUFFER_BYTES).min(READ_BUFFER_BYTES);
        let mut records = RecordReader::new(hashed, before, listed.layout, buffer).until_offset(to);
        if from > 0 {
            records.skip_line().map_err(ScanStop::from_read_error)?;
        }
        // A table is a single chunk, so its header is here.
        let columns = match (listed.layout.format.is_table(), listed.layout.has_header) {
            (false, _) => Vec::new(),
            (true, true) => read_columns(&mut records, listed, rules)?,
            (true, false) => {
                let first = listed.open().map_err(ScanStop::from_open_error)?;
                let mut first = RecordReader::new(first, 0, listed.layout, READ_BUFFER_BYTES);
                read_columns(&mut first, listed, rules)?
            }
        };
        records.expect_fields(columns.len());
        let mut images = rules.image_columns.iter().filter(|_| listed.layout.format.is_table());
        if let Some(name) = images.find(|name| !columns.contains(name)) {
            let hint = suggest_image_column(name, &columns);
            let what = format!("--image-column {name}: the table has no such column{hint}");
            return Err(ScanStop::InvalidHeader(what));
        }
        let parser = RowParser {
            layout: listed.layout,
            columns: &columns,
            partition: &listed.partition,
            template: template.as_ref(),
            rules,
            batch_file: listed.batch,
        };
        self.read_rows(&mut records, &parser, rules)?;
        self.columns = columns;
        self.lines = records.line_count();
        let in_file = |LineTally { count, first }| OccurrenceCount { count, first: (file, first) };
        self.totals.blank_lines = in_file(records.blank_lines());
        self.totals.ambiguous_quotes = in_file(records.ambiguous_quotes());
        let (file, read, blocks) = records.into_inner().finish();
        self.block_hashes = blocks;
        // Checked after the last row: an append during the scan would otherwise go unnoticed.
        if read == to - from && is_unchanged(&file, listed).map_err(ScanStop::from_read_error)? {
            Ok(())
        } else {
            Err(ScanStop::Changed)
        }
    }

    fn read_rows(
        &mut self,
        records: &mut RecordReader<HashingReader>,
        parser: &RowParser<'_>,
        rules: &InputRules,
    ) -> Result<(), ScanStop> {
        while let Some(record) = records.next_record().map_err(ScanStop::from_read_error)? {
            let index = self.row_offsets.row_count();
            let at = (self.chunk.file, record.line);
            self.row_offsets.push(record.offset, record.line);
            self.totals.longest_row = self.totals.longest_row.max(record.bytes.len() as u64);
            match parser.parse_record_into(&record, &mut self.totals.fields.of_row(at)) {
                Ok(row) => self.add_good_row(&row, index, at, rules),
                Err(bad) => {
                    if !bad.missing.is_empty() {
                        let available = || parser.column_paths(&record);
                        self.coverage.mark_missing(&bad.missing, available);
                    }
                    self.add_bad_row(bad, index, at, rules);
                }
            }
        }
        Ok(())
    }

    fn add_good_row(&mut self, row: &ParsedRow<'_>, index: u64, at: FileLine, rules: &InputRules) {
        self.coverage.mark_all_found();
        if let Some(name) = &row.id {
            self.add_id(&name.text, index, rules);
        }
        let model = row.options.model.as_deref().filter(|_| !rules.ignore_row_model);
        self.models.add_row(model, at);
        let defaults = match row.route {
            Some(_) => &rules.batch_row_defaults,
            None => &rules.defaults,
        };
        self.totals.add_row(row, defaults, at);
        let param = |name: &str| row.options.params.get(name).or(defaults.get(name));
        self.keys.add_row(row.input.as_str(), row.options.priority, param);
        self.first_good.get_or_insert(index);
    }

    fn add_bad_row(
        &mut self,
        bad: RejectedRow,
        index: u64,
        (file, line): FileLine,
        rules: &InputRules,
    ) {
        let RejectedRow { id_text: name, id, reason, .. } = bad;
        if let Some(name) = name {
            self.add_id(&name, index, rules);
        }
        self.keys.add_bad_row();
        self.models.add_bad_row();
        self.bad_count += 1;
        // If bad rows stop the run, only those that will be listed are kept.
        if rules.bad_rows == BadRowAction::Fail || self.bad_rows.len() < MAX_LISTED {
            self.bad_rows.push(BadRow { index, id, file, line, reason });
        }
    }

    fn add_id(&mut self, text: &str, index: u64, rules: &InputRules) {
        if rules.duplicate_ids == DuplicateIdAction::Refuse {
            self.ids.add_id(text, index);
        }
    }
}

/// Reads the column names of a table from its first record.
fn read_columns(
    records: &mut RecordReader<impl io::Read>,
    listed: &ListedFile,
    rules: &InputRules,
) -> Result<Vec<String>, ScanStop> {
    let columns = |record| parse_header(&record, listed.layout, rules);
    let first = records.next_record().map_err(ScanStop::from_read_error)?;
    let columns = first.map(columns).transpose().map_err(ScanStop::InvalidHeader)?;
    Ok(columns.unwrap_or_default())
}

fn is_unchanged(file: &File, listed: &ListedFile) -> io::Result<bool> {
    let metadata = file.metadata()?;
    Ok((metadata.len(), mtime_nanos(&metadata)) == (listed.size, listed.mtime))
}

impl ScanStop {
    fn from_open_error(error: InputError) -> Self {
        match error {
            InputError::Io { source, .. } => Self::OpenFailed(source.into()),
            _ => Self::Changed,
        }
    }

    pub(crate) fn from_read_error(error: io::Error) -> Self {
        Self::ReadFailed(error.into())
    }

    /// Converts this to an error of the file.
    pub(crate) fn into_input_error(self, file: &ListedFile) -> InputError {
        let path = file.name.clone();
        match self {
            Self::OpenFailed(source) => {
                InputError::Io { action: "cannot open", path, source: source.into() }
            }
            Self::ReadFailed(source) => {
                InputError::Io { action: "cannot read", path, source: source.into() }
            }
            Self::Changed => InputError::Changed { path },
            Self::InvalidHeader(what) => InputError::InvalidHeader { path, what },
            Self::InvalidTemplate(what) => InputError::InvalidTemplate(what),
        }
    }
}

impl From<io::Error> for SystemError {
    fn from(error: io::Error) -> Self {
        Self { code: error.raw_os_error(), message: error.to_string() }
    }
}

impl From<SystemError> for io::Error {
    fn from(SystemError { code, message }: SystemError) -> Self {
        code.map_or_else(|| Self::other(message), Self::from_raw_os_error)
    }
}
