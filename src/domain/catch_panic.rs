//! A library that panics on a damaged file does not end the job.
//!
//! Owns the mark on a thread while such a library is at work: a panic there is an error of the file, and no bug of ours.

use std::{
    any::Any,
    cell::Cell,
    panic::{AssertUnwindSafe, catch_unwind},
};

thread_local! {
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// What `work` gives.
///
/// # Errors
/// The words of its panic. What `work` was changing is not to be used any more.
pub fn catch_panic<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    let before = CATCHING.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    CATCHING.set(before);
    done.map_err(words)
}

/// Is a panic on this thread contained? For the hook, which else ends the job.
#[must_use]
pub fn is_panic_caught() -> bool {
    CATCHING.get()
}

fn words(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(words) => *words,
        Err(panic) => panic.downcast_ref::<&str>().map_or("no reason given", |it| it).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_words_and_the_mark_is_gone_after_it() {
        assert_eq!(catch_panic(is_panic_caught), Ok(true));
        assert_eq!(catch_panic(|| panic!("at {}", 3)), Err::<(), _>("at 3".to_owned()));
        assert_eq!(catch_panic(|| panic!("there")), Err::<(), _>("there".to_owned()));
        assert!(!is_panic_caught());
    }
}
