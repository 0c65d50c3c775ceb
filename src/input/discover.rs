//! File discovery: expands the `INPUT…` arguments to a list of files.
//!
//! Owns which files are read, in which order and as which format, and the columns that folders named `key=value` add.
//! Opens no file. Extensions are in `format.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::FileTypeExt as _,
    path::{Component, Path, PathBuf},
};

use super::{FileFormat, InputError, PartitionColumn, format::format_of};

/// Names of files that describe a data set, in lower case and without their extension.
const DESCRIPTIONS: [&str; 9] = [
    "readme",
    "license",
    "licence",
    "copying",
    "notice",
    "changelog",
    "citation",
    "authors",
    "contributing",
];

/// Name of the file that makes a folder a run folder.
const MANIFEST_NAME: &str = "manifest.json";

/// Finds the input files named by `INPUT…`: files, folders and glob patterns.
#[derive(Clone, Debug, Default)]
pub(crate) struct InputFinder {
    /// Format of files whose extension does not tell it; of all files if every extension does.
    pub format: Option<FileFormat>,
    /// Resolved paths of files and folders that no folder contributes: the answers of this run.
    pub own_answers: Vec<PathBuf>,
}

/// A file to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundFile {
    pub path: PathBuf,
    pub format: FileFormat,
    /// Whether it can be read only once, like a named pipe.
    pub is_stream: bool,
    /// Columns that its folders add to each row.
    pub partition: Vec<PartitionColumn>,
}

/// The files found so far.
struct FoundFiles<'f> {
    finder: &'f InputFinder,
    /// Whether the chosen format replaces what extensions say.
    overrides: bool,
    files: Vec<FoundFile>,
}

impl InputFinder {
    /// Returns the files sorted by path over all arguments, because a prompt's index must not depend on the order of the
    /// arguments. A file that is named twice is listed once.
    ///
    /// # Errors
    /// An input that does not exist, a file or folder whose format is not clear, or no file at all.
    pub(crate) fn find_files(&self, inputs: &[String]) -> Result<Vec<FoundFile>, InputError> {
        let is_told = |input: &String| {
            let path = Path::new(input);
            format_of(path).is_some() && !path.is_dir()
        };
        let overrides = inputs.iter().all(is_told);
        let mut found = FoundFiles { finder: self, overrides, files: Vec::new() };
        for input in inputs.iter().filter(|input| *input != "-") {
            match Path::new(input) {
                path if path.exists() => found.add_path(path, path)?,
                _ => found.expand_pattern(input)?,
            }
        }
        let mut files = found.files;
        if files.is_empty() && !inputs.iter().any(|input| input == "-") {
            return Err(InputError::NoFiles { inputs: inputs.to_vec() });
        }
        // By path, so that an index stays the same whatever the order of arguments and of directory entries.
        files.sort_by(|one, other| one.path.cmp(&other.path));
        remove_duplicates(files)
    }
}

