//! The gathered file in all its formats, compressed if its name says so.
//!
//! Owns the writing of answers to it. It is an [`AtomicFile`]: absent until it is complete. Tables of text are in
//! `output/delimited.rs`, those of Parquet in [`parquet`](crate::parquet).

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::{AnswerFormat, AtomicFile, OutputError, RunIdentity, delimited::DelimitedWriter};
use crate::{
    compression::{CompressedWriter, Compression},
    domain::FoundColumns,
    parquet::ParquetWriter,
};

/// The gathered file while it is written.
#[derive(Debug)]
pub(crate) struct OutputFile {
    sink: OutputSink,
    part_path: PathBuf,
}

#[derive(Debug)]
enum OutputSink {
    TextLines { stream: CompressedWriter<AtomicFile>, format: AnswerFormat, run: RunIdentity },
    TextTable(Box<DelimitedWriter<CompressedWriter<AtomicFile>>>),
    ParquetTable(Box<ParquetWriter<AtomicFile>>),
}

impl OutputFile {
    /// Creates the file for this destination and format; `found` are columns of a table that depend on the answers.
    ///
    /// # Errors
    /// Fails if the file beside the destination cannot be created.
    pub(crate) fn create(
        destination: &Path,
        format: AnswerFormat,
        found: &FoundColumns,
    ) -> Result<Self, OutputError> {
        let file = AtomicFile::create(destination)?;
        let part_path = file.part_path().to_owned();
        let begin = || {
            if format == AnswerFormat::Parquet {
                let table = ParquetWriter::try_new(file, found)?;
                return Ok(OutputSink::ParquetTable(Box::new(table)));
            }
            let (compression, _) = Compression::split_path(destination);
            let stream = compression.open_writer(file)?;
            Ok(match format.delimiter() {
                Some(delimiter) => {
                    let table = DelimitedWriter::try_new(stream, delimiter, found)?;
                    OutputSink::TextTable(Box::new(table))
                }
                None => OutputSink::TextLines { stream, format, run: RunIdentity::default() },
            })
        };
        let sink = begin().map_err(OutputError::io_error("cannot write", &part_path))?;
        Ok(Self { sink, part_path })
    }

    /// Sets the run that the answers belong to.
    #[must_use]
    pub(crate) fn for_run(mut self, identity: RunIdentity) -> Self {
        if let OutputSink::TextLines { run, .. } = &mut self.sink {
            *run = identity;
        }
        self
    }

