//! Panic hook: a panic on any rank ends the whole job at once, with its own exit code.
//!
//! Without the hook a panic unwinds into MPI's finalisation, which waits for all other ranks, which wait for this
//! one, for ever (observed on five MPIs). The hook runs on the thread that panicked, and ignores panics that
//! [`crate::domain::catch_panic()`] catches.

use super::start::abort_all_ranks;
use crate::domain::is_panic_caught;

pub(crate) const BUG_EXIT_CODE: u8 = 70;

/// Local. Must be the first call in `main`: from then on a panic ends every rank with exit code 70, after its
/// message.
pub fn abort_job_on_panic() {
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if is_panic_caught() {
            return;
        }
        default_hook(panic);
        print_bug_hint();
        abort_all_ranks(BUG_EXIT_CODE)
    }));
}

#[expect(
    clippy::disallowed_macros,
    reason = "the process is ending: nothing else of it can be relied on to print"
)]
fn print_bug_hint() {
    eprintln!(
        "error: this is a bug in aurora-swarm; all answers so far are on disk\n\
         hint: run the same command again to resume, and please report the lines above"
    );
}
