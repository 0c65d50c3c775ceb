//! Where rows begin and end: a stream of bytes is cut into records, each with its place and its line.
//!
//! Owns line ends, byte order marks, blank lines and the quotes of csv. Refuses to know what a record means. Memory is one
//! buffer, as long as the longest row.

use std::{
    borrow::Cow,
    io::{self, BufRead, Read},
};

use super::Format;

/// Longer rows are mistakes: a quote that is never closed, a file that is no file of lines.
pub(crate) const LONGEST_ROW: usize = 64 << 20;

/// One row's bytes.
pub(crate) struct Record<'b> {
    /// Without the line end.
    pub bytes: &'b [u8],
    /// Where it begins in the file.
    pub offset: u64,
    /// The line it begins in, counted from where the records began.
    pub line: u64,
    /// Is every quote closed?
    pub closed: bool,
}

/// Why there is no next record.
#[derive(Debug)]
pub(crate) enum Trouble {
    Io(io::Error),
    /// The row that begins in this line is longer than [`LONGEST_ROW`].
    Long(u64),
}

/// Cuts a stream into records.
pub(crate) struct Records<R> {
    from: R,
    buffer: Vec<u8>,
    /// What is read and not given out: `buffer[start..end]`.
    start: usize,
    end: usize,
    /// How much of it has no row's end, for the search to go on behind it.
    searched: usize,
    ended: bool,
    offset: u64,
    /// Rows that begin there or later are not given out.
    until: u64,
    line: u64,
    delimiter: Option<u8>,
    field: Field,
    /// Line ends in what is searched.
    breaks: u64,
}

/// Where in a csv field the search is; the same steps as the csv crate's.
#[derive(Clone, Copy, PartialEq)]
enum Field {
    Start,
    Plain,
    Quoted,
    QuoteInQuoted,
}

/// A record's place in the buffer.
struct Span {
    from: usize,
    to: usize,
    offset: u64,
    line: u64,
    closed: bool,
}

impl<R: Read> Records<R> {
    /// Of a stream that begins at `offset` of its file, in line 1.
    pub(crate) fn new(from: R, offset: u64, format: Format, buffer: usize) -> Self {
        Self {
            from,
            buffer: vec![0; buffer.max(16)],
            start: 0,
            end: 0,
            searched: 0,
            ended: false,
            offset,
            until: u64::MAX,
            line: 1,
            delimiter: delimiter(format),
            field: Field::Start,
            breaks: 0,
        }
    }

    /// The same up to this byte of the file: only rows that begin before it.
    pub(crate) fn until(self, until: u64) -> Self {
        Self { until, ..self }
    }

    /// Passes over the rest of a line that began earlier; at most up to where the records end.
    pub(crate) fn skip_line(&mut self) -> Result<(), Trouble> {
        loop {
            let rest = &self.buffer[self.start..self.end];
            let passed = pass(rest, b'\n');
            let found = rest[..passed].ends_with(b"\n");
            self.start += passed;
            self.offset += passed as u64;
            if found || self.ended || self.offset >= self.until {
                return Ok(());
            }
            self.fill()?;
        }
    }

    /// How many lines rows have begun in so far, or could have: blank ones count.
    pub(crate) fn lines(&self) -> u64 {
        self.line - 1
    }

    /// The stream again; what is buffered of it is lost.
    pub(crate) fn into_inner(self) -> R {
        self.from
    }

