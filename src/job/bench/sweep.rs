//! `bench sweep`: measures every batch size with every concurrency limit (window) and reports the best combination.

use super::measure::{BenchContext, BenchOptions, BenchPlan, with_batch_and_window};
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
pub(crate) fn bench_sweep(
    comm: &mut dyn Comm,
    invocation: Invocation,
    options: BenchOptions,
    batches: &[AutoOrCount],
    windows: &[AutoOrCount],
) -> Result<JobVerdict, JobError> {
    let cells: Vec<(BenchCell, u64)> = sweep_cells(batches, windows)
        .into_iter()
        .map(|cell| (cell, options.prompts.unwrap_or_else(|| cell.default_prompts())))
        .collect();
    let measurements = u64::from(options.repeats) + 1; // with the warm-up
    let plan = BenchPlan {
        rejected_keys: (
            &["batch-size", "no-batch", "concurrency"],
            "bench sweep varies it\nhint: use --batch-sizes and --windows",
        ),
        apply_defaults: |_, _| {},
        prompts_per_endpoint: cells.iter().map(|(_, prompts)| prompts).sum::<u64>() * measurements,
    };
    let Some(mut bench) = BenchContext::start_bench(comm, invocation, options, &plan)? else {
        return Ok(JobVerdict::NoEndpoint);
    };
    // Model and route are selected without a cell's batch size: local rendering has to be decided for all cells alike.
    let settings = with_batch_and_window(bench.settings(), AutoOrCount::Auto, AutoOrCount::Auto);
    let selection = bench.select_model_or_end(comm, &settings)?;
    let mut rows = Vec::new();
    for (cell, prompts) in cells {
        if let Some(reason) = bench.skip_reason() {
            rows.push(SweepRow::new(cell, Vec::new(), Some(reason)));
            continue;
        }
        let (runs, failed) = match cell.impossible_reason(settings.n) {
            Some(reason) => (Vec::new(), Some(reason)),
            None => {
                let settings = with_batch_and_window(&settings, cell.batch, cell.window);
                let mut session = bench.start_session(&settings, &selection, |_| true);
                bench.measure_repeats(comm, &mut session, prompts, prompts, |_| {})?
            }
        };
        bench.print_progress(|| describe_cell(cell, &runs, failed.as_deref()));
        rows.push(SweepRow::new(cell, runs, failed));
    }
    let rows_came_again = bench.any_rows_repeated(comm);
    let report = bench.is_root().then(|| {
        let mut conditions = bench.bench_conditions(comm, Some(&selection));
        conditions.rows_came_again = rows_came_again;
        let report = SweepReport::new(conditions, rows);
        let verdict = if report.best.is_some() { JobVerdict::Done } else { JobVerdict::SomeFailed };
        let table = console::sweep_table(&report);
        (report, table, verdict)
    });
    bench.finish_report(comm, report, |report| {
        vec![("svg", console::sweep_chart(report).into_bytes())]
    })
}

fn describe_cell(cell: BenchCell, runs: &[BenchRun], failed: Option<&str>) -> String {
    let BenchCell { batch, window } = cell;
    let result = match (failed, RunFigures::from_runs(runs)) {
        (Some(reason), _) => reason.to_owned(),
        (None, Some(figures)) => format!(
            "{:.1} tokens/s, {:.2} prompts/s",
            figures.tokens_per_s.median, figures.prompts_per_s.median
        ),
        (None, None) => "no prompts answered".into(),
    };
    format!("batch {batch}, window {window}: {result}")
}
