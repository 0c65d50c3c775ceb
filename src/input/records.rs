//! The record reader: splits a byte stream into records, each with its offset and line.
//!
//! Owns line ends, byte order marks, blank lines and the quoting of tables. What a record means is parsed in `row/`.
//! Memory is one buffer as long as the longest row, at most 64 MiB: of a longer row only the beginning is kept.
//!
//! LF, CRLF and a lone CR end a line, as in Python's universal newlines; all other separators of Unicode are text.
//!
//! In CSV a quote that opens a field may hold line ends. If such a quote is never closed, or another one is followed by
//! text before it is, only the line that it opens in is invalid, and the next line begins a new record.
//!
//! In TSV quotes are letters, unless a field is properly quoted: it begins with a quote, ends with one before a tab or
//! line end, and has its inner quotes doubled. A line that has as many fields as the header is a row by itself: a quoted
//! field that begins in it never reaches into another such line, and no field has such a line in its middle. So a lone
//! quote never takes rows into another one.

use std::{
    borrow::Cow,
    fmt,
    io::{self, Read},
};

use memchr::{memchr, memchr_iter, memchr2, memchr3};

use super::{InputFormat, RowLayout};

/// Maximum size of a row in bytes: 64 MiB. A longer one is an invalid row. Unit tests have a smaller limit, since they are
/// not optimised.
pub(crate) const MAX_ROW_BYTES: usize = if cfg!(test) { 1 << 20 } else { 64 << 20 };

/// Maximum size of the buffer: the longest row with its line end.
const MAX_BUFFER_BYTES: usize = MAX_ROW_BYTES + 2;

/// Bytes of an oversized row that are kept.
const KEPT_BYTES: usize = 4096;

/// Records after an open quote that must look like rows for the quote to count as never closed, in a quoted text that is
/// too long to search to its end.
const PROBED_RECORDS: usize = 3;

/// The bytes of one row.
pub(crate) struct InputRecord<'b> {
    /// The row without its line end; the beginning of an oversized row.
    pub bytes: &'b [u8],
    /// Offset of the row in the file.
    pub offset: u64,
    /// Line in which the row begins, counted from where the reader began.
    pub line: u64,
    /// Reason why the bytes are not a row.
    pub fault: Option<RecordFault>,
}

/// Reason why a record is not a row, whatever its bytes mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecordFault {
    /// A quoted field has no end.
    UnclosedQuote,
    /// A quoted field is followed by something other than a delimiter or line end.
    TextAfterQuote,
    /// The row is longer than [`MAX_ROW_BYTES`].
    Oversized,
}

impl fmt::Display for RecordFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnclosedQuote => "a quote that opens in this row is never closed",
            Self::TextAfterQuote => {
                "text follows a closing quote (a quote inside a quoted field is written twice)"
            }
            Self::Oversized => "the row is longer than 64 MiB",
        })
    }
}

/// Splits a stream into records.
pub(crate) struct RecordReader<R> {
    input: R,
    buffer: Vec<u8>,
    /// Bytes read but not yet returned: `buffer[start..end]`.
    start: usize,
    end: usize,
    at_eof: bool,
    offset: u64,
    /// Rows that begin at this offset or later are not returned.
    until: u64,
    line: u64,
    layout: RowLayout,
    /// Number of fields in a row of this table; 0 if it is not known.
    field_count: usize,
    search: RecordSearch,
    skipped_blanks: LineTally,
    ambiguous_quotes: LineTally,
}

/// Number of lines of a kind, with the first of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LineTally {
    pub count: u64,
    pub first: u64,
}

/// Progress of the search for the end of the current record.
#[derive(Clone, Copy, Default)]
struct RecordSearch {
    /// Bytes after the record's beginning that need not be searched again.
    searched: usize,
    field: CsvField,
    /// Content and total length of the record's first line, if a quoted field spans its end.
    first_line: Option<(usize, usize)>,
    /// Line ends inside quoted fields.
    line_breaks: u64,
    text_after_quote: bool,
    /// Whether the record is skipped because of its size.
    is_oversized: bool,
}

/// State of the search within a CSV field.
#[derive(Clone, Copy, Default, PartialEq)]
enum CsvField {
    #[default]
    Start,
    Plain,
    Quoted,
    QuoteInQuoted,
}

