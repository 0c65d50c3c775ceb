//! `reduce`: one text from many answers, by a tree of prompts over ranks and files.
//!
//! [`reduce`] runs one pass per level, [`level`] builds a level's prompts from the texts of the level below,
//! [`node_texts`] reads and exchanges those texts, and [`provenance`] writes `tree.jsonl`. The numbers for the report are
//! in `root::reduce_measurements`. The shape of the tree, the prompt template and the token budget are pure and belong to
//! [`reduce`](crate::reduce).

pub(crate) mod level;
pub(crate) mod node_texts;
pub(crate) mod provenance;
pub(crate) mod reduce;
