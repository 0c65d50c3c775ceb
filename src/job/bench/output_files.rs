//! The files of a benchmark report: FILE.json and its plots beside it.
//!
//! Their paths are checked before anything is measured, and each file is written completely or not at all.

use std::path::{Path, PathBuf};

use crate::job::JobError;
use crate::output::OutputError;

/// Paths of a report's files, all derived from the JSON file's.
#[derive(Clone, Debug)]
pub(super) struct BenchReportFiles {
    json_path: PathBuf,
}

/// Extensions of the plots that may be written beside the report.
const PLOT_EXTENSIONS: [&str; 2] = ["svg", "png"];

impl BenchReportFiles {
    /// Checks that the report can be written to `output`, and that nothing is overwritten unasked.
    pub(super) fn check_output(
        output: Option<&str>,
        overwrite: bool,
    ) -> Result<Option<Self>, JobError> {
        let Some(output) = output else { return Ok(None) };
        let json = PathBuf::from(output);
        if json.extension().is_none_or(|it| it != "json") {
            return Err(JobError::PreconditionFailed(format!(
                "--output {output}: the name of the report must end with .json (plots are written beside it)"
            )));
        }
        let folder = json.parent().filter(|it| !it.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|it| !it.is_dir()) {
            return Err(JobError::PreconditionFailed(format!(
                "--output {output}: folder {} not found\nhint: create it first",
                folder.display()
            )));
        }
        let all = PLOT_EXTENSIONS.iter().map(|it| json.with_extension(it)).chain([json.clone()]);
        if let Some(there) = all.into_iter().find(|it| it.exists() && !overwrite) {
            return Err(JobError::PreconditionFailed(format!(
                "{} already exists\nhint: choose another --output, or pass --overwrite to replace it",
                there.display()
            )));
        }
        let it = Self { json_path: json };
        // An unwritable folder has to fail now and not after hours of measurements.
        let part = it.part_path("json");
        std::fs::write(&part, "").map_err(OutputError::io_error("cannot write", &part))?;
        let _ = std::fs::remove_file(&part);
        Ok(Some(it))
    }

    /// Writes the plots, given by extension, and the JSON last.
    pub(super) fn write_report(
        &self,
        json: &str,
        plots: &[(&str, Vec<u8>)],
    ) -> Result<(), JobError> {
        for (ending, bytes) in plots {
            self.write_file(ending, bytes)?;
        }
        self.write_file("json", json.as_bytes())
    }

    fn write_file(&self, ending: &str, bytes: &[u8]) -> Result<(), JobError> {
        let (part, place) = (self.part_path(ending), self.json_path.with_extension(ending));
        std::fs::write(&part, bytes).map_err(OutputError::io_error("cannot write", &part))?;
        std::fs::rename(&part, &place).map_err(OutputError::io_error("cannot write", &place))?;
        tracing::info!(
            event = "bench_report_written",
            file = %place.display(),
            "bench report written: {}",
            place.display()
        );
        Ok(())
    }

    fn part_path(&self, ending: &str) -> PathBuf {
        Path::new(&self.json_path).with_extension(format!("{ending}.part"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_reports_and_plots_are_kept_unless_overwrite_is_given() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = |file: &str| folder.path().join(file).to_string_lossy().into_owned();
        let wanted =
            |file: &str, overwrite| BenchReportFiles::check_output(Some(&name(file)), overwrite);
        let files = wanted("a.json", false).expect("fine").expect("wanted");
        assert!(!folder.path().join("a.json").exists(), "nothing is there before the end");
        files.write_report("{}\n", &[("svg", b"<svg/>".to_vec())]).expect("written");
        assert!(folder.path().join("a.svg").exists());
        let kept = wanted("a.json", false).expect_err("it is there").to_string();
        assert!(kept.contains("--overwrite"), "{kept}");
        assert!(wanted("a.json", true).is_ok());
        std::fs::remove_file(folder.path().join("a.json")).expect("removed");
        assert!(wanted("a.json", false).is_err(), "its plot is there");
        assert!(wanted("b.txt", false).is_err() && wanted("no/b.json", false).is_err());
        assert!(BenchReportFiles::check_output(None, false).expect("fine").is_none());
    }
}
