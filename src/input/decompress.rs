//! Decompression and spooling: what has no row offsets is copied to a plain file once, because rows are read again by
//! offset.
//!
//! Owns the columns that a Parquet file must have, and the copy. The streams are in
//! [`compression`](crate::compression), and what is copied is decided in `intake.rs`.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use super::{
    InputError, InputRules,
    records::MAX_ROW_BYTES,
    row::{
        header::{check_prompt_columns, repeated_name},
        rules::leads_through,
        suggest::suggest_image_column,
        template::PromptTemplate,
    },
};
use crate::{compression::Compression, new_file::create_new_file, parquet::ParquetReader};

const BUFFER_BYTES: usize = 1 << 20;

/// Returns the decompressed bytes of a stream that is shown under this name.
pub(super) fn decompress(
    packed: Box<dyn Read>,
    compression: Compression,
    name: &Path,
) -> Result<Box<dyn Read>, InputError> {
    compression.open_reader(packed).map_err(|error| read_error(name, error))
}

/// Opens a Parquet file as JSON lines. Missing columns are reported before any row is read.
pub(super) fn open_parquet(path: &Path, rules: &InputRules) -> Result<ParquetReader, InputError> {
    let header = |what| InputError::InvalidHeader { path: path.to_path_buf(), what };
    let template = rules.parse_template();
    let template = template.map_err(InputError::InvalidTemplate)?;
    let placeholders = template.as_ref().map(PromptTemplate::placeholder_names).unwrap_or_default();
    let is_known =
        |name: &str| matches!(name, "id" | "prompt" | "messages" | "params" | "item" | "text");
    let needed = |name: &str| {
        is_known(name)
            || rules.uses_column(name)
            || placeholders.iter().any(|path| leads_through(path, name))
    };
    let rows = ParquetReader::open(path, needed, &rules.image_columns)
        .map_err(|error| parquet_error(path, error))?;
    let columns = rows.column_names();
    if let Some(name) = repeated_name(columns) {
        return Err(header(format!("the table has two columns named `{name}`")));
    }
    if let Some(name) = rules.image_columns.iter().find(|name| !columns.contains(name)) {
        let hint = suggest_image_column(name, columns);
        return Err(header(format!("--image-column {name}: the table has no such column{hint}")));
    }
    check_prompt_columns(columns, rules).map_err(header)?;
    if !rows.omitted_columns().is_empty() {
        let columns = rows.omitted_columns().join(", ");
        tracing::info!(
            event = "parquet_columns_omitted",
            file = %path.display(),
            columns,
            "columns of {} omitted, since they are binary or have no JSON form: {columns}",
            path.display()
        );
    }
    Ok(rows)
}

/// Converts an error of opening a Parquet file.
fn parquet_error(path: &Path, source: io::Error) -> InputError {
    let is_parquet = || {
        let mut magic = [0; 4];
        File::open(path)
            .and_then(|mut file| file.read_exact(&mut magic))
            .is_ok_and(|()| magic == *b"PAR1")
    };
    match read_error(path, source) {
        InputError::Damaged { path, .. } if !is_parquet() => InputError::NotParquet { path },
        error => error,
    }
}

/// Converts an error of reading a named stream, which brings its own error.
pub(super) fn read_failure(path: &Path, error: io::Error) -> InputError {
    error.downcast::<InputError>().unwrap_or_else(|error| read_error(path, error))
}

/// Converts an error of reading a file. One that does not come from the system means that the data cannot be decoded.
fn read_error(path: &Path, source: io::Error) -> InputError {
    let path = path.to_path_buf();
    if source.raw_os_error().is_some() || source.kind() == io::ErrorKind::Unsupported {
        InputError::Io { action: "cannot read", path, source }
    } else {
        InputError::Damaged { path, source }
    }
}

/// Length of a stretch without a line end from which on a copy is given up: no row that is sent is nearly as long, and a
/// small compressed file may unpack to more than the disk holds.
const MAX_ENDLESS_BYTES: u64 = 4 * MAX_ROW_BYTES as u64;

/// Copies rows to the plain file `to` in constant memory, as [`spool_stream`] does.
///
/// # Errors
/// As those of [`spool_stream`], and rows that do not end.
pub(super) fn spool_rows(rows: &mut dyn Read, name: &Path, to: &Path) -> Result<u64, InputError> {
    spool_stream(&mut RowsWithEnds { rows, name, line_bytes: 0 }, to)
}

/// Rows whose lines have an end. Fails with an [`InputError`] inside the error.
struct RowsWithEnds<'r> {
    rows: &'r mut dyn Read,
    name: &'r Path,
    /// Bytes since the last line end.
    line_bytes: u64,
}

impl Read for RowsWithEnds<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.rows.read(to)?;
        match to[..read].iter().rposition(|byte| matches!(byte, b'\n' | b'\r')) {
            Some(end) => self.line_bytes = (read - end) as u64,
            None => self.line_bytes += read as u64,
        }
        if self.line_bytes > MAX_ENDLESS_BYTES {
            return Err(io::Error::other(InputError::InvalidText {
                path: self.name.to_path_buf(),
                what: format!("a line has no end within {} MiB", MAX_ENDLESS_BYTES >> 20),
            }));
        }
        Ok(read)
    }
}

/// Copies a stream to the plain file `to` in constant memory and returns the number of bytes once they are on disk.
///
/// # Errors
/// A stream that cannot be read to its end, or a file that cannot be written. Then `to` must not be used.
pub(super) fn spool_stream(from: &mut dyn Read, to: &Path) -> Result<u64, InputError> {
    let failed = |action| move |source| InputError::Io { action, path: to.to_path_buf(), source };
    let mut file = create_new_file(to).map_err(failed("cannot create"))?;
    let mut chunk = vec![0; BUFFER_BYTES];
    let mut copied = 0;
    loop {
        let read = match from.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A named stream reports its own error; standard input has none.
            Err(error) => {
                let unnamed = failed("cannot read the input that is copied here");
                return Err(error.downcast::<InputError>().unwrap_or_else(unnamed));
            }
        };
        file.write_all(&chunk[..read]).map_err(failed("cannot write the copy of the input"))?;
        copied += read as u64;
    }
    // A delayed write error, as of a quota, must show before the rows are scanned.
    file.sync_all().map_err(failed("cannot sync the copy of the input to disk"))?;
    Ok(copied)
}

/// Stream that adds its file's name to read errors.
pub(super) struct NamedStream {
    path: PathBuf,
    bytes: Box<dyn Read>,
}

impl NamedStream {
    pub(super) fn new(path: &Path, bytes: Box<dyn Read>) -> Self {
        Self { path: path.to_path_buf(), bytes }
    }
}

impl Read for NamedStream {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let named = |error: io::Error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            kind => io::Error::new(kind, read_failure(&self.path, error)),
        };
        self.bytes.read(to).map_err(named)
    }
}
