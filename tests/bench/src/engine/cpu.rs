//! What a prompt costs the client: processor time of the whole process over prompts, against
//! endpoints that answer at once.

use super::measure;
use crate::case::{Amount, Case};
use crate::flags::{LISTS_OF_64, SINGLE, owned};
use crate::lengths::text;
use crate::scenario::{Bar, Row, Scenario, Size};
use crate::servers::Servers;
use crate::work::Prompt;
use vllm_sim::Lengths;

pub fn scenarios(size: Size) -> Vec<Scenario> {
    vec![
        scenario(
            "cpu-single",
            "single requests to endpoints that answer at once",
            "100,000 prompts of 20 tokens, the design's number: start, scan and gather are in it \
             and weigh little. Answers of 64 tokens, about 300 bytes: the simulator's own default.",
            case(size.pick(100_000, 5_000), SINGLE),
            Bar::AtMost(40.0),
        ),
        scenario(
            "cpu-lists",
            "lists of 64 to endpoints that answer at once",
            "200,000 prompts, the design's number; otherwise as the single requests, so that the \
             two differ in the lists alone.",
            case(size.pick(200_000, 10_000), LISTS_OF_64),
            Bar::AtMost(8.0),
        ),
    ]
}

fn case(prompts: usize, flags: &[&str]) -> Case {
    let mut servers = Servers::even(4, Lengths::Fixed(64));
    servers.instant = true;
    let amount = Amount::Prompts(prompts);
    Case::on(servers, amount, |at| Prompt::plain(text(at, 20))).max_tokens(512).flags(owned(flags))
}

fn scenario(
    name: &'static str,
    title: &'static str,
    why: &'static str,
    case: Case,
    bar: Bar,
) -> Scenario {
    Scenario {
        name,
        title,
        why,
        rows: vec![
            Row::of("cpu_us", "client CPU a prompt", "µs").bar(bar).least(),
            Row::of("prompts_per_s", "one rank drives, prompts/s", ""),
            Row::of("peak_rss_mb", "peak memory", "MB"),
            Row::of("served", "served / N", ""),
        ],
        once: false,
        parameters: case.parameters(),
        measure: measure(case),
    }
}
