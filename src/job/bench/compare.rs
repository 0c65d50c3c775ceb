//! `bench compare`: the same prompts sent in batches and one by one.
//!
//! The second side of a repeat could hit prefix caches with the first side's prompts. Measurements are isolated where
//! servers support it, and both sides go first in turn, for servers that do not and for other warm-up effects.

use std::collections::HashMap;

use super::{
    engine_session::EngineSession,
    measure::{BenchContext, BenchOptions, BenchPlan, answer_text, with_batch_and_window},
};
use crate::{
    bench::{AnswerAgreement, BenchCell, BenchRun, CompareReport, CompareSide},
    comm::{Comm, TypedComm},
    console,
    job::{Invocation, JobError, JobVerdict},
    settings::AutoOrCount,
};

/// Default number of prompts per endpoint and measurement.
const COMPARE_PROMPTS: u64 = 256;
/// Default batch size of the batched side.
const COMPARE_BATCH_SIZE: usize = 16;

/// Runs and agreement of both sides, batched first; the runs are on rank 0 only.
#[derive(Default)]
struct SideBySide {
    runs: [Vec<BenchRun>; 2],
    /// Agreement of the answers to this rank's prompts.
    agreement: AnswerAgreement,
}

/// Collective. Compares batched with single requests and prints a table, or JSON, on rank 0.
///
/// # Errors
/// Fails if settings or the input are invalid, or the report cannot be written.
pub(crate) fn bench_compare(
    comm: &mut dyn Comm,
    invocation: Invocation,
    options: BenchOptions,
) -> Result<JobVerdict, JobError> {
    let (prompts, repeats) = (options.prompts.unwrap_or(COMPARE_PROMPTS), options.repeats);
    let plan = compare_plan(prompts, repeats);
    let Some(mut bench) = BenchContext::start_bench(comm, invocation, options, &plan)? else {
        return Ok(JobVerdict::NoEndpoint);
    };
    let settings = bench.settings().clone();
    let selection = bench.select_model_or_end(comm, &settings)?;
    let window = settings.concurrency;
    let cells =
        [settings.batch_size, AutoOrCount::Count(1)].map(|batch| BenchCell { batch, window });
    let mut sessions = cells.map(|cell| {
        let settings = with_batch_and_window(&settings, cell.batch, window);
        bench.start_session(&settings, &selection, |_| true)
    });
    for session in &mut sessions {
        let warm_up = bench.take_prompts(prompts * session.endpoint_count());
        bench.measure_together(comm, session, warm_up, |_| {})?;
    }
    let mut compared = SideBySide::default();
    for repeat in 0..repeats {
        if bench.is_cancelled()
            || !compared.measure_repeat(&mut bench, comm, &mut sessions, repeat, prompts)?
        {
            break;
        }
    }
    let SideBySide { runs, agreement } = compared;
    let agreement = comm.reduce_values(agreement)?;
    let rows_came_again = bench.any_rows_repeated(comm);
    let report = agreement.map(|answers| {
        let mut conditions = bench.bench_conditions(comm, Some(&selection));
        conditions.rows_came_again = rows_came_again;
        let [batched, single] = runs;
        let (batched, single) =
            (CompareSide::new(cells[0], batched), CompareSide::new(cells[1], single));
        let greedy = settings.temperature == Some(0.0);
        let report = CompareReport::new(conditions, batched, single, answers, greedy);
        let is_whole = report.batched.failed.is_none() && report.single.failed.is_none();
        let table = console::compare_table(&report);
        (report, table, if is_whole { JobVerdict::Done } else { JobVerdict::SomeFailed })
    });
    drop(sessions);
    bench.finish_report(comm, report, |_| Vec::new())
}

fn compare_plan(prompts: u64, repeats: u32) -> BenchPlan {
    BenchPlan {
        rejected_keys: (
            &["no-batch"],
            "bench compare always measures batched and single requests\nhint: set the batch with --batch-size",
        ),
        apply_defaults: |settings, is_set| {
            if !is_set("batch-size") {
                settings.batch_size = AutoOrCount::Count(COMPARE_BATCH_SIZE);
            }
            // Greedy answers are comparable; several sequences at temperature 0 would all be equal, and vLLM refuses
            // them.
            if settings.temperature.is_none() && settings.n == 1 {
                settings.temperature = Some(0.0);
            }
        },
        // A warm-up of each side, and repeats in which both sides get the same prompts.
        prompts_per_endpoint: prompts * (u64::from(repeats) + 2),
    }
}

impl SideBySide {
    /// Collective. Measures both sides with the same prompts; the side that goes first alternates. Returns whether
    /// another repeat can follow.
    fn measure_repeat(
        &mut self,
        bench: &mut BenchContext,
        comm: &mut dyn Comm,
        sessions: &mut [EngineSession; 2],
        repeat: u32,
        prompts: u64,
    ) -> Result<bool, JobError> {
        let prompts = bench.take_prompts(prompts * sessions[0].endpoint_count());
        let mut texts: [HashMap<u64, String>; 2] = Default::default();
        let mut measured = [None, None];
        let order = if repeat.is_multiple_of(2) { [0, 1] } else { [1, 0] };
        for side in order {
            let texts = &mut texts[side];
            measured[side] =
                bench.measure_together(comm, &mut sessions[side], prompts.clone(), |result| {
                    texts.extend(answer_text(result).map(|text| (result.prompt.index, text)));
                })?;
        }
        // An engine session that has ended cannot measure again.
        let has_ended = measured.iter().flatten().any(|measured| measured.end_reason.is_some());
        let has_ended = comm.broadcast_value(Some(has_ended))?;
        if has_ended && bench.is_cancelled() {
            return Ok(false); // a repeat with one side only cannot be compared
        }
        for (runs, measured) in self.runs.iter_mut().zip(&measured) {
            runs.extend(measured.as_ref().map(BenchRun::from_measurement));
        }
        for prompt in &prompts {
            let [batched, single] =
                texts.each_ref().map(|texts| texts.get(&prompt.index).map(String::as_str));
            self.agreement.count_pair(prompt.input.as_str(), batched, single);
        }
        bench.print_progress(|| {
            let [batched, single] =
                self.runs.each_ref().map(|runs| runs.last().map_or(0.0, |run| run.prompts_per_s));
            format!("repeat {}: {batched:.2} prompts/s batched, {single:.2} single", repeat + 1)
        });
        Ok(!has_ended)
    }
}
