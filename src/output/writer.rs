//! A file that is absent or whole: written beside its place and renamed into it.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use super::{Format, OutputError};

/// The gathered file while it is being written. Dropped without [`OutputFile::finish`], it leaves only its `.part`.
#[derive(Debug)]
pub struct OutputFile {
    file: BufWriter<File>,
    format: Format,
    part: PathBuf,
    place: PathBuf,
}

impl OutputFile {
    /// Begins `place` in this format; an unwritable folder fails here and not at the end.
    ///
    /// # Errors
    /// Where the file beside it cannot be made.
    pub fn create(place: &Path, format: Format) -> Result<Self, OutputError> {
        // A link stays one: what it points to is replaced.
        let pointed = place.canonicalize().ok().filter(|_| place.is_symlink());
        let place = pointed.as_deref().unwrap_or(place);
        let part = beside(place, "part");
        let file = File::create(&part).map_err(OutputError::io("cannot make", &part))?;
        let file = BufWriter::with_capacity(1 << 20, file);
        let mut output = Self { file, format, part, place: place.to_owned() };
        let head = output.format.head();
        output.write(&head)?;
        Ok(output)
    }

    /// The next answer, as it stands in a shard file.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn answer(&mut self, line: &[u8]) -> Result<(), OutputError> {
        match self.format.shape(line) {
            Some(shaped) => self.write(&shaped),
            None => self.write(line),
        }
    }

    /// All is there: to the disk, and into place.
    ///
    /// # Errors
    /// Where it cannot be written or renamed.
    pub fn finish(mut self) -> Result<(), OutputError> {
        let error = |what| OutputError::io(what, &self.part);
        self.file.flush().map_err(error("cannot write"))?;
        self.file.get_ref().sync_all().map_err(error("cannot write"))?;
        std::fs::rename(&self.part, &self.place)
            .map_err(OutputError::io("cannot put into place", &self.place))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        self.file.write_all(bytes).map_err(OutputError::io("cannot write", &self.part))
    }
}

/// `answers.jsonl` and `part` make `answers.jsonl.part`.
fn beside(place: &Path, ending: &str) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

/// Writes a small file whole, in the same way.
///
/// # Errors
/// Where it cannot be written or renamed.
pub fn replace(place: &Path, bytes: &[u8]) -> Result<(), OutputError> {
    let part = beside(place, "part");
    let write = |bytes: &[u8]| {
        let mut file = File::create(&part)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write(bytes).map_err(OutputError::io("cannot write", &part))?;
    std::fs::rename(&part, place).map_err(OutputError::io("cannot put into place", place))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_absent_until_it_is_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("answers.jsonl");
        let mut output = OutputFile::create(&place, Format::Jsonl).expect("made");
        output.answer(b"{\"id\":1}\n").expect("written");
        assert!(!place.exists());
        output.finish().expect("finished");
        assert_eq!(std::fs::read(&place).expect("there"), b"{\"id\":1}\n");
        assert!(OutputFile::create(&folder.path().join("no/such/file"), Format::Jsonl).is_err());
    }
}
