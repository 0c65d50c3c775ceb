//! HEAD

pub(crate) mod level;
pub(crate) mod measurements;
pub(crate) mod node_texts;
pub(crate) mod provenance;
pub(crate) mod reduce;
