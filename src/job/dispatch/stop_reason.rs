//! Reasons for which rank 0 stops all engines, and for which a rank's engine stops early.
//!
//! Owns the reasons and their log lines. When each applies is decided in `coordinator.rs` and by the engines.

use std::fmt;

use crate::{console::StopCause, engine::EngineExit};

/// Reason for which rank 0 stops all engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    AllSettled,
    /// During a drain, all requests in flight were answered.
    Drained,
    /// During a drain, the time for requests in flight has passed.
    TimeOver,
    NoServer,
    InputUnreadable,
    /// Fail-fast: the job itself is wrong.
    UniformFailures,
}

impl StopReason {
    /// Returns the stable name of the log event.
    pub(crate) fn event(self) -> &'static str {
        if self == Self::AllSettled { "run_finished" } else { "run_stopped" }
    }
}

impl StopReason {
    /// Returns the cause that the user has to mend before the command is run again, if there is one.
    pub(crate) fn cause(self) -> Option<StopCause> {
        match self {
            Self::AllSettled | Self::Drained | Self::TimeOver => None,
            Self::NoServer => Some(StopCause::NoServer),
            Self::InputUnreadable => Some(StopCause::InputUnreadable),
            Self::UniformFailures => Some(StopCause::UniformFailures),
        }
    }
}

/// Returns the cause of an engine's early end that the user has to mend, if there is one.
pub(crate) fn exit_cause(exit: &EngineExit) -> Option<StopCause> {
    match exit {
        EngineExit::WriteFailed => Some(StopCause::WriteFailed),
        EngineExit::ReadFailed(_) => Some(StopCause::InputUnreadable),
        EngineExit::Stalled => Some(StopCause::NoServer),
        EngineExit::Finished | EngineExit::Stopped | EngineExit::StartFailed(_) => None,
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AllSettled => "run finished: all prompts done",
            Self::Drained => "run stopped: all requests in flight were answered",
            Self::TimeOver => "run stopped: the time for requests in flight is over",
            Self::NoServer => "run stopped: no server reachable",
            Self::InputUnreadable => "run stopped: the input cannot be read",
            Self::UniformFailures => {
                "run stopped: the first prompts all failed with the same error"
            }
        })
    }
}

/// Returns the reason for which a rank's engine ended before all prompts were done; `None` if it did not.
pub(crate) fn early_end_reason(exit: &EngineExit) -> Option<String> {
    match exit {
        EngineExit::Finished | EngineExit::Stopped => None,
        EngineExit::Stalled => Some("all its servers are failing".into()),
        EngineExit::WriteFailed => Some("cannot write answers".into()),
        EngineExit::ReadFailed(reason) => Some(format!("cannot read the input ({reason})")),
        EngineExit::StartFailed(reason) => Some(format!("cannot start ({reason})")),
    }
}
