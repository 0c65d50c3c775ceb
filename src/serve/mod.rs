//! The node's own servers: a supervisor process that starts, restarts and stops them, and the rank's handle to it.
//!
//! ```text
//! rank ── StartServers (a pipe, JSON lines) ─→ supervisor ─→ sh -c COMMAND, one process group per server
//!      ←─ SupervisorEvent ───────────────────
//! ```
//!
//! The supervisor, the *guard* of the manual, is started before MPI, since a process with MPI or threads must not fork,
//! and runs in a session of its own. It stops every server when the pipe closes, which happens however the rank ends:
//! there is no way, not even `kill -9`, that leaves a server and its memory behind.
//!
//! Owns processes, their environments and their logs. Knows nothing of HTTP or prompts: whether a server is ready is
//! found by [`ServerProber`](crate::endpoint::ServerProber), and the waiting for it is in `job/setup/readiness.rs`.

mod environment;
mod layout;
mod log;
mod process_tree;
mod protocol;
mod restart_policy;
mod spawn;
mod supervisor;
mod supervisor_handle;
mod watchdog;

pub(crate) use layout::{ServerContext, plan_servers};
pub(crate) use protocol::{ServerSpec, WatchLimits};
pub(crate) use spawn::exec_server;
pub(crate) use supervisor::run_supervisor;
pub(crate) use supervisor_handle::{IdleSupervisor, SupervisorHandle};
