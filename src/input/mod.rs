//! The input: files of rows, read as [`Prompt`](crate::domain::Prompt)s.
//!
//! Owns the file formats, the rules for a row, prompt templates and the scan. Chat templates are in
//! [`chat_template`](crate::chat_template). Does not know which rank reads a row or what a server does with a prompt.
//!
//! ```text
//! INPUT… → discover → intake (spooled copies) → scan → InputSource (all ranks), RowTable and SortKeys (rank 0)
//!                                                  leases of rows → PromptReader → prompts
//! ```
//!
//! The scan runs in chunks that may be scanned independently, on different ranks, and are merged in order.
//!
//! The scan and the [`PromptReader`] parse rows with the same code, so every row that the scan accepted can be read.

mod decompress;
mod discover;
mod encoding;
mod error;
mod files;
mod fingerprint;
mod format;
#[cfg(test)]
mod image_tests;
mod intake;
mod json_document;
mod lease;
mod partition;
mod reader;
mod records;
mod row;
mod scan;
mod sniff;
mod source;
#[cfg(test)]
mod tests;

pub(crate) use discover::{FoundFile, InputFinder};
pub(crate) use error::{BadRow, BadRowLocation, DuplicateId, InputError, InputLocation};
pub(crate) use files::{InputChunk, InputListing};
pub(crate) use format::{FileFormat, InputFile, InputFormat, RowLayout, RowUnit, STDIN_NAME};
pub(crate) use intake::InputIntake;
pub(crate) use lease::RowLease;
pub(crate) use partition::PartitionColumn;
pub(crate) use reader::PromptReader;
pub(crate) use row::rules::{
    BadRowAction, DuplicateIdAction, FileRules, InputRules, UnknownFieldAction,
};
pub(crate) use row::template::PromptTemplate;
pub(crate) use scan::chunk_scan::ChunkScan;
pub(crate) use scan::row_hashes::hash_rows;
pub(crate) use scan::row_models::{NamedModel, RowModels};
pub(crate) use scan::row_table::RowTable;
pub(crate) use scan::sort_keys::SortKeys;
pub(crate) use scan::{InputScan, ScannedInput, scan_files};
pub(crate) use source::{InputSource, RowRange, SourceFile, is_source_visible};
