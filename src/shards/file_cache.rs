//! Random access to shard files with a bounded number of open files.
//!
//! A run may have thousands of shard files, more than a process may have open: an LRU cache keeps only those read last.

use std::{fs::File, os::unix::fs::FileExt};

use super::{ShardError, ShardFile};

/// High, since opening takes a parallel file system a millisecond; but most systems limit a process to 1024 open files,
/// and MPI's connections are some of them.
const MAX_OPEN_FILES: usize = 256;

/// Shard files addressed by number, with an LRU cache of open ones.
#[derive(Debug, Default)]
pub(crate) struct FileCache {
    files: Vec<ShardFile>,
    /// Open files, least recently used first.
    open_files: Vec<(usize, File)>,
}

impl FileCache {
    /// Creates the cache without opening a file; a file's number is its position in `files`.
    #[must_use]
    pub(crate) fn new(files: Vec<ShardFile>) -> Self {
        Self { files, open_files: Vec::new() }
    }

    /// Returns the file with this number.
    #[must_use]
    pub(crate) fn shard_file(&self, number: usize) -> &ShardFile {
        &self.files[number]
    }

    /// Fills `into` with the bytes of the file from `offset` on.
    ///
    /// # Errors
    /// Fails if the file cannot be opened or ends before `into` is full.
    pub(crate) fn read_at(
        &mut self,
        number: usize,
        offset: u64,
        into: &mut [u8],
    ) -> Result<(), ShardError> {
        let result = self.open_file(number).and_then(|file| file.read_exact_at(into, offset));
        let path = &self.files[number].path;
        result.map_err(|error| ShardError::at_path("cannot read the shard file", path)(error))
    }

    fn open_file(&mut self, number: usize) -> std::io::Result<&File> {
        match self.open_files.iter().rposition(|(open_number, _)| *open_number == number) {
            // The file moves to the end, as the one used last.
            Some(position) => self.open_files[position..].rotate_left(1),
            None => {
                if self.open_files.len() == MAX_OPEN_FILES {
                    // The file read longest ago; moving 255 entries costs less than one system call.
                    self.open_files.remove(0);
                }
                let file = File::open(&self.files[number].path)?;
                self.open_files.push((number, file));
            }
        }
        Ok(&self.open_files[self.open_files.len() - 1].1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_files_is_read_with_few_open() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = |rank: u32| {
            let path = folder.path().join(rank.to_string());
            std::fs::write(&path, format!("<{rank:03}>")).expect("written");
            ShardFile { start: 1, rank, path }
        };
        let mut cache = FileCache::new((0..600).map(file).collect());
        let mut read_number = |number: usize| {
            let mut into = [0; 3];
            cache.read_at(number, 1, &mut into).expect("read");
            assert_eq!(into, *format!("{number:03}").as_bytes());
            cache.open_files.iter().map(|(number, _)| *number).collect::<Vec<_>>()
        };
        for number in (0..600).chain([3, 3, 599]) {
            assert!(read_number(number).len() <= MAX_OPEN_FILES);
        }
        // A file that is read repeatedly stays open among many others.
        for number in 0..600 {
            read_number(7);
            assert!(read_number(number).contains(&7));
        }
        assert!(cache.read_at(5, 3, &mut [0; 3]).is_err(), "beyond its end");
    }
}