impl FoundFiles<'_> {
    fn expand_pattern(&mut self, input: &str) -> Result<(), InputError> {
        let invalid = |error: glob::PatternError| InputError::InvalidPattern {
            input: input.into(),
            what: error.to_string(),
        };
        let missing = || InputError::Missing { input: input.into() };
        let is_fixed =
            |part: &Component<'_>| !part.as_os_str().to_string_lossy().contains(['*', '?', '[']);
        let base: PathBuf = Path::new(input).components().take_while(is_fixed).collect();
        let mut any = false;
        for path in glob::glob(input).map_err(invalid)? {
            let path = path.map_err(|error| {
                let path = error.path().to_path_buf();
                InputError::Io { action: "cannot read the folder", path, source: error.into() }
            })?;
            any = true;
            self.add_path(&path, &base)?;
        }
        if any { Ok(()) } else { Err(missing()) }
    }

    /// Adds a file or folder. Folders below `base` may name columns.
    fn add_path(&mut self, path: &Path, base: &Path) -> Result<(), InputError> {
        if path.is_dir() {
            return self.add_folder(path, if path == base { path } else { base });
        }
        let chosen = self.finder.format;
        let format = match format_of(path) {
            Some(known) if self.overrides => chosen.unwrap_or(known),
            Some(known) => known,
            None => chosen.ok_or_else(|| InputError::UnknownExtension { path: path.into() })?,
        };
        self.add_file(path.to_path_buf(), format, base)
    }

    /// Adds the data files of a folder and its sub-folders, which must be of one format.
    fn add_folder(&mut self, folder: &Path, base: &Path) -> Result<(), InputError> {
        let mut walk =
            FolderWalk { own_answers: &self.finder.own_answers, ..FolderWalk::default() };
        walk.walk_folder(folder)?;
        let mut unknown = BTreeMap::<String, usize>::new();
        let mut files = Vec::new();
        for path in walk.files {
            match format_of(&path).or(self.finder.format) {
                Some(format) => files.push((path, format)),
                None => {
                    let extension = path.extension().unwrap_or_default().to_string_lossy();
                    *unknown.entry(extension.into_owned()).or_default() += 1;
                }
            }
        }
        if !unknown.is_empty() {
            let name = |(extension, count): (&String, &usize)| match extension.as_str() {
                "" => format!("{count} without extension"),
                extension => format!("{count} .{extension}"),
            };
            let skipped = unknown.iter().map(name).collect::<Vec<_>>().join(", ");
            let folder = folder.display();
            tracing::info!(event = "input_files_skipped", %folder, skipped, "input files skipped in {folder} (unknown extension): {skipped}");
        }
        check_formats(folder, &files)?;
        for (path, format) in files {
            self.add_file(path, format, base)?;
        }
        Ok(())
    }

    fn add_file(
        &mut self,
        path: PathBuf,
        format: FileFormat,
        base: &Path,
    ) -> Result<(), InputError> {
        if path.to_str().is_none() {
            return Err(InputError::PathNotUtf8 { path });
        }
        let file_type = path.metadata().map(|metadata| metadata.file_type()).ok();
        let is_stream = file_type.is_some_and(|file_type| file_type.is_fifo());
        let is_other = file_type.is_some_and(|file_type| {
            file_type.is_char_device() || file_type.is_block_device() || file_type.is_socket()
        });
        if is_other && !is_standard_input(&path) {
            return Err(InputError::NotAFile { path });
        }
        let is_stream = is_stream || is_other;
        let partition = partition_columns(&path, base);
        self.files.push(FoundFile { path, format, is_stream, partition });
        Ok(())
    }
}

/// Whether the path is a name of standard input, which may be a terminal or `/dev/null`.
fn is_standard_input(path: &Path) -> bool {
    matches!(path.to_str(), Some("/dev/stdin" | "/dev/fd/0" | "/dev/null"))
}

/// The walk through a folder and its sub-folders.
#[derive(Default)]
struct FolderWalk<'w> {
    own_answers: &'w [PathBuf],
    /// Resolved paths of the folders that were walked: a link may lead back to one of them.
    walked: BTreeSet<PathBuf>,
    files: Vec<PathBuf>,
}

impl FolderWalk<'_> {
    fn walk_folder(&mut self, folder: &Path) -> Result<(), InputError> {
        let io = |action| {
            move |source: io::Error| InputError::Io { action, path: folder.to_path_buf(), source }
        };
        let resolved = folder.canonicalize().map_err(io("cannot resolve the path"))?;
        if !self.walked.insert(resolved)
            || folder.join(MANIFEST_NAME).is_file() && is_run_folder(folder)
        {
            return Ok(());
        }
        let entries = fs::read_dir(folder).map_err(io("cannot list the folder"))?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let mut paths =
            paths.collect::<Result<Vec<_>, _>>().map_err(io("cannot list the folder"))?;
        paths.sort();
        for path in paths {
            if is_hidden(&path) || self.is_own_answer(&path) {
                continue;
            }
            if path.is_dir() {
                self.walk_folder(&path)?;
            } else if !is_description(&path) {
                self.files.push(path);
            }
        }
        Ok(())
    }

    fn is_own_answer(&self, path: &Path) -> bool {
        !self.own_answers.is_empty()
            && path.canonicalize().is_ok_and(|path| self.own_answers.contains(&path))
    }
}

/// Whether the name is that of a run folder, `FILE.run`.
fn is_run_folder(folder: &Path) -> bool {
    folder.extension().is_some_and(|extension| extension == "run")
}

/// Whether a file or folder is hidden, or one of those that tools such as Spark write beside the data.
fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.starts_with(b".") || (name.starts_with(b"_") && !name.contains(&b'='))
}

/// Whether a file describes the data set and is no part of it.
fn is_description(path: &Path) -> bool {
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let stem = path.file_stem().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    match extension.as_str() {
        "md" | "rst" => true,
        "" | "txt" => DESCRIPTIONS.contains(&stem.as_str()),
        _ => false,
    }
}

