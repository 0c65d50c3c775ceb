//! Sniffing: what the first bytes of an input tell about it.
//!
//! Owns the decisions, which are pure. What is done about them is in `intake.rs`; encodings are in `encoding.rs`.

use serde::de::IgnoredAny;

use super::{
    InputFormat, RowLayout,
    records::{RecordReader, split_fields},
};
use crate::compression::Compression;

/// Number of first bytes that are looked at.
pub(super) const HEAD_BYTES: usize = 64 << 10;

/// Bytes between the fields of a CSV file, the usual one first.
const DELIMITERS: [u8; 4] = *b",;\t|";

/// Number of records that are compared to find the delimiter.
const COMPARED_RECORDS: usize = 20;

/// The first bytes of a text in UTF-8.
#[derive(Clone, Copy)]
pub(super) struct TextHead<'t> {
    bytes: &'t [u8],
    /// Whether they are the whole text.
    is_whole: bool,
}

/// Returns the compression that the first bytes of a file show.
pub(super) fn sniff_compression(head: &[u8]) -> Compression {
    match head {
        [0x1f, 0x8b, 8, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        _ => Compression::Plain,
    }
}

/// Whether the first bytes are those of a Parquet file.
pub(super) fn is_parquet(head: &[u8]) -> bool {
    head.starts_with(b"PAR1")
}

impl<'t> TextHead<'t> {
    /// Returns the head of a text, of which `bytes` are known.
    pub(super) fn new(bytes: &'t [u8], is_whole: bool) -> Self {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        Self { bytes, is_whole }
    }

    /// Whether a file that is named as JSON lines is a JSON document: one list, or objects that span lines or share one.
    pub(super) fn is_json_document(self) -> bool {
        let text = self.bytes.trim_ascii_start();
        let end = text.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let (line, rest) = text.split_at(end.unwrap_or(text.len()));
        let rest = rest.trim_ascii_start();
        let is_whole_line = end.is_some() || self.is_whole;
        let mut values = serde_json::Deserializer::from_slice(line).into_iter::<IgnoredAny>();
        let first = values.next();
        match (text.first(), first) {
            // Lists in several lines are invalid rows of JSON lines, one by one.
            (Some(b'['), Some(Ok(_))) => !is_whole_line || rest.is_empty(),
            (Some(b'['), _) => true,
            (Some(b'{'), Some(Ok(_))) => {
                let is_object = line[values.byte_offset()..].trim_ascii_start().starts_with(b"{");
                is_object && values.next().is_some_and(|second| second.is_ok())
            }
            // An object that goes on in the next line; a row that was cut is followed by another row.
            (Some(b'{'), Some(Err(error))) => {
                error.is_eof()
                    && end.is_some()
                    && !ends_in_string(line)
                    && !matches!(rest.first(), Some(b'{' | b'[') | None)
            }
            _ => false,
        }
    }

    /// Returns the delimiter of a CSV file: the one with which most records have as many fields as the first, a comma if
    /// others are no better.
    pub(super) fn sniff_delimiter(self) -> u8 {
        let share_alike = |delimiter: u8| {
            let counts = self.count_fields(delimiter);
            let first = counts.first().copied().filter(|&first| first > 1)?;
            let alike = counts.iter().filter(|&&count| count == first).count();
            Some(100 * alike / counts.len()).filter(|&percent| percent > 50)
        };
        let shares = DELIMITERS.iter().filter_map(|&it| Some((share_alike(it)?, it)));
        // Among equals, the first in the order of delimiters.
        let best = shares.reduce(|best, next| if next.0 > best.0 { next } else { best });
        best.map_or(DELIMITERS[0], |(_, delimiter)| delimiter)
    }

    /// Returns the number of fields of each of the first records.
    fn count_fields(self, delimiter: u8) -> Vec<usize> {
        let layout = RowLayout { delimiter, ..RowLayout::of_format(InputFormat::Csv) };
        let mut records = RecordReader::new(self.bytes, 0, layout, 1 << 12);
        let mut counts = Vec::new();
        // Reading from memory cannot fail.
        while let Ok(Some(record)) = records.next_record() {
            let end = record.offset + record.bytes.len() as u64;
            let is_cut = !self.is_whole && end >= self.bytes.len() as u64;
            let Ok(text) = std::str::from_utf8(record.bytes) else { continue };
            if counts.len() == COMPARED_RECORDS || (is_cut && !counts.is_empty()) {
                break;
            }
            counts.push(split_fields(text, layout, 0).len());
        }
        counts
    }
}

/// Whether the end of a line of JSON is inside a string.
fn ends_in_string(line: &[u8]) -> bool {
    let (mut in_string, mut is_escaped) = (false, false);
    for &byte in line {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            _ => {}
        }
    }
    in_string
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_json_document_is_told_from_json_lines() {
        let is_document = |text: &str| TextHead::new(text.as_bytes(), true).is_json_document();
        for document in [
            "[\n  {\"a\": 1}\n]\n",
            "\u{feff}[{\"a\": 1}]",
            "[\n",
            "{\n  \"a\": 1\n}\n{\n",
            "{\"a\": [1,\n 2]}",
            "{\"a\": 1}{\"a\": 2}\n",
            "{\"a\": 1} {\"a\": 2}\n",
        ] {
            assert!(is_document(document), "{document}");
        }
        for lines in [
            "",
            "\n",
            "{\"a\": 1}\n[\n",
            "{\"a\": \"x\n\"}",
            "{\"a\": 1,\n{\"a\": 2}\n",
            "{\"a\": 1",
            "{'a': 1}\n",
            "[1]\n[2]\n",
            "\"text\"\n\"text\"\n",
            "{\"a\": 1} x\n",
        ] {
            assert!(!is_document(lines), "{lines}");
        }
        assert!(TextHead::new(b"[{\"a\": 1}, {\"a\"", false).is_json_document());
        assert!(!TextHead::new(b"{\"a\": \"long", false).is_json_document());
    }

    #[test]
    fn the_delimiter_is_the_one_that_gives_equal_rows() {
        let delimiter =
            |text: &str| char::from(TextHead::new(text.as_bytes(), true).sniff_delimiter());
        for (text, expected) in [
            ("id,text\n1,a\n", ','),
            ("id;text\n1;Hello, world\n2;b\n", ';'),
            ("id\ttext\n1\ta, b; c\n", '\t'),
            ("id|text\n", '|'),
            ("text\na; b\nc, d\n", ','),
            ("text;more\nno, delimiter\nnone\nnone\n", ','),
            ("id;\"a,b\";c\n1;2,5;3\n1;2;3\n", ';'),
            ("id,text;x\n1,a\n2,b\n", ','),
            ("\"a;b\",c\n\"x\ny;z\",2\n", ','),
            ("", ','),
        ] {
            assert_eq!(delimiter(text), expected, "{text}");
        }
        // The last record of a head may be cut.
        assert_eq!(TextHead::new(b"a;b;c\n1;2;3\n1;2", false).sniff_delimiter(), b';');
    }

    #[test]
    fn compression_shows_in_the_first_bytes() {
        assert_eq!(sniff_compression(b"\x28\xb5\x2f\xfd\0"), Compression::Zstd);
        assert_eq!(sniff_compression(b"\x1f\x8b\x08\0"), Compression::Gzip);
        assert_eq!(sniff_compression(b"{\"prompt\""), Compression::Plain);
        assert!(is_parquet(b"PAR1\x15"));
    }
}
