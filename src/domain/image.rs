//! Images of prompts: their formats, their URLs, and their places in a conversation.
//!
//! Owns base64, the recognition of image formats by their first bytes, and the content parts that servers understand.
//! The values of a row that stand for images are parsed in `input/row/images.rs`.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{
    PromptFailure,
    raw_json::{JsonMembers, decode_string, encode_string, json_kind, list_elements},
};

/// Text that marks the place of an image in a prompt or message.
pub(crate) const IMAGE_MARK: &str = "<image>";
/// Bytes from which every known format is recognised.
const HEAD_BYTES: usize = 18;

/// An image that is sent with a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PromptImage {
    /// Short text that stands for the image in answers: its path, its URL, or its type and size.
    pub label: String,
    /// URL that is sent, or the reason why there is none.
    pub url: Result<String, PromptFailure>,
}

impl PromptImage {
    /// Returns the URL that is sent; empty for an image that cannot be read.
    #[must_use]
    pub(crate) fn url(&self) -> &str {
        self.url.as_deref().unwrap_or_default()
    }
}

/// Returns the MIME type of an image by its first bytes, or `None` for anything that is no known image format.
#[must_use]
pub(crate) fn image_type(bytes: &[u8]) -> Option<&'static str> {
    let is_bitmap = || {
        // Two letters say little: the size of the second header follows them, after 12 bytes.
        bytes
            .get(14..18)
            .is_some_and(|size| matches!(size, [12 | 40 | 52 | 56 | 64 | 108 | 124, 0, 0, 0]))
    };
    Some(match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => "image/png",
        [0xff, 0xd8, 0xff, ..] => "image/jpeg",
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => "image/gif",
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => "image/webp",
        [b'I', b'I', b'*', 0, ..] | [b'M', b'M', 0, b'*', ..] => "image/tiff",
        [b'B', b'M', ..] if is_bitmap() => "image/bmp",
        _ => return None,
    })
}

/// Returns the MIME type of an image in base64, of which only the beginning is decoded.
#[must_use]
pub(crate) fn base64_image_type(base64: &str) -> Option<&'static str> {
    let length = (HEAD_BYTES / 3 * 4).min(base64.len() / 4 * 4);
    let head = BASE64_STANDARD.decode(base64.get(..length)?).ok()?;
    image_type(&head)
}

/// Whether a text has the form of base64, padding included.
#[must_use]
pub(crate) fn is_base64(text: &str) -> bool {
    let digits = text.trim_end_matches('=');
    text.len().is_multiple_of(4)
        && text.len() - digits.len() <= 2
        && digits.bytes().all(is_base64_digit)
}

fn is_base64_digit(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/')
}

/// Returns the number of bytes that a text in base64 stands for.
#[must_use]
pub(crate) fn base64_bytes(base64: &str) -> usize {
    let digits = base64.trim_end_matches('=').len();
    digits / 4 * 3 + (digits % 4).saturating_sub(1)
}

/// Encodes bytes as base64.
#[cfg(any(test, feature = "parquet"))]
#[must_use]
pub(crate) fn encode_base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// Returns the URL that contains the bytes of an image.
#[must_use]
pub(crate) fn encode_data_url(mime_type: &str, bytes: &[u8]) -> String {
    let mut url = data_url(mime_type, "");
    url.reserve(bytes.len().div_ceil(3) * 4);
    BASE64_STANDARD.encode_string(bytes, &mut url);
    url
}

/// Returns the URL that contains an image whose base64 is known.
#[must_use]
pub(crate) fn data_url(mime_type: &str, base64: &str) -> String {
    format!("data:{mime_type};base64,{base64}")
}

/// Returns the length of a text or of a conversation's JSON, in bytes, with data URLs left out: their base64 is no text
/// to the model.
#[must_use]
pub(crate) fn length_without_data(text: &str) -> usize {
    const MARK: &str = ";base64,";
    let (mut length, mut rest) = (text.len(), text);
    while let Some(at) = rest.find(MARK) {
        rest = &rest[at + MARK.len()..];
        let data = rest.bytes().position(|byte| !is_base64_digit(byte)).unwrap_or(rest.len());
        length -= data;
        rest = &rest[data..];
    }
    length
}

