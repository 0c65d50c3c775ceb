//! The intake: turns every input into a plain file of rows in UTF-8, whose rows have offsets.
//!
//! Owns the order of the conversions and the spooled copies. A plain file in UTF-8 is read in place. Streams, compressed
//! files, other encodings, JSON documents and Parquet are copied once, in constant memory, as rows. The folder of the
//! copies is chosen in `job/setup/scan.rs`.

use std::{
    fs::File,
    io::{self, Cursor, Read},
    path::{Path, PathBuf},
};

use super::{
    FileFormat, FileRules, FoundFile, InputError, InputFile, InputRules, RowLayout, RowUnit,
    STDIN_NAME,
    decompress::{NamedStream, decompress, open_parquet, read_failure, spool_rows, spool_stream},
    encoding::{TextDecoder, TextEncoding},
    json_document::JsonDocument,
    row::template::PromptTemplate,
    sniff::{HEAD_BYTES, TextHead, is_parquet, sniff_compression},
};
use crate::compression::Compression;

/// Prepares the files of an input, one after the other.
pub(crate) struct InputIntake<'r> {
    rules: &'r InputRules,
    /// Folder of the copies, which is made when the first one is.
    spool: PathBuf,
    prepared: usize,
}

/// A source of bytes with what is known about it before it is read.
struct Source<'s> {
    bytes: Box<dyn Read>,
    /// Name in messages.
    name: &'s Path,
    format: FileFormat,
    compression: Compression,
    /// Whether rows may be read by offset.
    is_file: bool,
}

impl<'r> InputIntake<'r> {
    /// Returns an intake that puts copies into this folder.
    #[must_use]
    pub(crate) fn new(rules: &'r InputRules, spool: PathBuf) -> Self {
        Self { rules, spool, prepared: 0 }
    }

    /// Returns a file as a plain file of rows.
    ///
    /// # Errors
    /// A file that cannot be read or converted, or that cannot be copied.
    pub(crate) fn prepare_file(&mut self, found: &FoundFile) -> Result<InputFile, InputError> {
        let prepared = self.prepare_rows(found)?;
        Ok(InputFile { partition: found.partition.clone(), ..prepared })
    }

    fn prepare_rows(&mut self, found: &FoundFile) -> Result<InputFile, InputError> {
        let FoundFile { path, format, is_stream, .. } = found;
        if *format == FileFormat::Parquet && !is_stream {
            return self.copy_parquet(path, path);
        }
        if *is_stream {
            tracing::info!(
                event = "input_pipe_opened",
                file = %path.display(),
                "reading from a pipe, until its writer closes it: {}",
                path.display()
            );
        }
        let opened = File::open(path).map_err(|source| InputError::Io {
            action: "cannot open",
            path: path.clone(),
            source,
        })?;
        self.prepare_source(Source {
            bytes: Box::new(opened),
            name: path,
            format: *format,
            compression: Compression::split_path(path).0,
            is_file: !is_stream,
        })
    }

    /// Returns a copy of standard input.
    ///
    /// # Errors
    /// An input that cannot be read or converted, or that cannot be copied.
    pub(crate) fn prepare_stdin(&mut self) -> Result<InputFile, InputError> {
        self.prepare_source(Source {
            bytes: Box::new(io::stdin().lock()),
            name: Path::new(STDIN_NAME),
            format: self.rules.files.format.unwrap_or(FileFormat::Jsonl),
            compression: Compression::Plain,
            is_file: false,
        })
    }

