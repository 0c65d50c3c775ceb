//! Rows again: the prompts of leases, in their order.
//!
//! Owns reading by place. Does not know what was read before, nor who wants it, nor when the next lease comes; that the
//! rows are good was found by the scan, so that whatever is wrong here means that the file is not the one that was scanned.

use std::{collections::VecDeque, io::Take};

use super::{
    BadRowAction, InputError, InputRules, InputSource, Lease, RowRange,
    lease::{ByteSource, source_file},
    records::{RecordError, RecordReader},
    row::{RowParser, template::PromptTemplate},
    scan::row_hashes::RowHasher,
};
use crate::domain::{Prompt, RowHash};

const READ_BUFFER_BYTES: usize = 256 << 10;

/// Reads the rows of leases as prompts; asks for the next lease when it is through with one. A row that is bad is left out
/// where the rules let bad rows fail. After an error it is at its end.
pub struct PromptReader<L> {
    source: InputSource,
    /// A file each.
    hashers: Vec<RowHasher>,
    template: Result<Option<PromptTemplate>, String>,
    keep_row: bool,
    bad_rows: BadRowAction,
    leases: Option<L>,
    ranges: VecDeque<RowRange>,
    open: Option<Open>,
    /// What was open last: the next stretch is likely to lie in it.
    idle: Option<(u32, ByteSource)>,
}

struct Open {
    stretch: RowRange,
    records: RecordReader<Take<ByteSource>>,
    rows_read: u64,
}

impl<L: Iterator<Item = Lease>> PromptReader<L> {
    /// Of these leases of the source.
    #[must_use]
    pub fn new(source: &InputSource, rules: &InputRules, leases: L) -> Self {
        Self {
            source: source.clone(),
            hashers: source.files.iter().map(RowHasher::of).collect(),
            template: rules.template.as_deref().map(PromptTemplate::parse).transpose(),
            keep_row: rules.keep_row,
            bad_rows: rules.bad_rows,
            leases: Some(leases),
            ranges: VecDeque::new(),
            open: None,
            idle: None,
        }
    }

    fn prompt(&mut self) -> Result<Option<Prompt>, InputError> {
        loop {
            if self.open.is_none() {
                match self.ranges.pop_front() {
                    Some(stretch) => self.open = Some(self.begin(stretch)?),
                    None => match self.leases.as_mut().and_then(Iterator::next) {
                        Some(lease) => self.take(lease),
                        None => return Ok(None),
                    },
                }
                continue;
            }
            match self.row()? {
                Some(prompt) => return Ok(Some(prompt)),
                None => self.close_range(),
            }
        }
    }

    fn take(&mut self, lease: Lease) {
        let was_text = matches!(self.idle, Some((_, ByteSource::Text(_))));
        match lease.text {
            Some(text) => self.idle = Some((0, ByteSource::Text(std::io::Cursor::new(text)))),
            None if was_text => self.idle = None,
            None => {}
        }
        self.ranges = merge_adjacent(lease.ranges);
    }

    fn begin(&mut self, stretch: RowRange) -> Result<Open, InputError> {
        let facts = source_file(&self.source, stretch.file)?;
        let bytes = match self.idle.take() {
            Some((_, text @ ByteSource::Text(_))) => text,
            Some((number, file)) if number == stretch.file => file,
            _ => ByteSource::of(facts.open()?),
        };
        let io = |source| InputError::Io {
            doing: "cannot go to a row",
            path: facts.path.clone(),
            source,
        };
        let bytes = bytes.take_range(stretch.offset, stretch.bytes).map_err(io)?;
        let buffer = usize::try_from(stretch.bytes)
            .unwrap_or(READ_BUFFER_BYTES)
            .saturating_add(1)
            .min(READ_BUFFER_BYTES);
        let records = RecordReader::new(bytes, stretch.offset, facts.format, buffer);
        Ok(Open { stretch, records, rows_read: 0 })
    }

    /// The next good row of the stretch that is open.
    fn row(&mut self) -> Result<Option<Prompt>, InputError> {
        let Some(open) = &mut self.open else { return Ok(None) };
        let facts = source_file(&self.source, open.stretch.file)?;
        let changed = || InputError::Changed { path: facts.path.clone() };
        let template =
            self.template.as_ref().map_err(|why| InputError::InvalidTemplate(why.clone()))?;
        let form = RowParser {
            format: facts.format,
            columns: &facts.columns,
            template: template.as_ref(),
            keep_row: self.keep_row,
        };
        loop {
            let record = match open.records.next() {
                Ok(Some(record)) => record,
                Ok(None) if open.rows_read == open.stretch.rows => return Ok(None),
                Ok(None) | Err(RecordError::TooLong(_)) => return Err(changed()),
                Err(RecordError::Io(source)) => {
                    let path = facts.path.clone();
                    return Err(InputError::Io { doing: "cannot read it", path, source });
                }
            };
            let index = open.stretch.first + open.rows_read;
            open.rows_read += 1;
            if open.rows_read > open.stretch.rows {
                return Err(changed());
            }
            match form.read(&record) {
                Ok(row) => {
                    let hasher = self.hashers.get(open.stretch.file as usize);
                    let hash = hasher
                        .map_or(RowHash::UNKNOWN, |it| it.hash_record(&record, row.name.is_some()));
                    return Ok(Some(row.into_prompt(index, hash)));
                }
                Err(_) if self.bad_rows == BadRowAction::Fail => {}
                Err(_) => return Err(changed()),
            }
        }
    }

    fn close_range(&mut self) {
        if let Some(Open { stretch, records, .. }) = self.open.take() {
            self.idle = Some((stretch.file, records.into_inner().into_inner()));
        }
    }
}

impl<L: Iterator<Item = Lease>> Iterator for PromptReader<L> {
    type Item = Result<Prompt, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.prompt();
        if next.is_err() {
            self.ranges.clear();
            (self.open, self.leases) = (None, None);
        }
        next.transpose()
    }
}

/// The same rows in as few stretches as they make.
fn merge_adjacent(stretches: Vec<RowRange>) -> VecDeque<RowRange> {
    let mut joined: VecDeque<RowRange> = VecDeque::new();
    for next in stretches {
        match joined.back_mut() {
            Some(last)
                if (last.file, last.first + last.rows, last.offset + last.bytes)
                    == (next.file, next.first, next.offset) =>
            {
                last.rows += next.rows;
                last.bytes += next.bytes;
            }
            _ => joined.push_back(next),
        }
    }
    joined
}
