//! The suite of trees: one text of many answers on four ranks, against what the endpoints need for the same prompts.
//!
//! It owns the tree by its definition, which says what every prompt of every level is, and with that the bound: each level
//! waits for the one below, so that the bounds of the levels add up. What the product takes beyond a client that never lets
//! a slot wait is laid to the ends of levels, evenly.

use crate::case::first_request;
use crate::flags::{ALWAYS, owned};
use crate::lengths::text;
use crate::product::{Launch, Start};
use crate::scenario::{Bench, Broken, Figures, Row, Scenario, Size};
use crate::schedule;
use crate::servers::Servers;
use crate::work::{self, Cost, Coster, Prompt};
use serde_json::json;
use std::time::Duration;
use vllm_sim::Lengths;

const RANKS: usize = 4;
const ENDPOINTS: usize = 4;
const TOKENS: usize = 48;
const TEMPLATE: &str = "Merge these texts into one:\n{{responses}}";

pub fn scenarios(size: Size) -> Vec<Scenario> {
    vec![
        scenario(
            "tree-16",
            "one text of many answers, 16 a group",
            "20,000 leaves, about 15 s at the bound, and four levels of 1,250, 79, 5 and 1 groups above them: the last ones \
             are single answers, which no number of endpoints makes shorter.",
            size.pick(20_000, 600),
            16,
        ),
        scenario(
            "tree-2",
            "the same in pairs: many levels",
            "2,000 leaves and eleven levels: as much about the ends of levels as can be.",
            size.pick(2_000, 40),
            2,
        ),
    ]
}

fn scenario(
    name: &'static str,
    title: &'static str,
    why: &'static str,
    leaves: usize,
    fan_in: usize,
) -> Scenario {
    Scenario {
        name,
        title,
        why,
        rows: vec![
            Row::of("share", "share of the levels' bounds", "").bound("in_order_share"),
            Row::of("wall_s", "last answer - first request", "s").bound("bound_s"),
            Row::of("level_end_ms", "beyond a client without delay, a level", "ms"),
            Row::of("levels", "levels above the leaves", ""),
        ],
        once: false,
        parameters: json!({"leaves": leaves, "fan_in": fan_in, "ranks": RANKS, "endpoints": ENDPOINTS}),
        measure: Box::new(move |bench| measure(bench, leaves, fan_in)),
    }
}

/// What each level asks, the leaves first, and the text at the root.
fn tree(coster: &mut Coster, leaves: Vec<Prompt>, fan_in: usize) -> (Vec<Vec<Cost>>, String) {
    let (mut levels, mut prompts) = (Vec::new(), leaves);
    // Groups of one pass their text up.
    let mut passed: Option<String> = None;
    loop {
        levels.push(prompts.iter().map(|prompt| coster.cost(prompt)).collect());
        let mut texts: Vec<String> = prompts.iter().map(|it| coster.response(it)).collect();
        texts.extend(passed.take());
        if let [root] = &mut texts[..] {
            return (levels, std::mem::take(root));
        }
        let mut groups: Vec<&[String]> = texts.chunks(fan_in).collect();
        if let Some([only]) = groups.last() {
            passed = Some(only.clone());
            groups.pop();
        }
        let prompt = |group: &&[String]| {
            Prompt::plain(TEMPLATE.replace("{{responses}}", &group.join("\n---\n")))
        };
        prompts = groups.iter().map(prompt).collect();
    }
}

fn measure(bench: &Bench, leaves: usize, fan_in: usize) -> Result<Figures, Broken> {
    let servers = Servers::even(ENDPOINTS, Lengths::Fixed(TOKENS));
    let prompts: Vec<Prompt> = (0..leaves).map(|at| Prompt::plain(text(at as u64, 20))).collect();
    let folder = tempfile::tempdir().map_err(Broken::at("a folder for the run"))?;
    let (input, output) = (folder.path().join("input.jsonl"), folder.path().join("text.txt"));
    work::write(&prompts, &input).map_err(Broken::at("writing the input"))?;
    let mut coster = Coster::new(servers.policy(), TOKENS);
    let (levels, root) = tree(&mut coster, prompts, fan_in);
    let bound = |level: &Vec<Cost>| {
        let costs = level.iter().map(|cost| (cost.fresh, cost.output));
        servers.cost.bound(costs, &servers.slow).as_secs_f64()
    };
    let bound: f64 = levels.iter().map(bound).sum();
    let ideal = |level: &Vec<Cost>| schedule::seconds(level, &servers.cost, &servers.slow);
    let ideal: f64 = levels.iter().map(ideal).sum();

    let (tokens, groups) = (TOKENS.to_string(), fan_in.to_string());
    let more = ["--max-tokens", &tokens, "--max-tokens-aggregation", &tokens, "--fan-in", &groups];
    let more = owned(&[ALWAYS, &more, &["--reduce-template", TEMPLATE]].concat());
    let running = servers.start(bench)?;
    let urls: Vec<&str> = running.urls.iter().map(String::as_str).collect();
    Start {
        command: "reduce",
        folder: folder.path(),
        input: &input,
        answers: &output,
        urls: &urls,
        arguments: &more,
        launch: Launch::Unwatched(RANKS),
        deadline: Duration::from_secs_f64(60.0 + 8.0 * ideal),
    }
    .run(bench, || ())?;
    let seen = running.finish()?;
    let got = std::fs::read_to_string(&output).map_err(Broken::at("the text"))?;
    if got != root {
        return Err(Broken(format!("the text is {got:?} and should be {root:?}")));
    }
    let last = seen.iter().map(|it| it.last_answer_us).max().unwrap_or_default();
    let wall = last as f64 / 1e6 - first_request(&seen);
    let above = (levels.len() - 1) as f64;
    let figures = [
        ("share", bound / wall),
        ("in_order_share", bound / ideal),
        ("wall_s", wall),
        ("bound_s", bound),
        ("ideal_s", ideal),
        ("levels", above),
        ("level_end_ms", (wall - ideal) / above * 1e3),
    ];
    Ok(figures.map(|(name, figure)| (name.to_owned(), figure)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_has_the_levels_it_should_and_a_last_group_of_one_costs_nothing() {
        let servers = Servers::even(1, Lengths::Fixed(8));
        let prompts: Vec<Prompt> = (0..21).map(|at| Prompt::plain(text(at, 9))).collect();
        let levels = |fan_in| {
            let mut coster = Coster::new(servers.policy(), 8);
            let (levels, root) = tree(&mut coster, prompts.clone(), fan_in);
            assert!(!root.is_empty());
            levels.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(levels(4), [21, 5, 2, 1], "the sixth group passes its one leaf up");
        assert_eq!(levels(5), [21, 4, 1], "and so does the fifth");
        assert_eq!(levels(50), [21, 1]);
    }
}
