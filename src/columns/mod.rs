//! Parquet: tables that lie in a file column by column.
//!
//! Owns the formats of Parquet and Arrow, and how answers look as columns. A row goes in and out as a line of JSON, so that
//! nobody else has to know of columns. Refuses to know which rows are prompts and where files lie.

#[cfg(feature = "parquet")]
mod answers;
#[cfg(feature = "parquet")]
mod kinds;
#[cfg(not(feature = "parquet"))]
mod none;
#[cfg(feature = "parquet")]
mod rows;

#[cfg(feature = "parquet")]
pub use self::{answers::Answers, rows::Rows};
#[cfg(not(feature = "parquet"))]
pub use none::{Answers, Rows};

/// Was the program built with Parquet?
pub const BUILT_IN: bool = cfg!(feature = "parquet");

/// What is to be said where it was not.
pub const NOT_BUILT_IN: &str = "this program was built without Parquet: build it with the cargo feature `parquet`, or take \
     jsonl or csv";
