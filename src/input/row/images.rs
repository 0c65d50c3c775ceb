//! Image columns: the values of a row that stand for images, and reading the files that they name.
//!
//! Owns the forms of such a value. Formats of images, and their places in a conversation, are in `domain/image.rs`.

use std::{
    borrow::Cow,
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use super::object::RowInput;
use crate::domain::raw_json::{
    JsonMembers, decode_string, encode_string, json_kind, list_elements,
};
use crate::domain::{
    FailureKind, PromptFailure, PromptImage,
    image::{
        IMAGE_MARK, base64_bytes, base64_image_type, data_url, encode_data_url, image_type,
        is_base64, messages_with_images, text_with_images,
    },
};

/// Maximum size of an image that is sent as data.
const MAX_IMAGE_BYTES: usize = 32 << 20;
/// Characters of a URL that stand for it in answers.
const MAX_LABEL_CHARS: usize = 200;

/// The images of a row, which have not been read yet.
#[derive(Debug, Default)]
pub(crate) struct RowImages<'a> {
    images: Vec<RowImage<'a>>,
    /// Number of images of each image column that has a value, by the column's number.
    counts: Vec<(usize, usize)>,
}

/// An image of a row.
#[derive(Debug, PartialEq)]
pub(crate) enum RowImage<'a> {
    /// The bytes in base64, and their MIME type.
    Base64(&'static str, Cow<'a, str>),
    /// A URL that the server reads.
    Url(Cow<'a, str>),
    /// A path, relative to the folder of the input file.
    Path(Cow<'a, str>),
}

impl<'a> RowImages<'a> {
    /// Parses the image columns of a row that is a JSON object.
    pub(crate) fn from_members(
        columns: &[String],
        members: &JsonMembers<'a>,
    ) -> Result<Self, String> {
        Self::collect(columns, |all, name| match members.get(name) {
            Some(json) => all.add_json(name, json),
            None => Ok(false),
        })
    }

    /// Parses the image columns of a table's row, whose fields are texts. A field may be a JSON list.
    pub(crate) fn from_fields(
        columns: &[String],
        field: impl Fn(&str) -> Option<Cow<'a, str>>,
    ) -> Result<Self, String> {
        Self::collect(columns, |all, name| {
            let Some(text) = field(name) else { return Ok(false) };
            if text.trim_start().starts_with('[') && list_elements(&text).is_ok() {
                let mut listed = RowImages::default();
                let has_value = listed.add_json(name, &text)?;
                for image in listed.images {
                    all.images.push(image.into_owned());
                }
                return Ok(has_value);
            }
            let image =
                RowImage::from_text(text).map_err(|reason| format!("`{name}`: {reason}"))?;
            let has_value = image.is_some();
            all.images.extend(image);
            Ok(has_value)
        })
    }

    /// Collects the images of all columns. `add` adds those of one and returns whether it has a value.
    fn collect(
        columns: &[String],
        mut add: impl FnMut(&mut Self, &str) -> Result<bool, String>,
    ) -> Result<Self, String> {
        let mut all = Self::default();
        for (number, column) in columns.iter().enumerate() {
            let before = all.images.len();
            if add(&mut all, column)? {
                all.counts.push((number, all.images.len() - before));
            }
        }
        Ok(all)
    }

    fn add_json(&mut self, name: &str, json: &'a str) -> Result<bool, String> {
        match json_kind(json) {
            "null" => return Ok(false),
            "a list" => {
                let elements =
                    list_elements(json).map_err(|reason| format!("`{name}`: {reason}"))?;
                for (at, element) in elements.into_iter().enumerate() {
                    let place = format!("{name}[{at}]");
                    let image = RowImage::from_json(&place, element)?;
                    self.images.push(image.ok_or_else(|| format!("`{place}` is null"))?);
                }
            }
            _ => match RowImage::from_json(name, json)? {
                Some(image) => self.images.push(image),
                None => return Ok(false),
            },
        }
        Ok(true)
    }

    /// Returns the numbers of the columns that have a value.
    pub(crate) fn columns_found(&self) -> impl Iterator<Item = usize> {
        self.counts.iter().map(|&(number, _)| number)
    }

    pub(super) fn into_owned(self) -> RowImages<'static> {
        let Self { images, counts } = self;
        RowImages { images: images.into_iter().map(RowImage::into_owned).collect(), counts }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.images.is_empty()
    }

    /// Returns the marks that stand for the column's images in a template; none if it has no value.
    pub(crate) fn column_marks(&self, column: usize) -> String {
        let count = self.counts.iter().find(|(number, _)| *number == column);
        IMAGE_MARK.repeat(count.map_or(0, |&(_, count)| count))
    }

    /// Returns the texts that stand for the column's images in answers.
    pub(crate) fn column_labels(&self, column: usize) -> Vec<String> {
        let mut first = 0;
        for &(number, count) in &self.counts {
            if number == column {
                return self.images[first..first + count].iter().map(RowImage::label).collect();
            }
            first += count;
        }
        Vec::new()
    }

    /// Returns the JSON by which a kept row shows the column's images: null, a text, or a list of texts.
    pub(crate) fn column_json(&self, column: usize) -> String {
        let labels = self.column_labels(column);
        let labels: Vec<String> = labels.iter().map(|label| encode_string(label)).collect();
        match &labels[..] {
            [] => "null".into(),
            [one] => one.clone(),
            _ => format!("[{}]", labels.join(",")),
        }
    }

    /// Checks that the row has images where it needs them, and as many as its prompt has places for.
    pub(crate) fn check_places(
        &self,
        columns: &[String],
        input: &RowInput<'_>,
    ) -> Result<(), String> {
        let urls = vec![""; self.images.len()];
        match input {
            // An empty list says that there is no image on purpose.
            RowInput::Text(_) | RowInput::TokenIds(_)
                if urls.is_empty() && self.counts.is_empty() =>
            {
                let names: Vec<String> = columns.iter().map(|name| format!("`{name}`")).collect();
                Err(format!("no image in {}", names.join(", ")))
            }
            RowInput::Text(_) | RowInput::TokenIds(_) if urls.is_empty() => Ok(()),
            RowInput::TokenIds(_) => Err("token ids cannot have an image".into()),
            RowInput::Text(text) => text_with_images(text, &urls).map(drop),
            RowInput::Messages(conversation) => {
                messages_with_images(&conversation.json, &urls).map(drop)
            }
        }
    }

    /// Reads the images. `folder` is the folder of the input file.
    pub(crate) fn load(self, folder: &Path) -> Vec<PromptImage> {
        self.images.into_iter().map(|image| image.load(folder)).collect()
    }
}

