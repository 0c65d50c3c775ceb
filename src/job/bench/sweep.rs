//! `bench sweep`: measures every batch size with every concurrency limit (window) and reports the best combination.

use super::{BenchContext, BenchOptions, BenchPlan, with_batch_and_window};
use crate::{
    bench::{BenchCell, BenchRun, RunFigures, SweepReport, SweepRow, sweep_cells},
    comm::Comm,
    console,
    job::{Invocation, JobError, JobVerdict},
    settings::AutoOrCount,
};

/// Collective. Measures all cells and prints a table, or JSON, on rank 0.
///
/// # Errors
/// Fails if settings or the input are invalid, or the report cannot be written.
pub fn bench_sweep(
    comm: &mut dyn Comm,
    given: Invocation,
    measuring: BenchOptions,
    (batches, windows): (&[AutoOrCount], &[AutoOrCount]),
) -> Result<JobVerdict, JobError> {
    let cells = sweep_cells(batches, windows);
    let size = |cell: &BenchCell| measuring.prompts.unwrap_or_else(|| cell.default_prompts());
    let turns = u64::from(measuring.repeats) + 1;
    let plan = BenchPlan {
        rejected_keys: (
            &["batch-size", "no-batch", "concurrency"],
            "bench sweep varies it (use --batch-sizes and --windows)",
        ),
        apply_defaults: |_, _| {},
        prompts_per_endpoint: cells.iter().map(size).sum::<u64>() * turns,
    };
    let sizes: Vec<u64> = cells.iter().map(size).collect();
    let Some(mut bench) = BenchContext::start_bench(comm, given, measuring, &plan)? else {
        return Ok(JobVerdict::NoEndpoint);
    };
    // Model and route are selected without a cell's batch size: local rendering has to be decided for all cells alike.
    let settings =
        with_batch_and_window(&bench.context.settings, AutoOrCount::Auto, AutoOrCount::Auto);
    bench.context.settings = settings.clone();
    let choice = bench.select_model_or_end(comm)?;
    let mut rows = Vec::new();
    for (&cell, size) in cells.iter().zip(sizes) {
        if let Some(why) = bench.skip_reason() {
            rows.push(SweepRow::new(cell, Vec::new(), Some(why)));
            continue;
        }
        let (runs, failed) = match cell.impossible_reason(settings.n) {
            Some(why) => (Vec::new(), Some(why)),
            None => {
                let settings = with_batch_and_window(&settings, cell.batch, cell.window);
                let mut lane = bench.start_session(&settings, &choice, |_| true);
                bench.measure_repeats(comm, &mut lane, (size, size), |_| {})?
            }
        };
        bench.print_progress(|| describe_cell(cell, &runs, failed.as_deref()));
        rows.push(SweepRow::new(cell, runs, failed));
    }
    let rows_came_again = bench.any_rows_repeated(comm);
    let report = bench.all_endpoints.is_some().then(|| {
        let mut conditions = bench.bench_conditions(comm, Some(&choice));
        conditions.rows_came_again = rows_came_again;
        let report = SweepReport::new(conditions, rows);
        let verdict = if report.best.is_some() { JobVerdict::Done } else { JobVerdict::SomeFailed };
        let table = console::sweep_table(&report);
        (report, table, verdict)
    });
    bench.finish_report(comm, report, console::sweep_plots)
}

fn describe_cell(cell: BenchCell, runs: &[BenchRun], failed: Option<&str>) -> String {
    let BenchCell { batch, window } = cell;
    let found = match (failed, RunFigures::from_runs(runs)) {
        (Some(why), _) => why.to_owned(),
        (None, Some(it)) => format!(
            "{:.1} tokens/s, {:.2} prompts/s",
            it.tokens_per_s.median, it.prompts_per_s.median
        ),
        (None, None) => "nothing was answered".into(),
    };
    format!("batch {batch}, window {window}: {found}")
}
