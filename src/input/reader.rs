//! The prompt reader: reads the rows of leases as prompts, in order.
//!
//! Owns reading rows by offset. The scan has validated the rows, so any error here means that the file is not the one
//! that was scanned. When leases arrive and which rank gets them is `job/dispatch`'s.

use std::{collections::VecDeque, io::Take, sync::Arc};

use super::{
    BadRowAction, InputError, InputRules, InputSource, RowLease, RowRange,
    lease::{ByteSource, source_file},
    records::RecordReader,
    row::{RowParser, template::PromptTemplate},
    scan::row_hashes::RowHasher,
};
use crate::domain::{Prompt, RowHash};

const READ_BUFFER_BYTES: usize = 256 << 10;

/// Iterator over the prompts of leases. It asks for the next lease after the last row of one. Invalid rows are skipped
/// if the rules let them fail alone. After an error the iterator ends.
pub(crate) struct PromptReader<L> {
    source: InputSource,
    /// One row hasher per file.
    hashers: Vec<RowHasher>,
    template: Result<Option<PromptTemplate>, String>,
    rules: InputRules,
    models: ModelNames,
    leases: Option<L>,
    ranges: VecDeque<RowRange>,
    current: Option<OpenRange>,
    /// The file opened last: the next range is likely to lie in it.
    last_open: Option<(u32, ByteSource)>,
}

/// The names of the models that rows name, each allocated once.
struct ModelNames {
    names: Vec<Arc<str>>,
    /// Position of the name that was shared last: neighbouring rows often name the same model.
    last: usize,
}

impl ModelNames {
    fn new(names: &[String]) -> Self {
        Self { names: names.iter().map(|name| name.as_str().into()).collect(), last: 0 }
    }

    /// Returns the name of a row's model; none if the models of rows are ignored.
    fn share_name(&mut self, name: Option<&str>) -> Option<Arc<str>> {
        let name = name.filter(|_| !self.names.is_empty())?;
        if self.names.get(self.last).is_none_or(|last| **last != *name) {
            match self.names.iter().position(|known| **known == *name) {
                Some(position) => self.last = position,
                None => return Some(name.into()),
            }
        }
        self.names.get(self.last).map(Arc::clone)
    }
}

struct OpenRange {
    range: RowRange,
    records: RecordReader<Take<ByteSource>>,
    rows_read: u64,
}

impl<L: Iterator<Item = RowLease>> PromptReader<L> {
    /// Returns a reader of these leases of the source.
    #[must_use]
    pub(crate) fn new(source: &InputSource, rules: &InputRules, leases: L) -> Self {
        Self {
            source: source.clone(),
            hashers: source.files.iter().map(RowHasher::for_file).collect(),
            template: rules.parse_template(),
            rules: rules.clone(),
            models: ModelNames::new(&source.models),
            leases: Some(leases),
            ranges: VecDeque::new(),
            current: None,
            last_open: None,
        }
    }

    fn next_prompt(&mut self) -> Result<Option<Prompt>, InputError> {
        loop {
            if self.current.is_none() {
                match self.ranges.pop_front() {
                    Some(range) => self.current = Some(self.open_range(range)?),
                    None => match self.leases.as_mut().and_then(Iterator::next) {
                        Some(lease) => self.start_lease(lease),
                        None => return Ok(None),
                    },
                }
                continue;
            }
            match self.read_row()? {
                Some(prompt) => return Ok(Some(prompt)),
                None => self.close_range(),
            }
        }
    }

    fn start_lease(&mut self, lease: RowLease) {
        let was_text = matches!(self.last_open, Some((_, ByteSource::Text(_))));
        match lease.text {
            Some(text) => self.last_open = Some((0, ByteSource::Text(std::io::Cursor::new(text)))),
            None if was_text => self.last_open = None,
            None => {}
        }
        // A lease is often made of neighbouring ranges, each of which would cost a seek and a buffer.
        self.ranges = merge_adjacent(lease.ranges);
    }

    fn open_range(&mut self, range: RowRange) -> Result<OpenRange, InputError> {
        let file = source_file(&self.source, range.file)?;
        let bytes = match self.last_open.take() {
            Some((_, text @ ByteSource::Text(_))) => text,
            Some((number, file)) if number == range.file => file,
            _ => ByteSource::from_file(file.open()?),
        };
        let io = |source| InputError::Io {
            action: "cannot seek to a row",
            path: file.path.clone(),
            source,
        };
        let bytes = bytes.take_range(range.offset, range.bytes).map_err(io)?;
        let buffer = usize::try_from(range.bytes)
            .unwrap_or(READ_BUFFER_BYTES)
            .saturating_add(1)
            .min(READ_BUFFER_BYTES);
        let records = RecordReader::new(bytes, range.offset, file.layout, buffer)
            .with_fields(file.columns.len());
        Ok(OpenRange { range, records, rows_read: 0 })
    }

    /// Returns the next valid row of the open range.
    fn read_row(&mut self) -> Result<Option<Prompt>, InputError> {
        let Some(open) = &mut self.current else { return Ok(None) };
        let file = source_file(&self.source, open.range.file)?;
        let changed = || InputError::Changed { path: file.path.clone() };
        let template =
            self.template.as_ref().map_err(|reason| InputError::InvalidTemplate(reason.clone()))?;
        let parser = RowParser {
            layout: file.layout,
            columns: &file.columns,
            partition: &file.partition,
            template: template.as_ref(),
            rules: &self.rules,
            batch_file: file.batch,
        };
        loop {
            let record = match open.records.next_record() {
                Ok(Some(record)) => record,
                Ok(None) if open.rows_read == open.range.rows => return Ok(None),
                Ok(None) => return Err(changed()),
                Err(source) => {
                    let path = file.path.clone();
                    return Err(InputError::Io { action: "cannot read", path, source });
                }
            };
            let index = open.range.first + open.rows_read;
            open.rows_read += 1;
            if open.rows_read > open.range.rows {
                return Err(changed());
            }
            match parser.parse_record(&record) {
                Ok(row) => {
                    let hasher = self.hashers.get(open.range.file as usize);
                    let hash = hasher.map_or(RowHash::UNKNOWN, |hasher| {
                        hasher.hash_record(&record, row.id.is_some())
                    });
                    let model = self.models.share_name(row.options.model.as_deref());
                    return Ok(Some(row.into_prompt(index, hash, model, &file.folder)));
                }
                Err(_) if self.rules.bad_rows == BadRowAction::Fail => {}
                Err(_) => return Err(changed()),
            }
        }
    }

    fn close_range(&mut self) {
        if let Some(OpenRange { range, records, .. }) = self.current.take() {
            self.last_open = Some((range.file, records.into_inner().into_inner()));
        }
    }
}

impl<L: Iterator<Item = RowLease>> Iterator for PromptReader<L> {
    type Item = Result<Prompt, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next_prompt();
        if next.is_err() {
            // The file is not the scanned one, so no later row can be trusted.
            self.ranges.clear();
            (self.current, self.leases) = (None, None);
        }
        next.transpose()
    }
}

/// Merges ranges that follow each other without a gap.
fn merge_adjacent(stretches: Vec<RowRange>) -> VecDeque<RowRange> {
    let mut merged: VecDeque<RowRange> = VecDeque::new();
    for next in stretches {
        match merged.back_mut() {
            Some(last)
                if (last.file, last.first + last.rows, last.offset + last.bytes)
                    == (next.file, next.first, next.offset) =>
            {
                last.rows += next.rows;
                last.bytes += next.bytes;
            }
            _ => merged.push_back(next),
        }
    }
    merged
}
