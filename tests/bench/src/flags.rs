//! What the product is told on its command line: the one table of it, so that another default or
//! another flag of the product is one line here.
//!
//! Whatever is not here, and not fixed by a scenario for a reason it gives, is the product's
//! default: defaults are what is measured.

/// In every run. Texts are sent as they are and greedily, so that the bound can be worked out
/// from the rows; nobody looks at the progress.
pub const ALWAYS: &[&str] = &["--api", "completions", "--temperature", "0", "--progress", "none"];

/// On ranks: the log is read, for how long scan, scatter and gather took.
pub const LOG_OF_RANKS: &[&str] = &["--log-format", "json"];

/// One prompt a request.
pub const SINGLE: &[&str] = &["--no-batch"];

/// Lists of 64.
pub const LISTS_OF_64: &[&str] = &["--batch-size", "64"];

/// The window that the program finds by itself. (Empty while that is the default or, in programs
/// that cannot do it yet, while the default is the nearest thing to it.)
pub const AUTO_WINDOW: &[&str] = &[];

/// A window of so many prompts at each endpoint.
pub fn window(prompts: usize) -> Vec<String> {
    vec!["--concurrency".to_owned(), prompts.to_string()]
}

/// Flags as a command line wants them.
pub fn owned(flags: &[&str]) -> Vec<String> {
    flags.iter().map(|flag| (*flag).to_owned()).collect()
}
