//! The suite of several ranks: the bars of the design that mpiexec's start, scatter and gather, and rank 0's book belong
//! to.
//!
//! It owns which scenarios there are, in the order of the table; what they are made of is theirs.

mod gather;
mod ledger;
mod memory;
mod parquet;
mod play;
mod resume;
mod shares;
mod start;

use crate::scenario::{Scenario, Size};

pub use play::{NAME as PLAY, main as play};

/// Ranks where a scenario is not about their number: what a machine of two cores carries beside four endpoints, and
/// enough that ranks differ.
const RANKS: usize = 4;

/// All of them.
pub fn scenarios(size: Size) -> Vec<Scenario> {
    let parts = [
        shares::scenarios,
        gather::scenarios,
        start::scenarios,
        memory::scenarios,
        resume::scenarios,
        parquet::scenarios,
        ledger::scenarios,
    ];
    parts.into_iter().flat_map(|part| part(size)).collect()
}
