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
    row::{
        header::check_prompt_columns, rules::leads_through, suggest::suggest_image_column,
        template::PromptTemplate,
    },
};
use crate::{compression::Compression, parquet::ParquetReader};

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
    let mut repeated =
        columns.iter().enumerate().filter(|(at, name)| columns[..*at].contains(name));
    if let Some((_, name)) = repeated.next() {
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

/// Copies a stream to the plain file `to` in constant memory and returns the number of bytes once they are on disk.
///
/// # Errors
/// A stream that cannot be read to its end, or a file that cannot be written. Then `to` must not be used.
pub(super) fn spool_stream(from: &mut dyn Read, to: &Path) -> Result<u64, InputError> {
    let failed = |action| move |source| InputError::Io { action, path: to.to_path_buf(), source };
    let mut file = File::create(to).map_err(failed("cannot create"))?;
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
