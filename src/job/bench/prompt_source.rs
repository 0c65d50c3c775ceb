//! Where a rank's prompts come from: rows of an input, or made up. Every measurement takes others.
//!
//! Rank 0 reads the input over and sends each rank its rows; ranks hold theirs in memory. Rows come again only where there
//! are too few.

use std::{
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::job::{
    CodeOf, JobError,
    context::everywhere,
    root::open::{fits, rules},
    setup::scan::read_over,
};
use crate::{
    bench::made_up,
    comm::{Comm, Typed},
    domain::{Id, Input, Params, Prompt, RowHash},
    input::{Lease, Reader, RowTable, Rules, Source},
    settings::Settings,
};

/// The input as rank 0 has read it.
pub(super) struct Rows {
    source: Source,
    rules: Rules,
    table: Option<RowTable>,
    row_model: Option<String>,
    /// Where packed input was laid out.
    scratch: PathBuf,
}

/// What a rank is sent.
#[derive(Serialize, Deserialize)]
pub(super) struct Dealt {
    source: Source,
    rules: Rules,
    /// Rows with their text; none where prompts are made up.
    lease: Option<Lease>,
    seed: u64,
    row_model: Option<String>,
}

/// A rank's prompts.
pub(super) struct Pool {
    from: From,
    source: Source,
    row_model: Option<String>,
    taken: u64,
    /// The most that was taken at once.
    most: u64,
    /// Does a measurement find in caches only what it has asked itself?
    apart: bool,
    seed: u64,
}

enum From {
    Rows(Vec<Prompt>),
    Made { seed: u64, tokens: usize },
}

/// Rank 0. Reads the input over; of none, prompts are made up.
pub(super) fn read(
    settings: &Settings,
    inputs: &[String],
    scratch: PathBuf,
) -> Result<Rows, JobError> {
    let rules = rules(settings);
    if inputs.is_empty() {
        return Ok(Rows { source: made_source(), rules, table: None, row_model: None, scratch });
    }
    let scanned = read_over(inputs, &rules, &scratch, None);
    let scanned = scanned.inspect_err(|_| drop(std::fs::remove_dir_all(&scratch)))?;
    let rows = Rows {
        source: scanned.source,
        rules,
        table: Some(scanned.table),
        row_model: scanned.row_model,
        scratch,
    };
    fits(settings, &rows.source)?;
    if rows.source.rows == 0 {
        return Err(JobError::Standing(
            "the input has no rows: without INPUT, prompts are made up".into(),
        ));
    }
    Ok(rows)
}

/// A folder of this process, for packed input.
pub(super) fn scratch(temporary: Option<&str>) -> PathBuf {
    let name = format!("aurora-swarm-bench-{}", std::process::id());
    Path::new(temporary.unwrap_or("/tmp")).join(name)
}

fn made_source() -> Source {
    Source {
        files: Vec::new(),
        rows: 0,
        fingerprint: String::new(),
        any_messages: false,
        any_text: true,
        openai_batch: false,
        longest: 0,
    }
}

impl Rows {
    /// Each rank's part, by how many prompts it needs: one after the other while rows last.
    pub(super) fn deal(&self, needs: &[u64]) -> Result<Vec<Dealt>, JobError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
        let seed = now.as_nanos() as u64;
        let all = self.table.as_ref().map_or(0, RowTable::rows);
        let parts = parts(all, needs);
        let dealt = parts.into_iter().map(|(from, to)| {
            let lease = match &self.table {
                Some(table) => {
                    let lease = Lease { stretches: table.stretches(from, to), text: None };
                    Some(lease.with_text(&self.source)?)
                }
                None => None,
            };
            let row_model = self.row_model.clone();
            Ok(Dealt {
                source: self.source.clone(),
                rules: self.rules.clone(),
                lease,
                seed,
                row_model,
            })
        });
        dealt.collect()
    }
}

impl Drop for Rows {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.scratch); // most often there is none
    }
}

/// Which of `all` rows each rank gets, from and up to: what it needs, or, where there are too few, its share. Who needs
/// any gets one at least.
fn parts(all: u64, needs: &[u64]) -> Vec<(u64, u64)> {
    let wanted: u64 = needs.iter().sum();
    let scale = if wanted > all { all as f64 / wanted as f64 } else { 1.0 };
    let mut before = 0;
    let part = |&need: &u64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of all"
        )]
        let place = |at: u64| ((at as f64 * scale) as u64).min(all);
        let from = place(before);
        before += need;
        match need {
            0 => (from, from),
            _ => (from.min(all.saturating_sub(1)), place(before).max(from + 1).min(all)),
        }
    };
    needs.iter().map(part).collect()
}

