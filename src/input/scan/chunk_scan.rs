//! What one piece of the input shows, when it is read over once.
//!
//! Owns the pass over a piece. Rows and lines are counted from where the piece begins, since nobody knows yet what comes
//! before it; even an error is a value here, because the first one of the whole input is the one that counts. What holds
//! of all rows together is the scan's. Memory is a buffer, 9 bytes a row, 16 more for a row that has an id, and 5 to 13
//! for one that is long.

use std::{
    fs::File,
    io::{self, Seek, SeekFrom},
};

use serde::{Deserialize, Serialize};

use super::{
    duplicate_ids::Ids,
    row_table::Begins,
    sort_keys::KeysSoFar,
    totals::{At, Columns, Models, Totals},
};
use crate::input::{
    BadRow, BadRows, DuplicateIds, Format, InputError, Listed, Piece, Rules,
    error::{NAMED, Place},
    files::ListedFile,
    records::{Records, Trouble},
    row::{Bad, Form, Row, header::header, template::Template},
    source::{Hashed, mtime},
};

const BUFFER: usize = 1 << 20;

/// What a piece shows.
#[derive(Debug, Serialize, Deserialize)]
pub struct Part {
    pub(crate) piece: Piece,
    /// The hashes of its blocks.
    pub(crate) blocks: Vec<u128>,
    /// A table's header.
    pub(crate) columns: Vec<String>,
    pub(crate) rows: Begins,
    /// How many lines begin in it.
    pub(crate) lines: u64,
    /// The first row that asks something.
    pub(crate) first: Option<u64>,
    pub(crate) ids: Ids,
    pub(crate) keys: KeysSoFar,
    pub(crate) bad: Vec<BadRow>,
    pub(crate) bad_count: u64,
    pub(crate) placeholders: Columns,
    pub(crate) models: Models,
    pub(crate) totals: Totals,
    /// Why it was not read to its end.
    pub(crate) stop: Option<Stop>,
}

/// What ends a scan at once.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Stop {
    Open(System),
    Read(System),
    /// The row that begins in this line is too long.
    Long(u64),
    Changed,
    Header(String),
    Template(String),
}

/// What the system said, in a form that can be told to another rank.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct System {
    code: Option<i32>,
    words: String,
}

impl Piece {
    /// Reads the piece over.
    #[must_use]
    pub fn scan(self, input: &Listed, rules: &Rules) -> Part {
        let mut part = Part {
            piece: self,
            blocks: Vec::new(),
            columns: Vec::new(),
            rows: Begins::default(),
            lines: 0,
            first: None,
            ids: Ids::default(),
            keys: KeysSoFar::default(),
            bad: Vec::new(),
            bad_count: 0,
            placeholders: Columns::default(),
            models: Models::default(),
            totals: Totals::default(),
            stop: None,
        };
        part.stop = part.read(input, rules).err();
        part
    }
}

impl Part {
    fn read(&mut self, input: &Listed, rules: &Rules) -> Result<(), Stop> {
        let Piece { file, from, to } = self.piece;
        let listed = input.files.get(file as usize).ok_or(Stop::Changed)?;
        let template = rules.template.as_deref().map(Template::parse).transpose();
        let template = template.map_err(Stop::Template)?;
        self.placeholders = Columns::of(template.as_ref().map_or(0, |it| it.names().len()));

        // The byte before tells whether a line begins here.
        let before = from.saturating_sub(1);
        let mut opened = listed.open().map_err(Stop::opening)?;
        opened.seek(SeekFrom::Start(before)).map_err(Stop::reading)?;
        let hashed = Hashed::new(opened, before, from..to, input.block);
        let buffer = usize::try_from(to - before).unwrap_or(BUFFER).min(BUFFER);
        let mut records = Records::new(hashed, before, listed.format, buffer).until(to);
        if from > 0 {
            records.skip_line().map_err(Stop::of)?;
        }
        if matches!(listed.format, Format::Csv | Format::Tsv) {
            let header = |record| header(&record, listed.format, template.is_some());
            let columns = records.next().map_err(Stop::of)?.map(header).transpose();
            self.columns = columns.map_err(Stop::Header)?.unwrap_or_default();
        }
        let columns = std::mem::take(&mut self.columns);
        let form = Form {
            format: listed.format,
            columns: &columns,
            template: template.as_ref(),
            keep_row: rules.keep_row,
        };
        self.rows(&mut records, &form, rules)?;
        self.columns = columns;
        self.lines = records.lines();
        let (file, read, blocks) = records.into_inner().finish();
        self.blocks = blocks;
        if read == to - from && is_as_listed(&file, listed).map_err(Stop::reading)? {
            Ok(())
        } else {
            Err(Stop::Changed)
        }
    }

