//! The storage seam of shard files: a trait with the operations a journal needs, and the real file that implements it.
//!
//! The trait exists for fault injection, since disks fail at moments that no test can choose. It covers the three
//! things a journal asks of a disk (write, sync, still being the file at this path) and knows nothing of what the bytes
//! mean.

use std::{
    fs::{File, OpenOptions},
    io::{Error, Result, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// Append-only storage. A write may be short or interrupted, like the system call.
pub(super) trait ShardStorage: Write + std::fmt::Debug + Send {
    /// Makes written data survive a crash of the node.
    fn sync_data(&mut self) -> Result<()>;

    /// Fails if the file at this path is not the one being written any more.
    fn check_not_replaced(&self) -> Result<()>;
}

/// Open file together with its path, to notice when the path points to another file.
#[derive(Debug)]
pub(super) struct DiskFile {
    file: File,
    path: PathBuf,
}

impl DiskFile {
    /// Creates the file. An existing one belongs to another process and is an error.
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().append(true).create_new(true).open(path)?;
        Ok(Self { file, path: path.to_owned() })
    }
}

impl Write for DiskFile {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        self.file.write(bytes)
    }

    /// Writes are unbuffered, so there is nothing to flush.
    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

impl ShardStorage for DiskFile {
    fn sync_data(&mut self) -> Result<()> {
        self.file.sync_data()
    }

    /// Answers written to a removed file would be lost silently.
    fn check_not_replaced(&self) -> Result<()> {
        let (here, there) = (self.file.metadata()?, std::fs::metadata(&self.path)?);
        // The inode tells a replaced file from the original, which the path cannot.
        if (here.dev(), here.ino()) == (there.dev(), there.ino()) {
            return Ok(());
        }
        Err(Error::other("the file was replaced by another one"))
    }
}
