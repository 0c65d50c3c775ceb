//! The scan: one pass over the input before any work, which finds what is wrong with it and where its rows lie.
//!
//! Owns what can be said only of all rows together: ids that stand twice, one model, a placeholder that no row has, the
//! fingerprint. Does not know what makes a row good: that is `row`'s. Memory is a buffer, 9 bytes a row, 16 more for a row
//! that has an id, and 5 to 13 for one that is long.

use std::path::{Path, PathBuf};

use super::{
    BadPlace, BadRows, DuplicateIds, Format, InputError, Packing, Place, RowTable, Rules, Source,
    SourceFile, Twice,
    across::{At, Columns, Models, Seen, Totals},
    error::NAMED,
    find::packing_of,
    header::header,
    ids::Ids,
    keys::{Keys, KeysSoFar},
    nearest::nearest,
    records::{Records, Trouble},
    row::{Bad, Form, Row},
    source::{Hashed, ends, fingerprint, mtime, open},
    template::Template,
};
use crate::domain::{Id, Prompt};

const BUFFER: usize = 1 << 20;

/// What the scan found.
#[derive(Debug)]
pub struct Scanned {
    /// The input, for all ranks.
    pub source: Source,
    /// Where its rows lie.
    pub table: RowTable,
    /// What the order of work goes by.
    pub keys: Keys,
    /// The first prompt, rendered.
    pub first: Option<Prompt>,
    /// What the row of that prompt has besides what counts.
    pub data: Vec<String>,
    /// The one model that rows name. Nothing where what they name does not count.
    pub row_model: Option<String>,
    /// What is worth saying.
    pub notes: Vec<String>,
    /// With [`BadRows::Fail`]: the rows that are failed outcomes before any work.
    pub bad: Vec<BadRow>,
}

/// A row that is no prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRow {
    /// Its place in the whole input, from 0.
    pub index: u64,
    /// Its id, where that much could be read.
    pub id: Option<Id>,
    /// Which file of the source.
    pub file: u32,
    /// The line, from 1.
    pub line: u64,
    /// What is wrong.
    pub why: String,
}

/// Scans plain files in this order.
///
/// # Errors
/// Everything that keeps the input from being used; bad rows all at once.
pub fn scan(files: &[(PathBuf, Format)], rules: &Rules) -> Result<Scanned, InputError> {
    let template =
        rules.template.as_deref().map(Template::parse).transpose().map_err(InputError::Template)?;
    let mut scan = Scan::new(rules, template.as_ref());
    for (path, format) in files {
        scan.file(path, *format)?;
    }
    scan.finish()
}

struct Scan<'r> {
    rules: &'r Rules,
    template: Option<&'r Template>,
    files: Vec<SourceFile>,
    table: RowTable,
    ids: Ids,
    keys: KeysSoFar,
    bad: Vec<BadRow>,
    bad_count: u64,
    columns: Columns,
    models: Models,
    totals: Totals,
    first: Option<(Prompt, Vec<String>)>,
}

impl<'r> Scan<'r> {
    fn new(rules: &'r Rules, template: Option<&'r Template>) -> Self {
        let placeholders = template.map_or(0, |template| template.names().len());
        Self {
            rules,
            template,
            files: Vec::new(),
            table: RowTable::default(),
            ids: Ids::default(),
            keys: KeysSoFar::default(),
            bad: Vec::new(),
            bad_count: 0,
            columns: Columns::of(placeholders),
            models: Models::default(),
            totals: Totals::default(),
            first: None,
        }
    }

    fn file(&mut self, path: &Path, format: Format) -> Result<(), InputError> {
        if packing_of(path) != Packing::Plain {
            return Err(InputError::Packed { path: path.to_path_buf() });
        }
        let (file, facts) = open(path)?;
        let number = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        let first = self.table.rows();
        self.table.begin_file();
        let mut records = Records::new(Hashed::new(file), 0, format, BUFFER);
        let columns = self.rows(&mut records, number, path, format)?;
        let (file, read, fingerprint) = records.into_inner().finish();
        self.table.end_file(read);
        let io = |source| InputError::Io {
            doing: "cannot read it again",
            path: path.to_path_buf(),
            source,
        };
        let after = file.metadata().map_err(io)?;
        let changed =
            (read, after.len(), mtime(&after)) != (facts.len(), facts.len(), mtime(&facts));
        if changed {
            return Err(InputError::Changed { path: path.to_path_buf() });
        }
        let ends = ends(&file, read).map_err(io)?;
        let (rows, mtime, packing) = (self.table.rows() - first, mtime(&facts), Packing::Plain);
        let path = path.to_path_buf();
        self.files.push(SourceFile {
            path,
            size: read,
            mtime,
            format,
            packing,
            fingerprint,
            ends,
            rows,
            first,
            columns,
        });
        Ok(())
    }

