//! Atomic files: written beside their destination as `FILE.part`, synced, and renamed, so that they are absent or complete.
//!
//! Owns the replacement, and small files that are replaced as a whole. The formats of the gathered file are in
//! `output/output_file.rs`; shard files, which are appended to, are in [`shards`](crate::shards).

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use super::OutputError;
use crate::{compression::Compression, new_file::create_new_file};

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
        let destination = replaced_path(destination);
        let part = part_path(&destination);
        let file = create_new_file(&part).map_err(OutputError::io_error("cannot make", &part))?;
        Ok(Self { file: BufWriter::with_capacity(1 << 20, file), part_path: part, destination })
    }

    /// Returns the path until the file is complete.
    pub(super) fn part_path(&self) -> &Path {
        &self.part_path
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

/// Returns the path that is replaced when a file is written: a symbolic link is kept, and its target is replaced or
/// created.
pub(crate) fn replaced_path(destination: &Path) -> PathBuf {
    let followed = || destination.canonicalize().or_else(|_| destination.read_link());
    match destination.is_symlink().then(followed) {
        Some(Ok(target)) => destination.with_file_name(target),
        _ => destination.to_owned(),
    }
}

/// Returns the path of a file derived from the answers, beside them: `answers.ENDING` for `answers.jsonl` and for
/// `answers.jsonl.gz`.
#[must_use]
pub(crate) fn answers_sibling_path(answers: &Path, ending: &str) -> PathBuf {
    Compression::split_path(answers).1.with_extension(ending)
}

/// Returns the path of the answers so far, beside the answers: `answers.partial.jsonl.gz` for `answers.jsonl.gz`, so that
/// tools still find the ending.
#[must_use]
pub(crate) fn partial_answers_path(answers: &Path) -> PathBuf {
    let (_, plain) = Compression::split_path(answers);
    let name = answers.file_name().unwrap_or_default().to_string_lossy();
    let stem = plain.file_stem().unwrap_or_default().to_string_lossy();
    answers.with_file_name(format!("{stem}.partial{}", &name[stem.len()..]))
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
        let mut file = create_new_file(&part)?;
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
    fn a_symbolic_link_is_kept_and_its_target_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("below")).expect("made");
        std::os::unix::fs::symlink("below/target", path("link")).expect("a link");
        for text in ["created", "replaced"] {
            let mut file = AtomicFile::create(&path("link")).expect("made");
            file.write_bytes(text.as_bytes()).expect("written");
            file.commit().expect("renamed");
            assert!(path("link").is_symlink());
            assert_eq!(std::fs::read(path("below/target")).expect("there"), text.as_bytes());
        }
    }

    #[test]
    fn derived_files_lie_beside_the_answers() {
        for (answers, expected) in [
            ("a/answers.jsonl", "a/answers.x.json"),
            ("a/answers", "a/answers.x.json"),
            ("a.b/answers.partial.jsonl", "a.b/answers.partial.x.json"),
            ("answers.csv.gz", "answers.x.json"),
        ] {
            assert_eq!(answers_sibling_path(Path::new(answers), "x.json"), Path::new(expected));
        }
        for (answers, expected) in [
            ("a.b/answers.jsonl", "a.b/answers.partial.jsonl"),
            ("answers.tsv.ZST", "answers.partial.tsv.ZST"),
            ("a.b/answers", "a.b/answers.partial"),
            ("é.csv", "é.partial.csv"),
        ] {
            assert_eq!(partial_answers_path(Path::new(answers)), Path::new(expected));
        }
    }
}