    fn rows(
        &mut self,
        records: &mut Records<Hashed>,
        form: &Form<'_>,
        rules: &Rules,
    ) -> Result<(), Stop> {
        while let Some(record) = records.next().map_err(Stop::of)? {
            let index = self.rows.count();
            let at = (self.piece.file, record.line);
            self.rows.push(record.offset, record.line);
            self.totals.longest = self.totals.longest.max(record.bytes.len() as u64);
            match form.read(&record) {
                Ok(row) => self.good(&row, index, at, rules),
                Err(bad) => self.bad(bad, index, at, rules),
            }
        }
        Ok(())
    }

    fn good(&mut self, row: &Row<'_>, index: u64, at: At, rules: &Rules) {
        self.placeholders.all();
        if let Some(name) = &row.name {
            self.name(&name.text, index, rules);
        }
        if let (Some(model), false) = (&row.given.model, rules.ignore_row_model) {
            self.models.add(model, at, rules.model.as_deref());
        }
        self.totals.add(row, at);
        let param = |name: &str| row.given.params.get(name).or(rules.defaults.get(name));
        self.keys.add(row.ask.as_str(), row.given.priority, param);
        self.first.get_or_insert(index);
    }

    fn bad(&mut self, bad: Bad, index: u64, (file, line): At, rules: &Rules) {
        let Bad { name, id, why, lacks, columns } = bad;
        if let Some(name) = name {
            self.name(&name, index, rules);
        }
        if !lacks.is_empty() {
            self.placeholders.without(&lacks, columns);
        }
        self.keys.add_bad();
        self.bad_count += 1;
        // Where bad rows stop the job, only those are kept that will be named.
        if rules.bad_rows == BadRows::Fail || self.bad.len() < NAMED {
            self.bad.push(BadRow { index, id, file, line, why });
        }
    }

    fn name(&mut self, text: &str, index: u64, rules: &Rules) {
        if rules.duplicate_ids == DuplicateIds::Refuse {
            self.ids.add(text, index);
        }
    }
}

fn is_as_listed(file: &File, listed: &ListedFile) -> io::Result<bool> {
    let facts = file.metadata()?;
    Ok((facts.len(), mtime(&facts)) == (listed.size, listed.mtime))
}

impl Stop {
    fn opening(error: InputError) -> Self {
        match error {
            InputError::Io { source, .. } => Self::Open(source.into()),
            _ => Self::Changed,
        }
    }

    fn reading(error: io::Error) -> Self {
        Self::Read(error.into())
    }

    pub(crate) fn of(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Io(error) => Self::reading(error),
            Trouble::Long(line) => Self::Long(line),
        }
    }

    /// As an error of this file, with so many lines before the part.
    pub(crate) fn error(self, file: &ListedFile, lines: u64) -> InputError {
        let path = file.name.clone();
        match self {
            Self::Open(said) => {
                InputError::Io { doing: "cannot open it", path, source: said.into() }
            }
            Self::Read(said) => {
                InputError::Io { doing: "cannot read it", path, source: said.into() }
            }
            Self::Changed => InputError::Changed { path },
            Self::Header(what) => InputError::Header { path, what },
            Self::Template(what) => InputError::Template(what),
            Self::Long(line) => {
                let hint = match file.format {
                    Format::Csv | Format::Tsv => "is a quote never closed?",
                    Format::Jsonl | Format::Text | Format::Parquet => {
                        "a row is one line: is this one large JSON value?"
                    }
                };
                InputError::LongRow { place: Place { file: path, line: lines + line }, hint }
            }
        }
    }
}

impl From<io::Error> for System {
    fn from(error: io::Error) -> Self {
        Self { code: error.raw_os_error(), words: error.to_string() }
    }
}

impl From<System> for io::Error {
    fn from(System { code, words }: System) -> Self {
        code.map_or_else(|| Self::other(words), Self::from_raw_os_error)
    }
}
