//! How much of the servers' speed is used: the bound over (last answer − first request), for loads
//! that are easy, uneven, or easy only for who knows something.

use super::{lasting, measure};
use crate::case::{Amount, Case};
use crate::flags::owned;
use crate::lengths::{log_normal, shuffled, text};
use crate::scenario::{Bar, Row, Scenario, Size};
use crate::servers::Servers;
use crate::work::Prompt;
use vllm_sim::cache::mix;
use vllm_sim::{CostModel, Lengths};

/// The longest answer where lengths vary: by itself it takes five to eight seconds.
const LONGEST: usize = 1024;

/// A load and what it is held against: a scenario on one rank here, and for another suite on more.
pub struct Load {
    pub name: &'static str,
    pub title: &'static str,
    /// Why its sizes are what they are.
    pub why: &'static str,
    pub case: Case,
    pub rows: Vec<Row>,
}

pub fn scenarios(size: Size) -> Vec<Scenario> {
    loads(size).into_iter().map(Load::scenario).collect()
}

/// All of them.
pub fn loads(size: Size) -> Vec<Load> {
    vec![
        even(size),
        unknown(size),
        slow(size),
        known(size),
        of_prompt(size),
        short(size),
        prefixes(size),
        scattered(size, "refused-half-percent", &["--fault", "status=503,p=0.005"], 0.92),
        scattered(size, "refused-2-percent", &["--fault", "status=503,p=0.02"], 0.91),
        scattered(size, "refused-10-percent", &["--fault", "status=503,p=0.1"], 0.88),
        scattered(size, "cut-2-percent", &["--fault", "cut-body,p=0.02"], 0.91),
    ]
}

impl Load {
    pub fn scenario(self) -> Scenario {
        Scenario {
            name: self.name,
            title: self.title,
            why: self.why,
            rows: self.rows,
            once: false,
            parameters: self.case.parameters(),
            measure: measure(self.case),
        }
    }
}

fn short_prompt(at: u64) -> Prompt {
    Prompt::plain(text(at, 20))
}

fn load(name: &'static str, title: &'static str, why: &'static str, case: Case, bar: f64) -> Load {
    // What is possible at best is another thing for who can sort.
    let lengths_known = ["lengths-known", "output-follows-prompt"].contains(&name);
    let rows =
        vec![
            Row::of("share", "share of the bound", "")
                .bar(Bar::AtLeast(bar))
                .bound(if lengths_known { "longest_first_share" } else { "in_order_share" }),
            Row::of("wall_s", "last answer - first request", "s").bound("bound_s"),
            Row::of("served", "served / N", ""),
            Row::of("cpu_us", "client CPU a prompt", "µs").least(),
        ];
    Load { name, title, why, case, rows }
}

fn even(size: Size) -> Load {
    let servers = Servers::even(4, Lengths::Fixed(48));
    load(
        "even",
        "even load: answers of 48 tokens from 4 equal endpoints",
        "12 s at the bound, 16,000 prompts at 1,360 a second: thirty times what all slots hold, so \
         that the end, when slots run empty, is a thirtieth.",
        Case::on(servers, lasting(size, 12.0), short_prompt),
        0.96,
    )
}

/// An even load of which a share of requests draws a fault that has nothing to do with the load.
fn scattered(size: Size, name: &'static str, faults: &[&'static str], bar: f64) -> Load {
    let mut servers = Servers::even(4, Lengths::Fixed(48));
    servers.more = faults.to_vec();
    // Six tries: with the default three one prompt in 100,000 would rightly fail by bad luck.
    let case =
        Case::on(servers, lasting(size, 12.0), short_prompt).flags(owned(&["--retries", "6"]));
    load(
        name,
        "an even load of which some requests draw a fault, whatever the load",
        "As `even`, so that the difference is what scattered faults cost beyond the work that they \
         waste. A plain client with a fixed window has 0.89.",
        case,
        bar,
    )
}

fn heavy_tail(size: Size) -> Case {
    let servers = Servers::even(4, Lengths::LogNormal { median: 64.0, sigma: 1.0 });
    Case::on(servers, lasting(size, 18.0), short_prompt).max_tokens(LONGEST)
}

fn unknown(size: Size) -> Load {
    load(
        "heavy-tail",
        "heavy-tailed answers whose lengths nobody knows",
        "Log-normal, median 64 tokens, sigma 1, at most 1,024. The end is as long as the longest \
         answer that happens to begin late, so what can be reached depends on the length of the \
         run: at 18 s a client without any delay gets 0.83 in the input's order, as in the study \
         that set the bar.",
        heavy_tail(size),
        0.81,
    )
}

