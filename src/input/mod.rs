//! The input: files of rows become [`Prompt`](crate::domain::Prompt)s.
//!
//! Owns the formats, the rules of a row, prompt templates, chat templates and the scan. Refuses to know who asks for the
//! rows, which rank it runs on and what a server makes of a prompt.
//!
//! ```text
//! INPUT… → find → (packed, stdin: spool) → scan → Source (to every rank), RowTable and Keys (rank 0)
//!                                                 leases of it → Reader → prompts
//! ```
//!
//! The scan goes in pieces, which may be scanned apart from each other and are put together in their order.
//!
//! The scan and the [`Reader`] go through the same code for a row, so that what the scan let pass is what is read.

mod decompress;
mod discover;
mod error;
mod files;
mod lease;
mod reader;
mod records;
mod row;
mod scan;
mod source;
#[cfg(test)]
mod tests;

pub use crate::chat_template::{
    ChatRenderError, ChatRenderer, ChatTemplate, ChatTemplateError, check_text_only,
};
pub use decompress::{open_decompressed, spool_stream};
pub use discover::{
    FileCompression, InputFile, InputFormat, compression_of, find_input_files, format_of,
    is_compressed,
};
pub use error::{BadRowLocation, DuplicateId, InputError, InputLocation};
pub use files::{InputChunk, InputListing};
pub use lease::Lease;
pub use reader::PromptReader;
pub use row::rules::{BadRowAction, DuplicateIdAction, InputRules};
pub use row::template::{PromptTemplate, TemplateFillError};
pub use scan::chunk_scan::ChunkScan;
pub use scan::row_hashes::hash_rows;
pub use scan::row_table::RowTable;
pub use scan::sort_keys::SortKeys;
pub use scan::{BadRow, InputScan, ScannedInput, scan};
pub use source::{InputSource, RowRange, SourceFile, is_source_visible};
