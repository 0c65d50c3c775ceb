//! Atomic files: written beside their destination as `FILE.part`, synced, and renamed, so that they are absent or complete.
//!
//! Owns the gathered file in all its formats, and small files that are replaced as a whole. Shard files, which are appended
//! to, are in [`shards`](crate::shards).

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use super::{AnswerFormat, OutputError, RunIdentity};
use crate::parquet::ParquetWriter;

/// The gathered file while it is written.
#[derive(Debug)]
pub(crate) struct OutputFile(OutputSink);

#[derive(Debug)]
enum OutputSink {
    TextLines { file: AtomicFile, format: AnswerFormat, run: RunIdentity },
    ParquetTable(Box<ParquetWriter<AtomicFile>>, PathBuf),
}

impl OutputFile {
    /// Creates the file for this destination and format. An unwritable folder fails here, before any work, not at the end.
    ///
    /// # Errors
    /// Fails if the file beside the destination cannot be created.
    pub(crate) fn create(destination: &Path, format: AnswerFormat) -> Result<Self, OutputError> {
        let mut file = AtomicFile::create(destination)?;
        if format == AnswerFormat::Parquet {
            let part = file.part_path.clone();
            let table = ParquetWriter::try_new(file)
                .map_err(OutputError::io_error("cannot write", &part))?;
            return Ok(Self(OutputSink::ParquetTable(Box::new(table), part)));
        }
        file.write_bytes(&format.file_header())?;
        Ok(Self(OutputSink::TextLines { file, format, run: RunIdentity::default() }))
    }

    /// Sets the run that the answers belong to.
    #[must_use]
    pub(crate) fn for_run(mut self, identity: RunIdentity) -> Self {
        if let OutputSink::TextLines { run, .. } = &mut self.0 {
            *run = identity;
        }
        self
    }

    /// Appends an answer, given as its line of a shard file.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub(crate) fn write_answer(&mut self, line: &[u8]) -> Result<(), OutputError> {
        match &mut self.0 {
            OutputSink::TextLines { file, format, run } => match format.convert_line(line, run) {
                Ok(Some(shaped)) => file.write_bytes(&shaped),
                Ok(None) => file.write_bytes(line),
                Err(reason) => {
                    Err(OutputError::io_error("cannot convert an answer for", &file.part_path)(
                        io::Error::new(io::ErrorKind::InvalidData, reason),
                    ))
                }
            },
            OutputSink::ParquetTable(table, part) => {
                table.write_answer(line).map_err(OutputError::io_error("cannot write", part))
            }
        }
    }

    /// Syncs the file and renames it to its destination.
    ///
    /// # Errors
    /// Fails if the file cannot be written or renamed.
    pub(crate) fn finish(self) -> Result<(), OutputError> {
        match self.0 {
            OutputSink::TextLines { file, .. } => file.commit(),
            OutputSink::ParquetTable(table, part) => {
                table.finish().map_err(OutputError::io_error("cannot write", &part))?.commit()
            }
        }
    }
}

/// A file that is written in pieces and absent until it is complete. Dropped without [`AtomicFile::commit`], it is removed:
/// on a full disk its space is needed.
#[derive(Debug)]
pub(crate) struct AtomicFile {
    file: BufWriter<File>,
    part_path: PathBuf,
    destination: PathBuf,
}

impl AtomicFile {
    /// Creates the file for this destination. An unwritable folder fails here, before any work, not at the end.
    ///
    /// # Errors
    /// Fails if the file beside the destination cannot be created.
    pub(crate) fn create(destination: &Path) -> Result<Self, OutputError> {
        // A symbolic link is kept: its target is replaced.
        let target = destination.canonicalize().ok().filter(|_| destination.is_symlink());
        let destination = target.as_deref().unwrap_or(destination);
        let part = part_path(destination);
        let file = File::create(&part).map_err(OutputError::io_error("cannot make", &part))?;
        Ok(Self {
            file: BufWriter::with_capacity(1 << 20, file),
            part_path: part,
            destination: destination.to_owned(),
        })
    }

    /// Appends bytes.
    ///
    /// # Errors
    /// Fails if the file cannot be written.
    pub(crate) fn write_bytes(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        self.file.write_all(bytes).map_err(OutputError::io_error("cannot write", &self.part_path))
    }

