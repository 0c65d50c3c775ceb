//! A command for tests: one rank panics while the others wait for it, which must end the job and not hang it.

use clap::Args;

use crate::{
    comm::Comm,
    job::{JobError, JobVerdict},
};

/// One rank panics while all others wait.
#[derive(Args)]
pub(super) struct PanicArgs {
    /// Which rank
    #[arg(long)]
    rank: usize,
    /// On another thread than MPI's
    #[arg(long)]
    thread: bool,
}

impl PanicArgs {
    /// Collective, as far as it gets.
    pub(super) fn run(&self, comm: &mut dyn Comm) -> Result<JobVerdict, JobError> {
        comm.barrier();
        if comm.rank() == self.rank {
            let boom = || panic!("a panic on purpose");
            if self.thread { drop(std::thread::spawn(boom).join()) } else { boom() }
        }
        comm.barrier();
        Ok(JobVerdict::Done)
    }
}
