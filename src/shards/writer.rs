//! One rank's shard file of one start: appended to, never rewritten.

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{LineStyle, ShardError, write_line};
use crate::domain::Settled;

/// The first line: which run, start and rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The format's version.
    pub aurora_swarm_shard: u32,
    /// Which start of the run, from 1.
    pub start: u32,
    /// Which rank of that start.
    pub rank: usize,
    /// Its host.
    pub host: String,
    /// The input's, so that a file of another run is known.
    pub fingerprint: String,
}

/// The format this build writes.
pub(super) const VERSION: u32 = 1;
/// Outcomes that a dying node may lose are asked again: this much work.
const SYNC_EVERY: Duration = Duration::from_secs(15);

/// The open file. Nothing is buffered between calls.
#[derive(Debug)]
pub struct ShardWriter {
    file: File,
    path: PathBuf,
    style: LineStyle,
    lines: Vec<u8>,
    synced: Instant,
    sync_every: Duration,
}

impl Header {
    /// A header of this format.
    #[must_use]
    pub fn new(start: u32, rank: usize, host: &str, fingerprint: &str) -> Self {
        Self {
            aurora_swarm_shard: VERSION,
            start,
            rank,
            host: host.into(),
            fingerprint: fingerprint.into(),
        }
    }

    /// Its file's name.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{:04}-{:05}.jsonl", self.start, self.rank)
    }
}

impl ShardWriter {
    /// A new file in `folder`. One that is there already is another process's: an error.
    ///
    /// # Errors
    /// Where it cannot be made or written.
    pub fn create(folder: &Path, header: &Header, style: LineStyle) -> Result<Self, ShardError> {
        let path = folder.join(header.file_name());
        let mut options = OpenOptions::new();
        let file = options.append(true).create_new(true).open(&path);
        let file = file.map_err(ShardError::of("cannot make the shard file", &path))?;
        // Ranks do not sync at the same moment: thousands of them would stall a parallel file system.
        let spread = Duration::from_millis(header.rank as u64 * 7919 % 15_000);
        let lines = Vec::new();
        let mut writer = Self {
            file,
            path,
            style,
            lines,
            synced: Instant::now(),
            sync_every: SYNC_EVERY + spread,
        };
        let mut line =
            serde_json::to_vec(header).map_err(std::io::Error::from).map_err(writer.error())?;
        line.push(b'\n');
        writer.file.write_all(&line).map_err(writer.error())?;
        Ok(writer)
    }

    /// Appends outcomes: one write of whole lines.
    ///
    /// # Errors
    /// Where they cannot be written: a full disk, a lost file system. What was written before stays good.
    pub fn append(&mut self, outcomes: &[Settled]) -> Result<(), ShardError> {
        self.lines.clear();
        for settled in outcomes {
            write_line(&mut self.lines, settled, &self.style)
                .map_err(std::io::Error::from)
                .map_err(self.error())?;
        }
        self.file.write_all(&self.lines).map_err(self.error())?;
        if self.synced.elapsed() >= self.sync_every {
            self.sync()?;
        }
        Ok(())
    }

    /// Makes what was written survive the node.
    ///
    /// # Errors
    /// Where the disk refuses.
    pub fn sync(&mut self) -> Result<(), ShardError> {
        self.synced = Instant::now();
        self.is_there().map_err(self.error())?;
        self.file.sync_data().map_err(self.error())
    }

    /// What is written to a file that was removed is written for nobody.
    fn is_there(&self) -> std::io::Result<()> {
        let (here, there) = (self.file.metadata()?, std::fs::metadata(&self.path)?);
        if (here.dev(), here.ino()) == (there.dev(), there.ino()) {
            return Ok(());
        }
        Err(std::io::Error::other("another file is in its place"))
    }

    fn error(&self) -> impl FnOnce(std::io::Error) -> ShardError {
        ShardError::of("cannot write answers to the shard file", &self.path)
    }
}

impl Drop for ShardWriter {
    /// The orderly end. What cannot be synced now is on its way to the disk all the same, and nobody is left to tell.
    fn drop(&mut self) {
        let _ = self.sync();
    }
}