/// Returns the content of a user message with a text and images: the images are at the marks of the text, or before it
/// if it has none.
///
/// # Errors
/// The text has marks, but not as many as there are images.
pub(crate) fn text_with_images(text: &str, urls: &[&str]) -> Result<String, String> {
    let marks = text.matches(IMAGE_MARK).count();
    check_place_count(marks, urls.len())?;
    let mut parts = ContentParts::new(urls);
    if marks == 0 {
        parts.push_all_images();
    }
    parts.push_text(text);
    Ok(parts.finish())
}

/// Returns the JSON of a conversation with images. Their places are content parts such as `{"type": "image"}` and marks
/// in texts; without any they go to the beginning of the last user message.
///
/// # Errors
/// A conversation with places, but not as many as there are images, or one without a user message.
pub(crate) fn messages_with_images(messages: &str, urls: &[&str]) -> Result<String, String> {
    let all = list_elements(messages)?;
    let mut parsed = Vec::with_capacity(all.len());
    for message in &all {
        parsed.push(JsonMembers::parse(message)?);
    }
    let places = parsed.iter().map(count_places).collect::<Result<Vec<usize>, String>>()?;
    let total = places.iter().sum();
    check_place_count(total, urls.len())?;
    if urls.is_empty() {
        return Ok(messages.to_owned());
    }
    let is_user = |members: &JsonMembers<'_>| members.get("role") == Some("\"user\"");
    let last_user = match total {
        0 => Some(parsed.iter().rposition(is_user).ok_or("no user message to put the image in")?),
        _ => None,
    };
    let mut parts = ContentParts::new(urls);
    let mut written = Vec::with_capacity(all.len());
    for (at, (message, members)) in all.iter().zip(&parsed).enumerate() {
        if last_user == Some(at) {
            parts.push_all_images();
        } else if places[at] == 0 {
            written.push((*message).to_owned());
            continue;
        }
        written.push(message_with_content(members, &mut parts)?);
    }
    Ok(format!("[{}]", written.join(",")))
}

fn check_place_count(places: usize, images: usize) -> Result<(), String> {
    if places == 0 || places == images {
        return Ok(());
    }
    let count = |number: usize, noun: &str| {
        format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
    };
    Err(format!("{} for an image, but {}", count(places, "place"), count(images, "image")))
}

/// Counts the places for images in a message.
fn count_places(message: &JsonMembers<'_>) -> Result<usize, String> {
    let Some(content) = message.get("content") else { return Ok(0) };
    let marks = |text: &str| Ok(decode_string(text)?.matches(IMAGE_MARK).count());
    match json_kind(content) {
        "a string" => marks(content),
        "a list" => {
            let mut places = 0;
            for part in list_elements(content)? {
                places += match ContentPart::parse(part)? {
                    ContentPart::ImagePlace => 1,
                    ContentPart::Text(text) => marks(text)?,
                    ContentPart::Other => 0,
                };
            }
            Ok(places)
        }
        _ => Ok(0),
    }
}

/// Returns the JSON of a message whose content is made of the parts so far and its own.
fn message_with_content(
    message: &JsonMembers<'_>,
    parts: &mut ContentParts<'_>,
) -> Result<String, String> {
    let content = message.get("content").unwrap_or("null");
    match json_kind(content) {
        "a string" => parts.push_text(&decode_string(content)?),
        "a list" => {
            for part in list_elements(content)? {
                match ContentPart::parse(part)? {
                    ContentPart::ImagePlace => parts.push_next_image(),
                    ContentPart::Text(text) if text.contains(IMAGE_MARK) => {
                        parts.push_text(&decode_string(text)?);
                    }
                    ContentPart::Text(_) | ContentPart::Other => parts.push_json(part),
                }
            }
        }
        _ => {}
    }
    let mut members: Vec<String> = message
        .iter()
        .filter(|(name, _)| *name != "content")
        .map(|(name, json)| format!("{}:{json}", encode_string(name)))
        .collect();
    members.push(format!("\"content\":{}", parts.take()));
    Ok(format!("{{{}}}", members.join(",")))
}

