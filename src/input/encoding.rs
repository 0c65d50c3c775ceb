//! Encodings: recognises UTF-16 by its first bytes and converts text in any encoding to UTF-8.
//!
//! Owns the names of encodings. Bytes that are not valid in the encoding are an error with their place, never a
//! replacement character. A file that is UTF-8 is not converted: there, such bytes make their row invalid.

use std::{
    io::{self, Read},
    path::PathBuf,
};

use encoding_rs::{Decoder, DecoderResult, Encoding, UTF_8, UTF_16BE, UTF_16LE};

use super::InputError;

const BUFFER_BYTES: usize = 256 << 10;

/// Share of zero bytes, in percent, from which on every other byte of a text counts as the high byte of UTF-16.
const ZERO_BYTES_PERCENT: usize = 40;

/// An encoding other than UTF-8.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct TextEncoding(&'static Encoding);

impl TextEncoding {
    /// Returns the encoding of a text with these first bytes: as a byte order mark says, else as named, else as
    /// recognised. `None` is UTF-8.
    ///
    /// # Errors
    /// A sentence about a name that is not known, or an encoding that cannot be read.
    pub(super) fn choose(name: Option<&str>, head: &[u8]) -> Result<Option<Self>, String> {
        if head.starts_with(b"\xff\xfe\0\0") || head.starts_with(b"\0\0\xfe\xff") {
            return Err("UTF-32 cannot be read\nhint: convert the file to UTF-8".into());
        }
        let named = name.map(find_encoding).transpose()?;
        let marked = Encoding::for_bom(head).map(|(encoding, _)| encoding);
        let encoding = marked.or(named).unwrap_or_else(|| recognise_utf16(head).unwrap_or(UTF_8));
        Ok((encoding != UTF_8).then_some(Self(encoding)))
    }

    /// Returns the encoding's name.
    pub(super) fn name(self) -> &'static str {
        self.0.name()
    }

    /// Converts the first bytes of a text, as far as they are valid.
    pub(super) fn decode_head(self, head: &[u8]) -> Vec<u8> {
        let mut decoder = self.0.new_decoder_with_bom_removal();
        let room = decoder.max_utf8_buffer_length_without_replacement(head.len()).unwrap_or(0);
        let mut text = vec![0; room];
        let (_, _, written) = decoder.decode_to_utf8_without_replacement(head, &mut text, false);
        text.truncate(written);
        text
    }
}

/// Returns the encoding of this name, as the web, Python or Excel call it.
fn find_encoding(name: &str) -> Result<&'static Encoding, String> {
    let plain = name.trim().to_ascii_lowercase().replace('_', "-");
    let known = match plain.as_str() {
        "utf-8-sig" => "utf-8",
        "utf16" | "utf-16-le" | "utf16le" => "utf-16le",
        "utf-16-be" | "utf16be" => "utf-16be",
        "latin-1" => "latin1",
        "ansi" => "windows-1252",
        "mac-roman" | "macroman" => "macintosh",
        other => other,
    };
    let label = |label: &str| Encoding::for_label_no_replacement(label.as_bytes());
    label(known).or_else(|| label(&known.replace('-', "_"))).ok_or_else(|| {
        format!(
            "--encoding {name}: unknown encoding\nhint: names are those of the Encoding Standard, such as utf-8, \
             utf-16le, windows-1252, iso-8859-15, shift_jis or gb18030"
        )
    })
}

/// Recognises UTF-16 without a byte order mark: in a text of mostly Latin letters, nearly every other byte is zero.
fn recognise_utf16(head: &[u8]) -> Option<&'static Encoding> {
    let pairs = head.len() / 2;
    let zeros =
        |first: usize| head.iter().skip(first).step_by(2).filter(|&&byte| byte == 0).count();
    let (even, odd) = (zeros(0), zeros(1));
    let is_many = |count: usize| pairs > 1 && count * 100 >= pairs * ZERO_BYTES_PERCENT;
    match (is_many(even), is_many(odd)) {
        (true, false) => Some(UTF_16BE),
        (false, true) => Some(UTF_16LE),
        _ => None,
    }
}

/// Stream that converts a text to UTF-8.
pub(super) struct TextDecoder<R> {
    input: R,
    path: PathBuf,
    encoding: TextEncoding,
    decoder: Decoder,
    bytes: Vec<u8>,
    /// Converted text that is not read yet: `text[at..]`.
    text: Vec<u8>,
    at: usize,
    /// Bytes of the input before those in `bytes`.
    position: u64,
    is_finished: bool,
}

