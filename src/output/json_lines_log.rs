//! Append-only files of JSON lines that rank 0 writes during a run. Owns that a torn line never corrupts its successor.

use std::{io::Write, path::Path};

use serde::{Serialize, de::DeserializeOwned};

use super::OutputError;
use crate::new_file::open_for_append;

/// Appends a line, and removes it again if it was written only in part.
pub(super) fn append_json_line(path: &Path, value: &impl Serialize) -> Result<(), OutputError> {
    let io = || OutputError::io_error("cannot write", path);
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    let mut file = open_for_append(path, 0o666).map_err(io())?;
    let before = file.metadata().map_err(io())?.len();
    file.write_all(&line).map_err(|error| {
        // The next line must not be appended to half of this one.
        let _ = file.set_len(before);
        io()(error)
    })
}

/// Reads all valid lines in order; a missing file has none, and torn lines are skipped.
pub(super) fn read_json_lines<T: DeserializeOwned>(path: &Path) -> Vec<T> {
    let text = std::fs::read(path).unwrap_or_default();
    text.split(|&byte| byte == b'\n').filter_map(|it| serde_json::from_slice(it).ok()).collect()
}
