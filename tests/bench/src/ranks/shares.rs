//! The engine's loads on four ranks with an endpoint each: the same bars, now with leases, letters and a common end
//! between the prompts and the endpoints.

use super::RANKS;
use crate::engine::shares::{Load, loads};
use crate::scenario::{Row, Scenario, Size};

/// Those that four endpoints carry. (Twelve endpoints are a node's, which one rank drives.)
const LOADS: [&str; 10] = [
    "even",
    "heavy-tail",
    "slow-endpoint",
    "lengths-known",
    "output-follows-prompt",
    "prefixes",
    "refused-half-percent",
    "refused-2-percent",
    "refused-10-percent",
    "cut-2-percent",
];

pub fn scenarios(size: Size) -> Vec<Scenario> {
    let loads = loads(size).into_iter().filter(|load| LOADS.contains(&load.name));
    loads.map(|load| on_ranks(load).scenario()).collect()
}

fn on_ranks(load: Load) -> Load {
    let mut rows = load.rows;
    rows.push(Row::of("others_rss_mb", "peak memory, largest rank but 0", "MB"));
    Load { case: load.case.ranks(RANKS), rows, ..load }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::product::Launch;
    use crate::scenario::Bar;

    #[test]
    fn all_loads_are_there_with_an_endpoint_for_each_rank() {
        let all: Vec<Load> =
            loads(Size::Full).into_iter().filter(|load| LOADS.contains(&load.name)).collect();
        assert_eq!(all.len(), LOADS.len());
        for load in all.into_iter().map(on_ranks) {
            assert_eq!(load.case.servers[0].slow.len(), RANKS, "{}", load.name);
            assert_eq!(load.case.launch, Launch::Watched(RANKS));
        }
    }

    #[test]
    fn a_slow_endpoint_may_cost_three_prompts_in_a_hundred() {
        let all = scenarios(Size::Full);
        let slow = all.iter().find(|s| s.name == "slow-endpoint").unwrap();
        let served = slow.rows.iter().find(|row| row.figure == "served").unwrap();
        assert_eq!(served.bar, Some(Bar::AtMost(1.03)));
    }
}