impl<R: Read> TextDecoder<R> {
    /// Converts a file of this name, which is shown in messages.
    pub(super) fn new(input: R, encoding: TextEncoding, path: PathBuf) -> Self {
        Self {
            input,
            path,
            encoding,
            decoder: encoding.0.new_decoder_with_bom_removal(),
            bytes: vec![0; BUFFER_BYTES],
            text: Vec::new(),
            at: 0,
            position: 0,
            is_finished: false,
        }
    }

    fn convert_next(&mut self) -> io::Result<()> {
        let read = self.input.read(&mut self.bytes)?;
        self.is_finished = read == 0;
        let room = self.decoder.max_utf8_buffer_length_without_replacement(read);
        self.text.resize(room.unwrap_or(3 * BUFFER_BYTES), 0);
        let (result, consumed, written) = self.decoder.decode_to_utf8_without_replacement(
            &self.bytes[..read],
            &mut self.text,
            self.is_finished,
        );
        if let DecoderResult::Malformed(length, after) = result {
            let before = u64::from(length) + u64::from(after);
            let byte = (self.position + consumed as u64).saturating_sub(before) + 1;
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                InputError::NotInEncoding {
                    path: self.path.clone(),
                    encoding: self.encoding.name(),
                    byte,
                },
            ));
        }
        self.position += read as u64;
        self.text.truncate(written);
        self.at = 0;
        Ok(())
    }
}

impl<R: Read> Read for TextDecoder<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.at == self.text.len() && !self.is_finished {
            self.convert_next()?;
        }
        let length = to.len().min(self.text.len() - self.at);
        to[..length].copy_from_slice(&self.text[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, bytes: fn(u16) -> [u8; 2]) -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    }

    fn decode(bytes: &[u8], name: Option<&str>) -> Result<String, String> {
        let Some(encoding) = TextEncoding::choose(name, bytes)? else {
            return Ok(String::from_utf8_lossy(bytes).into_owned());
        };
        let mut text = String::new();
        let mut decoder = TextDecoder::new(bytes, encoding, "x.csv".into());
        decoder.read_to_string(&mut text).map_err(|error| error.to_string())?;
        assert!(text.as_bytes().starts_with(&encoding.decode_head(&bytes[..bytes.len().min(9)])));
        Ok(text)
    }

    #[test]
    fn utf16_is_recognised_with_and_without_a_mark() {
        let text = "id,text\r\n1,naïve café \u{1f600}\n".repeat(20_000);
        for bytes in [u16::to_le_bytes, u16::to_be_bytes] {
            assert_eq!(decode(&utf16(&text, bytes), None).unwrap(), text);
            assert_eq!(decode(&utf16(&format!("\u{feff}{text}"), bytes), None).unwrap(), text);
            // A mark is right even if another encoding is named.
            let marked = utf16(&format!("\u{feff}{text}"), bytes);
            assert_eq!(decode(&marked, Some("latin-1")).unwrap(), text);
        }
    }

    #[test]
    fn utf8_text_is_never_taken_for_another_encoding() {
        for text in ["", "a", "a\0b", "\u{feff}prompt\n", "naïve", "a\0\0b\0c d e f"] {
            assert_eq!(TextEncoding::choose(None, text.as_bytes()).unwrap(), None, "{text:?}");
        }
    }

    #[test]
    fn encodings_have_the_names_that_tools_use() {
        for name in ["latin-1", "latin1", "iso-8859-1", "cp1252", "windows_1252", "ANSI"] {
            assert_eq!(decode(b"caf\xe9", Some(name)).unwrap(), "café", "{name}");
        }
        assert_eq!(decode(b"\x93\xfa\x96\x7b", Some("shift_jis")).unwrap(), "日本");
        assert_eq!(TextEncoding::choose(Some("UTF8"), b"a").unwrap(), None);
        let error = decode(b"a", Some("klingon")).unwrap_err();
        assert!(error.starts_with("--encoding klingon: unknown encoding\nhint: "), "{error}");
        assert!(decode(b"\xff\xfe\0\0a\0\0\0", None).unwrap_err().starts_with("UTF-32"));
    }

    #[test]
    fn bytes_outside_the_encoding_are_an_error_with_their_place() {
        let error = decode(b"ab\x81\x20cd", Some("shift_jis")).unwrap_err();
        assert!(error.starts_with("x.csv: not Shift_JIS at byte 3"), "{error}");
        let cut = &utf16("ab\u{1f600}", u16::to_le_bytes)[..6];
        assert!(decode(cut, Some("utf-16")).unwrap_err().contains("not UTF-16LE at byte 5"));
    }
}