    /// The next record that is not blank.
    pub(crate) fn next(&mut self) -> Result<Option<Record<'_>>, Trouble> {
        let span = loop {
            match self.span()? {
                None => return Ok(None),
                Some(span) if !self.is_blank(&span) => break span,
                Some(_) => {}
            }
        };
        let Span { from, to, offset, line, closed } = span;
        Ok(Some(Record { bytes: &self.buffer[from..to], offset, line, closed }))
    }

    fn is_blank(&self, span: &Span) -> bool {
        let bytes = &self.buffer[span.from..span.to];
        match self.delimiter {
            // In a table of one column, blanks are a value.
            Some(_) => bytes.is_empty(),
            None => bytes.trim_ascii_start().is_empty(),
        }
    }

    fn span(&mut self) -> Result<Option<Span>, Trouble> {
        if self.offset == 0 && self.end == 0 && self.until > 0 {
            self.skip_byte_order_mark()?;
        }
        if self.offset >= self.until {
            return Ok(None);
        }
        loop {
            if let Some(length) = self.search() {
                return Ok(Some(self.take(length, true)));
            }
            if self.ended {
                let length = self.end - self.start;
                let closed = self.field != Field::Quoted;
                return Ok((length > 0).then(|| self.take(length, closed)));
            }
            self.fill()?;
        }
    }

    fn skip_byte_order_mark(&mut self) -> Result<(), Trouble> {
        while self.end < 3 && !self.ended {
            self.fill()?;
        }
        if self.buffer[..self.end].starts_with(b"\xef\xbb\xbf") {
            self.start = 3;
            self.offset = 3;
        }
        Ok(())
    }

    /// The bytes up to and with the end of the row, where it is in the buffer.
    fn search(&mut self) -> Option<usize> {
        let rest = &self.buffer[self.start + self.searched..self.end];
        let found = match self.delimiter {
            None => line_end(rest),
            Some(delimiter) => record_end(rest, delimiter, &mut self.field, &mut self.breaks),
        };
        let length = found.map(|found| self.searched + found);
        self.searched += rest.len();
        length
    }

    fn take(&mut self, length: usize, closed: bool) -> Span {
        let from = self.start;
        let mut to = from + length;
        for end in [b'\n', b'\r'] {
            // What follows a quote that is never closed belongs to the quote.
            to -= usize::from(closed && to > from && self.buffer[to - 1] == end);
        }
        let span = Span { from, to, offset: self.offset, line: self.line, closed };
        self.line += if self.delimiter.is_some() { self.breaks } else { 1 };
        self.offset += length as u64;
        self.start += length;
        (self.searched, self.breaks, self.field) = (0, 0, Field::Start);
        span
    }

    fn fill(&mut self) -> Result<(), Trouble> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.end == self.buffer.len() {
            if self.end >= LONGEST_ROW {
                return Err(Trouble::Long(self.line));
            }
            self.buffer.resize(2 * self.end, 0);
        }
        match self.from.read(&mut self.buffer[self.end..]) {
            Ok(0) => self.ended = true,
            Ok(read) => self.end += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Trouble::Io(error)),
        }
        Ok(())
    }
}

/// The fields of a record of a table, as the csv crate reads them. The cut before it is our own, since ranks need to know
/// where in the file a record begins, and is held against the crate's by a test.
pub(crate) fn fields(record: &str, format: Format) -> Vec<Cow<'_, str>> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter(format).unwrap_or(b','))
        .terminator(csv::Terminator::Any(b'\n'))
        .buffer_capacity(record.len().max(16))
        .from_reader(record.as_bytes());
    let mut fields = csv::StringRecord::new();
    // A record of valid text cannot fail, and a blank one has the one field it shows.
    match reader.read_record(&mut fields) {
        Ok(true) => fields.iter().map(|field| Cow::Owned(field.to_owned())).collect(),
        _ => vec![Cow::Borrowed(record)],
    }
}

fn delimiter(format: Format) -> Option<u8> {
    match format {
        Format::Jsonl | Format::Text | Format::Parquet => None,
        Format::Csv => Some(b','),
        Format::Tsv => Some(b'\t'),
    }
}

fn line_end(bytes: &[u8]) -> Option<usize> {
    let passed = pass(bytes, b'\n');
    bytes[..passed].ends_with(b"\n").then_some(passed)
}

/// How many bytes there are up to and with the first of these, or in all.
fn pass(mut bytes: &[u8], until: u8) -> usize {
    // For a slice this is the C library's memchr, which std has no other door to, and it cannot fail.
    bytes.skip_until(until).unwrap_or(0)
}

