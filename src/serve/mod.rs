//! The node's own servers: a guard process that starts them, starts them again and ends them, and the rank's side of it.
//!
//! ```text
//! rank ── orders (a pipe, JSON lines) ─→ guard ─→ sh -c COMMAND, a process group a server
//!      ←─ what became of them ──────────
//! ```
//!
//! The guard is started before MPI is, since a process with MPI or threads must not fork, and lives in a session of its own.
//! It ends every server when the pipe closes, which happens however the rank ends: there is no way out, not even `kill -9`,
//! that leaves a server behind with its memory. Owns processes, their environments and their logs. Knows nothing of HTTP or
//! prompts: whether a server is ready to answer is found out by whoever asks it.

mod environment;
mod layout;
mod log;
mod process_tree;
mod protocol;
mod restart_policy;
mod spawn;
mod supervisor;
mod supervisor_handle;

pub use layout::{ServerContext, plan_servers};
pub use protocol::ServerSpec;
pub use spawn::exec_server;
pub use supervisor::watch;
pub use supervisor_handle::{IdleSupervisor, SupervisorHandle};