impl Pool {
    /// Collective. What rank 0 has dealt; prompts that are made up have so many tokens. `apart` is whether measurements find
    /// only their own prompts in caches.
    pub(super) fn received(
        comm: &mut dyn Comm,
        dealt: Option<Vec<Dealt>>,
        tokens: usize,
        apart: bool,
        code: CodeOf,
    ) -> Result<Self, JobError> {
        let Dealt { source, rules, lease, seed, row_model } = comm.scatter_values(dealt)?;
        let seed = seed ^ ((comm.rank() as u64) << 40);
        let read = match lease {
            None => Ok(From::Made { seed, tokens }),
            Some(lease) => {
                let rows: Result<Vec<Prompt>, _> =
                    Reader::new(&source, &rules, std::iter::once(lease)).collect();
                rows.map(From::Rows).map_err(JobError::from)
            }
        };
        let from = everywhere(comm, read, code)?;
        Ok(Self { from, source, row_model, taken: 0, most: 0, apart, seed })
    }

    /// One that no other start of this program has.
    pub(super) fn name(&self) -> String {
        format!("bench-{:016x}", self.seed)
    }

    /// What the input is, and the model that all its rows name.
    pub(super) fn source(&self) -> Option<(&Source, Option<&str>)> {
        Some((&self.source, self.row_model.as_deref()))
    }

    /// The next prompts, numbered on and on.
    pub(super) fn take(&mut self, count: u64) -> Vec<Prompt> {
        let first = self.taken;
        self.taken += count;
        self.most = self.most.max(count);
        (first..self.taken).filter_map(|index| self.prompt(index)).collect()
    }

    fn prompt(&self, index: u64) -> Option<Prompt> {
        match &self.from {
            From::Rows(rows) => {
                let at = usize::try_from(index % (rows.len() as u64).max(1)).ok()?;
                rows.get(at).map(|row| Prompt { index, ..row.clone() })
            }
            From::Made { seed, tokens } => Some(Prompt {
                index,
                id: Id::of_index(index),
                input: Input::Text(made_up(*seed, index, *tokens)),
                params: Params::default(),
                route: None,
                priority: 0,
                row: None,
                hash: RowHash::UNKNOWN,
            }),
        }
    }

    /// Begins with the first again.
    pub(super) fn rewind(&mut self) {
        self.taken = 0;
    }

    /// Were rows taken more than once, so that caches may have helped?
    pub(super) fn came_again(&self) -> bool {
        let asked = if self.apart { self.most } else { self.taken };
        matches!(&self.from, From::Rows(rows) if asked > rows.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranks_get_what_they_need_or_their_share_and_nobody_twice_while_rows_last(
            all in 1..500u64, needs in prop::collection::vec(0..90u64, 1..9),
        ) {
            let parts = parts(all, &needs);
            let wanted: u64 = needs.iter().sum();
            for ((from, to), need) in parts.iter().zip(&needs) {
                prop_assert!(from <= to && *to <= all);
                prop_assert_eq!(to > from, *need > 0);
                prop_assert!(wanted > all || to - from == *need);
            }
            let enough = wanted <= all;
            for pair in parts.windows(2).filter(|_| enough) {
                prop_assert!(pair[0].1 <= pair[1].0);
            }
        }
    }

    #[test]
    fn prompts_that_are_made_up_are_never_the_same() {
        let mut pool = pool(From::Made { seed: 1, tokens: 12 }, false);
        let mut all: Vec<Prompt> = pool.take(30);
        all.extend(pool.take(30));
        assert_eq!(all.iter().map(|it| it.index).collect::<Vec<_>>(), (0..60).collect::<Vec<_>>());
        let mut texts: Vec<&str> = all.iter().map(|it| it.input.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), 60);
        assert!(!pool.came_again());
    }

    #[test]
    fn rows_come_again_only_where_there_are_too_few_and_that_is_known() {
        let rows = pool(From::Made { seed: 1, tokens: 3 }, false).take(5);
        let mut apart = pool(From::Rows(rows.clone()), true);
        let mut pool = pool(From::Rows(rows), false);
        assert_eq!((pool.take(5).len(), pool.came_again()), (5, false));
        let again = pool.take(2);
        assert_eq!((again.len(), again[0].index, pool.came_again()), (2, 5, true));
        // Where caches are kept apart only those of the same measurement are the same.
        assert_eq!((apart.take(5).len(), apart.take(2).len(), apart.came_again()), (5, 2, false));
        assert_eq!((apart.take(6).len(), apart.came_again()), (6, true));
    }

    fn pool(from: From, apart: bool) -> Pool {
        Pool { from, source: made_source(), row_model: None, taken: 0, most: 0, apart, seed: 1 }
    }
}