impl<'a> RowImage<'a> {
    /// Parses a value: the text or the struct of an image. Returns `None` for a value that is null or empty.
    fn from_json(name: &str, json: &'a str) -> Result<Option<Self>, String> {
        let with_name = |reason: String| format!("`{name}`: {reason}");
        match json_kind(json) {
            "null" => Ok(None),
            "a string" => {
                Self::from_text(decode_string(json).map_err(with_name)?).map_err(with_name)
            }
            "an object" => {
                let members = JsonMembers::parse(json).map_err(with_name)?;
                Self::from_struct(&members).map_err(with_name)
            }
            kind => Err(format!("`{name}` must be an image, found {kind}")),
        }
    }

    /// Parses the struct with `bytes` and `path` that Hugging Face datasets have; the bytes are base64.
    fn from_struct(members: &JsonMembers<'a>) -> Result<Option<Self>, String> {
        let text = |name| match members.get(name) {
            Some(json) if json_kind(json) == "a string" => decode_string(json).map(Some),
            Some("null") | None => Ok(None),
            Some(json) => Err(format!("{name} must be a string, found {}", json_kind(json))),
        };
        if let Some(bytes) = text("bytes")? {
            return Self::from_base64(bytes).map(Some);
        }
        match (text("path")?, text("url")?) {
            (Some(path), _) => Self::from_text(path),
            (None, Some(url)) => Self::from_text(url),
            (None, None) if members.get("bytes").is_none() && members.get("path").is_none() => {
                Err("the object has neither bytes nor path".into())
            }
            (None, None) => Ok(None),
        }
    }