/// End of a record, counted from its beginning.
#[derive(Clone, Copy, Debug, PartialEq)]
struct RecordEnd {
    /// Bytes without the line end.
    content: usize,
    /// Bytes with the line end.
    total: usize,
    /// Number of lines.
    lines: u64,
    fault: Option<RecordFault>,
    /// Whether quotes were taken as letters although they could hold a text of several lines.
    is_ambiguous: bool,
}

impl RecordEnd {
    fn line(content: usize, total: usize) -> Self {
        Self { content, total, lines: 1, fault: None, is_ambiguous: false }
    }
}

/// Position of a record in the buffer.
struct RecordSpan {
    from: usize,
    to: usize,
    offset: u64,
    line: u64,
    fault: Option<RecordFault>,
}

impl<R: Read> RecordReader<R> {
    /// Returns a reader of a stream that begins at `offset` of its file, in line 1.
    pub(crate) fn new(from: R, offset: u64, layout: RowLayout, buffer: usize) -> Self {
        Self {
            input: from,
            buffer: vec![0; buffer.clamp(16, MAX_BUFFER_BYTES)],
            start: 0,
            end: 0,
            at_eof: false,
            offset,
            until: u64::MAX,
            line: 1,
            layout,
            field_count: 0,
            search: RecordSearch::default(),
            skipped_blanks: LineTally::default(),
            ambiguous_quotes: LineTally::default(),
        }
    }

    /// Limits the reader to rows that begin before this offset of the file.
    pub(crate) fn until_offset(self, until: u64) -> Self {
        Self { until, ..self }
    }

    /// Tells the reader how many fields the rows of the table have.
    pub(crate) fn with_fields(mut self, fields: usize) -> Self {
        self.expect_fields(fields);
        self
    }

    /// Tells the reader how many fields the rows of the table have.
    pub(crate) fn expect_fields(&mut self, fields: usize) {
        self.field_count = fields;
    }