    fn rows(
        &mut self,
        records: &mut Records<Hashed>,
        file: u32,
        path: &Path,
        format: Format,
    ) -> Result<Vec<String>, InputError> {
        let trouble = |trouble| failed(trouble, path, format);
        let columns = match format {
            Format::Csv | Format::Tsv => match records.next().map_err(trouble)? {
                Some(record) => header(&record, path, format, self.template.is_some())?,
                None => Vec::new(),
            },
            Format::Jsonl | Format::Text => Vec::new(),
        };
        let form = Form {
            format,
            columns: &columns,
            template: self.template,
            keep_row: self.rules.keep_row,
        };
        while let Some(record) = records.next().map_err(trouble)? {
            let index = self.table.rows();
            let at = (file, record.line);
            self.table.push(record.offset, record.line);
            self.totals.longest = self.totals.longest.max(record.bytes.len() as u64);
            match form.read(&record) {
                Ok(row) => self.good(row, index, at, || form.data(&record)),
                Err(bad) => self.bad(bad, index, at),
            }
        }
        Ok(columns)
    }

    fn good(&mut self, row: Row<'_>, index: u64, at: At, data: impl FnOnce() -> Vec<String>) {
        self.columns.all();
        if let Some(name) = &row.name {
            self.name(&name.text, index);
        }
        if let (Some(model), false) = (&row.given.model, self.rules.ignore_row_model) {
            self.models.add(model, at, self.rules.model.as_deref());
        }
        self.totals.add(&row, at);
        let param = |name: &str| row.given.params.get(name).or(self.rules.defaults.get(name));
        self.keys.add(row.ask.as_str(), row.given.priority, param);
        if self.first.is_none() {
            self.first = Some((row.into_prompt(index), data()));
        }
    }

    fn bad(&mut self, bad: Bad, index: u64, (file, line): At) {
        let Bad { name, id, why, lacks, columns } = bad;
        if let Some(name) = name {
            self.name(&name, index);
        }
        if !lacks.is_empty() {
            self.columns.without(&lacks, columns);
        }
        self.keys.add_bad();
        self.bad_count += 1;
        // Where bad rows stop the job, only those are kept that will be named.
        if self.rules.bad_rows == BadRows::Fail || self.bad.len() < NAMED {
            self.bad.push(BadRow { index, id, file, line, why });
        }
    }

    fn name(&mut self, text: &str, index: u64) {
        if self.rules.duplicate_ids == DuplicateIds::Refuse {
            self.ids.add(text, index);
        }
    }

    fn finish(mut self) -> Result<Scanned, InputError> {
        self.check_columns()?;
        self.check_bad_rows()?;
        self.check_models()?;
        self.check_ids()?;
        let notes = self.notes();
        let (first, data) = self.first.unzip();
        let rows = self.table.rows();
        let source = Source {
            fingerprint: fingerprint(&self.files),
            files: self.files,
            rows,
            any_messages: self.totals.messages > 0,
            any_text: self.totals.texts > 0,
            openai_batch: self.totals.batch > 0 && self.totals.batch + self.bad_count == rows,
            longest: self.totals.longest,
        };
        let row_model = self.models.named.map(|(model, _)| model);
        let data = data.unwrap_or_default();
        let (table, keys, bad) = (self.table, self.keys.finish(), self.bad);
        Ok(Scanned { source, table, keys, first, data, row_model, notes, bad })
    }

    fn check_columns(&self) -> Result<(), InputError> {
        let names = self.template.map(Template::names).unwrap_or_default();
        match self.columns.never().and_then(|at| names.get(at)) {
            None => Ok(()),
            Some(name) => {
                let hint = nearest(name, &self.columns.there);
                Err(InputError::Placeholder { name: name.clone(), hint })
            }
        }
    }

