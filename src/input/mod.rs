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

pub use crate::chat_template::{ChatTemplate, ChatTemplateError, Renderer, Unrendered, is_plain};
pub use decompress::{open_unpacked, spool};
pub use discover::{Format, InputFile, Packing, find, format_of, is_packed, packing_of};
pub use error::{BadPlace, InputError, Place, Twice};
pub use files::{Listed, Piece};
pub use lease::Lease;
pub use reader::Reader;
pub use row::rules::{BadRows, DuplicateIds, Rules};
pub use row::template::{Gap, Template};
pub use scan::chunk_scan::Part;
pub use scan::row_hashes::hashes;
pub use scan::row_table::RowTable;
pub use scan::sort_keys::Keys;
pub use scan::{BadRow, Scan, Scanned, scan};
pub use source::{Source, SourceFile, Stretch, sees};
