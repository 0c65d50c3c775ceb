//! Commands to a running engine: the control words, and their effects on the scheduler's parts.
//!
//! Owns both, so that a new control word changes this file and its sender only. Rank 0 sends those that concern engines
//! alone in `ToWorker::Engine` (`job/dispatch/protocol.rs`), and the lease client forwards them unread; the lease
//! client sends those that concern leases itself.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{in_flight::InFlight, results::ResultBuffer, supply::PromptSupply};
use crate::engine::queue::TaskQueue;

/// A command to a running engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum EngineCommand {
    /// Stops the engine. Prompts in flight stay open.
    Stop,
    /// The failures held back are the prompts' own: they are written, and the engine sends again.
    Proceed,
    /// The failures held back are too few to decide: the engine sends as many prompts again.
    KeepHolding,
    /// Other ranks answer, so the failures held back are the endpoints' own: the engine returns their prompts
    /// ([`EngineEvent::PromptsReturned`](crate::engine::EngineEvent::PromptsReturned)) and suspends the endpoints that
    /// have answered nothing.
    ReturnHeld,
    /// The engine was given this many prompts in all; the flag says that no more are free at the moment.
    SetSupplied(u64, bool),
    /// Other ranks have settled these prompts (by index): the engine drops unsent ones and cancels requests for them
    /// alone.
    DropRedundant(Vec<u64>),
    /// Of the first prompts, this many, the engine returns those that it has not sent
    /// ([`EngineEvent::PromptsReturned`](crate::engine::EngineEvent::PromptsReturned)).
    RevokeUnsent(u64),
    /// The engine sends nothing more, returns unsent prompts
    /// ([`EngineEvent::PromptsReturned`](crate::engine::EngineEvent::PromptsReturned)) and awaits the requests in
    /// flight.
    Drain,
}

/// The part of a command's effect that is left to the event loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommandEffect {
    Continue,
    /// Return the prompts that are not in flight.
    ReturnUnsent,
    /// Return the prompts whose failures are held back.
    ReturnHeld,
    /// Send nothing more.
    Drain,
    Stop,
}

impl EngineCommand {
    /// Applies the command to the scheduler's parts.
    pub(crate) fn apply(
        self,
        supply: &mut PromptSupply,
        queue: &mut TaskQueue,
        in_flight: &mut InFlight,
        results: &mut ResultBuffer,
    ) -> CommandEffect {
        match self {
            Self::Stop => return CommandEffect::Stop,
            Self::Drain => return CommandEffect::Drain,
            Self::ReturnHeld => return CommandEffect::ReturnHeld,
            Self::Proceed => results.proceed(),
            Self::KeepHolding => results.keep_holding(),
            Self::SetSupplied(count, is_final) => supply.set_announced(count, is_final),
            Self::RevokeUnsent(count) => {
                supply.revoke_first(count);
                return CommandEffect::ReturnUnsent;
            }
            Self::DropRedundant(indexes) => {
                let indexes: HashSet<u64> = indexes.into_iter().collect();
                queue.remove_matching(|_, index| indexes.contains(&index));
                in_flight.drop_redundant(indexes);
            }
        }
        CommandEffect::Continue
    }
}
