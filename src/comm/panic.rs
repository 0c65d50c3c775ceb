//! What happens when a rank panics: the whole job ends, at once and with a code that says so.
//!
//! Without this a panic unwinds into MPI's finalisation, which waits for all the other ranks, which wait for this one,
//! for ever (tried on five MPIs). The hook runs on whichever thread panicked, and leaves alone what [`crate::domain::contain`]
//! holds.

use crate::{comm, domain::is_panic_caught};

/// The exit code of a bug.
pub(crate) const BUG_EXIT_CODE: u8 = 70;

/// Local. To be the first thing in `main`: from here on a panic anywhere ends every rank with code 70, after its message.
pub fn abort_job_on_panic() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if is_panic_caught() {
            return;
        }
        tell(panic);
        print_bug_hint();
        comm::start::abort_all_ranks(BUG_EXIT_CODE)
    }));
}

#[expect(
    clippy::disallowed_macros,
    reason = "the process is ending: nothing else of it can be relied on to print"
)]
fn print_bug_hint() {
    eprintln!(
        "aurora-swarm: this is a bug. What is answered is on disk; start the same command again to go on, and please \
         report the lines above"
    );
}
