//! Rows again: the prompts of stretches, in their order.
//!
//! Owns reading by place. Does not know what was read before, nor who wants it; that the rows are good was found by the
//! scan, so that whatever is wrong here means that the file is not the one that was scanned.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io::{Read, Seek, SeekFrom, Take},
};

use super::{
    BadRows, InputError, Rules, Source, SourceFile, Stretch,
    records::{Records, Trouble},
    row::Form,
    template::Template,
};
use crate::domain::Prompt;

const BUFFER: usize = 256 << 10;

/// Reads the rows of stretches as prompts. A row that is bad is left out where the rules let bad rows fail. After an
/// error it is at its end.
pub struct Reader {
    files: BTreeMap<u32, SourceFile>,
    template: Result<Option<Template>, String>,
    keep_row: bool,
    bad_rows: BadRows,
    stretches: VecDeque<Stretch>,
    open: Option<Open>,
    /// The file that was open last: the next stretch is likely to lie in it.
    idle: Option<(u32, File)>,
}

struct Open {
    stretch: Stretch,
    records: Records<Take<File>>,
    done: u64,
}

impl Reader {
    /// Of these stretches of the source.
    #[must_use]
    pub fn new(source: &Source, rules: &Rules, stretches: Vec<Stretch>) -> Self {
        let file = |number: u32| Some((number, source.files.get(number as usize)?.clone()));
        Self {
            files: stretches.iter().filter_map(|it| file(it.file)).collect(),
            template: rules.template.as_deref().map(Template::parse).transpose(),
            keep_row: rules.keep_row,
            bad_rows: rules.bad_rows,
            stretches: joined(stretches),
            open: None,
            idle: None,
        }
    }

    fn prompt(&mut self) -> Result<Option<Prompt>, InputError> {
        loop {
            if self.open.is_none() {
                match self.stretches.pop_front() {
                    Some(stretch) => self.open = Some(self.begin(stretch)?),
                    None => return Ok(None),
                }
            }
            match self.row()? {
                Some(prompt) => return Ok(Some(prompt)),
                None => self.close(),
            }
        }
    }

    fn begin(&mut self, stretch: Stretch) -> Result<Open, InputError> {
        let Some(facts) = self.files.get(&stretch.file) else {
            let inputs = vec![format!("file number {}", stretch.file)];
            return Err(InputError::Nothing { inputs });
        };
        let mut file = match self.idle.take() {
            Some((number, file)) if number == stretch.file => file,
            _ => facts.open()?,
        };
        let io = |source| InputError::Io {
            doing: "cannot go to a row",
            path: facts.path.clone(),
            source,
        };
        file.seek(SeekFrom::Start(stretch.offset)).map_err(io)?;
        let buffer = usize::try_from(stretch.bytes).unwrap_or(BUFFER).saturating_add(1).min(BUFFER);
        let records = Records::new(file.take(stretch.bytes), stretch.offset, facts.format, buffer);
        Ok(Open { stretch, records, done: 0 })
    }

    /// The next good row of the stretch that is open.
    fn row(&mut self) -> Result<Option<Prompt>, InputError> {
        let Some(open) = &mut self.open else { return Ok(None) };
        let Some(facts) = self.files.get(&open.stretch.file) else { return Ok(None) };
        let changed = || InputError::Changed { path: facts.path.clone() };
        let template = self.template.as_ref().map_err(|why| InputError::Template(why.clone()))?;
        let form = Form {
            format: facts.format,
            columns: &facts.columns,
            template: template.as_ref(),
            keep_row: self.keep_row,
        };
        loop {
            let record = match open.records.next() {
                Ok(Some(record)) => record,
                Ok(None) if open.done == open.stretch.rows => return Ok(None),
                Ok(None) | Err(Trouble::Long(_)) => return Err(changed()),
                Err(Trouble::Io(source)) => {
                    let path = facts.path.clone();
                    return Err(InputError::Io { doing: "cannot read it", path, source });
                }
            };
            let index = open.stretch.first + open.done;
            open.done += 1;
            if open.done > open.stretch.rows {
                return Err(changed());
            }
            match form.read(&record) {
                Ok(row) => return Ok(Some(row.into_prompt(index))),
                Err(_) if self.bad_rows == BadRows::Fail => {}
                Err(_) => return Err(changed()),
            }
        }
    }

    fn close(&mut self) {
        if let Some(Open { stretch, records, .. }) = self.open.take() {
            self.idle = Some((stretch.file, records.into_inner().into_inner()));
        }
    }
}

impl Iterator for Reader {
    type Item = Result<Prompt, InputError>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.prompt();
        if next.is_err() {
            self.stretches.clear();
            self.open = None;
        }
        next.transpose()
    }
}

/// The same rows in as few stretches as they make.
fn joined(stretches: Vec<Stretch>) -> VecDeque<Stretch> {
    let mut joined: VecDeque<Stretch> = VecDeque::new();
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
