//! `bench compare`: the same prompts in lists and one by one.
//!
//! Who asks second would find the prompts in prefix caches: measurements keep these apart where servers can, and both ways go
//! first in turn, for those that cannot and for what else gets warm.

use std::collections::HashMap;

use super::{Bench, Measuring, Plan, engine_session::Lane, with};
use crate::{
    bench::{Agreement, Cell, CompareReport, Measured, Run, Side},
    comm::{Comm, Typed},
    console,
    domain::{Outcome, Prompt, Settled},
    job::{CodeOf, Given, JobError, Verdict},
    settings::Amount,
};

/// Prompts an endpoint and measurement.
const PROMPTS: u64 = 256;
/// A list that is one, where nobody says how long.
const BATCH: usize = 16;

/// Collective. Prints a table (or JSON) on rank 0.
///
/// # Errors
/// Where settings or the input cannot be, or the report not be written.
pub fn compare(
    comm: &mut dyn Comm,
    given: Given,
    measuring: Measuring,
    code: CodeOf,
) -> Result<Verdict, JobError> {
    let prompts = measuring.prompts.unwrap_or(PROMPTS);
    let repeats = measuring.repeats;
    let plan = Plan {
        instead: (
            &["no-batch"],
            "a comparison asks both ways; --batch-size says how batched is meant",
        ),
        defaults: |settings, said| {
            if !said("batch-size") {
                settings.batch_size = Amount::Exactly(BATCH);
            }
            if settings.temperature.is_none() && settings.n == 1 {
                settings.temperature = Some(0.0);
            }
        },
        prompts: prompts * (u64::from(repeats) + 2),
    };
    let Some(mut bench) = Bench::begin(comm, given, measuring, &plan, code)? else {
        return Ok(Verdict::NoEndpoint);
    };
    let choice = bench.chosen(comm)?;
    let settings = bench.common.settings.clone();
    let window = settings.concurrency;
    let ways = [settings.batch_size, Amount::Exactly(1)].map(|batch| Cell { batch, window });
    let mut lanes =
        ways.map(|it| bench.lane(&with(&settings, it.batch, window), &choice, |_| true));
    for lane in &mut lanes {
        let prompts = bench.pool.take(prompts * lane.endpoints());
        bench.together(comm, lane, prompts, |_| {})?;
    }
    let mut runs: [Vec<Run>; 2] = Default::default();
    let mut agreement = Agreement::default();
    for turn in 0..repeats {
        if bench.stop.over().is_some() {
            break;
        }
        let asked = bench.pool.take(prompts * lanes[0].endpoints());
        let mut texts: [HashMap<u64, String>; 2] = Default::default();
        let order = if turn % 2 == 0 { [0, 1] } else { [1, 0] };
        let mut measured = [None, None];
        for way in order {
            measured[way] = bench.measured(comm, &mut lanes[way], &asked, &mut texts[way])?;
        }
        // A lane that has ended measures nothing more.
        let over = measured.iter().flatten().any(|it| it.ended.is_some());
        let over = comm.broadcast_value(Some(over))?;
        if over && bench.stop.over().is_some() {
            break; // half a pair says nothing
        }
        for (runs, measured) in runs.iter_mut().zip(&measured) {
            runs.extend(measured.as_ref().map(Run::of));
        }
        for prompt in &asked {
            let [batched, single] = texts.each_ref().map(|it| it.get(&prompt.index));
            let (batched, single) = (batched.map(String::as_str), single.map(String::as_str));
            agreement.count(prompt.input.as_str(), batched, single);
        }
        bench.say(|| {
            let [batched, single] =
                runs.each_ref().map(|it| it.last().map_or(0.0, |it| it.prompts_per_s));
            format!("repeat {}: {batched:.2} prompts/s batched, {single:.2} single", turn + 1)
        });
        if over {
            break;
        }
    }
    let agreement = comm.reduce(agreement)?;
    let rows_came_again = bench.rows_came_again(comm);
    let report = agreement.map(|answers| {
        let mut conditions = bench.conditions(comm, Some(&choice));
        conditions.rows_came_again = rows_came_again;
        let [batched, single] = runs;
        let (batched, single) = (Side::new(ways[0], batched), Side::new(ways[1], single));
        let greedy = settings.temperature == Some(0.0);
        let report = CompareReport::new(conditions, batched, single, answers, greedy);
        let whole = report.batched.failed.is_none() && report.single.failed.is_none();
        let table = console::compare_table(&report);
        (report, table, if whole { Verdict::Done } else { Verdict::SomeFailed })
    });
    drop(lanes);
    bench.end(comm, report, |_| Ok(Vec::new()))
}

impl Bench {
    /// Collective. One way, with its answers by the prompt's index.
    fn measured(
        &mut self,
        comm: &mut dyn Comm,
        lane: &mut Lane,
        asked: &[Prompt],
        texts: &mut HashMap<u64, String>,
    ) -> Result<Option<Measured>, JobError> {
        self.together(comm, lane, asked.to_vec(), |settled| {
            if let Some(text) = text(settled) {
                texts.insert(settled.prompt.index, text);
            }
        })
    }
}

/// All that was answered, one sequence after the other.
pub(super) fn text(settled: &Settled) -> Option<String> {
    match &settled.outcome {
        Outcome::Answered(answer) => {
            let texts: Vec<&str> = answer.choices.iter().map(|it| it.text.as_str()).collect();
            Some(texts.join("\n"))
        }
        Outcome::Failed(_) => None,
    }
}