    fn prepare_source(&mut self, source: Source<'_>) -> Result<InputFile, InputError> {
        let Source { bytes, name, format, compression, is_file } = source;
        let mut bytes: Box<dyn Read> = Box::new(NamedStream::new(name, bytes));
        let mut head = read_head(&mut bytes, name)?;
        if is_file && !head.is_empty() && name.metadata().is_ok_and(|metadata| metadata.len() == 0)
        {
            // As in /proc: rows cannot be found by their offsets.
            return Err(InputError::NotAFile { path: name.to_path_buf() });
        }
        if format == FileFormat::Parquet {
            return self.copy_parquet_stream(&mut Cursor::new(head).chain(bytes), name);
        }
        let compression = match compression {
            Compression::Plain => sniff_compression(&head),
            named => named,
        };
        if compression != Compression::Plain {
            let packed = Box::new(Cursor::new(head).chain(bytes));
            bytes = Box::new(NamedStream::new(name, decompress(packed, compression, name)?));
            head = read_head(&mut bytes, name)?;
        }
        let invalid = |what| InputError::InvalidText { path: name.to_path_buf(), what };
        if is_parquet(&head) {
            let what = "this is a Parquet file\nhint: pass --input-format parquet";
            return Err(invalid(what.into()));
        }
        let FileRules { encoding, .. } = &self.rules.files;
        let encoding = TextEncoding::choose(encoding.as_deref(), &head).map_err(invalid)?;
        let text = encoding.map(|encoding| encoding.decode_head(&head));
        let text = TextHead::new(text.as_deref().unwrap_or(&head), head.len() < HEAD_BYTES);
        let is_document = match format {
            FileFormat::Json => true,
            FileFormat::Jsonl => text.is_json_document(),
            _ => false,
        };
        let layout = self.choose_layout(format, text, name);
        if let Some(encoding) = encoding {
            let encoding = encoding.name();
            let file = name.display();
            tracing::info!(event = "input_encoding", %file, encoding, "encoding of {file}: {encoding}");
        }
        if is_document && format == FileFormat::Jsonl {
            let file = name.display();
            tracing::info!(event = "input_is_document", %file, "input read as one JSON document, not as JSON lines: {file}");
        }
        if is_file && !is_document && encoding.is_none() && compression == Compression::Plain {
            let path = std::path::absolute(name).map_err(|source| InputError::Io {
                action: "cannot find",
                path: name.to_path_buf(),
                source,
            })?;
            return Ok(InputFile::new(path, layout));
        }
        let mut text: Box<dyn Read> = Box::new(Cursor::new(head).chain(bytes));
        if let Some(encoding) = encoding {
            text = Box::new(TextDecoder::new(text, encoding, name.to_path_buf()));
        }
        if is_document {
            let names = prompt_names(self.rules)?;
            text = Box::new(JsonDocument::new(text, name.to_path_buf(), names));
        }
        let unit = if is_document { RowUnit::Element } else { RowUnit::Line };
        self.copy_rows(&mut text, name, layout, unit)
    }

    /// Returns the layout of the rows: as the rules say, else as the first bytes show.
    fn choose_layout(&self, format: FileFormat, head: TextHead<'_>, name: &Path) -> RowLayout {
        let layout = RowLayout::of_format(format.row_format());
        if !layout.format.is_table() {
            return layout;
        }
        let FileRules { delimiter, has_no_header, .. } = self.rules.files;
        let delimiter = match (format, delimiter) {
            (FileFormat::Csv, Some(chosen)) => chosen,
            (FileFormat::Csv, None) => head.sniff_delimiter(),
            _ => layout.delimiter,
        };
        if delimiter != layout.delimiter {
            let (file, delimiter) = (name.display(), char::from(delimiter));
            tracing::info!(event = "csv_delimiter", %file, %delimiter, "delimiter of {file}: {delimiter:?}");
        }
        RowLayout { delimiter, has_header: !has_no_header, ..layout }
    }

    fn copy_parquet(&mut self, path: &Path, name: &Path) -> Result<InputFile, InputError> {
        let rows = open_parquet(path, self.rules)?;
        let layout = RowLayout::of_format(FileFormat::Parquet.row_format());
        self.copy_rows(&mut NamedStream::new(name, Box::new(rows)), name, layout, RowUnit::Row)
    }

    /// Copies Parquet from a stream to a file first, since its index is at the end.
    fn copy_parquet_stream(
        &mut self,
        bytes: &mut dyn Read,
        name: &Path,
    ) -> Result<InputFile, InputError> {
        let raw = self.next_copy(Path::new("stream.parquet"))?;
        spool_stream(bytes, &raw)?;
        let rows = self.copy_parquet(&raw, name)?;
        std::fs::remove_file(&raw).map_err(|source| InputError::Io {
            action: "cannot remove",
            path: raw,
            source,
        })?;
        Ok(rows)
    }

