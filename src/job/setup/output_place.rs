//! The place of an output file: whether answers can be written there, checked before any work.
//!
//! Owns the checks of the name and of the file system, and the comparison of files by identity, since a file may have
//! several names. Whether the run that exists at an output may be resumed is decided in `resume`, the format that an
//! ending names in [`output`](crate::output).

use std::{
    fs::{File, OpenOptions},
    io::{self, ErrorKind},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::input::{InputFile, InputFinder, STDIN_NAME};
use crate::job::{JobError, PreconditionError};
use crate::output::{Manifest, part_path, replaced_path};
use crate::settings::SettingsError;

/// Checks the text of `--output` and the file that it names, without writing anything.
///
/// # Errors
/// It names standard output, a folder, or another thing that is no file.
pub(crate) fn check_output_name(output: &str) -> Result<(), JobError> {
    let usage = |message: &str| Err(SettingsError::usage(message.into()).into());
    match output {
        "" => return usage("--output is empty: pass the name of a file"),
        "-" => {
            return usage(
                "--output -: answers cannot go to standard output, since they are written in input order at the end and \
                 the run is resumed by the name of their file\nhint: pass the name of a file, and print it afterwards",
            );
        }
        _ => {}
    }
    let path = Path::new(output);
    let is_folder = output.ends_with('/') || output.ends_with("/.") || path.file_name().is_none();
    if is_folder || path.is_dir() {
        return Err(PreconditionError::OutputIsFolder(path.to_owned()).into());
    }
    if path.exists() && !path.is_file() {
        return Err(PreconditionError::OutputNotFile(path.to_owned()).into());
    }
    Ok(())
}

/// Checks that the output is not among the files of a run.
///
/// # Errors
/// It lies in a run folder.
pub(crate) fn check_outside_runs(output: &Path) -> Result<(), JobError> {
    match containing_run_folder(output) {
        Some(folder) => {
            Err(PreconditionError::OutputInRunFolder { output: output.to_owned(), folder }.into())
        }
        None => Ok(()),
    }
}

/// Returns the run folder that a path lies in, also through symbolic links.
fn containing_run_folder(path: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    let parent = absolute.ancestors().skip(1).find_map(|folder| folder.canonicalize().ok())?;
    let is_run_folder = |folder: &&Path| {
        folder.extension().is_some_and(|it| it == "run")
            && Manifest::read_from(folder).is_ok_and(|manifest| manifest.is_some())
    };
    parent.ancestors().find(is_run_folder).map(Path::to_owned)
}

/// Checks by trying that a file can be written at `output`, with the other `files` beside it, and that the run folder can
/// hold files. What is created for this is removed again.
///
/// # Errors
/// The error of the file system for the first file that cannot be written.
pub(crate) fn probe_output(
    output: &Path,
    run_folder: Option<&Path>,
    files: &[PathBuf],
) -> Result<(), JobError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| PreconditionError::OutputUnwritable { output: output.to_owned(), path, error }
    };
    let mut created = CreatedFolders::default();
    let target = replaced_path(output);
    for file in [&target].into_iter().chain(files) {
        let part = part_path(file);
        if let Some(parent) = part.parent() {
            created.create_all(parent).map_err(failed(parent))?;
        }
        probe_file(&part).map_err(failed(&part))?;
    }
    if let Some(folder) = run_folder {
        created.create_all(folder).map_err(failed(folder))?;
        let file = folder.join("write-test");
        probe_file(&file).map_err(failed(&file))?;
    }
    Ok(())
}

