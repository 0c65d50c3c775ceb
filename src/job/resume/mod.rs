//! Resuming a run: how a start finds an earlier run at its output, decides whether it may continue it, and carries answers
//! over to a changed input.
//!
//! [`existing_run`] checks and opens the run folder, [`changed_input`] migrates answers when the input or the settings that
//! affect answers have changed, [`row_matching`] decides which row keeps which answer, and [`preview`] tells `plan` what
//! `run` would do. Which prompts are done already is read by [`completion`](super::collect::completion), not here.

pub(crate) mod changed_input;
pub(crate) mod existing_run;
pub(crate) mod preview;
pub(crate) mod row_matching;