/// Checks that all data files of a folder have one format.
fn check_formats(folder: &Path, files: &[(PathBuf, FileFormat)]) -> Result<(), InputError> {
    let mut counts = BTreeMap::<FileFormat, usize>::new();
    for (_, format) in files {
        *counts.entry(*format).or_default() += 1;
    }
    if counts.len() < 2 {
        return Ok(());
    }
    let name = |(format, count): (&FileFormat, &usize)| {
        let files = if *count == 1 { "file" } else { "files" };
        format!("{count} {} {files}", format.extension())
    };
    let kinds = counts.iter().map(name).collect::<Vec<_>>().join(", ");
    // Among equals, the first in the order of formats.
    let most = counts.iter().rev().max_by_key(|(_, count)| **count);
    let frequent = most.map_or(FileFormat::Jsonl, |(format, _)| *format);
    let example = files.iter().find(|(_, format)| *format == frequent).map(|(path, _)| path);
    let is_direct = |(path, format): &(PathBuf, FileFormat)| {
        *format != frequent || path.parent() == Some(folder)
    };
    let levels = if files.iter().all(is_direct) { "" } else { "**/" };
    let name = example.and_then(|path| path.file_name()).unwrap_or_default().to_string_lossy();
    let extension =
        name.split_once('.').map_or(frequent.extension().trim_start_matches('.'), |(_, it)| it);
    let pattern = format!("{levels}*.{extension}");
    Err(InputError::MixedFolder {
        path: folder.to_path_buf(),
        kinds,
        pattern: folder.join(pattern).display().to_string(),
    })
}

/// Returns the columns that the folders named `key=value` between `base` and the file add to each row.
fn partition_columns(path: &Path, base: &Path) -> Vec<PartitionColumn> {
    let below = path.strip_prefix(base).unwrap_or(Path::new(""));
    let folders = below.parent().into_iter().flat_map(Path::components);
    let mut columns: Vec<PartitionColumn> = Vec::new();
    for folder in folders {
        let column = PartitionColumn::parse(&folder.as_os_str().to_string_lossy());
        if let Some(column) =
            column.filter(|new| columns.iter().all(|known| known.name != new.name))
        {
            columns.push(column);
        }
    }
    columns
}

