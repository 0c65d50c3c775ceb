//! Tree-reduce: many answers become one text, level by level. Pure.
//!
//! Owns the shape of the tree, the assignment of groups to ranks, the token budget of a group's answer, the truncation
//! of groups that do not fit the model, and the prompts. Messages between ranks, files and servers are in
//! `job/tree_reduce`, which drives this module.
//!
//! # The shape
//!
//! Level 0 consists of the leaves in input order. With a fan-in of f, group g of level L covers the leaves
//! `[g·f^L, (g+1)·f^L)`, also if some of them failed: failed or blank leaves and groups are gaps, and no other text
//! takes their place. The tree is therefore the same on any number of ranks and after any number of sessions. A group
//! with one text passes it up without a request; a group without texts is a gap of the next level.
//!
//! # How a level is processed
//!
//! The prompts of a level are rows of files in the run folder. The rank that owns a group receives its texts in an
//! all-to-all exchange and writes the prompt, and the level is then a run over those files like any other, with ledger,
//! load balancing, journal and resume. The alternative, prompts that stay in the memory of their owner and travel in
//! leases, would need a second kind of input in all of these parts. The price is that the bytes of a level, a fraction
//! of the leaves' bytes, are written and read once. In return no rank holds a level in memory, and an interrupted level
//! resumes from its journal without another exchange.

mod fit;
mod template;
mod tree;

pub(crate) use fit::TokenBudget;
pub(crate) use template::{DEFAULT_REDUCE_TEMPLATE, ReduceTemplate};
pub(crate) use tree::{ReduceTree, block_range, round_range};