    fn from_base64(text: Cow<'a, str>) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the image is empty (0 bytes)".into());
        }
        let bytes = base64_bytes(&text);
        if bytes > MAX_IMAGE_BYTES {
            return Err(describe_size(bytes as u64));
        }
        match base64_image_type(&text) {
            Some(mime) if is_base64(&text) => Ok(Self::Base64(mime, text)),
            Some(_) => Err("the bytes are not valid base64".into()),
            None => Err(describe_unknown(bytes)),
        }
    }

    /// Parses a URL, a path, or the base64 of an image. Base64 is told from a path by the image's first bytes.
    fn from_text(text: Cow<'a, str>) -> Result<Option<Self>, String> {
        let text = match text.trim() {
            "" => return Ok(None),
            trimmed if trimmed.len() == text.len() => text,
            trimmed => Cow::Owned(trimmed.to_owned()),
        };
        if let Some((scheme, _)) = text.split_once(':').filter(|(scheme, rest)| {
            scheme.eq_ignore_ascii_case("data") || (rest.starts_with("//") && is_scheme(scheme))
        }) {
            return match scheme.to_ascii_lowercase().as_str() {
                "data" | "http" | "https" | "file" => Ok(Some(Self::Url(text))),
                scheme => Err(format!(
                    "{scheme}:// URLs are not read\nhint: copy the images to a file system, or give http, https, file or \
                     data URLs"
                )),
            };
        }
        // Some encoders break lines.
        let text = match text.contains('\n') {
            true => Cow::Owned(text.split_ascii_whitespace().collect()),
            false => text,
        };
        match base64_image_type(&text) {
            Some(_) => Self::from_base64(text).map(Some),
            None => Ok(Some(Self::Path(text))),
        }
    }

    fn into_owned(self) -> RowImage<'static> {
        match self {
            Self::Base64(mime, text) => RowImage::Base64(mime, text.into_owned().into()),
            Self::Url(url) => RowImage::Url(url.into_owned().into()),
            Self::Path(path) => RowImage::Path(path.into_owned().into()),
        }
    }

    /// Returns the text that stands for the image in answers.
    fn label(&self) -> String {
        match self {
            Self::Base64(mime, text) => format!("<{mime}, {} bytes>", base64_bytes(text)),
            Self::Path(path) => path.as_ref().to_owned(),
            Self::Url(url) => match url.split_once(";base64,") {
                Some((head, data)) if is_data_url(url) => {
                    format!("<{}, {} bytes>", &head["data:".len()..], base64_bytes(data))
                }
                _ if url.chars().count() <= MAX_LABEL_CHARS => url.as_ref().to_owned(),
                _ => url.chars().take(MAX_LABEL_CHARS).chain(['…']).collect(),
            },
        }
    }

    fn load(self, folder: &Path) -> PromptImage {
        let label = self.label();
        let url = match self {
            Self::Base64(mime, text) => Ok(data_url(mime, &text)),
            Self::Url(url) => Ok(url.into_owned()),
            Self::Path(path) => read_image(&folder.join(path.as_ref())),
        };
        PromptImage { label, url }
    }
}

