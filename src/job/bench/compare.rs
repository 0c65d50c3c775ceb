//! `bench compare`: the same prompts sent in batches and one by one.
//!
//! The second side of a repeat could hit prefix caches with the first side's prompts. Measurements are isolated where servers
//! support it, and both sides go first in turn, for servers that do not and for other warm-up effects.

use std::collections::HashMap;

use super::{
    BenchContext, BenchOptions, BenchPlan, engine_session::EngineSession, with_batch_and_window,
};
use crate::{
    bench::{AnswerAgreement, BenchCell, BenchMeasurement, BenchRun, CompareReport, CompareSide},
    comm::{Comm, TypedComm},
    console,
    domain::{Outcome, Prompt, PromptResult},
    job::{Invocation, JobError, JobVerdict},
    settings::AutoOrCount,
};

/// Default number of prompts per endpoint and measurement.
const COMPARE_PROMPTS: u64 = 256;
/// Default batch size of the batched side.
const COMPARE_BATCH_SIZE: usize = 16;

/// Collective. Compares batched with single requests and prints a table, or JSON, on rank 0.
///
/// # Errors
/// Fails if settings or the input are invalid, or the report cannot be written.
pub fn bench_compare(
    comm: &mut dyn Comm,
    given: Invocation,
    measuring: BenchOptions,
) -> Result<JobVerdict, JobError> {
    let prompts = measuring.prompts.unwrap_or(COMPARE_PROMPTS);
    let repeats = measuring.repeats;
    let plan = BenchPlan {
        rejected_keys: (
            &["no-batch"],
            "bench compare always measures batched and single requests (set the batch with --batch-size)",
        ),
        apply_defaults: |settings, said| {
            if !said("batch-size") {
                settings.batch_size = AutoOrCount::Count(COMPARE_BATCH_SIZE);
            }
            if settings.temperature.is_none() && settings.n == 1 {
                settings.temperature = Some(0.0);
            }
        },
        prompts_per_endpoint: prompts * (u64::from(repeats) + 2),
    };
    let Some(mut bench) = BenchContext::start_bench(comm, given, measuring, &plan)? else {
        return Ok(JobVerdict::NoEndpoint);
    };
    let choice = bench.select_model_or_end(comm)?;
    let settings = bench.context.settings.clone();
    let window = settings.concurrency;
    let ways =
        [settings.batch_size, AutoOrCount::Count(1)].map(|batch| BenchCell { batch, window });
    let mut lanes = ways.map(|it| {
        bench.start_session(&with_batch_and_window(&settings, it.batch, window), &choice, |_| true)
    });
    for lane in &mut lanes {
        let prompts = bench.prompt_source.take_prompts(prompts * lane.endpoint_count());
        bench.measure_together(comm, lane, prompts, |_| {})?;
    }
    let mut runs: [Vec<BenchRun>; 2] = Default::default();
    let mut agreement = AnswerAgreement::default();
    for turn in 0..repeats {
        if bench.cancellation.cancel_reason().is_some() {
            break;
        }
        let asked = bench.prompt_source.take_prompts(prompts * lanes[0].endpoint_count());
        let mut texts: [HashMap<u64, String>; 2] = Default::default();
        let order = if turn % 2 == 0 { [0, 1] } else { [1, 0] };
        let mut measured = [None, None];
        for way in order {
            measured[way] = bench.measure_side(comm, &mut lanes[way], &asked, &mut texts[way])?;
        }
        // An engine session that has ended cannot measure again.
        let over = measured.iter().flatten().any(|it| it.end_reason.is_some());
        let over = comm.broadcast_value(Some(over))?;
        if over && bench.cancellation.cancel_reason().is_some() {
            break; // a repeat with one side only cannot be compared
        }
        for (runs, measured) in runs.iter_mut().zip(&measured) {
            runs.extend(measured.as_ref().map(BenchRun::from_measurement));
        }
        for prompt in &asked {
            let [batched, single] = texts.each_ref().map(|it| it.get(&prompt.index));
            let (batched, single) = (batched.map(String::as_str), single.map(String::as_str));
            agreement.count_pair(prompt.input.as_str(), batched, single);
        }
        bench.print_progress(|| {
            let [batched, single] =
                runs.each_ref().map(|it| it.last().map_or(0.0, |it| it.prompts_per_s));
            format!("repeat {}: {batched:.2} prompts/s batched, {single:.2} single", turn + 1)
        });
        if over {
            break;
        }
    }
    let agreement = comm.reduce_values(agreement)?;
    let rows_came_again = bench.any_rows_repeated(comm);
    let report = agreement.map(|answers| {
        let mut conditions = bench.bench_conditions(comm, Some(&choice));
        conditions.rows_came_again = rows_came_again;
        let [batched, single] = runs;
        let (batched, single) =
            (CompareSide::new(ways[0], batched), CompareSide::new(ways[1], single));
        let greedy = settings.temperature == Some(0.0);
        let report = CompareReport::new(conditions, batched, single, answers, greedy);
        let whole = report.batched.failed.is_none() && report.single.failed.is_none();
        let table = console::compare_table(&report);
        (report, table, if whole { JobVerdict::Done } else { JobVerdict::SomeFailed })
    });
    drop(lanes);
    bench.finish_report(comm, report, |_| Ok(Vec::new()))
}

impl BenchContext {
    /// Collective. Measures one side and stores its answers by prompt index.
    fn measure_side(
        &mut self,
        comm: &mut dyn Comm,
        lane: &mut EngineSession,
        asked: &[Prompt],
        texts: &mut HashMap<u64, String>,
    ) -> Result<Option<BenchMeasurement>, JobError> {
        self.measure_together(comm, lane, asked.to_vec(), |settled| {
            if let Some(text) = answer_text(settled) {
                texts.insert(settled.prompt.index, text);
            }
        })
    }
}

/// Joins all sequences of an answer.
pub(super) fn answer_text(settled: &PromptResult) -> Option<String> {
    match &settled.outcome {
        Outcome::Answered(answer) => {
            let texts: Vec<&str> = answer.choices.iter().map(|it| it.text.as_str()).collect();
            Some(texts.join("\n"))
        }
        Outcome::Failed(_) => None,
    }
}
