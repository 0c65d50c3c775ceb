//! A tree of texts: many answers become one, a level at a time. Pure.
//!
//! Owns the shape of the tree, which rank makes which prompts, how many tokens a group's answer may have, what is cut where
//! a group does not fit the model, and the prompt itself. Refuses to know ranks' talk, files and servers: `job` drives it.
//!
//! # The shape
//!
//! Level 0 are the leaves, by their place in the input. Group g of level L covers the leaves `[g·f^L, (g+1)·f^L)` for a
//! fan-in of f, whatever became of them: leaves and groups that failed (or were blank) are gaps, and nothing moves up into
//! their place. So the tree is the same on any number of ranks and after any number of starts. A group with one text
//! passes it up without a call; one with none is a gap of the next level.
//!
//! # How a level is worked on
//!
//! A level's prompts are rows of files in the run folder, written by the ranks at home in its groups from texts that come
//! to them by an exchange, and the level is a run over those files like any other: with its ledger, balance, journal and
//! resume. The other way, prompts that stay in the memory of their home and travel in leases, would need a second kind of
//! input in all of these; this one costs that a level's bytes, a share of the leaves' own, are written and read once. In
//! return no rank holds a level, and a level that is interrupted goes on from its journal without its texts being sent
//! again.

mod fit;
mod template;
mod tree;

pub use fit::{GroupLimits, TokenBudget, estimate_tokens};
pub use template::{DEFAULT_REDUCE_TEMPLATE, ReducePrompt, ReduceTemplate};
pub use tree::{ReduceTree, block_range, part};