    /// Syncs the file and renames it to its destination.
    ///
    /// # Errors
    /// Fails if the file cannot be written or renamed.
    pub(crate) fn commit(mut self) -> Result<(), OutputError> {
        let error = |what| OutputError::io_error(what, &self.part_path);
        self.file.flush().map_err(error("cannot write"))?;
        // Synced before the rename: otherwise a crash could leave an empty file under the final name.
        self.file.get_ref().sync_all().map_err(error("cannot write"))?;
        std::fs::rename(&self.part_path, &self.destination)
            .map_err(OutputError::io_error("cannot put into place", &self.destination))
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

/// Returns the path of a file derived from the answers, beside them: `answers.ENDING` for `answers.jsonl`, and
/// `answers.partial.ENDING` for `answers.jsonl.partial`.
#[must_use]
pub(crate) fn answers_sibling_path(answers: &Path, ending: &str) -> PathBuf {
    let partial = answers.extension().is_some_and(|it| it == "partial");
    let own = if partial { answers.with_extension("") } else { answers.to_owned() };
    let ending = if partial { format!("partial.{ending}") } else { ending.to_owned() };
    own.with_extension(ending)
}

/// Replaces a JSON file atomically.
///
/// # Errors
/// Fails if the file cannot be written or renamed.
pub(crate) fn write_json(destination: &Path, value: &serde_json::Value) -> Result<(), OutputError> {
    let mut text = serde_json::to_vec_pretty(value).unwrap_or_default();
    text.push(b'\n');
    replace_file(destination, &text)
}

/// Replaces a text file atomically.
///
/// # Errors
/// Fails if the file cannot be written or renamed.
pub(crate) fn write_text(destination: &Path, text: &str) -> Result<(), OutputError> {
    replace_file(destination, text.as_bytes())
}

impl Drop for AtomicFile {
    /// Removes the unfinished file; after a rename there is none left to remove.
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.part_path);
    }
}

/// Appends an extension: `answers.jsonl` and `part` give `answers.jsonl.part`.
fn append_extension(destination: &Path, ending: &str) -> PathBuf {
    let mut name = destination.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// Replaces a small file atomically and waits for the disk.
///
/// # Errors
/// Fails if the file cannot be written or renamed.
pub(crate) fn replace_file(destination: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    write_and_rename(destination, bytes, File::sync_all)
}

/// Replaces a small file atomically without waiting for the disk, for content that is useless after a crash.
pub(super) fn replace_without_sync(destination: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    write_and_rename(destination, bytes, |_| Ok(()))
}

/// Returns the path of a file until it is complete.
#[must_use]
pub(crate) fn part_path(destination: &Path) -> PathBuf {
    append_extension(destination, "part")
}

fn write_and_rename(
    destination: &Path,
    bytes: &[u8],
    settle: fn(&File) -> io::Result<()>,
) -> Result<(), OutputError> {
    let part = part_path(destination);
    let write = |bytes: &[u8]| {
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        settle(&file)
    };
    // On a full disk the part is removed, since its space may be what the next attempt needs.
    write(bytes).map_err(|error| {
        let _ = std::fs::remove_file(&part);
        OutputError::io_error("cannot write", &part)(error)
    })?;
    std::fs::rename(&part, destination)
        .map_err(OutputError::io_error("cannot put into place", destination))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_absent_until_it_is_complete() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("answers.jsonl");
        let mut output = OutputFile::create(&path, AnswerFormat::Jsonl).expect("made");
        output.write_answer(b"{\"id\":1}\n").expect("written");
        assert!(!path.exists());
        output.finish().expect("finished");
        assert_eq!(std::fs::read(&path).expect("there"), b"{\"id\":1}\n");
        let mut output = OutputFile::create(&path, AnswerFormat::Jsonl).expect("made");
        output.write_answer(b"{}\n").expect("written");
        drop(output);
        assert_eq!(std::fs::read(&path).expect("there"), b"{\"id\":1}\n");
        assert_eq!(std::fs::read_dir(folder.path()).expect("listed").count(), 1, "no parts");
        assert!(
            OutputFile::create(&folder.path().join("no/such/file"), AnswerFormat::Jsonl).is_err()
        );
    }

    #[test]
    fn derived_files_lie_beside_the_answers() {
        for (answers, expected) in [
            ("a/answers.jsonl", "a/answers.x.json"),
            ("a/answers", "a/answers.x.json"),
            ("a.b/answers.jsonl.partial", "a.b/answers.partial.x.json"),
        ] {
            assert_eq!(answers_sibling_path(Path::new(answers), "x.json"), Path::new(expected));
        }
    }
}
