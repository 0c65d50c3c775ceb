//! HEAD

pub(crate) mod aggregate;
pub(crate) mod completion;
pub(crate) mod gather;
pub(crate) mod line_index;
pub(crate) mod local_shards;
pub(crate) mod recover_shards;
