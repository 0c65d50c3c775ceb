//! The window that the program finds by itself against the best of fixed ones: tokens a second
//! once it has had ten seconds to look around.

use crate::case::{Amount, Case};
use crate::flags::{AUTO_WINDOW, owned, window};
use crate::lengths::text;
use crate::scenario::{Bar, Bench, Broken, Figures, Row, Scenario, Size};
use crate::servers::Servers;
use crate::stats;
use crate::work::Prompt;
use serde_json::json;
use vllm_sim::Lengths;

/// What is measured of a run, in seconds from its first request, and how much work there is at
/// the bound.
struct Stretch {
    from: f64,
    to: f64,
    work: f64,
}

pub fn scenarios(size: Size) -> Vec<Scenario> {
    // The windows tried are those around the slots and up to the few times of them that lists
    // want; smaller ones leave slots empty and cannot be the best.
    vec![
        scenario(
            size,
            "window-16",
            "slots 16: the window found against fixed ones",
            16,
            &[16, 32, 64],
        ),
        scenario(
            size,
            "window-64",
            "slots 64: the window found against fixed ones",
            64,
            &[64, 96, 128, 192],
        ),
        scenario(
            size,
            "window-256",
            "slots 256: the window found against fixed ones",
            256,
            &[256, 384, 512],
        ),
    ]
}

fn scenario(
    size: Size,
    name: &'static str,
    title: &'static str,
    slots: usize,
    windows: &'static [usize],
) -> Scenario {
    let stretch = Stretch {
        from: size.pick(10.0, 3.0),
        to: size.pick(22.0, 6.0),
        work: size.pick(25.0, 8.0),
    };
    let windows = size.pick(windows, &windows[windows.len() - 1..]);
    let case = case(slots, stretch.work);
    let parameters = json!({
        "run": case.parameters(), "auto": AUTO_WINDOW, "windows": windows,
        "from_s": stretch.from, "to_s": stretch.to,
    });
    Scenario {
        name,
        title,
        why: "One endpoint, log-normal answers (median 64 tokens, sigma 0.6) that come one by one \
              and not in waves. 25 s of work at the bound: ten to find the window, twelve that \
              count, and the rest so that the end, when slots run empty, is not among them.",
        rows: vec![
            Row::of("ratio", "found / best fixed", "").bar(Bar::AtLeast(0.95)),
            Row::of("auto_tokens_per_s", "tokens/s, found", "").bound("bound_tokens_per_s"),
            Row::of("best_tokens_per_s", "tokens/s, best fixed", "").bound("bound_tokens_per_s"),
            Row::of("best_window", "the best fixed window", ""),
        ],
        once: false,
        parameters,
        measure: Box::new(move |bench| against_fixed(bench, &case, &stretch, windows)),
    }
}

fn case(slots: usize, seconds: f64) -> Case {
    let mut servers = Servers::even(1, Lengths::LogNormal { median: 64.0, sigma: 0.6 });
    servers.cost.max_num_seqs = slots;
    Case::on(servers, Amount::Seconds(seconds), |at| Prompt::plain(text(at, 20)))
}

fn against_fixed(
    bench: &Bench,
    case: &Case,
    stretch: &Stretch,
    windows: &[usize],
) -> Result<Figures, Broken> {
    let speed = |flags: Vec<String>| {
        let outcome = case.clone().flags(flags).run(bench)?;
        let few = || Broken(format!("too few samples: {:?}", outcome.samples));
        let rate = stats::rate(&outcome.samples, stretch.from, stretch.to).ok_or_else(few)?;
        Ok::<_, Broken>((rate, outcome.figures))
    };
    let (auto, mut figures) = speed(owned(AUTO_WINDOW))?;
    let mut best = (0.0, 0);
    for prompts in windows {
        let (rate, _) = speed(window(*prompts))?;
        figures.insert(format!("window_{prompts}_tokens_per_s"), rate);
        if rate > best.0 {
            best = (rate, *prompts);
        }
    }
    let model = &case.servers[0].cost;
    let slots = model.max_num_seqs;
    let full = slots as f64 / model.step_us(slots, 0) * 1e6;
    figures.extend(
        [
            ("ratio", auto / best.0),
            ("auto_tokens_per_s", auto),
            ("best_tokens_per_s", best.0),
            ("best_window", best.1 as f64),
            ("bound_tokens_per_s", full),
        ]
        .map(|(name, figure)| (name.to_owned(), figure)),
    );
    Ok(figures)
}
