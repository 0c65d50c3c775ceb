//! The record reader: splits a byte stream into records, each with its offset and line.
//!
//! Owns line ends, byte order marks, blank lines and CSV quoting. What a record means is parsed in `row/`. Memory is
//! one buffer as long as the longest row.

use std::{
    borrow::Cow,
    io::{self, BufRead, Read},
};

use super::InputFormat;

/// Maximum size of a row. Longer ones are mistakes: an unclosed quote, or a file that is not line-based.
pub(crate) const MAX_ROW_BYTES: usize = 64 << 20;

/// The bytes of one row.
pub(crate) struct InputRecord<'b> {
    /// The row without its line end.
    pub bytes: &'b [u8],
    /// Offset of the row in the file.
    pub offset: u64,
    /// Line in which the row begins, counted from where the reader began.
    pub line: u64,
    /// Whether every quote is closed.
    pub quotes_closed: bool,
}

/// Reason why the next record cannot be read.
#[derive(Debug)]
pub(crate) enum RecordError {
    Io(io::Error),
    /// The row that begins in this line is longer than [`MAX_ROW_BYTES`].
    TooLong(u64),
}

/// Splits a stream into records.
pub(crate) struct RecordReader<R> {
    input: R,
    buffer: Vec<u8>,
    /// Bytes read but not yet returned: `buffer[start..end]`.
    start: usize,
    end: usize,
    /// Bytes after `start` that hold no row end; the search resumes behind them.
    searched: usize,
    at_eof: bool,
    offset: u64,
    /// Rows that begin at this offset or later are not returned.
    until: u64,
    line: u64,
    delimiter: Option<u8>,
    field_state: CsvFieldState,
    /// Line ends in the searched bytes.
    line_breaks: u64,
}

/// State of the record search within a CSV field; the transitions are those of the csv crate.
#[derive(Clone, Copy, PartialEq)]
enum CsvFieldState {
    Start,
    Plain,
    Quoted,
    QuoteInQuoted,
}

/// Position of a record in the buffer.
struct RecordSpan {
    from: usize,
    to: usize,
    offset: u64,
    line: u64,
    quotes_closed: bool,
}

impl<R: Read> RecordReader<R> {
    /// Returns a reader of a stream that begins at `offset` of its file, in line 1.
    pub(crate) fn new(from: R, offset: u64, format: InputFormat, buffer: usize) -> Self {
        Self {
            input: from,
            buffer: vec![0; buffer.max(16)],
            start: 0,
            end: 0,
            searched: 0,
            at_eof: false,
            offset,
            until: u64::MAX,
            line: 1,
            delimiter: delimiter_of(format),
            field_state: CsvFieldState::Start,
            line_breaks: 0,
        }
    }

    /// Limits the reader to rows that begin before this offset of the file.
    pub(crate) fn until_offset(self, until: u64) -> Self {
        Self { until, ..self }
    }

    /// Skips the rest of a line that began earlier, at most up to the reader's limit.
    pub(crate) fn skip_line(&mut self) -> Result<(), RecordError> {
        loop {
            let rest = &self.buffer[self.start..self.end];
            let length = skip_past(rest, b'\n');
            let found = rest[..length].ends_with(b"\n");
            self.start += length;
            self.offset += length as u64;
            if found || self.at_eof || self.offset >= self.until {
                return Ok(());
            }
            self.fill_buffer()?;
        }
    }

    /// Number of lines passed so far, blank lines included.
    pub(crate) fn line_count(&self) -> u64 {
        self.line - 1
    }

