//! HEAD

pub(crate) mod check;
pub(crate) mod offline;
pub(crate) mod status;
