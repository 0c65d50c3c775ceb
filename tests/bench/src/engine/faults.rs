//! When things go wrong: everything is answered all the same, without much work done twice, and
//! without waiting longer than time-outs explain.

use super::lasting;
use crate::case::Case;
use crate::flags::owned;
use crate::lengths::text;
use crate::scenario::{Bar, Broken, Figures, Measure, Row, Scenario, Size};
use crate::servers::Servers;
use crate::work::Prompt;
use std::time::Duration;
use vllm_sim::Lengths;

pub fn scenarios(size: Size) -> Vec<Scenario> {
    vec![requests(size), endpoints(size)]
}

fn prompt(at: u64) -> Prompt {
    Prompt::plain(text(at, 20))
}

/// A run in which nothing went wrong says nothing here.
fn measure(case: Case, went_wrong: fn(&Figures) -> bool) -> Measure {
    Box::new(move |bench| {
        let figures = case.run(bench)?.figures;
        let calm = || Broken(format!("nothing went wrong: {figures:?}"));
        went_wrong(&figures).then_some(()).ok_or_else(calm)?;
        Ok(figures)
    })
}

fn requests(size: Size) -> Scenario {
    let mut servers = Servers::even(4, Lengths::Fixed(48));
    servers.more = vec![
        "--fault",
        "status=503,p=0.02",
        "--fault",
        "cut-body,p=0.02",
        "--fault",
        "hang,p=0.005",
    ];
    // Six tries: with the default three one prompt in 10,000 would rightly fail by bad luck.
    let case = Case::on(servers, lasting(size, 6.0), prompt).flags(owned(&[
        "--timeout",
        "5s",
        "--retries",
        "6",
    ]));
    Scenario {
        name: "faults",
        title: "2 % of requests get 503, 2 % are cut in mid-body, 0.5 % are never answered",
        why: "6 s at the bound, 8,000 prompts: 370 single requests meet a fault. The time-out is \
              5 s, more than ten times what an answer takes, so that only hung requests meet it.",
        rows: vec![
            Row::of("served", "served / N", "").bar(Bar::AtMost(1.10)),
            Row::of("work", "tokens made / needed", "").bar(Bar::AtMost(1.10)),
            Row::of("faults", "faults", ""),
            Row::of("wall_s", "last answer - first request", "s").bound("bound_s"),
        ],
        once: false,
        parameters: case.parameters(),
        measure: measure(case, |figures| figures["faults"] > 0.0),
    }
}

fn endpoints(size: Size) -> Scenario {
    // Of two endpoints the second is killed; the third is a process of its own, since faults
    // befall all endpoints of one.
    let mut two = Servers::even(2, Lengths::Fixed(48));
    two.more = vec!["--die", size.pick("1@400p", "1@100p")];
    let mut hung = Servers::even(1, Lengths::Fixed(48));
    hung.more = vec!["--fault", size.pick("stall,after=1.2", "stall,after=0.4")];
    let mut case = Case::on(two, lasting(size, 10.0), prompt).flags(owned(&["--timeout", "5s"]));
    case.servers.push(hung);
    case.speed = vec![1.0];
    case.patience = Duration::from_secs(120);
    Scenario {
        name: "lost-endpoints",
        title: "of three endpoints one is killed and one hangs while /health says 200",
        why: "10 s at the bound for the one that is left alone with all 3,400 prompts, of which the \
              others answer some before they go (after 400 prompts and after 1.2 s). Three times the \
              time-out of 5 s is room to find out once, with half of the time to spare for work.",
        rows: vec![
            Row::of("wall_s", "last answer - first request", "s")
                .bar(Bar::AtMost(15.0))
                .bound("bound_s"),
            Row::of("served", "served / N", ""),
            Row::of("requests", "requests", ""),
        ],
        once: false,
        parameters: case.parameters(),
        // The dead one tells no tokens any more, so there is no sum of them.
        measure: measure(case, |figures| figures["faults"] > 0.0 && !figures.contains_key("work")),
    }
}