    fn copy_rows(
        &mut self,
        rows: &mut dyn Read,
        name: &Path,
        layout: RowLayout,
        unit: RowUnit,
    ) -> Result<InputFile, InputError> {
        let path = self.next_copy(name)?;
        spool_rows(rows, name, &path)?;
        Ok(InputFile { name: name.to_path_buf(), unit, ..InputFile::new(path, layout) })
    }

    /// Returns the path of the next copy, in a folder that exists.
    fn next_copy(&mut self, name: &Path) -> Result<PathBuf, InputError> {
        std::fs::create_dir_all(&self.spool).map_err(|source| InputError::Io {
            action: "cannot make",
            path: self.spool.clone(),
            source,
        })?;
        let stem = name.file_stem().unwrap_or_default().to_string_lossy();
        let path = self.spool.join(format!("{:05}-{stem}", self.prepared));
        self.prepared += 1;
        Ok(path)
    }
}

/// Reads the first bytes of a stream: fewer than [`HEAD_BYTES`] only at its end.
fn read_head(stream: &mut dyn Read, name: &Path) -> Result<Vec<u8>, InputError> {
    let mut head = Vec::new();
    stream
        .take(HEAD_BYTES as u64)
        .read_to_end(&mut head)
        .map_err(|error| read_failure(name, error))?;
    Ok(head)
}