fn record_end(bytes: &[u8], delimiter: u8, field: &mut Field, breaks: &mut u64) -> Option<usize> {
    let (mut state, mut at) = (*field, 0);
    while at < bytes.len() {
        if state == Field::Quoted {
            let quoted = &bytes[at..at + pass(&bytes[at..], b'"')];
            *breaks += quoted.iter().filter(|&&byte| byte == b'\n').count() as u64;
            at += quoted.len();
            if quoted.ends_with(b"\"") {
                state = Field::QuoteInQuoted;
            }
            continue;
        }
        let byte = bytes[at];
        at += 1;
        state = match (state, byte) {
            (Field::Start | Field::QuoteInQuoted, b'"') => Field::Quoted,
            (_, b'\n') => {
                *breaks += 1;
                return Some(at);
            }
            (_, byte) if byte == delimiter => Field::Start,
            _ => Field::Plain,
        };
    }
    *field = state;
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Gives out a few bytes at a time, as pipes do.
    struct Drops<'b>(&'b [u8], usize);

    impl Read for Drops<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let most = to.len().min(self.1);
            self.0.read(&mut to[..most])
        }
    }

    fn records(bytes: &[u8], format: Format, drop: usize) -> Vec<(Vec<u8>, u64, u64)> {
        let mut records = Records::new(Drops(bytes, drop), 0, format, 16);
        let mut all = Vec::new();
        while let Some(record) = records.next().unwrap() {
            all.push((record.bytes.to_vec(), record.offset, record.line));
        }
        all
    }

    fn is(text: &str, offset: u64, line: u64) -> (Vec<u8>, u64, u64) {
        (text.as_bytes().to_vec(), offset, line)
    }

    #[test]
    fn lines_of_every_system_and_a_torn_last_one() {
        let bytes =
            "\u{feff}one\r\n\r\n \t\ntwo\n\nthree, which is longer than the buffer".as_bytes();
        let wanted = [
            is("one", 3, 1),
            is("two", 13, 4),
            is("three, which is longer than the buffer", 18, 6),
        ];
        for drop in [1, 2, 7, 1000] {
            assert_eq!(records(bytes, Format::Jsonl, drop), wanted);
        }
        assert!(records(b"", Format::Text, 1).is_empty());
        assert!(records(b"\xef\xbb\xbf", Format::Text, 1).is_empty());
    }

    #[test]
    fn quoted_records_have_many_lines() {
        let bytes = b"id,prompt\r\n1,\"two\nlines, \"\"quoted\"\"\"\r\n\r\n2,5\" pipe\n3,x";
        let wanted = [
            is("id,prompt", 0, 1),
            is("1,\"two\nlines, \"\"quoted\"\"\"", 11, 2),
            is("2,5\" pipe", 40, 5),
            is("3,x", 50, 6),
        ];
        for drop in [1, 3, 1000] {
            assert_eq!(records(bytes, Format::Csv, drop), wanted);
        }
        assert_eq!(
            fields("1,\"two\nlines, \"\"quoted\"\"\"", Format::Csv),
            ["1", "two\nlines, \"quoted\""]
        );
        assert_eq!(fields("a\t\"b\"\t", Format::Tsv), ["a", "b", ""]);
    }

    proptest! {
        #[test]
        fn tables_are_cut_as_the_csv_crate_cuts_them(text in "[a,\"\n\té]{0,40}", drop in 1_usize..20) {
            let mut oracle = csv::ReaderBuilder::new()
                .has_headers(false)
                .flexible(true)
                .terminator(csv::Terminator::Any(b'\n'))
                .from_reader(text.as_bytes());
            let theirs: Vec<Vec<String>> =
                oracle.records().map(|it| it.unwrap().iter().map(str::to_owned).collect()).collect();
            let ours: Vec<Vec<String>> = records(text.as_bytes(), Format::Csv, drop)
                .into_iter()
                .map(|(bytes, ..)| {
                    let text = String::from_utf8(bytes).unwrap();
                    fields(&text, Format::Csv).into_iter().map(Cow::into_owned).collect()
                })
                .collect();
            prop_assert_eq!(ours, theirs);
        }
    }
}
