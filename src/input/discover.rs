//! File discovery: expands the `INPUT…` arguments to a list of files with their formats.
//!
//! Owns the file extensions and the order of the files. Opens no file.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::InputError;

/// Format of the rows of an input file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InputFormat {
    /// JSON Lines: a JSON object or string per line.
    Jsonl,
    /// Plain text: a prompt per line.
    Text,
    /// Comma-separated columns with a header.
    Csv,
    /// Tab-separated columns with a header. Quotes work as in CSV, which is how spreadsheets and pandas write them.
    Tsv,
    /// Columns of a Parquet file. The spooled copy has a JSON object per line, in which null columns are left out.
    Parquet,
}

/// An uncompressed file of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// Path of the file that is read.
    pub path: PathBuf,
    /// Format of the rows in the file.
    pub format: InputFormat,
    /// Path shown in messages: for a spooled copy, the original.
    pub name: PathBuf,
}

impl InputFile {
    /// Returns an input file that is no spooled copy: its name is its path.
    #[must_use]
    pub fn new(path: PathBuf, format: InputFormat) -> Self {
        Self { name: path.clone(), path, format }
    }
}

/// Compression of an input file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileCompression {
    /// Not compressed; rows have offsets in it.
    Plain,
    /// gzip, possibly of several members.
    Gzip,
    /// zstd, possibly of several frames.
    Zstd,
    /// Parquet, whose column pages are decoded to rows.
    Parquet,
}

/// Name of standard input in messages.
pub const STDIN_NAME: &str = "stdin";

pub(super) const KNOWN_EXTENSIONS: &str = ".jsonl .txt .csv .tsv .parquet";

/// Returns the format that a file's extension names, looking through `.gz` and `.zst`.
#[must_use]
pub fn format_of(path: &Path) -> Option<InputFormat> {
    let unpacked = match compression_of(path) {
        FileCompression::Plain => path.to_path_buf(),
        FileCompression::Parquet => return Some(InputFormat::Parquet),
        FileCompression::Gzip | FileCompression::Zstd => path.with_extension(""),
    };
    match file_extension(&unpacked).as_deref() {
        Some("jsonl") => Some(InputFormat::Jsonl),
        Some("txt") => Some(InputFormat::Text),
        Some("csv") => Some(InputFormat::Csv),
        Some("tsv") => Some(InputFormat::Tsv),
        _ => None,
    }
}

/// Returns the compression that a file's extension names.
#[must_use]
pub fn compression_of(path: &Path) -> FileCompression {
    match file_extension(path).as_deref() {
        Some("gz") => FileCompression::Gzip,
        Some("zst") => FileCompression::Zstd,
        Some("parquet") => FileCompression::Parquet,
        _ => FileCompression::Plain,
    }
}

/// Whether a file must be decompressed before its rows have offsets, by its extension.
#[must_use]
pub fn is_compressed(path: &Path) -> bool {
    compression_of(path) != FileCompression::Plain
}

/// Finds the input files named by `INPUT…`: files, folders (their direct files with a known extension) and glob
/// patterns.
///
/// The result is sorted by path over all arguments, because a prompt's index must not depend on the order of the
/// arguments. A file that is named twice is listed once.
///
/// # Errors
/// An input that does not exist, a file with an unknown extension, or no file at all.
pub fn find_input_files(inputs: &[String]) -> Result<Vec<PathBuf>, InputError> {
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
                tracing::info!(event = "input_file_skipped", file = %path.display(), "input file skipped: unknown extension")
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
            tracing::warn!(event = "input_file_repeated", file = %path.display(), "input file named twice: read once");
        }
    }
    Ok(unique)
}

fn file_extension(path: &Path) -> Option<String> {
    path.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase)
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

    #[test]
    fn the_format_is_found_below_a_compression_extension() {
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
