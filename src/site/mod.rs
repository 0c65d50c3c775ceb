//! The site of the job: nodes, hostfile, ownership of endpoints by ranks, remaining walltime, signals and processes.
//!
//! Owns host names and the rule that every endpoint has exactly one owner rank, so that its concurrency limit is
//! applied once. Knows nothing of HTTP: an endpoint is a URL here. Probing servers is `endpoint/`, starting them is
//! `serve/`, and what follows from a deadline or a signal is decided in `job/`.

mod assign_endpoints;
mod hostfile;
mod node;
mod process;
mod signals;
mod walltime;

pub(crate) use assign_endpoints::{AssignError, EndpointSpec, assign_endpoints};
pub(crate) use hostfile::{HostfileEntry, HostfileError, parse_hostfile};
pub(crate) use node::{NodeInfo, RankPlacement, rank_placements};
pub(crate) use process::is_program_running;
pub(crate) use signals::{ShutdownRequest, SignalHandler};
pub(crate) use walltime::pbs_time_left;
