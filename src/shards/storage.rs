//! What a shard file needs of the place it is written to, and the real file as one such place.
//!
//! A seam, since disks fail at moments that no test can choose: it owns the three things a journal asks of a disk, and knows
//! nothing of what the bytes mean.

use std::{
    fs::{File, OpenOptions},
    io::{Error, Result, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Where bytes go, at the end. A write may be cut short or interrupted, as the system's may.
pub(super) trait ShardStorage: Write + std::fmt::Debug + Send {
    /// Makes what was written survive the node.
    fn sync_data(&mut self) -> Result<()>;

    /// Is what is written still written for somebody?
    fn check_not_replaced(&self) -> Result<()>;
}

/// A file, by its handle and by its name.
#[derive(Debug)]
pub(super) struct DiskFile {
    file: File,
    path: PathBuf,
}

impl DiskFile {
    /// A new one. What is there already is another process's: an error.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().append(true).create_new(true).open(path)?;
        Ok(Self { file, path: path.to_owned() })
    }
}

impl Write for DiskFile {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.file.write(bytes)
    }

    /// Nothing is kept back.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl ShardStorage for DiskFile {
    fn sync_data(&mut self) -> Result<()> {
        self.file.sync_data()
    }

    /// What is written to a file that was removed is written for nobody.
    fn check_not_replaced(&self) -> Result<()> {
        let (here, there) = (self.file.metadata()?, std::fs::metadata(&self.path)?);
        if (here.dev(), here.ino()) == (there.dev(), there.ino()) {
            return Ok(());
        }
        Err(Error::other("another file is in its place"))
    }
}
