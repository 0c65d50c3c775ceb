//! Shard files that are read here and there. A run may have thousands of them, and a process may not have as many open: only
//! those read last are.

use std::{fs::File, os::unix::fs::FileExt};

use super::{ShardError, ShardFile};

/// Many, since opening takes a parallel file system a millisecond; but most systems let a process have 1024 files open, and
/// MPI's connections are some of them.
const MAX_OPEN_FILES: usize = 256;

/// The files, by number.
#[derive(Debug, Default)]
pub struct FileCache {
    files: Vec<ShardFile>,
    /// The one read last stands last.
    open: Vec<(usize, File)>,
}

impl FileCache {
    /// Opens nothing yet.
    #[must_use]
    pub fn new(files: Vec<ShardFile>) -> Self {
        Self { files, open: Vec::new() }
    }

    /// The file of that number.
    #[must_use]
    pub fn shard_file(&self, number: usize) -> &ShardFile {
        &self.files[number]
    }

    /// Fills `into` from that place of the file on.
    ///
    /// # Errors
    /// Where it cannot be opened, or does not hold as much (any more).
    pub fn read(&mut self, number: usize, offset: u64, into: &mut [u8]) -> Result<(), ShardError> {
        let read = self.open_file(number).and_then(|file| file.read_exact_at(into, offset));
        let path = &self.files[number].path;
        read.map_err(|error| ShardError::of("cannot read the shard file", path)(error))
    }

    fn open_file(&mut self, number: usize) -> std::io::Result<&File> {
        match self.open.iter().rposition(|(its, _)| *its == number) {
            Some(place) => self.open[place..].rotate_left(1),
            None => {
                if self.open.len() == MAX_OPEN_FILES {
                    self.open.remove(0);
                }
                let file = File::open(&self.files[number].path)?;
                self.open.push((number, file));
            }
        }
        Ok(&self.open[self.open.len() - 1].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_files_are_read_and_few_are_open() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |rank: u32| {
            let path = folder.path().join(rank.to_string());
            std::fs::write(&path, format!("<{rank:03}>")).expect("written");
            ShardFile { start: 1, rank, path }
        };
        let mut handles = FileCache::new((0..600).map(file).collect());
        let mut read = |number: usize| {
            let mut into = [0; 3];
            handles.read(number, 1, &mut into).expect("read");
            assert_eq!(into, *format!("{number:03}").as_bytes());
            handles.open.iter().map(|(number, _)| *number).collect::<Vec<_>>()
        };
        for number in (0..600).chain([3, 3, 599]) {
            assert!(read(number).len() <= MAX_OPEN_FILES);
        }
        // What is read again and again stays open among many others.
        for number in 0..600 {
            read(7);
            assert!(read(number).contains(&7));
        }
        assert!(handles.read(5, 3, &mut [0; 3]).is_err(), "beyond its end");
    }
}
