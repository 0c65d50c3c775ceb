//! Facts of where the job runs: the node, the hostfile, and so which rank drives which server; the time that is left, and
//! who asks for an end.
//!
//! Owns names of hosts and the rule that every endpoint has exactly one owner rank, so that its window is one window.
//! Knows nothing of HTTP: an endpoint is a URL here.

mod assign_endpoints;
mod hostfile;
mod node;
mod signals;
mod walltime;

pub use assign_endpoints::{AssignError, EndpointSpec, assign_endpoints};
pub use hostfile::{HostfileEntry, HostfileError, parse_hostfile};
pub use node::{NodeInfo, Place, is_program_running, places};
pub use signals::{ShutdownRequest, SignalHandler};
pub use walltime::pbs_time_left;
