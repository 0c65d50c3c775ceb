//! A hidden command for tests: one rank panics while the others wait for it, which must end the job instead of hanging
//! it.

use clap::Args;

use crate::{
    comm::Comm,
    job::{JobError, JobVerdict},
};

/// Let one rank panic while all others wait.
#[derive(Args)]
pub(super) struct PanicArgs {
    /// Rank that panics
    #[arg(long)]
    rank: usize,
    /// Panic on another thread than MPI's
    #[arg(long)]
    thread: bool,
}

impl PanicArgs {
    /// Collective until the panic.
    pub(super) fn run(&self, comm: &mut dyn Comm) -> Result<JobVerdict, JobError> {
        comm.barrier();
        if comm.rank() == self.rank {
            let panic_now = || panic!("a panic on purpose");
            if self.thread { drop(std::thread::spawn(panic_now).join()) } else { panic_now() }
        }
        comm.barrier();
        Ok(JobVerdict::Done)
    }
}