fn remove_duplicates(files: Vec<FoundFile>) -> Result<Vec<FoundFile>, InputError> {
    let mut seen = BTreeSet::new();
    let mut unique = Vec::with_capacity(files.len());
    for found in files {
        let path = &found.path;
        // The path of a pipe such as /dev/fd/63 leads to no file.
        let canonical = match path.canonicalize() {
            Ok(canonical) => canonical,
            Err(_) if found.is_stream => path.clone(),
            Err(source) => {
                let path = path.clone();
                return Err(InputError::Io { action: "cannot resolve the path", path, source });
            }
        };
        if seen.insert(canonical) {
            unique.push(found);
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

    fn folder_of(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        folder
    }

    fn path_in(folder: &tempfile::TempDir, name: &str) -> String {
        folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn found_names(
        finder: &InputFinder,
        folder: &tempfile::TempDir,
        inputs: &[&str],
    ) -> Result<Vec<String>, String> {
        let inputs: Vec<String> = inputs.iter().map(|name| path_in(folder, name)).collect();
        let files = finder
            .find_files(&inputs)
            .map_err(|error| error.to_string().replace(folder.path().to_str().unwrap(), "DIR"))?;
        let name = |found: FoundFile| {
            let below =
                found.path.strip_prefix(folder.path()).unwrap().to_str().unwrap().to_owned();
            format!("{below} {}", found.format.extension())
        };
        Ok(files.into_iter().map(name).collect())
    }

    #[test]
    fn folders_patterns_and_files_give_one_sorted_list() {
        let folder = folder_of(&["b.jsonl", "a.TXT.gz", "c.csv"]);
        let found =
            |inputs: &[&str]| found_names(&InputFinder::default(), &folder, inputs).unwrap();
        let expected = ["a.TXT.gz .txt", "b.jsonl .jsonl", "c.csv .csv"];
        assert_eq!(found(&["c.csv", "[ab].*"]), expected);
        assert_eq!(found(&["c.csv", "./c.csv", "*"]), expected);
    }

    #[test]
    fn a_folder_gives_its_data_files_at_any_depth_without_what_describes_them() {
        let folder = folder_of(&[
            "b.jsonl",
            "a/z.ndjson.gz",
            "a/README.md",
            "LICENSE",
            "LICENSE.txt",
            "readme.txt",
            "notes.md",
            ".hidden.jsonl",
            "._b.jsonl",
            "_SUCCESS",
            "_metadata.jsonl",
            ".part.crc",
            "__MACOSX/b.jsonl",
            "old.jsonl.run/manifest.json",
            "old.jsonl.run/shards/0.csv",
            "script.py",
            "Makefile",
        ]);
        std::os::unix::fs::symlink(folder.path(), folder.path().join("a/loop")).unwrap();
        let found = found_names(&InputFinder::default(), &folder, &[""]).unwrap();
        assert_eq!(found, ["a/z.ndjson.gz .jsonl", "b.jsonl .jsonl"]);
        let own_answers = vec![folder.path().join("b.jsonl").canonicalize().unwrap()];
        let finder = InputFinder { own_answers, ..InputFinder::default() };
        assert_eq!(found_names(&finder, &folder, &[""]).unwrap(), ["a/z.ndjson.gz .jsonl"]);
        // Hadoop's parts have no extension.
        let folder = folder_of(&["part-00001", "part-00000", "_SUCCESS", "README"]);
        let finder = InputFinder { format: Some(FileFormat::Text), ..InputFinder::default() };
        assert_eq!(
            found_names(&finder, &folder, &[""]).unwrap(),
            ["part-00000 .txt", "part-00001 .txt"]
        );
        assert!(found_names(&InputFinder::default(), &folder, &[""]).is_err());
    }

    #[test]
    fn a_folder_of_several_formats_is_refused_with_a_pattern() {
        let error = |names: &[&str]| {
            found_names(&InputFinder::default(), &folder_of(names), &[""]).unwrap_err()
        };
        assert_eq!(
            error(&["a.jsonl.gz", "b.jsonl.gz", "notes.txt"]),
            "DIR/: the folder has data files of several formats: 2 .jsonl files, 1 .txt file\n\
             hint: choose by a pattern, such as 'DIR/*.jsonl.gz'"
        );
        assert!(error(&["x/a.parquet", "info.json"]).ends_with("such as 'DIR/*.json'"));
        assert!(
            error(&["x/a.parquet", "x/b.parquet", "info.json"])
                .ends_with("such as 'DIR/**/*.parquet'")
        );
    }

    #[test]
    fn the_chosen_format_is_for_files_whose_extension_does_not_tell() {
        let folder = folder_of(&["a.csv", "b.dat", "c.txt", "d.gz"]);
        let finder = InputFinder { format: Some(FileFormat::Tsv), ..InputFinder::default() };
        let found = |inputs: &[&str]| found_names(&finder, &folder, inputs).unwrap();
        assert_eq!(found(&["b.dat", "a.csv", "d.gz"]), ["a.csv .csv", "b.dat .tsv", "d.gz .tsv"]);
        assert_eq!(found(&["a.csv", "c.txt"]), ["a.csv .tsv", "c.txt .tsv"]);
        let inputs = ["-".to_owned(), path_in(&folder, "a.csv")];
        assert_eq!(finder.find_files(&inputs).unwrap()[0].format, FileFormat::Csv);
    }

    #[test]
    fn folders_named_as_key_and_value_add_columns() {
        let folder = folder_of(&[
            "k=v/lang=en%20us/a.csv",
            "k=v/lang=__HIVE_DEFAULT_PARTITION__/_x=1/b.csv",
            "k=v/lang=a=b/k=w/c.csv",
        ]);
        let columns = |inputs: &str| -> Vec<String> {
            let files = InputFinder::default().find_files(&[path_in(&folder, inputs)]).unwrap();
            let name = |column: &PartitionColumn| format!("{}={:?}", column.name, column.value);
            files
                .iter()
                .map(|found| found.partition.iter().map(name).collect::<Vec<_>>().join(" "))
                .collect()
        };
        let all = [
            "k=Some(\"v\") lang=None _x=Some(\"1\")",
            "k=Some(\"v\") lang=Some(\"a=b\")",
            "k=Some(\"v\") lang=Some(\"en us\")",
        ];
        assert_eq!(columns(""), all);
        // Only folders below the argument, or from a pattern's first wildcard on, are columns.
        assert_eq!(columns("k=v/lang=en*"), ["lang=Some(\"en us\")"]);
        assert_eq!(columns("k=v/lang=en%20us"), [""]);
        assert_eq!(columns("*=v/lang=en*/*.csv"), ["k=Some(\"v\") lang=Some(\"en us\")"]);
    }

    #[test]
    fn unreadable_inputs_are_errors_with_a_hint() {
        let folder = folder_of(&["README.md", "d.jsonl/.x", "x.dat"]);
        let error =
            |name: &str| found_names(&InputFinder::default(), &folder, &[name]).unwrap_err();
        assert!(error("x.dat").contains("hint: input files end in .jsonl"), "{}", error("x.dat"));
        assert!(error("README.md").contains("pass --input-format"));
        assert!(error("nowhere.jsonl").contains("no such file or folder"));
        assert!(error("*.arrow").contains("no file matches"));
        assert!(error("[").contains("invalid pattern"));
        assert!(error("d.jsonl").contains("no input files found"));
        assert!(InputFinder::default().find_files(&[]).is_err());
    }
}