    fn check_bad_rows(&mut self) -> Result<(), InputError> {
        if self.rules.bad_rows == BadRows::Fail || self.bad_count == 0 {
            return Ok(());
        }
        let bad = std::mem::take(&mut self.bad);
        let named =
            |bad: BadRow| BadPlace { place: self.place((bad.file, bad.line)), why: bad.why };
        Err(InputError::BadRows {
            first: bad.into_iter().map(named).collect(),
            count: self.bad_count,
        })
    }

    fn check_models(&self) -> Result<(), InputError> {
        let Models { named, others, other } = &self.models;
        if others.count == 0 {
            return Ok(());
        }
        let place = self.place(others.first);
        Err(match (&self.rules.model, named) {
            (None, Some((model, at))) => InputError::TwoModels {
                first: self.place(*at),
                model: model.clone(),
                second: place,
                other: other.clone(),
            },
            (model, _) => InputError::OtherModel {
                place,
                named: other.clone(),
                model: model.clone().unwrap_or_default(),
                count: others.count,
            },
        })
    }

    fn check_ids(&mut self) -> Result<(), InputError> {
        let pairs = std::mem::take(&mut self.ids).pairs(self.table.rows());
        let (mut count, mut named) = (pairs.len() as u64, Vec::new());
        // Equal hashes are looked at until enough are named; beyond, a false one among 64 bits would change a count.
        for (first, again) in pairs {
            if named.len() == NAMED {
                break;
            }
            let (id, other) = (self.id(first)?, self.id(again)?);
            if id == other {
                named.push(Twice {
                    id,
                    first: self.place_of(first)?,
                    again: self.place_of(again)?,
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
    fn id(&self, index: u64) -> Result<String, InputError> {
        use std::io::{Read as _, Seek as _, SeekFrom};
        let default = || index.to_string();
        let Some(stretch) = self.table.stretches(index, index + 1).pop() else {
            return Ok(default());
        };
        let facts = &self.files[stretch.file as usize];
        let mut file = facts.open()?;
        let io = |source| InputError::Io {
            doing: "cannot go to a row",
            path: facts.path.clone(),
            source,
        };
        file.seek(SeekFrom::Start(stretch.offset)).map_err(io)?;
        let mut records =
            Records::new(file.take(stretch.bytes), stretch.offset, facts.format, 1 << 12);
        let record =
            records.next().map_err(|trouble| failed(trouble, &facts.path, facts.format))?;
        let form = Form {
            format: facts.format,
            columns: &facts.columns,
            template: self.template,
            keep_row: false,
        };
        let name = record.and_then(|record| match form.read(&record) {
            Ok(row) => row.name.map(|name| name.text.into_owned()),
            Err(bad) => bad.name,
        });
        Ok(name.unwrap_or_else(default))
    }

    fn place_of(&self, index: u64) -> Result<Place, InputError> {
        let path = |file: u32| self.files.get(file as usize).map(|file| file.path.as_path());
        let at = self.table.line(index, path).map_err(|source| {
            let path = self.files.first().map(|file| file.path.clone()).unwrap_or_default();
            InputError::Io { doing: "cannot count its lines", path, source }
        })?;
        Ok(self.place(at))
    }

    fn place(&self, (file, line): At) -> Place {
        let path = self.files.get(file as usize).map(|file| file.path.clone());
        Place { file: path.unwrap_or_default(), line }
    }

    fn notes(&self) -> Vec<String> {
        let Totals { streams, empty, .. } = &self.totals;
        let say = |seen: &Seen, what: &str| {
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

fn failed(trouble: Trouble, path: &Path, format: Format) -> InputError {
    let path = path.to_path_buf();
    match trouble {
        Trouble::Io(source) => InputError::Io { doing: "cannot read it", path, source },
        Trouble::Long(line) => {
            let hint = match format {
                Format::Csv | Format::Tsv => "is a quote never closed?",
                Format::Jsonl | Format::Text => "a row is one line: is this one large JSON value?",
            };
            InputError::LongRow { place: Place { file: path, line }, hint }
        }
    }
}
