//! Parquet input and output.
//!
//! Owns the Parquet and Arrow formats and the columns of answers. Rows enter and leave as lines of JSON, so no other
//! module handles columns. Which rows are valid prompts is checked in `input`, and file locations are chosen in
//! `output`.

#[cfg(not(feature = "parquet"))]
mod disabled;
#[cfg(feature = "parquet")]
mod images;
#[cfg(feature = "parquet")]
mod reader;
#[cfg(feature = "parquet")]
mod types;
#[cfg(feature = "parquet")]
mod writer;

#[cfg(not(feature = "parquet"))]
pub use disabled::ParquetReader;
#[cfg(not(feature = "parquet"))]
pub(crate) use disabled::ParquetWriter;
#[cfg(feature = "parquet")]
pub use reader::ParquetReader;
#[cfg(feature = "parquet")]
pub(crate) use writer::ParquetWriter;

/// Whether this build includes Parquet.
pub(crate) const BUILT_IN: bool = cfg!(feature = "parquet");

/// Message of a build without Parquet, with a hint.
pub(crate) const NOT_BUILT_IN: &str = "this build has no Parquet support\nhint: rebuild with `--features parquet`, or use \
     jsonl or csv";