    /// Skips the rest of a line that began earlier, at most up to the reader's limit.
    pub(crate) fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let rest = &self.buffer[self.start..self.end];
            let end = find_line_end(rest, 0, self.at_eof);
            let length = end.map_or_else(|| searched_length(rest), |(at, length)| at + length);
            self.start += length;
            self.offset += length as u64;
            if end.is_some() || self.at_eof || self.offset >= self.until {
                return Ok(());
            }
            self.fill_buffer()?;
        }
    }

    /// Number of lines passed so far, blank lines included.
    pub(crate) fn line_count(&self) -> u64 {
        self.line - 1
    }

    /// Returns the blank lines passed so far.
    pub(crate) fn blank_lines(&self) -> LineTally {
        self.skipped_blanks
    }

    /// Returns the lines passed so far whose quotes were taken as letters, although they could begin a quoted field of
    /// several lines.
    pub(crate) fn ambiguous_quotes(&self) -> LineTally {
        self.ambiguous_quotes
    }

    /// Returns the stream. Buffered bytes are lost.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// Returns the next record that is not blank.
    pub(crate) fn next_record(&mut self) -> io::Result<Option<InputRecord<'_>>> {
        let span = loop {
            match self.next_span()? {
                None => return Ok(None),
                Some(span) if !self.is_blank(&span) => break span,
                Some(span) => self.skipped_blanks.add_line(span.line),
            }
        };
        let RecordSpan { from, to, offset, line, fault } = span;
        Ok(Some(InputRecord { bytes: &self.buffer[from..to], offset, line, fault }))
    }

    fn is_blank(&self, span: &RecordSpan) -> bool {
        let bytes = &self.buffer[span.from..span.to];
        // In a table with a single column, white space is a value.
        span.fault.is_none()
            && match self.layout.format.is_table() {
                true => bytes.is_empty(),
                false => bytes.trim_ascii_start().is_empty(),
            }
    }

    fn next_span(&mut self) -> io::Result<Option<RecordSpan>> {
        if self.offset == 0 && self.end == 0 && self.until > 0 {
            self.skip_byte_order_mark()?;
        }
        if self.offset >= self.until {
            return Ok(None);
        }
        loop {
            if let Some(end) = self.find_record_end() {
                return Ok(Some(self.take_span(end, 0)));
            }
            if self.at_eof {
                return Ok(None);
            }
            if self.end - self.start == MAX_BUFFER_BYTES {
                return self.take_oversized().map(Some);
            }
            self.fill_buffer()?;
        }
    }

    fn skip_byte_order_mark(&mut self) -> io::Result<()> {
        while self.end < 3 && !self.at_eof {
            self.fill_buffer()?;
        }
        if self.buffer[..self.end].starts_with(b"\xef\xbb\xbf") {
            self.start = 3;
            self.offset = 3;
        }
        Ok(())
    }

    /// Returns the end of the record, if it can be told from the bytes in the buffer.
    fn find_record_end(&mut self) -> Option<RecordEnd> {
        let bytes = &self.buffer[self.start..self.end];
        if bytes.is_empty() {
            return None;
        }
        match self.layout.format {
            InputFormat::Jsonl | InputFormat::Text | InputFormat::Parquet => {
                find_whole_line(bytes, &mut self.search.searched, self.at_eof)
            }
            InputFormat::Csv => self.search.find_csv_end(bytes, self.layout.delimiter, self.at_eof),
            InputFormat::Tsv if self.search.is_oversized => {
                find_whole_line(bytes, &mut self.search.searched, self.at_eof)
            }
            InputFormat::Tsv => {
                find_tsv_end(bytes, &mut self.search.searched, self.field_count, self.at_eof)
            }
        }
    }

    /// Takes a record off the buffer, `dropped` bytes of which are not in the buffer any more.
    fn take_span(&mut self, end: RecordEnd, dropped: usize) -> RecordSpan {
        let is_oversized = self.search.is_oversized || end.content > MAX_ROW_BYTES;
        let (length, fault) = match is_oversized {
            true => (end.content.min(KEPT_BYTES), Some(RecordFault::Oversized)),
            false => (end.content, end.fault),
        };
        let from = self.start;
        let span =
            RecordSpan { from, to: from + length, offset: self.offset, line: self.line, fault };
        if end.is_ambiguous {
            self.ambiguous_quotes.add_line(self.line);
        }
        self.line += end.lines;
        self.offset += (end.total + dropped) as u64;
        self.start += end.total;
        self.search = RecordSearch::default();
        span
    }

    /// Passes a record that fills the buffer and keeps its beginning.
    fn take_oversized(&mut self) -> io::Result<RecordSpan> {
        let bytes = &self.buffer[self.start..self.end];
        if let Some(first_line) = self.line_of_unclosed_quote(bytes) {
            return Ok(self.take_span(first_line, 0));
        }
        self.search.is_oversized = true;
        let mut dropped = 0;
        loop {
            // The buffer is the kept beginning, then the bytes that are searched; a CR at their end may be half a CRLF.
            let unsearched = self.search.searched.max(KEPT_BYTES)..self.end;
            dropped += unsearched.start - KEPT_BYTES;
            self.end = KEPT_BYTES + unsearched.len();
            self.buffer.copy_within(unsearched, KEPT_BYTES);
            self.search.searched = KEPT_BYTES;
            self.read_more()?;
            if let Some(end) = self.find_record_end() {
                return Ok(self.take_span(end, dropped));
            }
        }
    }

    /// Returns the first line of a record that fills the buffer if the record is not one row: quotes that seemed to open
    /// a field of several lines are letters in TSV, and never closed in CSV if the next lines are rows.
    fn line_of_unclosed_quote(&self, bytes: &[u8]) -> Option<RecordEnd> {
        if self.layout.format == InputFormat::Tsv {
            let (at, length) = find_line_end(bytes, 0, true)?;
            return Some(RecordEnd::line(at, at + length));
        }
        let (content, mut next) = self.search.first_line?;
        let first_line =
            RecordEnd { fault: Some(RecordFault::UnclosedQuote), ..RecordEnd::line(content, next) };
        for _ in 0..PROBED_RECORDS {
            let mut search = RecordSearch::default();
            let end = search.find_csv_end(&bytes[next..], self.layout.delimiter, false)?;
            let record = std::str::from_utf8(&bytes[next..next + end.content]).ok()?;
            let fields = split_fields(record, self.layout, self.field_count).len();
            if fields != self.field_count || fields < 2 || end.fault.is_some() {
                return None;
            }
            next += end.total;
        }
        Some(first_line)
    }

    fn fill_buffer(&mut self) -> io::Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        if self.end == self.buffer.len() {
            self.buffer.resize((2 * self.end).min(MAX_BUFFER_BYTES), 0);
        }
        self.read_more()
    }

    fn read_more(&mut self) -> io::Result<()> {
        match self.input.read(&mut self.buffer[self.end..]) {
            Ok(0) => self.at_eof = true,
            Ok(read) => self.end += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl LineTally {
    fn add_line(&mut self, line: u64) {
        if self.count == 0 {
            self.first = line;
        }
        self.count += 1;
    }
}

/// Returns the position and length of the first line end at or after `from`. A CR at the end of the bytes may be half of
/// a CRLF, so it is a line end only if no byte can follow.
fn find_line_end(bytes: &[u8], from: usize, at_eof: bool) -> Option<(usize, usize)> {
    let at = from + memchr2(b'\n', b'\r', &bytes[from..])?;
    match (bytes[at], bytes.get(at + 1)) {
        (b'\r', Some(b'\n')) => Some((at, 2)),
        (b'\r', None) if !at_eof => None,
        _ => Some((at, 1)),
    }
}

/// Returns the number of bytes without a line end that need not be searched again.
fn searched_length(bytes: &[u8]) -> usize {
    bytes.len() - usize::from(bytes.ends_with(b"\r"))
}

/// Returns the end of the first line, which at the end of the file needs no line end.
fn find_whole_line(bytes: &[u8], searched: &mut usize, at_eof: bool) -> Option<RecordEnd> {
    match find_line_end(bytes, *searched, at_eof) {
        Some((at, length)) => Some(RecordEnd::line(at, at + length)),
        None if at_eof => Some(RecordEnd::line(bytes.len(), bytes.len())),
        None => {
            *searched = searched_length(bytes).max(*searched);
            None
        }
    }
}

impl RecordSearch {
    /// Goes on with the search for the end of a CSV record, of which `bytes` are known.
    fn find_csv_end(&mut self, bytes: &[u8], delimiter: u8, at_eof: bool) -> Option<RecordEnd> {
        let mut at = self.searched;
        while at < bytes.len() {
            let byte = bytes[at];
            match self.field {
                CsvField::Quoted => match memchr3(b'"', b'\n', b'\r', &bytes[at..]) {
                    Some(length) if bytes[at + length] == b'"' => {
                        self.field = CsvField::QuoteInQuoted;
                        at += length + 1;
                    }
                    Some(length) => {
                        self.searched = at + length;
                        let (end, length) = find_line_end(bytes, at + length, at_eof)?;
                        at = end + length;
                        self.line_breaks += 1;
                        self.first_line.get_or_insert((end, at));
                    }
                    None => at = bytes.len(),
                },
                CsvField::Start | CsvField::QuoteInQuoted if byte == b'"' => {
                    self.field = CsvField::Quoted;
                    at += 1;
                }
                state => {
                    if state == CsvField::QuoteInQuoted
                        && byte != delimiter
                        && !matches!(byte, b'\n' | b'\r')
                    {
                        if let Some(first_line) = self.unclosed_first_line() {
                            return Some(first_line);
                        }
                        self.text_after_quote = true;
                    }
                    self.field = CsvField::Plain;
                    match memchr3(delimiter, b'\n', b'\r', &bytes[at..]) {
                        Some(length) if bytes[at + length] == delimiter => {
                            self.field = CsvField::Start;
                            at += length + 1;
                        }
                        Some(length) => {
                            self.searched = at + length;
                            let (end, length) = find_line_end(bytes, at + length, at_eof)?;
                            return Some(self.csv_end(end, end + length));
                        }
                        None => at = bytes.len(),
                    }
                }
            }
        }
        self.searched = at;
        if !at_eof {
            return None;
        }
        let whole = self.csv_end(at, at);
        match self.field {
            CsvField::Quoted => Some(
                self.unclosed_first_line()
                    .unwrap_or(RecordEnd { fault: Some(RecordFault::UnclosedQuote), ..whole }),
            ),
            _ => Some(whole),
        }
    }

    fn csv_end(&self, content: usize, total: usize) -> RecordEnd {
        let fault = self.text_after_quote.then_some(RecordFault::TextAfterQuote);
        RecordEnd { lines: 1 + self.line_breaks, fault, ..RecordEnd::line(content, total) }
    }

    /// Returns the first line as a record of its own, whose quote is not closed.
    fn unclosed_first_line(&self) -> Option<RecordEnd> {
        let (content, total) = self.first_line.filter(|_| !self.is_oversized)?;
        let fault = Some(RecordFault::UnclosedQuote);
        Some(RecordEnd { fault, ..RecordEnd::line(content, total) })
    }
}

/// Returns the end of a TSV record. `fields` is the number of fields in a row, 0 if it is not known.
fn find_tsv_end(
    bytes: &[u8],
    searched: &mut usize,
    fields: usize,
    at_eof: bool,
) -> Option<RecordEnd> {
    let first = find_whole_line(bytes, searched, at_eof)?;
    *searched = first.content;
    let line = &bytes[..first.content];
    if fields == 0 || memchr(b'"', line).is_none() {
        return Some(first);
    }
    let (mut complete, Some(_)) = pass_fields(line, 0, 0) else { return Some(first) };
    // A quote is open at the end of the line.
    let is_row = |line: &[u8]| memchr_iter(b'\t', line).count() + 1 == fields;
    let first_is_row = is_row(line);
    let (mut start, mut lines) = (first.total, 1);
    loop {
        let rest = &bytes[start..];
        if rest.is_empty() {
            return at_eof.then_some(first);
        }
        let next = find_whole_line(rest, &mut 0, at_eof)?;
        let line = &rest[..next.content];
        lines += 1;
        let closing = find_closing_quote(line, 0);
        let is_closed = matches!(closing, ClosingQuote::Before(_));
        // The last line of a quoted first field has the tabs of a row.
        let is_row = is_row(line) && (first_is_row || !is_closed);
        let (found, open) = match closing {
            ClosingQuote::Before(at) if at == line.len() => (complete + 1, None),
            ClosingQuote::Before(at) => pass_fields(line, at + 1, complete + 1),
            ClosingQuote::Missing => (complete, Some(0)),
            ClosingQuote::Improper => return Some(first),
        };
        match open {
            None => {
                let is_joined = found == fields;
                return Some(match (is_joined, is_row) {
                    (true, false) => RecordEnd {
                        lines,
                        ..RecordEnd::line(start + next.content, start + next.total)
                    },
                    (is_ambiguous, _) => RecordEnd { is_ambiguous, ..first },
                });
            }
            Some(_) if is_row => return Some(first),
            Some(_) => (complete, start) = (found, start + next.total),
        }
    }
}

/// End of a quoted TSV field, as seen from inside.
enum ClosingQuote {
    /// The quote is closed; a tab or the end follows at this position.
    Before(usize),
    /// A quote is neither doubled nor before a tab or the end.
    Improper,
    Missing,
}

/// Finds the quote that closes a field of a TSV line, from a position inside the quotes.
fn find_closing_quote(line: &[u8], mut at: usize) -> ClosingQuote {
    while let Some(length) = memchr(b'"', &line[at..]) {
        at += length + 1;
        match line.get(at) {
            Some(b'"') => at += 1,
            None | Some(b'\t') => return ClosingQuote::Before(at),
            Some(_) => return ClosingQuote::Improper,
        }
    }
    ClosingQuote::Missing
}

/// Passes the fields of a TSV line from `at` on, of which properly quoted ones may contain tabs. Returns the number of
/// complete fields, `complete` before the position included, and the position of a quote that is open at the end.
fn pass_fields(line: &[u8], mut at: usize, mut complete: usize) -> (usize, Option<usize>) {
    loop {
        let Some(end) = quoted_field_end(line, at) else { return (complete, Some(at)) };
        complete += 1;
        if end >= line.len() {
            return (complete, None);
        }
        at = end + 1;
    }
}

/// Returns the end of the field that begins at `at`; `None` if its quote is open at the end of the line.
fn quoted_field_end(line: &[u8], at: usize) -> Option<usize> {
    let plain_end = || memchr(b'\t', &line[at..]).map_or(line.len(), |length| at + length);
    if line.get(at) != Some(&b'"') {
        return Some(plain_end());
    }
    match find_closing_quote(line, at + 1) {
        ClosingQuote::Before(end) => Some(end),
        ClosingQuote::Improper => Some(plain_end()),
        ClosingQuote::Missing => None,
    }
}

/// Returns the fields of a table's record, of which a row has `expected`, 0 if that is not known.
pub(crate) fn split_fields(record: &str, layout: RowLayout, expected: usize) -> Vec<Cow<'_, str>> {
    match layout.format {
        InputFormat::Tsv => split_tsv_fields(record, expected),
        _ => split_csv_fields(record, layout.delimiter),
    }
}

/// Returns the fields of a CSV record as the csv crate parses them. The split into records is our own, because ranks need
/// the offset of each record in the file; a test compares it with the crate's.
fn split_csv_fields(record: &str, delimiter: u8) -> Vec<Cow<'_, str>> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter)
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

/// Returns the fields of a TSV record. Tabs inside quotes separate fields if that gives the expected number.
fn split_tsv_fields(record: &str, expected: usize) -> Vec<Cow<'_, str>> {
    let bytes = record.as_bytes();
    let is_plain = |expected: usize| memchr_iter(b'\t', bytes).count() + 1 == expected;
    let is_quoted =
        expected > 0 && !is_plain(expected) && pass_fields(bytes, 0, 0) == (expected, None);
    let (mut fields, mut at) = (Vec::with_capacity(expected), 0);
    loop {
        let plain_end = memchr(b'\t', &bytes[at..]).map_or(bytes.len(), |length| at + length);
        let end =
            if is_quoted { quoted_field_end(bytes, at).unwrap_or(plain_end) } else { plain_end };
        fields.push(unquote_tsv_field(&record[at..end]));
        if end >= bytes.len() {
            return fields;
        }
        at = end + 1;
    }
}

