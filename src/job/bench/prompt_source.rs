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
    ErrorCodeFn, JobError,
    context::all_ok,
    root::open::{check_input_fits, row_rules},
    setup::scan::scan_alone,
};
use crate::{
    bench::generate_text,
    comm::{Comm, TypedComm},
    domain::{Prompt, PromptId, PromptInput, RequestParams, RowHash},
    input::{InputRules, InputSource, PromptReader, RowLease, RowTable},
    settings::Settings,
};

/// The input as rank 0 has read it.
pub(super) struct BenchInput {
    source: InputSource,
    rules: InputRules,
    table: Option<RowTable>,
    row_model: Option<String>,
    /// Where packed input was laid out.
    scratch: PathBuf,
}

/// What a rank is sent.
#[derive(Serialize, Deserialize)]
pub(super) struct RankPromptShare {
    source: InputSource,
    rules: InputRules,
    /// Rows with their text; none where prompts are made up.
    lease: Option<RowLease>,
    seed: u64,
    row_model: Option<String>,
}

/// A rank's prompts.
pub(super) struct BenchPromptSource {
    origin: PromptOrigin,
    source: InputSource,
    row_model: Option<String>,
    taken: u64,
    /// The most that was taken at once.
    largest_take: u64,
    /// Does a measurement find in caches only what it has asked itself?
    caches_isolated: bool,
    seed: u64,
}

enum PromptOrigin {
    Rows(Vec<Prompt>),
    Generated { seed: u64, tokens: usize },
}

/// Rank 0. Reads the input over; of none, prompts are made up.
pub(super) fn read(
    settings: &Settings,
    inputs: &[String],
    scratch: PathBuf,
) -> Result<BenchInput, JobError> {
    let rules = row_rules(settings);
    if inputs.is_empty() {
        return Ok(BenchInput {
            source: generated_source(),
            rules,
            table: None,
            row_model: None,
            scratch,
        });
    }
    let scanned = scan_alone(inputs, &rules, &scratch, None);
    let scanned = scanned.inspect_err(|_| drop(std::fs::remove_dir_all(&scratch)))?;
    let rows = BenchInput {
        source: scanned.source,
        rules,
        table: Some(scanned.table),
        row_model: scanned.row_model,
        scratch,
    };
    check_input_fits(settings, &rows.source)?;
    if rows.source.rows == 0 {
        return Err(JobError::PreconditionFailed(
            "the input has no rows: without INPUT, prompts are made up".into(),
        ));
    }
    Ok(rows)
}

/// A folder of this process, for packed input.
pub(super) fn scratch_folder(temporary: Option<&str>) -> PathBuf {
    let name = format!("aurora-swarm-bench-{}", std::process::id());
    Path::new(temporary.unwrap_or("/tmp")).join(name)
}

fn generated_source() -> InputSource {
    InputSource {
        files: Vec::new(),
        rows: 0,
        fingerprint: String::new(),
        any_messages: false,
        any_text: true,
        openai_batch: false,
        longest_row: 0,
    }
}

