//! JSON documents: one JSON list of rows, or rows one after the other on any number of lines, read as JSON lines.
//!
//! Owns the split into elements, in constant memory. An element keeps its bytes, except that line ends between its tokens
//! become spaces; whether it is a valid row is found by the scan. A document whose elements cannot be told apart is an
//! error, since rows would be lost otherwise.

use std::{
    io::{self, Read},
    path::PathBuf,
};

use super::{InputError, records::MAX_ROW_BYTES, row::rules::leads_through};
use crate::domain::raw_json::{JsonMembers, json_kind, list_elements};

const BUFFER_BYTES: usize = 256 << 10;

/// Stream of the elements of a JSON document, one per line.
pub(super) struct JsonDocument<R> {
    input: R,
    path: PathBuf,
    /// Names that make a lone object a row: the columns that prompts are taken from.
    prompt_names: Vec<String>,
    bytes: Vec<u8>,
    lines: Vec<u8>,
    at: usize,
    is_finished: bool,
    splitter: ElementSplitter,
}

/// Splits a document into its elements, byte by byte.
#[derive(Default)]
struct ElementSplitter {
    place: Place,
    is_list: bool,
    /// Brackets that are open in the current element.
    open: Vec<u8>,
    in_string: bool,
    is_escaped: bool,
    after_cr: bool,
    /// Line ends so far.
    line_ends: u64,
    /// Line in which the current element begins.
    begun: u64,
    elements: u64,
    /// The first element, unless it is in a list or not the only one.
    lone: Vec<u8>,
}

#[derive(Clone, Copy, Default, PartialEq)]
enum Place {
    #[default]
    Start,
    BeforeElement {
        after_comma: bool,
    },
    InElement,
    AfterElement,
    /// After the end of the list.
    End,
}

impl<R: Read> JsonDocument<R> {
    /// Reads a file of this name, which is shown in messages.
    pub(super) fn new(input: R, path: PathBuf, prompt_names: Vec<String>) -> Self {
        Self {
            input,
            path,
            prompt_names,
            bytes: vec![0; BUFFER_BYTES],
            lines: Vec::new(),
            at: 0,
            is_finished: false,
            splitter: ElementSplitter::default(),
        }
    }

    fn split_next(&mut self) -> io::Result<()> {
        (self.at, self.is_finished) = (0, false);
        self.lines.clear();
        let read = self.input.read(&mut self.bytes)?;
        let split = match read {
            0 => {
                self.is_finished = true;
                self.splitter.finish(&mut self.lines, &self.prompt_names)
            }
            _ => {
                let bytes = &self.bytes[..read];
                bytes.iter().try_for_each(|&byte| self.splitter.push(byte, &mut self.lines))
            }
        };
        split.map_err(|what| {
            let error = InputError::InvalidDocument { path: self.path.clone(), what };
            io::Error::new(io::ErrorKind::InvalidData, error)
        })
    }
}