/// Opens a file for writing without changing its content. One that did not exist is removed again.
fn probe_file(path: &Path) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(file) => {
            drop::<File>(file);
            std::fs::remove_file(path)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            // Opening a pipe would wait for its reader.
            if path.is_file() || path.is_dir() {
                OpenOptions::new().write(true).open(path)?;
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

/// Folders that were created for a test or a start; removed when this is dropped, the innermost first.
#[derive(Debug, Default)]
pub(crate) struct CreatedFolders(Vec<PathBuf>);

impl CreatedFolders {
    /// Creates a folder and the missing ones above it.
    pub(crate) fn create_all(&mut self, folder: &Path) -> io::Result<()> {
        let missing: Vec<&Path> = folder
            .ancestors()
            .take_while(|it| !it.as_os_str().is_empty() && !it.exists())
            .collect();
        for folder in missing.into_iter().rev() {
            match std::fs::create_dir(folder) {
                Ok(()) => self.0.push(folder.to_owned()),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        match folder.is_dir() || folder.as_os_str().is_empty() {
            true => Ok(()),
            false => Err(ErrorKind::NotADirectory.into()),
        }
    }
}

impl CreatedFolders {
    /// Keeps the folders for good.
    pub(crate) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for CreatedFolders {
    fn drop(&mut self) {
        for folder in self.0.iter().rev() {
            let _ = std::fs::remove_dir(folder); // not empty if another process uses it by now
        }
    }
}

/// Returns whether two paths name the same file: by other spelling, symbolic or hard links.
pub(crate) fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| path.metadata().map(|it| (it.dev(), it.ino()));
    match (identity(one), identity(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => std::path::absolute(one).ok() == std::path::absolute(other).ok(),
    }
}

/// Checks that none of the files that a session writes is one of its input files.
///
/// # Errors
/// Names the first input that would be overwritten.
pub(crate) fn check_inputs_kept(
    input_files: &[InputFile],
    mut written: Vec<PathBuf>,
) -> Result<(), JobError> {
    written.retain(|file| file.exists());
    for input in input_files {
        // Standard input may be redirected from a file.
        let is_stdin = input.name == Path::new(STDIN_NAME);
        let path = if is_stdin { Path::new("/dev/stdin") } else { &input.name };
        if let Some(file) = written.iter().find(|file| is_same_file(path, file)) {
            return Err(PreconditionError::OutputIsInput(file.clone()).into());
        }
    }
    Ok(())
}

/// Returns the first of the input files of a run that is `file`. Arguments that were relative are resolved in the
/// folder of the run's latest session. A file of the run's own is an input only if it was named itself, since the outputs
/// of a run may lie in the folder that is its input.
pub(crate) fn find_run_input(manifest: &Manifest, file: &Path, is_own: bool) -> Option<PathBuf> {
    let base = manifest.directory.as_deref().unwrap_or(Path::new(""));
    manifest.input.iter().filter(|argument| *argument != "-").find_map(|argument| {
        let path = base.join(argument);
        // An argument may be a glob or a folder. A folder that cannot be listed may hold the file.
        if is_own {
            return is_same_file(&path, file).then_some(path);
        }
        match InputFinder::default().find_files(&[path.to_string_lossy().into_owned()]) {
            Ok(files) => {
                files.into_iter().map(|found| found.path).find(|input| is_same_file(input, file))
            }
            Err(_) => (is_same_file(&path, file) || file.starts_with(&path)).then_some(path),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_file_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
        std::fs::create_dir_all(path("x.jsonl.run/shards")).expect("made");
        std::fs::create_dir_all(path("other.run")).expect("made");
        let manifest =
            Manifest::for_new_run("x.jsonl", 1, "f").write_to(Path::new(&path("x.jsonl.run")));
        manifest.expect("written");
        std::os::unix::fs::symlink(path("x.jsonl.run"), path("link")).expect("a link");
        for (output, words) in [
            (String::new(), "is empty"),
            ("-".into(), "standard output"),
            (path(""), "is a folder"),
            (path("new/"), "is a folder"),
            (path("new/."), "is a folder"),
            ("..".into(), "is a folder"),
            (path("link"), "is a folder"),
            ("/dev/null".into(), "is not a file"),
        ] {
            let error = check_output_name(&output).expect_err(&output).to_string();
            assert!(error.contains(words), "{output}: {error}");
        }
        for output in ["x.jsonl.run/a.jsonl", "x.jsonl.run/shards/new/a.jsonl", "link/a.jsonl"] {
            let error = check_outside_runs(Path::new(&path(output))).expect_err(output).to_string();
            assert!(error.contains("lies in the run folder"), "{output}: {error}");
        }
        for output in ["x.jsonl", "other.run/a.jsonl", "new/a.jsonl", "new.run"] {
            assert!(check_output_name(&path(output)).is_ok(), "{output}");
            assert!(check_outside_runs(Path::new(&path(output))).is_ok(), "{output}");
        }
    }

    #[test]
    fn a_probe_finds_what_cannot_be_written_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "theirs").expect("written");
        std::fs::write(path("taken.jsonl.run"), "theirs").expect("written");
        std::fs::create_dir(path("half.jsonl.part")).expect("made");
        let probe = |name: &str| {
            let output = path(name);
            probe_output(&output, Some(&path(&format!("{name}.run"))), &[])
        };
        let long = "x".repeat(254) + ".jsonl";
        for (name, culprit) in [
            ("file/a.jsonl", "file"),
            ("file/below/a.jsonl", "file"),
            ("taken.jsonl", "taken.jsonl.run"),
            ("half.jsonl", "half.jsonl.part"),
            (&*long, &*long),
        ] {
            let error = probe(name).expect_err(name).to_string();
            assert!(error.contains(culprit) && error.contains("\nhint: "), "{error}");
        }
        // Also if only a file beside it cannot be written.
        assert!(probe_output(&path("a.jsonl"), None, &[path("file/b.txt")]).is_err());
        for name in ["a.jsonl", "new/deep/a.jsonl", "file"] {
            probe(name).expect(name);
        }
        let mut left: Vec<_> =
            std::fs::read_dir(folder.path()).expect("listed").flatten().collect();
        left.sort_by_key(std::fs::DirEntry::file_name);
        let left: Vec<_> = left.iter().map(std::fs::DirEntry::file_name).collect();
        assert_eq!(left, ["file", "half.jsonl.part", "taken.jsonl.run"]);
        assert_eq!(std::fs::read(path("file")).expect("kept"), b"theirs");
    }

    #[test]
    fn a_file_is_the_same_under_all_its_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("a"), "x").expect("written");
        std::fs::write(path("b"), "x").expect("written");
        std::fs::hard_link(path("a"), path("hard")).expect("a link");
        std::os::unix::fs::symlink(path("a"), path("soft")).expect("a link");
        for name in ["a", "hard", "soft", "./a"] {
            assert!(is_same_file(&path("a"), &path(name)), "{name}");
        }
        assert!(!is_same_file(&path("a"), &path("b")) && !is_same_file(&path("a"), &path("none")));
        assert!(is_same_file(&path("none"), &path("./none")));
    }
}
