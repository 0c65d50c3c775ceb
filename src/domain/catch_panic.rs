//! Panic containment: a third-party library that panics on a damaged file must not end the job.
//!
//! Owns the thread-local mark that such a library is running. A panic under the mark is an error of the file, not a bug
//! of this program. The panic hook that ends the job otherwise is in `comm/panic.rs`.

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` and returns its result, or the message of its panic.
///
/// # Errors
/// The panic's message. Whatever `work` was changing must not be used any more.
#[cfg_attr(
    not(feature = "parquet"),
    allow(dead_code, reason = "only the Parquet reader calls libraries that panic")
)]
pub(crate) fn catch_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let before = CATCHING.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(before);
    done.map_err(panic_message)
}

/// Whether a panic on this thread is caught by [`catch_panic`]. For the panic hook, which would end the job otherwise.
#[must_use]
pub(crate) fn is_panic_caught() -> bool {
    CATCHING.get()
}

fn panic_message(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => {
            panic.downcast_ref::<&str>().map_or("no reason given", |message| message).to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_its_message_and_the_mark_is_cleared() {
        assert_eq!(catch_panic(is_panic_caught), Ok(true));
        assert_eq!(catch_panic(|| panic!("at {}", 3)), Err::<(), _>("at 3".to_owned()));
        assert_eq!(catch_panic(|| panic!("there")), Err::<(), _>("there".to_owned()));
        assert!(!is_panic_caught());
    }
}