    /// Returns the stream. Buffered bytes are lost.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// Returns the next record that is not blank.
    pub(crate) fn next_record(&mut self) -> Result<Option<InputRecord<'_>>, RecordError> {
        let span = loop {
            match self.next_span()? {
                None => return Ok(None),
                Some(span) if !self.is_blank(&span) => break span,
                Some(_) => {}
            }
        };
        let RecordSpan { from, to, offset, line, quotes_closed: closed } = span;
        Ok(Some(InputRecord { bytes: &self.buffer[from..to], offset, line, quotes_closed: closed }))
    }

    fn is_blank(&self, span: &RecordSpan) -> bool {
        let bytes = &self.buffer[span.from..span.to];
        match self.delimiter {
            // In a table with a single column, white space is a value.
            Some(_) => bytes.is_empty(),
            None => bytes.trim_ascii_start().is_empty(),
        }
    }

    fn next_span(&mut self) -> Result<Option<RecordSpan>, RecordError> {
        if self.offset == 0 && self.end == 0 && self.until > 0 {
            self.skip_byte_order_mark()?;
        }
        if self.offset >= self.until {
            return Ok(None);
        }
        loop {
            if let Some(length) = self.find_record_end() {
                return Ok(Some(self.take_span(length, true)));
            }
            if self.at_eof {
                let length = self.end - self.start;
                let closed = self.field_state != CsvFieldState::Quoted;
                return Ok((length > 0).then(|| self.take_span(length, closed)));
            }
            self.fill_buffer()?;
        }
    }

    fn skip_byte_order_mark(&mut self) -> Result<(), RecordError> {
        while self.end < 3 && !self.at_eof {
            self.fill_buffer()?;
        }
        if self.buffer[..self.end].starts_with(b"\xef\xbb\xbf") {
            self.start = 3;
            self.offset = 3;
        }
        Ok(())
    }

    /// Returns the length of the record including its end, if the end is in the buffer.
    fn find_record_end(&mut self) -> Option<usize> {
        let rest = &self.buffer[self.start + self.searched..self.end];
        let found = match self.delimiter {
            None => find_line_end(rest),
            Some(delimiter) => {
                find_csv_record_end(rest, delimiter, &mut self.field_state, &mut self.line_breaks)
            }
        };
        let length = found.map(|found| self.searched + found);
        self.searched += rest.len();
        length
    }

    fn take_span(&mut self, length: usize, closed: bool) -> RecordSpan {
        let from = self.start;
        let mut to = from + length;
        for end in [b'\n', b'\r'] {
            // After an unclosed quote, line ends belong to the quoted text.
            to -= usize::from(closed && to > from && self.buffer[to - 1] == end);
        }
        let span =
            RecordSpan { from, to, offset: self.offset, line: self.line, quotes_closed: closed };
        self.line += if self.delimiter.is_some() { self.line_breaks } else { 1 };
        self.offset += length as u64;
        self.start += length;
        (self.searched, self.line_breaks, self.field_state) = (0, 0, CsvFieldState::Start);
        span
    }

    fn fill_buffer(&mut self) -> Result<(), RecordError> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.end == self.buffer.len() {
            if self.end >= MAX_ROW_BYTES {
                return Err(RecordError::TooLong(self.line));
            }
            self.buffer.resize(2 * self.end, 0);
        }
        match self.input.read(&mut self.buffer[self.end..]) {
            Ok(0) => self.at_eof = true,
            Ok(read) => self.end += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(RecordError::Io(error)),
        }
        Ok(())
    }
}

/// Returns the fields of a table's record as the csv crate parses them. The split into records is our own, because
/// ranks need the offset of each record in the file; a test compares it with the crate's.
pub(crate) fn split_fields(record: &str, format: InputFormat) -> Vec<Cow<'_, str>> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter_of(format).unwrap_or(b','))
        .terminator(csv::Terminator::Any(b'\n'))
        .buffer_capacity(record.len().max(16))
        .from_reader(record.as_bytes());
    let mut fields = csv::StringRecord::new();
    // A record of valid UTF-8 cannot fail, and the crate returns none for a blank one, whose only field is itself.
    match reader.read_record(&mut fields) {
        Ok(true) => fields.iter().map(|field| Cow::Owned(field.to_owned())).collect(),
        _ => vec![Cow::Borrowed(record)],
    }
}

fn delimiter_of(format: InputFormat) -> Option<u8> {
    match format {
        InputFormat::Jsonl | InputFormat::Text | InputFormat::Parquet => None,
        InputFormat::Csv => Some(b','),
        InputFormat::Tsv => Some(b'\t'),
    }
}

fn find_line_end(bytes: &[u8]) -> Option<usize> {
    let length = skip_past(bytes, b'\n');
    bytes[..length].ends_with(b"\n").then_some(length)
}

/// Returns the number of bytes up to and including the first `until`, or of all bytes.
fn skip_past(mut bytes: &[u8], until: u8) -> usize {
    // For a slice this is the C library's memchr, which std exposes in no other way, and it cannot fail.
    bytes.skip_until(until).unwrap_or(0)
}

