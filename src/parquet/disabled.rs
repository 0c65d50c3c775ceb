//! Stand-ins for the Parquet reader and writer in a build without the feature `parquet`. Opening either is an error.

use std::{
    io::{self, Read, Write},
    path::Path,
};

use super::NOT_BUILT_IN;
use crate::domain::FoundColumns;

/// Stand-in for the rows of a Parquet file. It is never constructed.
#[derive(Debug)]
pub struct ParquetReader {
    never: std::convert::Infallible,
}

impl ParquetReader {
    /// Fails, since this build has no Parquet.
    ///
    /// # Errors
    /// Always [`Unsupported`](io::ErrorKind::Unsupported).
    pub fn open(_: &Path, _: impl Fn(&str) -> bool, _: &[String]) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, NOT_BUILT_IN))
    }

    /// Unreachable, since there is no such value.
    #[must_use]
    pub fn column_names(&self) -> &[String] {
        match self.never {}
    }

    /// Unreachable, since there is no such value.
    #[must_use]
    pub fn omitted_columns(&self) -> &[String] {
        match self.never {}
    }
}

impl Read for ParquetReader {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        match self.never {}
    }
}

/// Stand-in for the writer of a Parquet table. It is never constructed.
#[derive(Debug)]
pub(crate) struct ParquetWriter<W> {
    never: std::convert::Infallible,
    to: std::marker::PhantomData<W>,
}

impl<W: Write + Send> ParquetWriter<W> {
    /// Fails, since this build has no Parquet.
    ///
    /// # Errors
    /// Always [`Unsupported`](io::ErrorKind::Unsupported).
    pub(crate) fn try_new(_: W, _: &FoundColumns) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, NOT_BUILT_IN))
    }

    /// Unreachable, since there is no such value.
    ///
    /// # Errors
    /// None, because it cannot be called.
    pub(crate) fn write_answer(&self, _: &[u8]) -> io::Result<()> {
        match self.never {}
    }

    /// Unreachable, since there is no such value.
    ///
    /// # Errors
    /// None, because it cannot be called.
    pub(crate) fn finish(self) -> io::Result<W> {
        match self.never {}
    }
}
