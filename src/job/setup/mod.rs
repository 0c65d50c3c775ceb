//! The setup of a pass: everything that must be known before the first prompt is sent.
//!
//! [`scan`] reads the input, [`servers`] starts this node's servers and [`readiness`] waits for them, [`model_selection`]
//! chooses model and route, [`chat_template`] the renderer, [`engine_policy`] makes the policy of the engine, and
//! [`deadline`] the end of the work. [`output_place`] checks that answers can be written, [`run_plan`] holds what rank 0
//! tells all ranks. The existing run at the output is the business of `resume`.

pub(crate) mod chat_template;
pub(crate) mod deadline;
pub(crate) mod engine_policy;
pub(crate) mod model_selection;
pub(crate) mod output_place;
pub(crate) mod readiness;
pub(crate) mod run_plan;
pub(crate) mod scan;
pub(crate) mod servers;
