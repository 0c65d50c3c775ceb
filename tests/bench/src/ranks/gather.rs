//! What it costs to bring answers together: scan, scatter and gather as shares of a run, and the gather beside a bare
//! MPI_Gatherv of the same bytes.
//!
//! It owns that comparison; how long the stations took, the product's log says.

use super::RANKS;
use crate::case::{Amount, Case};
use crate::flags::{LISTS_OF_64, owned};
use crate::launch;
use crate::lengths::text;
use crate::scenario::{Bench, Broken, Figures, Row, Scenario, Size};
use crate::servers::Servers;
use crate::work::Prompt;
use std::io::Write;
use std::time::Instant;
use vllm_sim::Lengths;

/// What stands before each line on its way to rank 0: index, failed, start, rank, length.
const HEAD: f64 = 24.0;

pub fn scenarios(size: Size) -> Vec<Scenario> {
    let mut servers = Servers::even(RANKS, Lengths::Fixed(512));
    servers.instant = true;
    let case = Case::on(servers, Amount::Prompts(size.pick(186_000, 4_000)), |at| {
        Prompt::plain(text(at, 20))
    });
    let case = case.flags(owned(LISTS_OF_64)).ranks(RANKS);
    vec![Scenario {
        name: "gather",
        title: "560 MB of answers come together at rank 0",
        why: "186,000 answers of 512 tokens, about 3.0 kB a line: some twenty rounds of 32 MB, and \
              still in the page cache, so that MPI and the program are measured and not a disk. The \
              servers answer at once: the gather's share of this run is as large as it can be. A \
              gather reads and writes files too: the bare MPI_Gatherv with a plain write of the same \
              bytes stands beside it.",
        rows: vec![
            Row::of("gather_s", "gather", "s").least().bound("bare_and_write_s"),
            Row::of("of_bare", "gather / bare MPI_Gatherv", ""),
            Row::of("bare_s", "bare MPI_Gatherv of the same bytes", "s").least(),
            Row::of("gather_mb_per_s", "gathered", "MB/s"),
            Row::of("gather_share", "gather / run", ""),
            Row::of("scan_share", "scan / run", ""),
            Row::of("scatter_share", "scatter to first request / run", ""),
            Row::of("rank0_rss_mb", "peak memory of rank 0", "MB"),
            Row::of("others_rss_mb", "peak memory, largest rank but 0", "MB"),
        ],
        once: false,
        parameters: case.parameters(),
        measure: Box::new(move |bench| measure(bench, &case)),
    }]
}

fn measure(bench: &Bench, case: &Case) -> Result<Figures, Broken> {
    let mut figures = case.run(bench)?.figures;
    let known = |name: &str| {
        figures.get(name).copied().ok_or_else(|| Broken(format!("the log does not tell {name}")))
    };
    let (gather, scan, scatter) = (known("gather_s")?, known("scan_s")?, known("scatter_s")?);
    let (run, output) = (known("process_s")?, known("output_mb")? * 1e6);
    let bytes = output + HEAD * known("prompts")?;
    let bare = launch::bare_gather(bench, RANKS, bytes as u64)?;
    let written = write(output as u64)?;
    let more = [
        ("bare_s", bare),
        ("bare_and_write_s", bare + written),
        ("of_bare", gather / bare),
        ("gather_mb_per_s", bytes / 1e6 / gather),
        ("gather_share", gather / run),
        ("scan_share", scan / run),
        ("scatter_share", scatter / run),
    ];
    figures.extend(more.map(|(name, figure)| (name.to_owned(), figure)));
    Ok(figures)
}

/// The seconds that a file of so many bytes takes, written as plainly as can be where runs write theirs.
fn write(bytes: u64) -> Result<f64, Broken> {
    let write = || {
        let mut file = tempfile::tempfile()?;
        let piece = vec![b'a'; 1 << 20];
        let began = Instant::now();
        let mut left = bytes;
        while left > 0 {
            let now = left.min(piece.len() as u64);
            file.write_all(&piece[..now as usize])?;
            left -= now;
        }
        Ok(began.elapsed().as_secs_f64())
    };
    write().map_err(|error: std::io::Error| Broken(format!("a plain file: {error}")))
}