impl<R: Read> Read for JsonDocument<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.at == self.lines.len() && !self.is_finished {
            self.split_next()?;
        }
        let length = to.len().min(self.lines.len() - self.at);
        to[..length].copy_from_slice(&self.lines[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

impl ElementSplitter {
    /// Takes the next byte of the document and appends what it adds to the lines.
    fn push(&mut self, byte: u8, lines: &mut Vec<u8>) -> Result<(), String> {
        let result = match (self.place, byte) {
            (Place::InElement, _) => self.push_in_element(byte, lines),
            (_, b' ' | b'\t' | b'\n' | b'\r') => Ok(()),
            // A byte order mark.
            (Place::Start, 0xef | 0xbb | 0xbf) => Ok(()),
            (Place::Start, b'[') => {
                self.is_list = true;
                self.place = Place::BeforeElement { after_comma: false };
                Ok(())
            }
            (Place::BeforeElement { after_comma: true }, b']') => {
                Err(format!("a comma stands before the end of the list in line {}", self.line()))
            }
            (Place::BeforeElement { .. } | Place::AfterElement, b']') if self.is_list => {
                self.place = Place::End;
                Ok(())
            }
            (Place::BeforeElement { .. }, b',') if self.is_list => {
                Err(format!("no element stands before the comma in line {}", self.line()))
            }
            (Place::AfterElement, b',') if self.is_list => {
                self.place = Place::BeforeElement { after_comma: true };
                Ok(())
            }
            (Place::AfterElement, _) if self.is_list => {
                Err(format!("no comma stands between two elements in line {}", self.line()))
            }
            (Place::End, _) => Err(format!(
                "text follows the end of the list in line {}\nhint: if every line is a row, pass --input-format jsonl",
                self.line()
            )),
            _ => {
                (self.place, self.begun) = (Place::InElement, self.line());
                self.elements += 1;
                if self.elements > 1 {
                    self.lone = Vec::new();
                }
                self.push_in_element(byte, lines)
            }
        };
        self.line_ends += u64::from(byte == b'\r' || (byte == b'\n' && !self.after_cr));
        self.after_cr = byte == b'\r';
        result
    }

    fn push_in_element(&mut self, byte: u8, lines: &mut Vec<u8>) -> Result<(), String> {
        let is_line_end = matches!(byte, b'\n' | b'\r');
        if self.in_string {
            // A raw line end is not allowed in a string, and neither is a tab, which keeps the row invalid.
            self.write_byte(if is_line_end { b'\t' } else { byte }, lines);
            match (self.is_escaped, byte) {
                (false, b'\\') => self.is_escaped = true,
                (false, b'"') => {
                    self.in_string = false;
                    self.end_if_closed(lines);
                }
                _ => self.is_escaped = false,
            }
            return Ok(());
        }
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' if self.open.is_empty() => self.end_element(lines),
            b',' if self.open.is_empty() && self.is_list => {
                self.end_element(lines);
                self.place = Place::BeforeElement { after_comma: true };
            }
            b']' if self.open.is_empty() && self.is_list => {
                self.end_element(lines);
                self.place = Place::End;
            }
            b'{' | b'[' => {
                self.open.push(byte);
                self.write_byte(byte, lines);
            }
            b'}' | b']' => {
                let opening = if byte == b'}' { b'{' } else { b'[' };
                if self.open.pop() != Some(opening) {
                    return Err(format!(
                        "a `{}` that closes nothing stands in line {}, in the element that begins in line {}",
                        char::from(byte),
                        self.line(),
                        self.begun
                    ));
                }
                self.write_byte(byte, lines);
                self.end_if_closed(lines);
            }
            _ => {
                self.in_string = byte == b'"';
                self.write_byte(if is_line_end { b' ' } else { byte }, lines);
            }
        }
        Ok(())
    }

    fn write_byte(&mut self, byte: u8, lines: &mut Vec<u8>) {
        lines.push(byte);
        if self.elements == 1 && !self.is_list && self.lone.len() < MAX_ROW_BYTES {
            self.lone.push(byte);
        }
    }

    fn end_if_closed(&mut self, lines: &mut Vec<u8>) {
        if self.open.is_empty() {
            self.end_element(lines);
        }
    }

    fn end_element(&mut self, lines: &mut Vec<u8>) {
        lines.push(b'\n');
        self.place = Place::AfterElement;
    }

    /// Ends the document.
    fn finish(&mut self, lines: &mut Vec<u8>, prompt_names: &[String]) -> Result<(), String> {
        if self.place == Place::InElement {
            if self.in_string || !self.open.is_empty() {
                return Err(format!("the element that begins in line {} has no end", self.begun));
            }
            self.end_element(lines);
        }
        if self.is_list && self.place != Place::End {
            return Err("the list has no end".into());
        }
        match std::str::from_utf8(&self.lone)
            .ok()
            .and_then(|json| describe_container(json, prompt_names))
        {
            Some(reason) => Err(reason),
            None => Ok(()),
        }
    }

    /// Returns the current line, from 1.
    fn line(&self) -> u64 {
        self.line_ends + 1
    }
}

/// Describes a lone object that is no row but contains rows, with what to do about it.
fn describe_container(json: &str, prompt_names: &[String]) -> Option<String> {
    let members = JsonMembers::parse(json).ok()?;
    let all: Vec<(&str, &str)> = members.iter().collect();
    let keys = |object: &str| JsonMembers::parse(object).ok().map(|members| members.member_names());
    let is_numbered = |names: &[String]| {
        !names.is_empty() && names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
    };
    // pandas.DataFrame.to_json without `orient` writes a dictionary of columns.
    let columns: Vec<_> = all.iter().map(|(_, value)| keys(value)).collect();
    if let Some(Some(first)) = columns.first() {
        let is_same = columns.iter().all(|names| names.as_ref() == Some(first));
        let is_rows = is_numbered(&members.member_names());
        if is_same && (is_numbered(first) || is_rows) {
            let what = if is_rows { "numbered rows" } else { "columns" };
            return Some(format!(
                "the file is one object of {what}, as pandas writes it\nhint: write it with \
                 to_json(FILE, orient=\"records\", lines=True)"
            ));
        }
    }
    if all
        .iter()
        .any(|(name, _)| prompt_names.iter().any(|path| path == name || leads_through(path, name)))
    {
        return None;
    }
    let is_rows = |list: &str| {
        json_kind(list) == "a list"
            && list_elements(list).is_ok_and(|all| {
                all.first().is_some_and(|first| matches!(json_kind(first), "an object" | "a list"))
            })
    };
    let (name, _) = all.iter().find(|(_, value)| is_rows(value))?;
    Some(format!(
        "the file is one object, and its rows are in the list `{name}`\nhint: write the list alone, as in jq -c \
         '.{name}[]' FILE > rows.jsonl"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Returns a few bytes per read.
    struct Trickle<'b>(&'b [u8], usize);

    impl Read for Trickle<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let limit = to.len().min(self.1);
            self.0.read(&mut to[..limit])
        }
    }

    fn lines_of(document: &str, bytes_per_read: usize) -> Result<Vec<String>, String> {
        let names = vec!["prompt".to_owned()];
        let input = Trickle(document.as_bytes(), bytes_per_read);
        let mut text = String::new();
        JsonDocument::new(input, "x.json".into(), names)
            .read_to_string(&mut text)
            .map_err(|error| error.to_string())?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    #[test]
    fn a_list_and_concatenated_objects_give_a_line_per_element() {
        for (document, lines) in [
            (
                "[\n {\"a\": 1,\n  \"b\": [1, \"],[\"]},\r\n {\"a\": 2}\n]\n",
                vec!["{\"a\": 1,   \"b\": [1, \"],[\"]}", "{\"a\": 2}"],
            ),
            (
                "[{\"a\":\"\\\"}\\\\\"},\"text\",3,null]",
                vec!["{\"a\":\"\\\"}\\\\\"}", "\"text\"", "3", "null"],
            ),
            ("{\"a\":1}{\"a\":2}\n{\n\"a\":3}", vec!["{\"a\":1}", "{\"a\":2}", "{ \"a\":3}"]),
            ("{\"prompt\":\"a\"}\n\n\"b\"\n", vec!["{\"prompt\":\"a\"}", "\"b\""]),
            ("[]", vec![]),
            (" \n", vec![]),
            ("\u{feff}[{}]", vec!["{}"]),
            ("{\"prompt\": [{\"role\": \"user\"}]}", vec!["{\"prompt\": [{\"role\": \"user\"}]}"]),
            (
                "{\"question\": \"q\", \"choices\": [\"a\", \"b\"]}",
                vec!["{\"question\": \"q\", \"choices\": [\"a\", \"b\"]}"],
            ),
        ] {
            for bytes_per_read in [1, 3, 1000] {
                assert_eq!(lines_of(document, bytes_per_read).unwrap(), lines, "{document}");
            }
        }
    }

    #[test]
    fn a_document_whose_rows_cannot_be_told_apart_is_an_error_with_its_line() {
        for (document, reason) in [
            ("[\n{\"a\": 1}\n", "the list has no end"),
            ("[{\"a\": 1},\n{\"a\": \"x]", "the element that begins in line 2 has no end"),
            ("[{\"a\": 1}\n{\"a\": 2}]", "no comma stands between two elements in line 2"),
            ("[{\"a\": 1},\n]", "a comma stands before the end of the list in line 2"),
            ("[{\"a\": 1},,{}]", "no element stands before the comma in line 1"),
            (
                "[1]\n[2]\n",
                "text follows the end of the list in line 2\nhint: if every line is a row",
            ),
            ("[\r\n{\"a\": [1}]", "a `}` that closes nothing stands in line 2"),
            ("{\"a\": 1}}", "a `}` that closes nothing stands in line 1"),
            (
                "{\"q\":{\"0\":\"a\",\"1\":\"b\"},\"x\":{\"0\":1,\"1\":2}}",
                "one object of columns, as pandas writes it",
            ),
            ("{\"0\":{\"q\":\"a\"},\"1\":{\"q\":\"b\"}}", "one object of numbered rows"),
            (
                "{\"version\": \"1\", \"data\": [{\"q\": 1}]}",
                "its rows are in the list `data`\nhint: ",
            ),
            (
                "{\"columns\":[\"q\"],\"index\":[0],\"data\":[[\"a\"]]}",
                "its rows are in the list `data`",
            ),
        ] {
            let error = lines_of(document, 2).expect_err(document);
            assert!(error.starts_with("x.json: "), "{error}");
            assert!(error.contains(reason), "{document}: {error}");
        }
    }

    #[test]
    fn a_line_end_inside_a_string_never_makes_a_valid_row() {
        let lines = lines_of("[{\"a\": \"x\ny\"}, {\"a\": 1}]", 5).unwrap();
        assert_eq!(lines, ["{\"a\": \"x\ty\"}", "{\"a\": 1}"]);
        assert!(serde_json::from_str::<serde_json::Value>(&lines[0]).is_err());
    }

    proptest! {
        #[test]
        fn any_list_of_values_comes_back(
            texts in prop::collection::vec("[\\[\\]{}\",\\\\:a\n\ré]{0,9}", 0..8),
            pretty: bool,
            bytes_per_read in 1_usize..30,
        ) {
            let rows: Vec<_> = texts.iter().map(|text| serde_json::json!({"a": text, text.as_str(): [text]})).collect();
            let document = if pretty { serde_json::to_string_pretty(&rows) } else { serde_json::to_string(&rows) }.unwrap();
            let lines = lines_of(&document, bytes_per_read).unwrap();
            let back: Vec<serde_json::Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
            prop_assert_eq!(&back, &rows);
            let concatenated: String = rows.iter().map(|row| serde_json::to_string_pretty(row).unwrap()).collect();
            if rows.len() != 1 {
                prop_assert_eq!(lines_of(&concatenated, bytes_per_read).unwrap().len(), rows.len());
            }
        }
    }
}
