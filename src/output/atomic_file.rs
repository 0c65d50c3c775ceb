//! A file that is absent or whole: written beside its place and renamed into it.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use super::{AnswerFormat, OutputError};
use crate::parquet;

/// The gathered file while it is being written.
#[derive(Debug)]
pub struct OutputFile(OutputSink);

#[derive(Debug)]
enum OutputSink {
    TextLines { file: AtomicFile, format: AnswerFormat },
    ParquetTable(Box<parquet::ParquetWriter<AtomicFile>>, PathBuf),
}

impl OutputFile {
    /// Begins `place` in this format; an unwritable folder fails here and not at the end.
    ///
    /// # Errors
    /// Where the file beside it cannot be made.
    pub fn create(place: &Path, format: AnswerFormat) -> Result<Self, OutputError> {
        let mut file = AtomicFile::create(place)?;
        if format == AnswerFormat::Parquet {
            let part = file.part_path.clone();
            let table = parquet::ParquetWriter::begin(file)
                .map_err(OutputError::io_error("cannot write", &part))?;
            return Ok(Self(OutputSink::ParquetTable(Box::new(table), part)));
        }
        file.write(&format.file_header())?;
        Ok(Self(OutputSink::TextLines { file, format }))
    }

    /// The next answer, as it stands in a shard file.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write_answer(&mut self, line: &[u8]) -> Result<(), OutputError> {
        match &mut self.0 {
            OutputSink::TextLines { file, format } => match format.convert_line(line) {
                Some(shaped) => file.write(&shaped),
                None => file.write(line),
            },
            OutputSink::ParquetTable(table, part) => {
                table.write_answer(line).map_err(OutputError::io_error("cannot write", part))
            }
        }
    }

    /// All is there: to the disk, and into place.
    ///
    /// # Errors
    /// Where it cannot be written or renamed.
    pub fn finish(self) -> Result<(), OutputError> {
        match self.0 {
            OutputSink::TextLines { file, .. } => file.finish(),
            OutputSink::ParquetTable(table, part) => {
                table.finish().map_err(OutputError::io_error("cannot write", &part))?.finish()
            }
        }
    }
}

/// Any file that is written piece by piece, and absent until it is whole. Dropped without [`TextFile::finish`], it leaves
/// nothing: on a full disk its bytes are needed.
#[derive(Debug)]
pub struct AtomicFile {
    file: BufWriter<File>,
    part_path: PathBuf,
    place: PathBuf,
}

impl AtomicFile {
    /// Begins `place`; an unwritable folder fails here and not at the end.
    ///
    /// # Errors
    /// Where the file beside it cannot be made.
    pub fn create(place: &Path) -> Result<Self, OutputError> {
        // A link stays one: what it points to is replaced.
        let pointed = place.canonicalize().ok().filter(|_| place.is_symlink());
        let place = pointed.as_deref().unwrap_or(place);
        let part = part_path(place);
        let file = File::create(&part).map_err(OutputError::io_error("cannot make", &part))?;
        Ok(Self {
            file: BufWriter::with_capacity(1 << 20, file),
            part_path: part,
            place: place.to_owned(),
        })
    }

    /// The next piece.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        self.file.write_all(bytes).map_err(OutputError::io_error("cannot write", &self.part_path))
    }

    /// All is there: to the disk, and into place.
    ///
    /// # Errors
    /// Where it cannot be written or renamed.
    pub fn finish(mut self) -> Result<(), OutputError> {
        let error = |what| OutputError::io_error(what, &self.part_path);
        self.file.flush().map_err(error("cannot write"))?;
        self.file.get_ref().sync_all().map_err(error("cannot write"))?;
        std::fs::rename(&self.part_path, &self.place)
            .map_err(OutputError::io_error("cannot put into place", &self.place))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// What is made of `answers.jsonl` lies beside it: `answers.ENDING`; of `answers.jsonl.partial` it is
/// `answers.partial.ENDING`.
#[must_use]
pub fn answers_sibling_path(answers: &Path, ending: &str) -> PathBuf {
    let partial = answers.extension().is_some_and(|it| it == "partial");
    let own = if partial { answers.with_extension("") } else { answers.to_owned() };
    let ending = if partial { format!("partial.{ending}") } else { ending.to_owned() };
    own.with_extension(ending)
}

/// Writes a JSON file whole, in the same way.
///
/// # Errors
/// Where it cannot be written or renamed.
pub fn write_json(place: &Path, value: &serde_json::Value) -> Result<(), OutputError> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    replace_file(place, &text)
}

/// Writes a text file whole, in the same way.
///
/// # Errors
/// Where it cannot be written or renamed.
pub fn write_text(place: &Path, text: &str) -> Result<(), OutputError> {
    replace_file(place, text.as_bytes())
}

impl Drop for AtomicFile {
    /// What was renamed into place is not there any more.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.part_path);
    }
}

/// `answers.jsonl` and `part` make `answers.jsonl.part`.
fn append_extension(place: &Path, ending: &str) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// Writes a small file whole, in the same way.
///
/// # Errors
/// Where it cannot be written or renamed.
pub fn replace_file(place: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    write_and_rename(place, bytes, File::sync_all)
}

/// The same without waiting for the disk: for what is of no use after a crash.
pub(super) fn replace_without_sync(place: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    write_and_rename(place, bytes, |_| Ok(()))
}

/// Where a file lies until it is whole.
#[must_use]
pub fn part_path(place: &Path) -> PathBuf {
    append_extension(place, "part")
}

fn write_and_rename(
    place: &Path,
    bytes: &[u8],
    settle: fn(&File) -> io::Result<()>,
) -> Result<(), OutputError> {
    let part = part_path(place);
    let write = |bytes: &[u8]| {
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        settle(&file)
    };
    write(bytes).map_err(|error| {
        let _ = std::fs::remove_file(&part);
        OutputError::io_error("cannot write", &part)(error)
    })?;
    std::fs::rename(&part, place).map_err(OutputError::io_error("cannot put into place", place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_absent_until_it_is_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("answers.jsonl");
        let mut output = OutputFile::create(&place, AnswerFormat::Jsonl).expect("made");
        output.write_answer(b"{\"id\":1}\n").expect("written");
        assert!(!place.exists());
        output.finish().expect("finished");
        assert_eq!(std::fs::read(&place).expect("there"), b"{\"id\":1}\n");
        let mut output = OutputFile::create(&place, AnswerFormat::Jsonl).expect("made");
        output.write_answer(b"{}\n").expect("written");
        drop(output);
        assert_eq!(std::fs::read(&place).expect("there"), b"{\"id\":1}\n");
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 1, "no parts");
        assert!(
            OutputFile::create(&folder.path().join("no/such/file"), AnswerFormat::Jsonl).is_err()
        );
    }

    #[test]
    fn what_is_made_of_answers_lies_beside_them() {
        for (answers, its) in [
            ("a/answers.jsonl", "a/answers.x.json"),
            ("a/answers", "a/answers.x.json"),
            ("a.b/answers.jsonl.partial", "a.b/answers.partial.x.json"),
        ] {
            assert_eq!(answers_sibling_path(Path::new(answers), "x.json"), Path::new(its));
        }
    }
}