impl BenchInput {
    /// Each rank's part, by how many prompts it needs: one after the other while rows last.
    pub(super) fn split_rows(&self, needs: &[u64]) -> Result<Vec<RankPromptShare>, JobError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        #[expect(clippy::cast_possible_truncation, reason = "any number will do")]
        let seed = now.as_nanos() as u64;
        let all = self.table.as_ref().map_or(0, RowTable::rows);
        let parts = row_ranges(all, needs);
        let dealt = parts.into_iter().map(|(from, to)| {
            let lease = match &self.table {
                Some(table) => {
                    let lease = RowLease { ranges: table.row_ranges(from, to), text: None };
                    Some(lease.with_text(&self.source)?)
                }
                None => None,
            };
            let row_model = self.row_model.clone();
            Ok(RankPromptShare {
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

impl Drop for BenchInput {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.scratch); // most often there is none
    }
}

/// Which of `all` rows each rank gets, from and up to: what it needs, or, where there are too few, its share. Who needs
/// any gets one at least.
fn row_ranges(all: u64, needs: &[u64]) -> Vec<(u64, u64)> {
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

impl BenchPromptSource {
    /// Collective. What rank 0 has dealt; prompts that are made up have so many tokens. `apart` is whether measurements find
    /// only their own prompts in caches.
    pub(super) fn receive_share(
        comm: &mut dyn Comm,
        dealt: Option<Vec<RankPromptShare>>,
        tokens: usize,
        apart: bool,
        code: ErrorCodeFn,
    ) -> Result<Self, JobError> {
        let RankPromptShare { source, rules, lease, seed, row_model } =
            comm.scatter_values(dealt)?;
        let seed = seed ^ ((comm.rank() as u64) << 40);
        let read = match lease {
            None => Ok(PromptOrigin::Generated { seed, tokens }),
            Some(lease) => {
                let rows: Result<Vec<Prompt>, _> =
                    PromptReader::new(&source, &rules, std::iter::once(lease)).collect();
                rows.map(PromptOrigin::Rows).map_err(JobError::from)
            }
        };
        let from = all_ok(comm, read, code)?;
        Ok(Self {
            origin: from,
            source,
            row_model,
            taken: 0,
            largest_take: 0,
            caches_isolated: apart,
            seed,
        })
    }

    /// One that no other start of this program has.
    pub(super) fn name(&self) -> String {
        format!("bench-{:016x}", self.seed)
    }

    /// What the input is, and the model that all its rows name.
    pub(super) fn input_source(&self) -> Option<(&InputSource, Option<&str>)> {
        Some((&self.source, self.row_model.as_deref()))
    }

    /// The next prompts, numbered on and on.
    pub(super) fn take(&mut self, count: u64) -> Vec<Prompt> {
        let first = self.taken;
        self.taken += count;
        self.largest_take = self.largest_take.max(count);
        (first..self.taken).filter_map(|index| self.prompt_at(index)).collect()
    }

    fn prompt_at(&self, index: u64) -> Option<Prompt> {
        match &self.origin {
            PromptOrigin::Rows(rows) => {
                let at = usize::try_from(index % (rows.len() as u64).max(1)).ok()?;
                rows.get(at).map(|row| Prompt { index, ..row.clone() })
            }
            PromptOrigin::Generated { seed, tokens } => Some(Prompt {
                index,
                id: PromptId::from_index(index),
                input: PromptInput::Text(generate_text(*seed, index, *tokens)),
                params: RequestParams::default(),
                route: None,
                priority: 0,
                row: None,
                row_hash: RowHash::UNKNOWN,
            }),
        }
    }

    /// Begins with the first again.
    pub(super) fn rewind(&mut self) {
        self.taken = 0;
    }

    /// Were rows taken more than once, so that caches may have helped?
    pub(super) fn has_repeated_rows(&self) -> bool {
        let asked = if self.caches_isolated { self.largest_take } else { self.taken };
        matches!(&self.origin, PromptOrigin::Rows(rows) if asked > rows.len() as u64)
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
            let parts = row_ranges(all, &needs);
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
        let mut pool = prompt_source(PromptOrigin::Generated { seed: 1, tokens: 12 }, false);
        let mut all: Vec<Prompt> = pool.take(30);
        all.extend(pool.take(30));
        assert_eq!(all.iter().map(|it| it.index).collect::<Vec<_>>(), (0..60).collect::<Vec<_>>());
        let mut texts: Vec<&str> = all.iter().map(|it| it.input.as_str()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), 60);
        assert!(!pool.has_repeated_rows());
    }

    #[test]
    fn rows_come_again_only_where_there_are_too_few_and_that_is_known() {
        let rows = prompt_source(PromptOrigin::Generated { seed: 1, tokens: 3 }, false).take(5);
        let mut apart = prompt_source(PromptOrigin::Rows(rows.clone()), true);
        let mut pool = prompt_source(PromptOrigin::Rows(rows), false);
        assert_eq!((pool.take(5).len(), pool.has_repeated_rows()), (5, false));
        let again = pool.take(2);
        assert_eq!((again.len(), again[0].index, pool.has_repeated_rows()), (2, 5, true));
        // Where caches are kept apart only those of the same measurement are the same.
        assert_eq!(
            (apart.take(5).len(), apart.take(2).len(), apart.has_repeated_rows()),
            (5, 2, false)
        );
        assert_eq!((apart.take(6).len(), apart.has_repeated_rows()), (6, true));
    }

    fn prompt_source(from: PromptOrigin, apart: bool) -> BenchPromptSource {
        BenchPromptSource {
            origin: from,
            source: generated_source(),
            row_model: None,
            taken: 0,
            largest_take: 0,
            caches_isolated: apart,
            seed: 1,
        }
    }
}
