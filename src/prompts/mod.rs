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

mod across;
mod chat;
mod error;
mod families;
mod find;
mod hashes;
mod header;
mod ids;
mod json;
mod keys;
mod lease;
mod listed;
mod nearest;
mod object;
mod order;
#[cfg(test)]
mod order_tests;
mod params;
mod part;
#[cfg(test)]
mod piece_tests;
mod reader;
mod records;
mod row;
mod rules;
mod scan;
mod source;
mod table;
mod template;
#[cfg(test)]
mod tests;
mod unpack;

pub use chat::{ChatTemplate, ChatTemplateError, Renderer, Unrendered, is_plain};
pub use error::{BadPlace, InputError, Place, Twice};
pub use find::{Format, InputFile, Packing, find, format_of, is_packed, packing_of};
pub use hashes::hashes;
pub use keys::Keys;
pub use lease::Lease;
pub use listed::{Listed, Piece};
pub use part::Part;
pub use reader::Reader;
pub use rules::{BadRows, DuplicateIds, Rules};
pub use scan::{BadRow, Scan, Scanned, scan};
pub use source::{Source, SourceFile, Stretch, sees};
pub use table::RowTable;
pub use template::{Gap, Template};
pub use unpack::{open_unpacked, spool};
