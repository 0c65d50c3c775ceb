//! Parquet: tables that lie in a file column by column.
//!
//! Owns the formats of Parquet and Arrow, and how answers look as columns. A row goes in and out as a line of JSON, so that
//! nobody else has to know of columns. Refuses to know which rows are prompts and where files lie.

#[cfg(not(feature = "parquet"))]
mod disabled;
#[cfg(feature = "parquet")]
mod reader;
#[cfg(feature = "parquet")]
mod types;
#[cfg(feature = "parquet")]
mod writer;

#[cfg(not(feature = "parquet"))]
pub use disabled::{Answers, Rows};
pub use reader::Rows;
#[cfg(feature = "parquet")]
pub use writer::ParquetWriter;

/// Was the program built with Parquet?
pub const BUILT_IN: bool = cfg!(feature = "parquet");

/// What is to be said where it was not.
pub const NOT_BUILT_IN: &str = "this program was built without Parquet: build it with the cargo feature `parquet`, or take \
     jsonl or csv";