/// A part of a message's content, as far as images are concerned.
enum ContentPart<'a> {
    /// A place for an image: a part of type `image` that names none.
    ImagePlace,
    /// A text, as JSON.
    Text(&'a str),
    Other,
}

impl<'a> ContentPart<'a> {
    fn parse(part: &'a str) -> Result<Self, String> {
        if json_kind(part) != "an object" {
            return Ok(Self::Other);
        }
        let members = JsonMembers::parse(part)?;
        let is_empty = |name: &str| members.get(name).is_none_or(|json| json == "null");
        Ok(match members.get("type") {
            Some("\"image\"" | "\"image_url\"")
                if ["image", "image_url", "url", "path", "base64"].into_iter().all(is_empty) =>
            {
                Self::ImagePlace
            }
            Some("\"text\"") => match members.get("text") {
                Some(text) if json_kind(text) == "a string" => Self::Text(text),
                _ => Self::Other,
            },
            _ => Self::Other,
        })
    }
}

/// The content parts of a message while they are written.
struct ContentParts<'u> {
    /// URLs of the images that have no place yet.
    urls: std::slice::Iter<'u, &'u str>,
    parts: Vec<String>,
}

impl<'u> ContentParts<'u> {
    fn new(urls: &'u [&'u str]) -> Self {
        Self { urls: urls.iter(), parts: Vec::new() }
    }

    fn push_json(&mut self, part: &str) {
        self.parts.push(part.to_owned());
    }

    fn push_next_image(&mut self) {
        if let Some(url) = self.urls.next() {
            let url = encode_string(url);
            self.parts.push(format!("{{\"type\":\"image_url\",\"image_url\":{{\"url\":{url}}}}}"));
        }
    }

    fn push_all_images(&mut self) {
        while !self.urls.as_slice().is_empty() {
            self.push_next_image();
        }
    }

    /// Adds a text, with an image at each mark.
    fn push_text(&mut self, text: &str) {
        let mut texts = text.split(IMAGE_MARK);
        let first = texts.next().filter(|_| !self.urls.as_slice().is_empty());
        let Some(first) = first else { return self.push_plain_text(text) };
        self.push_plain_text(first);
        for text in texts {
            self.push_next_image();
            self.push_plain_text(text);
        }
    }

    fn push_plain_text(&mut self, text: &str) {
        if !text.trim().is_empty() {
            self.parts.push(format!("{{\"type\":\"text\",\"text\":{}}}", encode_string(text)));
        }
    }

    /// Returns the JSON list of the parts and begins the next message.
    fn take(&mut self) -> String {
        format!("[{}]", std::mem::take(&mut self.parts).join(","))
    }

    fn finish(mut self) -> String {
        self.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> serde_json::Value {
        serde_json::from_str(text).expect("JSON")
    }

    #[test]
    fn formats_are_known_by_their_first_bytes_also_in_base64() {
        let bitmap = b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0";
        for (bytes, kind) in [
            (&b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..], Some("image/png")),
            (b"\xff\xd8\xff\xe0\0\x10JFIF", Some("image/jpeg")),
            (b"GIF89a\x01\0\x01\0", Some("image/gif")),
            (b"RIFF\x24\0\0\0WEBPVP8 ", Some("image/webp")),
            (b"II*\0\x08\0\0\0", Some("image/tiff")),
            (b"MM\0*\0\0\0\x08", Some("image/tiff")),
            (bitmap, Some("image/bmp")),
            (b"BM is a text that begins so", None),
            (b"%PDF-1.7", None),
            (b"RIFF\x24\0\0\0WAVEfmt ", None),
            (b"", None),
        ] {
            assert_eq!(image_type(bytes), kind, "{bytes:?}");
            for more in 0..4 {
                let longer = [bytes, &[0; 3][..more.min(bytes.len())]].concat();
                assert_eq!(base64_image_type(&encode_base64(&longer)), kind, "{bytes:?}");
            }
        }
        assert_eq!(encode_data_url("image/gif", b"GIF8"), "data:image/gif;base64,R0lGOA==");
        assert_eq!(base64_image_type("photos/cat.png"), None);
    }

    #[test]
    fn base64_is_measured_and_checked_without_decoding_it() {
        for length in 0..20 {
            let text = encode_base64(&vec![7; length]);
            assert_eq!((base64_bytes(&text), is_base64(&text)), (length, true));
        }
        assert!(!is_base64("R0lG ODlh") && !is_base64("R0l") && !is_base64("R==="));
    }

    #[test]
    fn images_go_before_a_text_or_to_its_marks() {
        let image = |url: &str| format!(r#"{{"type":"image_url","image_url":{{"url":"{url}"}}}}"#);
        let (a, b) = (image("a"), image("b"));
        assert_eq!(
            text_with_images("x \"y\"", &["a", "b"]).as_deref(),
            Ok(&*format!(r#"[{a},{b},{{"type":"text","text":"x \"y\""}}]"#))
        );
        assert_eq!(
            text_with_images("1<image>2<image>", &["a", "b"]).as_deref(),
            Ok(&*format!(r#"[{{"type":"text","text":"1"}},{a},{{"type":"text","text":"2"}},{b}]"#))
        );
        assert_eq!(text_with_images(" ", &["a"]).as_deref(), Ok(&*format!("[{a}]")));
        assert_eq!(
            text_with_images("<image><image>", &["a"]),
            Err("2 places for an image, but 1 image".into())
        );
    }

    #[test]
    fn images_fill_the_places_of_a_conversation_in_order() {
        let messages = r#"[{"role":"user","content":[{"type":"image","text":null},{"type":"text","text":"1"}],"name":"n"},
            {"role":"assistant","content":"2"},{"role":"user","content":"<image>3"}]"#;
        let filled = json(&messages_with_images(messages, &["a", "b"]).expect("as many places"));
        let image = |url: &str| serde_json::json!({"type": "image_url", "image_url": {"url": url}});
        assert_eq!(filled[0]["content"][0], image("a"));
        assert_eq!(
            (&filled[0]["content"][1]["text"], &filled[0]["name"]),
            (&json("\"1\""), &json("\"n\""))
        );
        assert_eq!(filled[1], json(r#"{"role":"assistant","content":"2"}"#));
        assert_eq!(
            filled[2]["content"],
            serde_json::json!([image("b"), {"type": "text", "text": "3"}])
        );
        for urls in [&[][..], &["a"], &["a", "b", "c"]] {
            let reason = messages_with_images(messages, urls).expect_err("2 places");
            assert!(reason.starts_with("2 places for an image, but "), "{reason}");
        }
    }

    #[test]
    fn images_without_a_place_go_to_the_last_user_message() {
        let messages = r#"[{"role":"user","content":"1"},{"role":"user","content":[{"type":"text","text":"2"}]},{"role":"assistant","content":"3"}]"#;
        let filled = json(&messages_with_images(messages, &["a", "b"]).expect("a user message"));
        assert_eq!(filled[0]["content"], "1");
        let parts = &filled[1]["content"];
        assert_eq!([&parts[0]["image_url"]["url"], &parts[1]["image_url"]["url"]], ["a", "b"]);
        assert_eq!(parts[2]["text"], "2");
        assert!(messages_with_images(r#"[{"role":"system","content":"x"}]"#, &["a"]).is_err());
        let own = r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"u"}}]}]"#;
        assert_eq!(messages_with_images(own, &[]).as_deref(), Ok(own), "its own image is no place");
    }

    #[test]
    fn base64_in_a_conversation_has_no_length() {
        let text = format!(r#"x data:image/png;base64,{}" y data:a;base64,QQ=="#, "A".repeat(1000));
        assert_eq!(length_without_data(&text), text.len() - 1000 - 2);
        assert_eq!(length_without_data("plain"), 5);
    }
}
