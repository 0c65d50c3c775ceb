//! HEAD

pub(crate) mod chat_template;
pub(crate) mod deadline;
pub(crate) mod model_selection;
pub(crate) mod readiness;
pub(crate) mod run_plan;
pub(crate) mod scan;
pub(crate) mod servers;
