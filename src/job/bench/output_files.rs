//! Where a report goes: FILE.json, and its plots beside it. Looked at before anything is measured; whole or absent.

use std::path::{Path, PathBuf};

use crate::job::JobError;
use crate::output::OutputError;

/// The files of a report.
#[derive(Clone, Debug)]
pub(super) struct BenchReportFiles {
    json_path: PathBuf,
}

/// Names of plots, by what comes after the last point.
const PLOT_EXTENSIONS: [&str; 2] = ["svg", "png"];

impl BenchReportFiles {
    /// Where `output` is, if there is to be any.
    pub(super) fn wanted(output: Option<&str>, overwrite: bool) -> Result<Option<Self>, JobError> {
        let Some(output) = output else { return Ok(None) };
        let json = PathBuf::from(output);
        if json.extension().is_none_or(|it| it != "json") {
            return Err(JobError::PreconditionFailed(format!(
                "the report {output} has to be called something.json: plots go beside it as .svg and .png"
            )));
        }
        let folder = json.parent().filter(|it| !it.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|it| !it.is_dir()) {
            return Err(JobError::PreconditionFailed(format!(
                "the folder {} of the report is not there: make it first",
                folder.display()
            )));
        }
        let all = PLOT_EXTENSIONS.iter().map(|it| json.with_extension(it)).chain([json.clone()]);
        if let Some(there) = all.into_iter().find(|it| it.exists() && !overwrite) {
            return Err(JobError::PreconditionFailed(format!(
                "{} is there already: give another --output, or --overwrite",
                there.display()
            )));
        }
        let it = Self { json_path: json };
        // Hours of measurements are not lost to a folder that cannot be written to.
        let part = it.part_path("json");
        std::fs::write(&part, "").map_err(OutputError::io_error("cannot write", &part))?;
        let _ = std::fs::remove_file(&part);
        Ok(Some(it))
    }

    /// Writes all of them: the plots by their endings, and the JSON last.
    pub(super) fn write(&self, json: &str, plots: &[(&str, Vec<u8>)]) -> Result<(), JobError> {
        for (ending, bytes) in plots {
            self.write_file(ending, bytes)?;
        }
        self.write_file("json", json.as_bytes())
    }

    fn write_file(&self, ending: &str, bytes: &[u8]) -> Result<(), JobError> {
        let (part, place) = (self.part_path(ending), self.json_path.with_extension(ending));
        std::fs::write(&part, bytes).map_err(OutputError::io_error("cannot write", &part))?;
        std::fs::rename(&part, &place).map_err(OutputError::io_error("cannot write", &place))?;
        tracing::info!("written: {}", place.display());
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
    fn what_is_there_is_kept_unless_somebody_says_otherwise() {
        let folder = tempfile::tempdir().expect("a folder");
        let name = |file: &str| folder.path().join(file).to_string_lossy().into_owned();
        let wanted = |file: &str, overwrite| BenchReportFiles::wanted(Some(&name(file)), overwrite);
        let files = wanted("a.json", false).expect("fine").expect("wanted");
        assert!(!folder.path().join("a.json").exists(), "nothing is there before the end");
        files.write("{}\n", &[("svg", b"<svg/>".to_vec())]).expect("written");
        assert!(folder.path().join("a.svg").exists());
        let kept = wanted("a.json", false).expect_err("it is there").to_string();
        assert!(kept.contains("--overwrite"), "{kept}");
        assert!(wanted("a.json", true).is_ok());
        std::fs::remove_file(folder.path().join("a.json")).expect("removed");
        assert!(wanted("a.json", false).is_err(), "its plot is there");
        assert!(wanted("b.txt", false).is_err() && wanted("no/b.json", false).is_err());
        assert!(BenchReportFiles::wanted(None, false).expect("fine").is_none());
    }
}
