//! Collecting what ranks have written: reading the state of a run from its shard files, and bringing answers together.
//!
//! [`completion`] tells which prompts are done, [`line_index`] where their lines are, [`gather`] writes the output file
//! in input order, and [`aggregate`] computes aggregates on the way. [`shard_folders`] decides where shard files are
//! and which rank reads them. With `--local-shards`, [`local_shards`] copies them from the nodes into the run folder,
//! and [`recover_shards`] does so after ranks were lost. Shard files are written by the workers in
//! [`dispatch`](super::dispatch), and their format belongs to [`shards`](crate::shards).

pub(crate) mod aggregate;
pub(crate) mod completion;
pub(crate) mod gather;
pub(crate) mod level_files;
pub(crate) mod line_index;
pub(crate) mod local_shards;
pub(crate) mod recover_shards;
pub(crate) mod shard_folders;
