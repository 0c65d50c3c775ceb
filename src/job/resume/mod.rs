//! Resuming a run: how a start finds an earlier run at its output, decides whether it may continue it, and carries
//! answers over to a changed input.
//!
//! [`existing_run`] checks and opens the run folder, [`changed_input`] migrates answers when the input or the settings
//! that affect answers have changed, and [`row_matching`] decides which row keeps which answer. [`run_lock`] gives
//! the run folder to one session at a time, and [`run_folder`] opens runs by name for commands that only read them. Which prompts are done already is read in
//! [`completion`](super::collect::completion), and what `run` would do is shown by
//! [`preview`](super::commands::preview).

pub(crate) mod changed_input;
pub(crate) mod existing_run;
pub(crate) mod row_matching;
pub(crate) mod run_folder;
pub(crate) mod run_lock;
