//! `bench sweep`: every batch size with every window, and which is best.

use super::{Bench, Measuring, Plan, with};
use crate::{
    bench::{Cell, Figures, Run, SweepReport, SweepRow, cells},
    comm::Comm,
    console,
    job::{CodeOf, Given, JobError, Verdict},
    settings::Amount,
};

/// Collective. Prints a table (or JSON) on rank 0.
///
/// # Errors
/// Where settings or the input cannot be, or the report not be written.
pub fn sweep(
    comm: &mut dyn Comm,
    given: Given,
    measuring: Measuring,
    (batches, windows): (&[Amount], &[Amount]),
    code: CodeOf,
) -> Result<Verdict, JobError> {
    let cells = cells(batches, windows);
    let size = |cell: &Cell| measuring.prompts.unwrap_or_else(|| cell.prompts());
    let turns = u64::from(measuring.repeats) + 1;
    let plan = Plan {
        instead: (
            &["batch-size", "no-batch", "concurrency"],
            "a sweep goes over --batch-sizes and --windows",
        ),
        defaults: |_, _| {},
        prompts: cells.iter().map(size).sum::<u64>() * turns,
    };
    let sizes: Vec<u64> = cells.iter().map(size).collect();
    let Some(mut bench) = Bench::begin(comm, given, measuring, &plan, code)? else {
        return Ok(Verdict::NoEndpoint);
    };
    // Not by one cell's size: whether conversations can be rendered here is found for all.
    let settings = with(&bench.common.settings, Amount::Auto, Amount::Auto);
    bench.common.settings = settings.clone();
    let choice = bench.chosen(comm)?;
    let mut rows = Vec::new();
    for (&cell, size) in cells.iter().zip(sizes) {
        if let Some(why) = bench.not_measured() {
            rows.push(SweepRow::new(cell, Vec::new(), Some(why)));
            continue;
        }
        let (runs, failed) = match cell.cannot(settings.n) {
            Some(why) => (Vec::new(), Some(why)),
            None => {
                let settings = with(&settings, cell.batch, cell.window);
                let mut lane = bench.lane(&settings, &choice, |_| true);
                bench.runs(comm, &mut lane, (size, size), |_| {})?
            }
        };
        bench.say(|| line(cell, &runs, failed.as_deref()));
        rows.push(SweepRow::new(cell, runs, failed));
    }
    let rows_came_again = bench.rows_came_again(comm);
    let report = bench.found.is_some().then(|| {
        let mut conditions = bench.conditions(comm, Some(&choice));
        conditions.rows_came_again = rows_came_again;
        let report = SweepReport::new(conditions, rows);
        let verdict = if report.best.is_some() { Verdict::Done } else { Verdict::SomeFailed };
        let table = console::sweep_table(&report);
        (report, table, verdict)
    });
    bench.end(comm, report, console::sweep_plots)
}

fn line(cell: Cell, runs: &[Run], failed: Option<&str>) -> String {
    let Cell { batch, window } = cell;
    let found = match (failed, Figures::of(runs)) {
        (Some(why), _) => why.to_owned(),
        (None, Some(it)) => format!(
            "{:.1} tokens/s, {:.2} prompts/s",
            it.tokens_per_s.median, it.prompts_per_s.median
        ),
        (None, None) => "nothing was answered".into(),
    };
    format!("batch {batch}, window {window}: {found}")
}
