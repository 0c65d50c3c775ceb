//! A build without Parquet: says so.

use std::{
    io::{self, Read, Write},
    path::Path,
};

use super::NOT_BUILT_IN;

/// No rows.
#[derive(Debug)]
pub struct Rows {
    never: std::convert::Infallible,
}

impl Rows {
    /// There are none.
    ///
    /// # Errors
    /// Always.
    pub fn open(_: &Path, _: impl Fn(&str) -> bool) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, NOT_BUILT_IN))
    }

    /// No columns.
    #[must_use]
    pub fn column_names(&self) -> &[String] {
        match self.never {}
    }

    /// No columns.
    #[must_use]
    pub fn omitted_columns(&self) -> &[String] {
        match self.never {}
    }
}

impl Read for Rows {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        match self.never {}
    }
}

/// No table.
#[derive(Debug)]
pub struct ParquetWriter<W> {
    never: std::convert::Infallible,
    to: std::marker::PhantomData<W>,
}

impl<W: Write + Send> Answers<W> {
    /// There is none.
    ///
    /// # Errors
    /// Always.
    pub fn begin(_: W) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, NOT_BUILT_IN))
    }

    /// Never.
    ///
    /// # Errors
    /// Never.
    pub fn write_answer(&mut self, _: &[u8]) -> io::Result<()> {
        match self.never {}
    }

    /// Never.
    ///
    /// # Errors
    /// Never.
    pub fn finish(self) -> io::Result<W> {
        match self.never {}
    }
}