fn slow(size: Size) -> Load {
    let mut servers = Servers::even(4, Lengths::Fixed(48));
    servers.slow[3] = 2.5;
    let case = Case::on(servers, lasting(size, 12.0), short_prompt);
    let mut load = load(
        "slow-endpoint",
        "one of four endpoints is 2.5 times slower",
        "12 s at the bound, which counts the slow one as 0.4 of an endpoint. An answer of 48 \
         tokens takes it 0.9 s: long enough to be seen at the end of 12 s.",
        case,
        0.85,
    );
    for row in load.rows.iter_mut().filter(|row| row.figure == "served") {
        row.bar = Some(Bar::AtMost(1.03));
    }
    load
}

fn known(size: Size) -> Load {
    load(
        "lengths-known",
        "heavy-tailed answers whose lengths the rows tell (max_tokens with ignore_eos)",
        "The same distribution and time as `heavy-tail`, so that the difference is what knowing is \
         worth; longest first gets 0.998.",
        Case::on(Servers::even(4, Lengths::Fixed(64)), lasting(size, 18.0), |at| Prompt {
            exactly: Some(log_normal(mix(at, 0x1E45), 64.0, 1.0, LONGEST)),
            ..short_prompt(at)
        }),
        0.98,
    )
}

fn of_prompt(size: Size) -> Load {
    load(
        "output-follows-prompt",
        "answers as long as their prompts",
        "The same distribution and time as `heavy-tail`, of the prompts: who takes the longest \
         prompts first has the longest answers first.",
        Case::on(Servers::even(4, Lengths::OfPrompt(1.0)), lasting(size, 18.0), |at| {
            Prompt::plain(text(at, log_normal(mix(at, 0x0F), 64.0, 1.0, LONGEST)))
        })
        .max_tokens(2 * LONGEST),
        0.98,
    )
}

fn short(size: Size) -> Load {
    let mut servers = Servers::even(12, Lengths::Fixed(8));
    servers.cost.max_num_seqs = 96;
    servers.cost.step_base_us = 40_000.0;
    load(
        "twelve-endpoints",
        "12 endpoints, answers of 8 tokens",
        "A node's twelve tiles. With the default costs they would ask for 21,000 prompts a second, \
         which measures two cores and not the client: 96 slots and steps of 42 ms make 3,340, and a \
         window of 64 leaves slots empty. 12 s at the bound is 35 rounds of all slots.",
        Case::on(servers, lasting(size, 12.0), short_prompt),
        0.95,
    )
}

/// Prompts that share a prefix.
const GROUP: u64 = 20;

fn prefixes(size: Size) -> Load {
    let mut servers = Servers::even(4, Lengths::Fixed(64));
    // Prefill is 30 µs a token here, a larger model's: so the cache is worth 3.4 times, as in the
    // study that set the bar (10.6 s with it, 36 s when the order is ignored).
    servers.cost = CostModel { per_prefill_token_us: 30.0, ..CostModel::default() };
    servers.cache_blocks = Some(40 * PREFIX / 16);
    let groups = size.pick(200, 40);
    let mut case = Case::on(servers, Amount::Prompts(groups * GROUP as usize), |at| {
        let prefix = text(mix(at / GROUP, 0x9F), PREFIX);
        Prompt::plain(format!("{prefix} {}", text(mix(at, 0x5F), 148)))
    });
    case.order = |prompts| shuffled(prompts, 7);
    Load {
        name: "prefixes",
        title: "200 shared prefixes, shuffled, and a cache for 40 of them at each of 4 endpoints",
        why: "200 prefixes of 1,104 tokens (69 blocks) with 20 prompts each, which add 150 tokens: \
              0.95 × 0.88 = 0.83 of all prompt tokens can come from the cache. The bound computes \
              each prefix once. Each endpoint's cache holds a fifth of the prefixes.",
        rows: vec![
            Row::of("wall_s", "last answer - first request", "s")
                .bar(Bar::AtMost(12.0))
                .bound("bound_s"),
            Row::of("hit_rate", "prefix cache hit rate", ""),
            Row::of("share", "share of the bound", ""),
            Row::of("served", "served / N", ""),
        ],
        case,
    }
}

/// The tokens of a shared prefix: whole blocks of 16.
const PREFIX: usize = 1104;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heavy_tail_is_as_hard_as_when_its_bar_was_set() {
        let (in_order, longest_first) = heavy_tail(Size::Full).ideals();
        assert!((0.825..0.835).contains(&in_order), "{in_order}");
        assert!(longest_first > 0.998, "{longest_first}");
    }
}
