//! HEAD

pub(crate) mod changed_input;
pub(crate) mod existing_run;
pub(crate) mod preview;
pub(crate) mod row_matching;