/// Returns the text of a TSV field, without its quotes if it is properly quoted.
fn unquote_tsv_field(field: &str) -> Cow<'_, str> {
    let Some(quoted) = field.strip_prefix('"') else { return field.into() };
    match find_closing_quote(field.as_bytes(), 1) {
        ClosingQuote::Before(end) if end == field.len() => {
            let text = &quoted[..quoted.len() - 1];
            if text.contains('"') { text.replace("\"\"", "\"").into() } else { text.into() }
        }
        _ => field.into(),
    }
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
        fields: usize,
    ) -> Vec<(Vec<u8>, u64, u64)> {
        let input = TrickleReader(bytes, bytes_per_read);
        let layout = RowLayout::of_format(format);
        let mut records = RecordReader::new(input, 0, layout, 16).with_fields(fields);
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
        let bytes = "\u{feff}one\r\n\r\n \t\ntwo\n\rthree, which is longer than the buffer\rfour"
            .as_bytes();
        let expected = [
            expected_record("one", 3, 1),
            expected_record("two", 13, 4),
            expected_record("three, which is longer than the buffer", 18, 6),
            expected_record("four", 57, 7),
        ];
        for bytes_per_read in [1, 2, 7, 1000] {
            assert_eq!(read_records(bytes, InputFormat::Jsonl, bytes_per_read, 0), expected);
        }
        assert!(read_records(b"", InputFormat::Text, 1, 0).is_empty());
        assert!(read_records(b"\xef\xbb\xbf", InputFormat::Text, 1, 0).is_empty());
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
            assert_eq!(read_records(bytes, InputFormat::Csv, bytes_per_read, 2), expected);
        }
        let csv = RowLayout::of_format(InputFormat::Csv);
        assert_eq!(
            split_fields("1,\"two\nlines, \"\"quoted\"\"\"", csv, 2),
            ["1", "two\nlines, \"quoted\""]
        );
        let tsv = RowLayout::of_format(InputFormat::Tsv);
        assert_eq!(split_fields("a\t\"b\"\t", tsv, 3), ["a", "b", ""]);
        assert_eq!(split_fields("\"a\tb\"", tsv, 2), ["\"a", "b\""]);
        assert_eq!(split_fields("\"a\tb\"", tsv, 1), ["a\tb"]);
        assert_eq!(split_fields("\"a\"b\t\"\t\"c\"\"\"", tsv, 3), ["\"a\"b", "\"", "c\""]);
    }

    fn quote_field(field: &str, delimiter: char) -> String {
        if field.contains([delimiter, '"', '\n', '\r']) || field.is_empty() {
            format!("\"{}\"", field.replace('"', "\"\""))
        } else {
            field.to_owned()
        }
    }

    proptest! {
        #[test]
        fn well_formed_csv_is_cut_as_the_csv_crate_cuts_it(
            rows in prop::collection::vec(prop::collection::vec("[a,\"\n\r\té]{0,5}", 2), 0..6),
            end in prop_oneof![Just("\n"), Just("\r\n"), Just("\r")],
            bytes_per_read in 1_usize..20,
        ) {
            let line = |row: &Vec<String>| row.iter().map(|field| quote_field(field, ',')).collect::<Vec<_>>().join(",");
            let text = rows.iter().map(|row| line(row) + end).collect::<String>();
            let mut oracle = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
            let theirs: Vec<Vec<String>> =
                oracle.records().map(|record| record.unwrap().iter().map(str::to_owned).collect()).collect();
            prop_assert_eq!(&theirs, &rows);
            let ours: Vec<Vec<String>> = read_records(text.as_bytes(), InputFormat::Csv, bytes_per_read, 2)
                .into_iter()
                .map(|(bytes, ..)| {
                    let text = String::from_utf8(bytes).unwrap();
                    let fields = split_fields(&text, RowLayout::of_format(InputFormat::Csv), 2);
                    fields.into_iter().map(Cow::into_owned).collect()
                })
                .collect();
            prop_assert_eq!(ours, rows);
        }

        /// Without tabs inside fields, which could make a line of a field look like a row.
        #[test]
        fn quoted_tsv_as_pandas_writes_it_comes_back(
            rows in prop::collection::vec(prop::collection::vec("[a\"\n\ré ]{0,5}", 3), 0..6),
            bytes_per_read in 1_usize..20,
        ) {
            let line = |row: &Vec<String>| row.iter().map(|field| quote_field(field, '\t')).collect::<Vec<_>>().join("\t");
            let text = rows.iter().map(|row| line(row) + "\n").collect::<String>();
            let ours: Vec<Vec<String>> = read_records(text.as_bytes(), InputFormat::Tsv, bytes_per_read, 3)
                .into_iter()
                .map(|(bytes, ..)| {
                    let text = String::from_utf8(bytes).unwrap();
                    let fields = split_fields(&text, RowLayout::of_format(InputFormat::Tsv), 3);
                    fields.into_iter().map(Cow::into_owned).collect()
                })
                .collect();
            prop_assert_eq!(ours, rows);
        }

        /// IANA's TSV: a line whose fields are as many as the header's is a row, whatever its quotes.
        #[test]
        fn a_line_of_a_tsv_that_is_a_row_never_joins_another(
            rows in prop::collection::vec(("[a\" ]{1,4}", "[a\" ]{0,4}"), 1..9),
            bytes_per_read in 1_usize..20,
        ) {
            let text = rows.iter().map(|(one, two)| format!("{one}\t{two}\n")).collect::<String>();
            let records = read_records(text.as_bytes(), InputFormat::Tsv, bytes_per_read, 2);
            prop_assert_eq!(records.len(), rows.len());
        }

        /// Every byte belongs to one record or line end, and records that are read alone are the same.
        #[test]
        fn no_byte_is_lost_between_records(
            text in "[a,\"\n\r\té]{0,60}",
            format in prop_oneof![Just(InputFormat::Csv), Just(InputFormat::Tsv), Just(InputFormat::Text)],
            fields in 1_usize..4,
        ) {
            let records = read_records(text.as_bytes(), format, 1000, fields);
            prop_assert_eq!(&records, &read_records(text.as_bytes(), format, 1, fields));
            let mut end = 0;
            for (at, (bytes, offset, line)) in records.iter().enumerate() {
                let from = *offset as usize;
                let between = &text.as_bytes()[end..from];
                prop_assert!(between.iter().all(|byte| b"\n\r\t ".contains(byte)), "{:?}", between);
                end = from + bytes.len();
                prop_assert_eq!(&text.as_bytes()[from..end], &bytes[..]);
                let until = records.get(at + 1).map_or(text.len(), |(_, next, _)| *next as usize);
                let alone = read_records(&text.as_bytes()[from..until], format, 1000, fields);
                prop_assert_eq!(alone.len(), 1);
                prop_assert_eq!(&alone[0].0, bytes);
                let before = text[..from].replace("\r\n", "\n");
                let lines = before.chars().filter(|it| matches!(it, '\n' | '\r')).count() as u64;
                prop_assert_eq!(*line, lines + 1);
            }
            prop_assert!(text[end..].bytes().all(|byte| b"\n\r\t ".contains(&byte)));
        }
    }
}