fn is_data_url(url: &str) -> bool {
    url.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:"))
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// Reads an image file as a data URL.
fn read_image(path: &Path) -> Result<String, PromptFailure> {
    let failure = |kind, reason: String| {
        let message = format!("cannot use the image {}: {reason}", path.display());
        PromptFailure { kind, message, status: None }
    };
    let read = File::open(path).and_then(|file| {
        let mut bytes = Vec::new();
        file.take(MAX_IMAGE_BYTES as u64 + 1).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    let bytes = read.map_err(|error| {
        let is_final = matches!(
            error.kind(),
            io::ErrorKind::NotFound
                | io::ErrorKind::PermissionDenied
                | io::ErrorKind::NotADirectory
                | io::ErrorKind::IsADirectory
                | io::ErrorKind::InvalidInput
        );
        // A file system may answer again later: such a prompt is sent by the next session.
        let kind = if is_final { FailureKind::BadRow } else { FailureKind::Exhausted };
        failure(kind, error.to_string())
    })?;
    if bytes.is_empty() {
        return Err(failure(FailureKind::BadRow, "the file is empty".into()));
    }
    if bytes.len() > MAX_IMAGE_BYTES {
        let size = std::fs::metadata(path).map_or(bytes.len() as u64, |metadata| metadata.len());
        return Err(failure(FailureKind::BadRow, describe_size(size)));
    }
    match image_type(&bytes) {
        Some(mime) => Ok(encode_data_url(mime, &bytes)),
        None => Err(failure(FailureKind::BadRow, describe_unknown(bytes.len()))),
    }
}

fn describe_size(bytes: u64) -> String {
    format!("it has {bytes} bytes, more than the {} MiB that are sent", MAX_IMAGE_BYTES >> 20)
}

fn describe_unknown(bytes: usize) -> String {
    format!("its {bytes} bytes are no PNG, JPEG, GIF, WebP, BMP or TIFF image")
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIF: &str = "R0lGODlhAQABAAAAADs=";

    fn parse(row: &str) -> Result<Vec<RowImage<'_>>, String> {
        let members = JsonMembers::parse(row).expect("JSON");
        RowImages::from_members(&["i".into()], &members).map(|row| row.images)
    }

    fn loaded(row: &str, folder: &Path) -> Vec<(String, Result<String, PromptFailure>)> {
        let images = parse(row).expect("images").into_iter().map(|image| image.load(folder));
        images.map(|image| (image.label, image.url)).collect()
    }

    #[test]
    fn every_form_of_an_image_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("a b.gif"), b"GIF89a\x01\0\x01\0\0\0\0;")
            .expect("written");
        let data = format!("data:image/gif;base64,{GIF}");
        let short = "<image/gif, 14 bytes>";
        let path = folder.path().join("a b.gif");
        let path = path.to_str().expect("UTF-8");
        for (value, label, url) in [
            (format!(r#"{{"bytes":"{GIF}","path":"x.gif"}}"#), short, &*data),
            (format!(r#"{{"bytes":"{GIF}"}}"#), short, &data),
            (format!("\"{GIF}\""), short, &data),
            (format!("\"{}\\n{}\"", &GIF[..8], &GIF[8..]), short, &data),
            (format!("\"{data}\""), short, &data),
            (r#"{"bytes":null,"path":"a b.gif"}"#.into(), "a b.gif", &data),
            (r#""a b.gif""#.into(), "a b.gif", &data),
            (format!("\"{path}\""), path, &data),
            (r#""https://h/x.png""#.into(), "https://h/x.png", "https://h/x.png"),
            (r#"{"path":"file:///x/y.png"}"#.into(), "file:///x/y.png", "file:///x/y.png"),
        ] {
            let row = format!(r#"{{"i":{value}}}"#);
            assert_eq!(loaded(&row, folder.path()), [(label.into(), Ok(url.into()))], "{row}");
            let row = format!(r#"{{"i":[{value},{value}]}}"#);
            assert_eq!(loaded(&row, folder.path()).len(), 2, "{row}");
        }
    }

    #[test]
    fn a_null_is_no_image_and_anything_else_is_named_with_its_column() {
        for row in [
            r#"{"i":null}"#,
            "{}",
            r#"{"i":""}"#,
            r#"{"i":[]}"#,
            r#"{"i":{"bytes":null,"path":null}}"#,
        ] {
            assert_eq!(parse(row), Ok(vec![]), "{row}");
        }
        let pdf = format!(r#"{{"i":{{"bytes":"{}"}}}}"#, "JVBERi0xLjcK");
        for (row, reason) in [
            (pdf.as_str(), "`i`: its 9 bytes are no PNG"),
            (r#"{"i":{"bytes":""}}"#, "`i`: the image is empty"),
            (r#"{"i":{"bytes":[137,80]}}"#, "`i`: bytes must be a string, found a list"),
            (r#"{"i":{"src":"x"}}"#, "`i`: the object has neither bytes nor path"),
            (r#"{"i":7}"#, "`i` must be an image, found a number"),
            (r#"{"i":["a.png",null]}"#, "`i[1]` is null"),
            (r#"{"i":"s3://b/x.png"}"#, "`i`: s3:// URLs are not read"),
            (
                r#"{"i":{"bytes":"R0lGODlhAQABAAAAAAAAAAAA*AAA"}}"#,
                "`i`: the bytes are not valid base64",
            ),
        ] {
            let error = parse(row).expect_err(row);
            assert!(error.starts_with(reason), "{row}: {error}");
        }
    }

    #[test]
    fn a_file_that_is_no_image_fails_its_prompt_with_the_reason() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes);
        file("empty.png", b"").expect("written");
        file("page.png", b"<html>").expect("written");
        let large = File::create(folder.path().join("large.png")).expect("created");
        large.set_len(MAX_IMAGE_BYTES as u64 + 1).expect("sparse");
        for (name, reason) in [
            ("none.png", "No such file"),
            ("empty.png", "the file is empty"),
            ("page.png", "its 6 bytes are no PNG"),
            ("large.png", "it has 33554433 bytes, more than the 32 MiB"),
            (".", "directory"),
        ] {
            let row = format!(r#"{{"i":"{name}"}}"#);
            let (label, url) = loaded(&row, folder.path()).remove(0);
            let failure = url.expect_err("no image");
            assert_eq!((label.as_str(), failure.kind), (name, FailureKind::BadRow));
            assert!(failure.message.contains(reason), "{failure:?}");
        }
    }

    #[test]
    fn fields_of_a_table_may_be_lists() {
        let field = |text: &str| {
            let text = text.to_owned();
            let images = RowImages::from_fields(&["i".into()], |_| Some(Cow::Owned(text.clone())));
            images.expect("images").column_labels(0)
        };
        assert_eq!(field("a.png"), ["a.png"]);
        assert_eq!(field(r#"["a.png", "b.png"]"#), ["a.png", "b.png"]);
        assert_eq!(field("[a].png"), ["[a].png"]);
        assert!(field("").is_empty());
    }
}