/// Returns the names of the columns that prompts are taken from.
fn prompt_names(rules: &InputRules) -> Result<Vec<String>, InputError> {
    let template = rules.template.as_deref().map(PromptTemplate::parse).transpose();
    let template = template.map_err(InputError::InvalidTemplate)?;
    let inputs = rules.input_columns();
    let columns = [inputs.prompt, inputs.messages, Some("custom_id")];
    Ok(match template {
        Some(template) => template.placeholder_names().to_vec(),
        None => columns.into_iter().flatten().map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::input::{InputFinder, InputFormat};

    struct IntakeTest {
        folder: tempfile::TempDir,
        rules: InputRules,
    }

    impl IntakeTest {
        fn new(rules: FileRules) -> Self {
            let rules = InputRules { files: rules, ..InputRules::default() };
            Self { folder: tempfile::tempdir().unwrap(), rules }
        }

        /// Prepares a file with these bytes. Returns what is read of it, and whether that is a copy.
        fn prepare(&self, name: &str, bytes: &[u8]) -> Result<(InputFile, Vec<u8>, bool), String> {
            let path = self.folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let finder = InputFinder { format: self.rules.files.format, ..InputFinder::default() };
            let error = |error: InputError| {
                error.to_string().replace(&format!("{}/", self.folder.path().display()), "")
            };
            let found = finder.find_files(&[path.to_str().unwrap().to_owned()]).map_err(error)?;
            let mut intake = InputIntake::new(&self.rules, self.folder.path().join("spool"));
            let file = intake.prepare_file(&found[0]).map_err(error)?;
            assert_eq!(file.name, path);
            let text = std::fs::read(&file.path).unwrap();
            let is_copy = file.path != path;
            Ok((file, text, is_copy))
        }
    }

    fn gzip_bytes(text: &[u8]) -> Vec<u8> {
        pack(Compression::Gzip, text)
    }

    fn pack(kind: Compression, text: &[u8]) -> Vec<u8> {
        let mut packer = kind.open_writer(Vec::new()).unwrap();
        packer.write_all(text).unwrap();
        packer.finish().unwrap()
    }

    #[test]
    fn compressed_files_are_copied_whole_through_all_their_members() {
        let test = IntakeTest::new(FileRules::default());
        let text: Vec<u8> =
            (0..400_000_u32).flat_map(|row| format!("{row}\n").into_bytes()).collect();
        let (one, two) = text.split_at(text.len() / 3);
        let gz = [gzip_bytes(one), gzip_bytes(two)].concat();
        let zst = [pack(Compression::Zstd, one), pack(Compression::Zstd, two)].concat();
        for (name, packed) in [("x.txt.gz", &gz), ("x.txt.zst", &zst), ("unnamed.txt", &gz)] {
            let (_, read, is_copy) = test.prepare(name, packed).unwrap();
            assert!(read == text && is_copy, "{name}");
        }
        let (file, read, is_copy) = test.prepare("x.txt", &text).unwrap();
        assert!(read == text && !is_copy && file.unit == RowUnit::Line);
        let error = test.prepare("x.txt.gz", &gz[..gz.len() - 9]).unwrap_err();
        assert!(error.starts_with("x.txt.gz is damaged or truncated: "), "{error}");
        let error = test.prepare("x.jsonl.zst", b"{}").unwrap_err();
        assert!(error.starts_with("x.jsonl.zst is damaged or truncated: "), "{error}");
    }

    #[cfg(feature = "parquet")]
    #[test]
    fn a_file_that_is_not_parquet_is_an_error_that_says_so() {
        let test = IntakeTest::new(FileRules::default());
        let error = test.prepare("x.parquet", b"{\"prompt\": \"a\"}\n").unwrap_err();
        assert_eq!(error, "x.parquet is not a Parquet file");
        let error = test.prepare("x.jsonl", b"PAR1\x15").unwrap_err();
        assert!(
            error.contains("this is a Parquet file\nhint: pass --input-format parquet"),
            "{error}"
        );
    }

    #[test]
    fn a_json_document_is_copied_as_lines_whatever_its_name() {
        let test = IntakeTest::new(FileRules::default());
        let list = b"\xef\xbb\xbf[\n  {\"prompt\": \"a\"},\n  {\"prompt\":\n \"b\"}\n]\n";
        for name in ["x.json", "x.jsonl", "x.ndjson"] {
            let (file, text, is_copy) = test.prepare(name, list).unwrap();
            assert_eq!(text, b"{\"prompt\": \"a\"}\n{\"prompt\":  \"b\"}\n");
            assert_eq!((file.unit, file.layout.format), (RowUnit::Element, InputFormat::Jsonl));
            assert!(is_copy);
        }
        let (_, text, _) = test.prepare("x.json.gz", &gzip_bytes(list)).unwrap();
        assert!(text.starts_with(b"{\"prompt\": \"a\"}\n"));
        assert!(!test.prepare("lines.jsonl", b"{\"prompt\": \"a\"}\n").unwrap().2);
        let error = test.prepare("x.json", b"{\"data\": [{\"prompt\": \"a\"}]}").unwrap_err();
        assert!(
            error
                .starts_with("x.json: the file is one object, and its rows are in the list `data`"),
            "{error}"
        );
        assert!(
            test.prepare("x.json", b"[{}").unwrap_err().starts_with("x.json: the list has no end")
        );
    }

    #[test]
    fn text_in_another_encoding_is_converted() {
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        let test = IntakeTest::new(FileRules::default());
        let (file, text, is_copy) =
            test.prepare("x.csv", &utf16("\u{feff}id\ttext\r\n1\tcafé\r\n")).unwrap();
        assert_eq!((text.as_slice(), is_copy), ("id\ttext\r\n1\tcafé\r\n".as_bytes(), true));
        assert_eq!(file.layout.delimiter, b'\t');
        let (_, text, _) = test.prepare("x.json", &utf16("\u{feff}[{\"a\": 1}]")).unwrap();
        assert_eq!(text, b"{\"a\": 1}\n");
        assert!(!test.prepare("x.csv", b"id,text\n1,caf\xe9\n").unwrap().2);
        let named = |name: &str| FileRules { encoding: Some(name.into()), ..FileRules::default() };
        let (_, text, _) =
            IntakeTest::new(named("cp1252")).prepare("x.csv", b"1,\x93caf\xe9\x94\n").unwrap();
        assert_eq!(text, "1,“café”\n".as_bytes());
        assert!(!IntakeTest::new(named("utf-8")).prepare("x.csv", b"a,b\n").unwrap().2);
        let error = IntakeTest::new(named("klingon")).prepare("x.csv", b"a").unwrap_err();
        assert!(error.contains("--encoding klingon: unknown encoding"), "{error}");
    }

    #[test]
    fn the_layout_of_a_table_is_chosen_or_recognised() {
        let rules = |delimiter, has_no_header| FileRules {
            delimiter,
            has_no_header,
            ..FileRules::default()
        };
        let layout = |rules: &FileRules, name: &str, text: &str| {
            let layout =
                IntakeTest::new(rules.clone()).prepare(name, text.as_bytes()).unwrap().0.layout;
            (char::from(layout.delimiter), layout.has_header)
        };
        let auto = rules(None, false);
        assert_eq!(layout(&auto, "x.csv", "id;text\n1;a, b\n"), (';', true));
        assert_eq!(layout(&auto, "x.tsv", "id;text\n"), ('\t', true));
        assert_eq!(layout(&rules(Some(b'|'), true), "x.csv", "id;text\n"), ('|', false));
        assert_eq!(layout(&rules(Some(b'|'), true), "x.tsv", "id\ttext\n"), ('\t', false));
        let tsv = FileRules { format: Some(FileFormat::Tsv), ..auto };
        assert_eq!(layout(&tsv, "x", "id\ttext\n"), ('\t', true));
    }

    #[test]
    fn a_named_pipe_is_read_once_and_copied() {
        let rules = FileRules { format: Some(FileFormat::Jsonl), ..FileRules::default() };
        let test = IntakeTest::new(rules);
        let pipe = test.folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let writer = {
            let pipe = pipe.clone();
            std::thread::spawn(move || {
                std::fs::write(pipe, gzip_bytes(&b"\"a\"\n".repeat(50_000))).unwrap()
            })
        };
        let finder = InputFinder { format: test.rules.files.format, ..InputFinder::default() };
        let found = finder.find_files(&[pipe.to_str().unwrap().to_owned()]).unwrap();
        assert!(found[0].is_stream);
        let mut intake = InputIntake::new(&test.rules, test.folder.path().join("spool"));
        let file = intake.prepare_file(&found[0]).unwrap();
        writer.join().unwrap();
        assert_eq!(std::fs::read(&file.path).unwrap(), b"\"a\"\n".repeat(50_000));
    }

    #[test]
    fn a_small_file_that_unpacks_to_an_endless_line_is_refused_before_it_is_copied() {
        let test = IntakeTest::new(FileRules::default());
        let path = test.folder.path().join("a.jsonl.gz");
        let packed = gzip_bytes(&vec![b'0'; 64 << 20]);
        assert!(packed.len() < 1 << 20);
        std::fs::write(&path, packed).unwrap();
        let found =
            InputFinder::default().find_files(&[path.to_str().unwrap().to_owned()]).unwrap();
        let spool = test.folder.path().join("spool");
        let error =
            InputIntake::new(&test.rules, spool.clone()).prepare_file(&found[0]).unwrap_err();
        assert!(
            error.to_string().contains("a.jsonl.gz: a line has no end within 4 MiB"),
            "{error}"
        );
        let sizes =
            std::fs::read_dir(spool).unwrap().map(|it| it.unwrap().metadata().unwrap().len());
        assert!(sizes.sum::<u64>() < 8 << 20);
    }

    #[test]
    fn devices_and_files_of_the_kernel_are_refused() {
        let test = IntakeTest::new(FileRules::default());
        let link = |name: &str, target: &str| {
            let path = test.folder.path().join(name);
            std::os::unix::fs::symlink(target, &path).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (device, process) =
            (link("zero.txt", "/dev/zero"), link("environ.txt", "/proc/self/environ"));
        let is_refused = |error: InputError| matches!(error, InputError::NotAFile { .. });
        assert!(InputFinder::default().find_files(&[device]).is_err_and(is_refused));
        let found = InputFinder::default().find_files(&[process]).unwrap();
        let mut intake = InputIntake::new(&test.rules, test.folder.path().join("spool"));
        assert!(intake.prepare_file(&found[0]).is_err_and(is_refused));
    }
}
