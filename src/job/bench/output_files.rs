//! The files of a benchmark report: FILE.json and its plots beside it.
//!
//! Their paths are checked before anything is measured, and each file is written completely or not at all.

use std::path::{Path, PathBuf};

use crate::job::{JobError, PreconditionError};
use crate::{new_file::write_new_file, output::OutputError};

/// Paths of a report's files, all derived from the JSON file's.
#[derive(Clone, Debug)]
pub(super) struct BenchReportFiles {
    json_path: PathBuf,
}

/// Extensions of the plots that may be written beside the report.
const PLOT_EXTENSIONS: [&str; 1] = ["svg"];

impl BenchReportFiles {
    /// Checks that the report can be written to `output`, and that nothing is overwritten unasked.
    pub(super) fn check_output(
        output: Option<&str>,
        overwrite: bool,
    ) -> Result<Option<Self>, JobError> {
        let Some(output) = output else { return Ok(None) };
        let json = PathBuf::from(output);
        if json.extension().is_none_or(|extension| extension != "json") {
            return Err(PreconditionError::ReportName(output.to_owned()).into());
        }
        let folder = json.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            return Err(PreconditionError::ReportFolder {
                output: output.to_owned(),
                folder: folder.to_owned(),
            }
            .into());
        }
        let plots = PLOT_EXTENSIONS.iter().map(|extension| json.with_extension(extension));
        let mut paths = plots.chain([json.clone()]);
        if let Some(existing) = paths.find(|path| path.exists() && !overwrite) {
            return Err(PreconditionError::ReportExists(existing).into());
        }
        let files = Self { json_path: json };
        // An unwritable folder has to fail now and not after hours of measurements.
        let part = files.part_path("json");
        write_new_file(&part, b"").map_err(OutputError::io_error("cannot write", &part))?;
        let _ = std::fs::remove_file(&part);
        Ok(Some(files))
    }

    /// Writes the plots, given by extension, and the JSON last.
    pub(super) fn write_report(
        &self,
        json: &str,
        plots: &[(&str, Vec<u8>)],
    ) -> Result<(), JobError> {
        for (extension, bytes) in plots {
            self.write_file(extension, bytes)?;
        }
        self.write_file("json", json.as_bytes())
    }

    fn write_file(&self, extension: &str, bytes: &[u8]) -> Result<(), JobError> {
        let (part, path) = (self.part_path(extension), self.json_path.with_extension(extension));
        write_new_file(&part, bytes).map_err(OutputError::io_error("cannot write", &part))?;
        std::fs::rename(&part, &path).map_err(OutputError::io_error("cannot write", &path))?;
        tracing::info!(
            event = "bench_report_written",
            file = %path.display(),
            "bench report written: {}",
            path.display()
        );
        Ok(())
    }

    fn part_path(&self, extension: &str) -> PathBuf {
        Path::new(&self.json_path).with_extension(format!("{extension}.part"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_reports_and_plots_are_kept_unless_overwrite_is_given() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = |file: &str| folder.path().join(file).to_string_lossy().into_owned();
        let check =
            |file: &str, overwrite| BenchReportFiles::check_output(Some(&name(file)), overwrite);
        let files = check("a.json", false).expect("fine").expect("files");
        assert!(!folder.path().join("a.json").exists(), "nothing is written before the end");
        files.write_report("{}\n", &[("svg", b"<svg/>".to_vec())]).expect("written");
        assert!(folder.path().join("a.svg").exists());
        let kept = check("a.json", false).expect_err("it exists").to_string();
        assert!(kept.contains("--overwrite"), "{kept}");
        assert!(check("a.json", true).is_ok());
        std::fs::remove_file(folder.path().join("a.json")).expect("removed");
        assert!(check("a.json", false).is_err(), "its plot exists");
        assert!(check("b.txt", false).is_err() && check("no/b.json", false).is_err());
        assert!(BenchReportFiles::check_output(None, false).expect("fine").is_none());
    }
}