    /// Appends an answer, given as its line of a shard file.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub(crate) fn write_answer(&mut self, line: &[u8]) -> Result<(), OutputError> {
        let written = match &mut self.sink {
            OutputSink::TextLines { stream, format, run } => match format.convert_line(line, run) {
                Ok(Some(converted)) => stream.write_all(&converted),
                Ok(None) => stream.write_all(line),
                Err(reason) => Err(io::Error::new(io::ErrorKind::InvalidData, reason)),
            },
            OutputSink::TextTable(table) => table.write_answer(line),
            OutputSink::ParquetTable(table) => table.write_answer(line),
        };
        written.map_err(OutputError::io_error("cannot write", &self.part_path))
    }

    /// Syncs the file and renames it to its destination.
    ///
    /// # Errors
    /// Fails if the file cannot be written or renamed.
    pub(crate) fn finish(self) -> Result<(), OutputError> {
        let file = match self.sink {
            OutputSink::TextLines { stream, .. } => stream.finish(),
            OutputSink::TextTable(table) => table.finish().and_then(CompressedWriter::finish),
            OutputSink::ParquetTable(table) => table.finish(),
        };
        file.map_err(OutputError::io_error("cannot write", &self.part_path))?.commit()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn create_lines(path: &Path) -> Result<OutputFile, OutputError> {
        OutputFile::create(path, AnswerFormat::Jsonl, &FoundColumns::default())
    }

    #[test]
    fn a_file_is_absent_until_it_is_complete() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("answers.jsonl");
        let mut output = create_lines(&path).expect("made");
        output.write_answer(b"{\"id\":1}\n").expect("written");
        assert!(!path.exists());
        output.finish().expect("finished");
        assert_eq!(std::fs::read(&path).expect("there"), b"{\"id\":1}\n");
        let mut output = create_lines(&path).expect("made");
        output.write_answer(b"{}\n").expect("written");
        drop(output);
        assert_eq!(std::fs::read(&path).expect("there"), b"{\"id\":1}\n");
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 1, "no parts");
        assert!(create_lines(&folder.path().join("no/such/file")).is_err());
    }

    #[test]
    fn a_name_that_ends_with_a_compression_gives_a_compressed_file() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["a.jsonl.gz", "a.jsonl.zst", "a.jsonl"] {
            let path = folder.path().join(name);
            let mut output = create_lines(&path).expect("made");
            (0..5_000).for_each(|_| output.write_answer(b"{\"id\":1}\n").expect("written"));
            output.finish().expect("finished");
            let (compression, _) = Compression::split_path(&path);
            let file = std::fs::File::open(&path).expect("there");
            assert_eq!(file.metadata().expect("a size").len() < 5_000, name != "a.jsonl");
            let mut text = String::new();
            let mut reader = compression.open_reader(file).expect("opened");
            reader.read_to_string(&mut text).expect("whole");
            assert_eq!(text, "{\"id\":1}\n".repeat(5_000), "{name}");
        }
    }

    /// A line with numbers beyond 64-bit floats and values nested deeper than parsers of generic JSON go.
    fn extreme_line() -> String {
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        format!(
            r#"{{"id":1e400,"index":0,"response":"ho","success":true,"params":{{"x":1e400,"y":{}}},"row":{{"big":-1e999,"deep":{}}}}}"#,
            nested(2_000),
            nested(3_000)
        ) + "\n"
    }

    #[test]
    fn numbers_beyond_floats_and_deep_nesting_come_out_in_every_format() {
        let folder = tempfile::tempdir().expect("a folder");
        let line = extreme_line();
        let mut survey = crate::domain::ColumnSurvey::default();
        survey.add_line(0, line.as_bytes());
        let found = survey.into_columns();
        for format in
            [AnswerFormat::Jsonl, AnswerFormat::OpenaiBatch, AnswerFormat::Csv, AnswerFormat::Tsv]
        {
            let path = folder.path().join(format!("a.{format}"));
            let mut output = OutputFile::create(&path, format, &found).expect("made");
            output.write_answer(line.as_bytes()).expect("written");
            output.finish().expect("finished");
            let text = std::fs::read_to_string(&path).expect("there");
            assert!(text.contains("1e400"), "{format}: {text}");
            assert_eq!(
                text.contains(&"[".repeat(3_000)),
                format != AnswerFormat::OpenaiBatch,
                "{format}"
            );
        }
        if format_unsupported(AnswerFormat::Parquet) {
            return;
        }
        let path = folder.path().join("a.parquet");
        let mut output = OutputFile::create(&path, AnswerFormat::Parquet, &found).expect("made");
        output.write_answer(line.as_bytes()).expect("written");
        output.finish().expect("finished");
        let mut rows = crate::parquet::ParquetReader::open(&path, |_| true, &[]).expect("rows");
        let mut text = String::new();
        rows.read_to_string(&mut text).expect("text");
        assert!(
            text.contains("1e400") && text.contains("-1e999") && text.contains(&"[".repeat(3_000)),
            "{text}"
        );
    }

    fn format_unsupported(format: AnswerFormat) -> bool {
        format.unsupported_reason().is_some()
    }

    #[test]
    fn lines_that_are_no_answers_are_errors_in_every_converted_format() {
        let folder = tempfile::tempdir().expect("a folder");
        let formats = [
            AnswerFormat::OpenaiBatch,
            AnswerFormat::Csv,
            AnswerFormat::Tsv,
            AnswerFormat::Parquet,
        ];
        for format in formats.into_iter().filter(|&format| !format_unsupported(format)) {
            let path = folder.path().join(format!("a.{format}"));
            let mut output =
                OutputFile::create(&path, format, &FoundColumns::default()).expect("made");
            for line in [
                b"no".as_slice(),
                b"{}",
                br#"{"index":0,"success":true,"response":"ho"}"#,
                br#"{"id":null,"index":0,"success":true,"response":"ho"}"#,
                b"{\"id\":1,\"index\":0,\"success\":true,\"response\":\"\xff\"}",
            ] {
                let error = output.write_answer(line).expect_err("no answer");
                let error = error.naming_answer(7, || "0001-00002.jsonl".into()).to_string();
                assert!(
                    error.contains("prompt 7") && error.contains("0001-00002.jsonl"),
                    "{format}: {error}"
                );
            }
        }
    }
}
