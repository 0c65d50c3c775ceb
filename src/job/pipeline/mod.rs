//! HEAD

pub(crate) mod pass;
pub(crate) mod run;
pub(crate) mod session;
