//! The error of operations on shard files.

use std::path::{Path, PathBuf};

/// Error of an operation on a shard file.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {error}", path.display())]
pub struct ShardError {
    /// Operation that failed, such as "cannot read the shard file".
    pub what: &'static str,
    /// File the operation was applied to.
    pub path: PathBuf,
    /// Error reported by the operating system.
    pub error: std::io::Error,
}

impl ShardError {
    /// Returns a conversion from an I/O error, for `map_err`.
    pub(super) fn at_path(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self { what, path, error }
    }
}
