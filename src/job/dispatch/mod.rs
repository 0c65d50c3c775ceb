//! Dispatch: the work phase of a run, in which rank 0 leases prompts to the ranks and the ranks report outcomes.
//!
//! No collective runs between the scatter of the first grants and the end, since a rank may be lost meanwhile: ranks
//! send messages, every few seconds at least, and rank 0 judges liveness by them.
//!
//! | file | owns |
//! |---|---|
//! | `worker_start` | how engine, shard file and lease client of a rank are put together |
//! | `coordinator` | rank 0's loop: reactions to messages, deadline, drain, end of the work |
//! | `rank_state`, `fail_fast` | what is known of a rank; whether the job itself is wrong |
//! | `stop_reason`, `progress_recorder` | why all engines stop; display and record of the progress |
//! | `assignments` | the ledger in terms of rows: grants, load balancing, speculation |
//! | `worker`, `lease_client` | a rank's loop; its side of the ledger and the schedule of its reports |
//! | `protocol`, `local_events` | messages between ranks; events between a rank's threads |
//! | `text_fetcher` | rows with their text, for ranks that cannot open the input |
//! | `shutdown` | the roll-call after the work, and the end of a job with lost ranks |
//!
//! The ledger itself is in `crate::ledger`, the engine in `crate::engine`.

pub(crate) mod assignments;
pub(crate) mod coordinator;
mod fail_fast;
mod lease_client;
mod local_events;
mod progress_recorder;
pub(crate) mod protocol;
mod rank_state;
pub(crate) mod shutdown;
mod stop_reason;
mod text_fetcher;
mod worker;
pub(crate) mod worker_start;
