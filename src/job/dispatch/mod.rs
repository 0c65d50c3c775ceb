//! HEAD

pub(crate) mod assignments;
pub(crate) mod coordinator;
pub(crate) mod fail_fast;
pub(crate) mod lease_client;
pub(crate) mod protocol;
pub(crate) mod shutdown;
pub(crate) mod worker;
pub(crate) mod worker_start;
