//! The folder of each shard file: parallel file systems are slow with many files in one folder, so many ranks get
//! several.
//!
//! Pure: owns the names of folders and touches no disk. Readers find files in any of them
//! ([`list_shard_files`](super::list_shard_files)), so the layout may change between versions.

use std::path::{Path, PathBuf};

/// Largest number of shard files in one folder.
const MAX_FILES_PER_FOLDER: usize = 1000;

/// Returns the folder of a rank's shard file: `shards` itself with up to a thousand ranks, otherwise a folder in it.
#[must_use]
pub(crate) fn rank_folder(shards: &Path, start: u32, rank: usize, ranks: usize) -> PathBuf {
    bucket_name(start, rank, ranks, MAX_FILES_PER_FOLDER)
        .map_or_else(|| shards.to_owned(), |name| shards.join(name))
}

/// Returns all folders that the ranks of a session write to.
pub(crate) fn rank_folders(
    shards: &Path,
    start: u32,
    ranks: usize,
) -> impl Iterator<Item = PathBuf> {
    (0..ranks.max(1))
        .step_by(MAX_FILES_PER_FOLDER)
        .map(move |rank| rank_folder(shards, start, rank, ranks))
}

/// Returns the name of the folder below `shards`, or `None` if all files of the session fit into one folder.
fn bucket_name(start: u32, rank: usize, ranks: usize, limit: usize) -> Option<String> {
    (ranks > limit).then(|| format!("{start:04}-{:03}", rank / limit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shards::{ShardHeader, list_shard_files};
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    proptest! {
        #[test]
        fn no_folder_exceeds_its_limit_and_few_ranks_get_no_folder_of_their_own(
            starts in prop::collection::vec(1..300usize, 1..5), limit in 1..40usize,
        ) {
            let mut files: BTreeMap<Option<String>, BTreeSet<String>> = BTreeMap::new();
            let mut all = 0;
            for (start, &ranks) in (1..).zip(&starts) {
                for rank in 0..ranks {
                    let folder = bucket_name(start, rank, ranks, limit);
                    prop_assert_eq!(folder.is_some(), ranks > limit);
                    let name = ShardHeader::new(start, rank, "", "").file_name();
                    prop_assert!(files.entry(folder).or_default().insert(name), "a name is taken");
                    all += 1;
                }
            }
            prop_assert_eq!(files.values().map(BTreeSet::len).sum::<usize>(), all);
            prop_assert!(files.iter().all(|(folder, files)| folder.is_none() || files.len() <= limit));
        }
    }

    proptest! {
        // Each case creates files.
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn files_of_all_folders_are_listed_in_order_of_session_and_rank(
            starts in prop::collection::vec(1..20usize, 0..5), limit in 1..8usize,
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            let mut written = Vec::new();
            for (start, &ranks) in (1..).zip(&starts) {
                for rank in 0..ranks {
                    let bucket = bucket_name(start, rank, ranks, limit).unwrap_or_default();
                    let bucket = folder.path().join(bucket);
                    std::fs::create_dir_all(&bucket).expect("made");
                    std::fs::write(bucket.join(ShardHeader::new(start, rank, "", "").file_name()), "").expect("written");
                    written.push((start, rank as u32));
                }
            }
            std::fs::write(folder.path().join("notes.txt"), "").expect("written");
            let listed = list_shard_files(folder.path()).expect("listed");
            prop_assert!(listed.iter().all(|it| it.path.is_file()));
            prop_assert_eq!(listed.iter().map(|it| (it.start, it.rank)).collect::<Vec<_>>(), written);
        }
    }

    #[test]
    fn twelve_thousand_ranks_get_twelve_folders_and_a_thousand_ranks_none() {
        let shards = Path::new("s");
        assert_eq!(rank_folder(shards, 2, 999, 1000), shards);
        assert_eq!(rank_folders(shards, 2, 1000).collect::<Vec<_>>(), [shards]);
        assert_eq!(rank_folder(shards, 2, 11_999, 12_000), shards.join("0002-011"));
        let all: BTreeSet<PathBuf> = rank_folders(shards, 2, 12_001).collect();
        let used: BTreeSet<PathBuf> =
            (0..12_001).map(|rank| rank_folder(shards, 2, rank, 12_001)).collect();
        assert_eq!((all.len(), &all), (13, &used));
    }
}
