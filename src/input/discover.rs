//! Which files: from what the user typed to a list of files with their formats.
//!
//! Owns the endings and the order. Refuses to open a file.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::InputError;

/// What a row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InputFormat {
    /// A JSON object or string a line.
    Jsonl,
    /// A prompt a line.
    Text,
    /// Columns with a header, by commas.
    Csv,
    /// Columns with a header, by tabs. Quotes mean what they mean in csv, as spreadsheets and pandas write them.
    Tsv,
    /// Columns of a Parquet file. Unpacked, its rows are JSON objects, a line each, in which a column that is null is not
    /// there.
    Parquet,
}

/// A plain file of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What its rows are.
    pub format: InputFormat,
    /// What the user knows it by: where it is a copy, the original.
    pub name: PathBuf,
}

impl InputFile {
    /// A file that is no copy.
    #[must_use]
    pub fn new(path: PathBuf, format: InputFormat) -> Self {
        Self { name: path.clone(), path, format }
    }
}

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileCompression {
    /// Not at all.
    Plain,
    /// By gzip; many members after each other too.
    Gzip,
    /// By zstd; many frames after each other too.
    Zstd,
    /// As pages of columns.
    Parquet,
}

pub(super) const KNOWN_EXTENSIONS: &str = ".jsonl .txt .csv .tsv .parquet";

/// The format a file's ending names, looking through `.gz` and `.zst`.
#[must_use]
pub fn format_of(path: &Path) -> Option<InputFormat> {
    let unpacked = match compression_of(path) {
        FileCompression::Plain => path.to_path_buf(),
        FileCompression::Parquet => return Some(InputFormat::Parquet),
        FileCompression::Gzip | FileCompression::Zstd => path.with_extension(""),
    };
    match ending(&unpacked).as_deref() {
        Some("jsonl") => Some(InputFormat::Jsonl),
        Some("txt") => Some(InputFormat::Text),
        Some("csv") => Some(InputFormat::Csv),
        Some("tsv") => Some(InputFormat::Tsv),
        _ => None,
    }
}

/// How a file is compressed, by its ending.
#[must_use]
pub fn compression_of(path: &Path) -> FileCompression {
    match ending(path).as_deref() {
        Some("gz") => FileCompression::Gzip,
        Some("zst") => FileCompression::Zstd,
        Some("parquet") => FileCompression::Parquet,
        _ => FileCompression::Plain,
    }
}

/// Has a file to be unpacked before rows have places in it, by its ending?
#[must_use]
pub fn is_compressed(path: &Path) -> bool {
    compression_of(path) != FileCompression::Plain
}

/// The files of `INPUT…`: files, folders (their own files with a known ending) and patterns. Sorted by name over all of
/// them, because a prompt's index must not depend on the order in which somebody typed; a file that is named twice
/// counts once.
///
/// # Errors
/// An input that is not there, a file whose ending is unknown, or no file at all.
pub fn find_input_files(inputs: &[String]) -> Result<Vec<PathBuf>, InputError> {
    let mut files = Vec::new();
    for input in inputs {
        match Path::new(input) {
            path if path.exists() => look(path, &mut files)?,
            _ => expand_pattern(input, &mut files)?,
        }
    }
    if files.is_empty() {
        return Err(InputError::NoFiles { inputs: inputs.to_vec() });
    }
    files.sort();
    remove_duplicates(files)
}

fn expand_pattern(input: &str, files: &mut Vec<PathBuf>) -> Result<(), InputError> {
    let bad = |error: glob::PatternError| InputError::InvalidPattern {
        input: input.into(),
        what: error.to_string(),
    };
    let missing = || InputError::Missing { input: input.into() };
    let mut any = false;
    for path in glob::glob(input).map_err(bad)? {
        let path = path.map_err(|error| {
            let path = error.path().to_path_buf();
            InputError::Io { doing: "cannot look into it", path, source: error.into() }
        })?;
        any = true;
        look(&path, files)?;
    }
    if any { Ok(()) } else { Err(missing()) }
}

fn look(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), InputError> {
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
        doing: "cannot list the folder",
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
            // A folder of data has a README; a file that was meant is seen to be missing in the counts.
            None => {
                tracing::info!(file = %path.display(), "skipped: its ending names no known format")
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
    let mut once = Vec::with_capacity(files.len());
    for path in files {
        let real = path.canonicalize().map_err(|source| InputError::Io {
            doing: "cannot find the file",
            path: path.clone(),
            source,
        })?;
        if seen.insert(real) {
            once.push(path);
        } else {
            tracing::warn!(file = %path.display(), "the file is named twice and read once");
        }
    }
    Ok(once)
}

fn ending(path: &Path) -> Option<String> {
    path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
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
        let folder = folder();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        assert_eq!(found_names(&[path("")]).unwrap(), ["a.TXT.gz", "b.jsonl", "c.csv"]);
        assert_eq!(
            found_names(&[path("c.csv"), path("[ab].*")]).unwrap(),
            ["a.TXT.gz", "b.jsonl", "c.csv"]
        );
        assert_eq!(found_names(&[path("c.csv"), path("./c.csv"), path("")]).unwrap().len(), 3);
    }

    #[test]
    fn what_cannot_be_read_is_an_error_that_says_what_can() {
        let folder = folder();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let error = |name: &str| find_input_files(&[path(name)]).unwrap_err().to_string();
        assert!(
            error("README.md").contains("known are .jsonl .txt .csv .tsv .parquet"),
            "{}",
            error("README.md")
        );
        assert!(error("nowhere.jsonl").contains("no such file or folder"));
        assert!(error("*.arrow").contains("no file matches"));
        assert!(error("[").contains("not a pattern"));
        assert!(error("d.jsonl").contains("no input file was found"));
        assert!(find_input_files(&[]).is_err());
    }

    #[test]
    fn extensions_are_looked_through() {
        let format = |name: &str| format_of(Path::new(name));
        assert_eq!(format("x.jsonl.zst"), Some(InputFormat::Jsonl));
        assert_eq!(format("x.tsv.GZ"), Some(InputFormat::Tsv));
        assert_eq!(format("x.Parquet"), Some(InputFormat::Parquet));
        assert_eq!((format("x.gz"), format("x.parquet.gz")), (None, None));
        assert_eq!(format("jsonl"), None);
        assert!(["x.gz", "x.parquet"].map(Path::new).into_iter().all(is_compressed));
        assert!(!is_compressed(Path::new("x.txt")));
    }
}
