//! File discovery: expands the `INPUT…` arguments to a list of files.
//!
//! Owns which files are read, and their order. Opens no file. Formats are in `format.rs`.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::{InputError, format::format_of};

/// Finds the input files named by `INPUT…`: files, folders (their direct files with a known extension) and glob
/// patterns.
///
/// The result is sorted by path over all arguments, because a prompt's index must not depend on the order of the
/// arguments. A file that is named twice is listed once.
///
/// # Errors
/// An input that does not exist, a file with an unknown extension, or no file at all.
pub(crate) fn find_input_files(inputs: &[String]) -> Result<Vec<PathBuf>, InputError> {
    let mut files = Vec::new();
    for input in inputs {
        match Path::new(input) {
            path if path.exists() => add_path(path, &mut files)?,
            _ => expand_pattern(input, &mut files)?,
        }
    }
    if files.is_empty() {
        return Err(InputError::NoFiles { inputs: inputs.to_vec() });
    }
    // By path, so that an index stays the same whatever the order of arguments and of directory entries.
    files.sort();
    remove_duplicates(files)
}

fn expand_pattern(input: &str, files: &mut Vec<PathBuf>) -> Result<(), InputError> {
    let invalid = |error: glob::PatternError| InputError::InvalidPattern {
        input: input.into(),
        what: error.to_string(),
    };
    let missing = || InputError::Missing { input: input.into() };
    let mut any = false;
    for path in glob::glob(input).map_err(invalid)? {
        let path = path.map_err(|error| {
            let path = error.path().to_path_buf();
            InputError::Io { action: "cannot read the folder", path, source: error.into() }
        })?;
        any = true;
        add_path(&path, files)?;
    }
    if any { Ok(()) } else { Err(missing()) }
}

fn add_path(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), InputError> {
    if path.is_dir() {
        return add_folder(path, files);
    }
    if format_of(path).is_none() {
        return Err(InputError::UnknownExtension { path: path.to_path_buf() });
    }
    add_file(path.to_path_buf(), files)
}

fn add_folder(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), InputError> {
    let io = |source: io::Error| InputError::Io {
        action: "cannot list the folder",
        path: folder.to_path_buf(),
        source,
    };
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden || path.is_dir() {
            continue;
        }
        match format_of(&path) {
            Some(_) => add_file(path, files)?,
            // Data folders usually have a README. A skipped data file shows in the log and in the row counts.
            None => {
                let file = path.display();
                tracing::info!(event = "input_file_skipped", %file, "input file skipped (unknown extension): {file}");
            }
        }
    }
    Ok(())
}

fn add_file(path: PathBuf, files: &mut Vec<PathBuf>) -> Result<(), InputError> {
    if path.to_str().is_none() {
        return Err(InputError::PathNotUtf8 { path });
    }
    files.push(path);
    Ok(())
}

fn remove_duplicates(files: Vec<PathBuf>) -> Result<Vec<PathBuf>, InputError> {
    let mut seen = BTreeSet::new();
    let mut unique = Vec::with_capacity(files.len());
    for path in files {
        let canonical = path.canonicalize().map_err(|source| InputError::Io {
            action: "cannot resolve the path",
            path: path.clone(),
            source,
        })?;
        if seen.insert(canonical) {
            unique.push(path);
        } else {
            let file = path.display();
            tracing::warn!(event = "input_file_repeated", %file, "input file named twice, read once: {file}");
        }
    }
    Ok(unique)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample_folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.jsonl", "a.TXT.gz", "c.csv", "README.md", ".hidden.jsonl"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        fs::create_dir(folder.path().join("d.jsonl")).unwrap();
        folder
    }

    fn found_names(inputs: &[String]) -> Result<Vec<String>, InputError> {
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        Ok(find_input_files(inputs)?.into_iter().map(name).collect())
    }

    #[test]
    fn folders_patterns_and_files_give_one_sorted_list() {
        let folder = sample_folder();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        assert_eq!(found_names(&[path("")]).unwrap(), ["a.TXT.gz", "b.jsonl", "c.csv"]);
        assert_eq!(
            found_names(&[path("c.csv"), path("[ab].*")]).unwrap(),
            ["a.TXT.gz", "b.jsonl", "c.csv"]
        );
        assert_eq!(found_names(&[path("c.csv"), path("./c.csv"), path("")]).unwrap().len(), 3);
    }

    #[test]
    fn unreadable_inputs_are_errors_with_a_hint() {
        let folder = sample_folder();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let error = |name: &str| find_input_files(&[path(name)]).unwrap_err().to_string();
        assert!(
            error("README.md").contains("hint: input files end in .jsonl .txt .csv .tsv .parquet"),
            "{}",
            error("README.md")
        );
        assert!(error("nowhere.jsonl").contains("no such file or folder"));
        assert!(error("*.arrow").contains("no file matches"));
        assert!(error("[").contains("invalid pattern"));
        assert!(error("d.jsonl").contains("no input files found"));
        assert!(find_input_files(&[]).is_err());
    }
}