fn find_csv_record_end(
    bytes: &[u8],
    delimiter: u8,
    field: &mut CsvFieldState,
    line_breaks: &mut u64,
) -> Option<usize> {
    let (mut state, mut at) = (*field, 0);
    while at < bytes.len() {
        if state == CsvFieldState::Quoted {
            let quoted = &bytes[at..at + skip_past(&bytes[at..], b'"')];
            *line_breaks += quoted.iter().filter(|&&byte| byte == b'\n').count() as u64;
            at += quoted.len();
            if quoted.ends_with(b"\"") {
                state = CsvFieldState::QuoteInQuoted;
            }
            continue;
        }
        let byte = bytes[at];
        at += 1;
        state = match (state, byte) {
            (CsvFieldState::Start | CsvFieldState::QuoteInQuoted, b'"') => CsvFieldState::Quoted,
            (_, b'\n') => {
                *line_breaks += 1;
                return Some(at);
            }
            (_, byte) if byte == delimiter => CsvFieldState::Start,
            _ => CsvFieldState::Plain,
        };
    }
    *field = state;
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns a few bytes per read, as pipes do.
    struct TrickleReader<'b>(&'b [u8], usize);

    impl Read for TrickleReader<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let limit = to.len().min(self.1);
            self.0.read(&mut to[..limit])
        }
    }

    fn read_records(
        bytes: &[u8],
        format: InputFormat,
        bytes_per_read: usize,
    ) -> Vec<(Vec<u8>, u64, u64)> {
        let mut records = RecordReader::new(TrickleReader(bytes, bytes_per_read), 0, format, 16);
        let mut all = Vec::new();
        while let Some(record) = records.next_record().unwrap() {
            all.push((record.bytes.to_vec(), record.offset, record.line));
        }
        all
    }

    fn expected_record(text: &str, offset: u64, line: u64) -> (Vec<u8>, u64, u64) {
        (text.as_bytes().to_vec(), offset, line)
    }

    #[test]
    fn line_ends_of_every_system_and_a_missing_last_one_are_accepted() {
        let bytes =
            "\u{feff}one\r\n\r\n \t\ntwo\n\nthree, which is longer than the buffer".as_bytes();
        let expected = [
            expected_record("one", 3, 1),
            expected_record("two", 13, 4),
            expected_record("three, which is longer than the buffer", 18, 6),
        ];
        for bytes_per_read in [1, 2, 7, 1000] {
            assert_eq!(read_records(bytes, InputFormat::Jsonl, bytes_per_read), expected);
        }
        assert!(read_records(b"", InputFormat::Text, 1).is_empty());
        assert!(read_records(b"\xef\xbb\xbf", InputFormat::Text, 1).is_empty());
    }

    #[test]
    fn quoted_records_may_span_lines() {
        let bytes = b"id,prompt\r\n1,\"two\nlines, \"\"quoted\"\"\"\r\n\r\n2,5\" pipe\n3,x";
        let expected = [
            expected_record("id,prompt", 0, 1),
            expected_record("1,\"two\nlines, \"\"quoted\"\"\"", 11, 2),
            expected_record("2,5\" pipe", 40, 5),
            expected_record("3,x", 50, 6),
        ];
        for bytes_per_read in [1, 3, 1000] {
            assert_eq!(read_records(bytes, InputFormat::Csv, bytes_per_read), expected);
        }
        assert_eq!(
            split_fields("1,\"two\nlines, \"\"quoted\"\"\"", InputFormat::Csv),
            ["1", "two\nlines, \"quoted\""]
        );
        assert_eq!(split_fields("a\t\"b\"\t", InputFormat::Tsv), ["a", "b", ""]);
    }

    proptest! {
        #[test]
        fn tables_are_cut_as_the_csv_crate_cuts_them(text in "[a,\"\n\té]{0,40}", bytes_per_read in 1_usize..20) {
            let mut oracle = csv::ReaderBuilder::new()
                .has_headers(false)
                .flexible(true)
                .terminator(csv::Terminator::Any(b'\n'))
                .from_reader(text.as_bytes());
            let theirs: Vec<Vec<String>> =
                oracle.records().map(|record| record.unwrap().iter().map(str::to_owned).collect()).collect();
            let ours: Vec<Vec<String>> = read_records(text.as_bytes(), InputFormat::Csv, bytes_per_read)
                .into_iter()
                .map(|(bytes, ..)| {
                    let text = String::from_utf8(bytes).unwrap();
                    split_fields(&text, InputFormat::Csv).into_iter().map(Cow::into_owned).collect()
                })
                .collect();
            prop_assert_eq!(ours, theirs);
        }
    }
}
