//! The engine's suite: the bars of the design that one rank has to reach.
//!
//! It owns which scenarios there are, in the order of the table; what they are made of is theirs.

mod cpu;
mod faults;
pub mod shares;
mod window;

use crate::case::{Amount, Case};
use crate::scenario::{Measure, Scenario, Size};

/// All of them.
pub fn scenarios(size: Size) -> Vec<Scenario> {
    let parts = [cpu::scenarios, shares::scenarios, window::scenarios, faults::scenarios];
    parts.into_iter().flat_map(|part| part(size)).collect()
}

/// Work of so many seconds at the bound; a few where figures do not matter.
fn lasting(size: Size, seconds: f64) -> Amount {
    Amount::Seconds(size.pick(seconds, 2.0))
}

/// A case's own figures are the scenario's.
fn measure(case: Case) -> Measure {
    Box::new(move |bench| case.run(bench).map(|outcome| outcome.figures))
}
