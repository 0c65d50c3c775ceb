//! Formats of the gathered file: JSON lines, OpenAI batch, CSV, TSV and Parquet, and the endings of file names that choose
//! them. Pure.
//!
//! Tables are written in `output/delimited.rs` and [`parquet`](crate::parquet), the lines of the batch API in
//! `openai_batch.rs`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::openai_batch::{RunIdentity, to_batch_line};
use crate::{
    compression::Compression,
    parquet::{BUILT_IN, NOT_BUILT_IN},
    settings::OutputFormat,
};

/// Format of the gathered file (`--output-format`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AnswerFormat {
    /// JSON lines, as in the shard files.
    #[default]
    Jsonl,
    /// JSON lines in the form of OpenAI's batch API.
    OpenaiBatch,
    /// CSV with a header line.
    Csv,
    /// The same with tabs between the fields.
    Tsv,
    /// Parquet, compressed with zstd.
    Parquet,
}

impl std::fmt::Display for AnswerFormat {
    /// Writes the name that `--output-format` takes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Jsonl => "jsonl",
            Self::OpenaiBatch => "openai-batch",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Parquet => "parquet",
        })
    }
}

impl AnswerFormat {
    /// Returns the format of an output file: as requested (`--output-format`), else by its ending, else `otherwise`. An
    /// ending of JSON lines does not override the batch format, whose files have the same ending.
    ///
    /// # Errors
    /// A message with a hint: the ending names no format, or another one than requested.
    pub(crate) fn for_file(
        file: &Path,
        requested: Option<Self>,
        otherwise: Self,
    ) -> Result<Self, String> {
        let (compression, inner) = Compression::split_path(file);
        let ending = inner.extension().map(|it| it.to_string_lossy().to_ascii_lowercase());
        let named = ending.as_deref().map(Self::by_ending);
        let format = match (requested, named) {
            (Some(requested), Some(Some(named))) if !requested.fits_ending(named) => {
                return Err(format!(
                    "--output-format {requested} contradicts the name {}\nhint: leave out --output-format, or choose \
                     a name that ends with .{}",
                    file.display(),
                    requested.ending()
                ));
            }
            (Some(requested), _) => requested,
            (None, Some(None)) => return Err(unknown_ending(file, ending.as_deref())),
            (None, Some(Some(named))) if otherwise.fits_ending(named) => otherwise,
            (None, Some(Some(named))) => named,
            (None, None) => otherwise,
        };
        if format == Self::Parquet && compression != Compression::Plain {
            return Err(format!(
                "{}: a Parquet file is compressed already\nhint: choose a name that ends with .parquet",
                file.display()
            ));
        }
        Ok(format)
    }

    /// Returns whether the name is that of a table or of a compressed file, and so not of a text.
    pub(crate) fn is_table_or_packed(file: &Path) -> bool {
        let (compression, inner) = Compression::split_path(file);
        let ending = inner.extension().map(|it| it.to_string_lossy().to_ascii_lowercase());
        let named = ending.and_then(|ending| Self::by_ending(&ending));
        compression != Compression::Plain || !matches!(named, None | Some(Self::Jsonl))
    }

    fn by_ending(ending: &str) -> Option<Self> {
        match ending {
            "jsonl" | "ndjson" | "jl" => Some(Self::Jsonl),
            "csv" => Some(Self::Csv),
            "tsv" => Some(Self::Tsv),
            "parquet" => Some(Self::Parquet),
            _ => None,
        }
    }

    /// Returns whether a file of this format may have the ending of `named`.
    fn fits_ending(self, named: Self) -> bool {
        self == named || (self == Self::OpenaiBatch && named == Self::Jsonl)
    }

    fn ending(self) -> &'static str {
        match self {
            Self::Jsonl | Self::OpenaiBatch => "jsonl",
            Self::Csv => "csv",
            Self::Tsv => "tsv",
            Self::Parquet => "parquet",
        }
    }

    /// Returns why this build cannot write the format, `None` if it can.
    #[must_use]
    pub(crate) fn unsupported_reason(self) -> Option<&'static str> {
        (self == Self::Parquet && !BUILT_IN).then_some(NOT_BUILT_IN)
    }

    /// Returns the byte between the fields of a table of text.
    #[must_use]
    pub(super) fn delimiter(self) -> Option<u8> {
        match self {
            Self::Csv => Some(b','),
            Self::Tsv => Some(b'\t'),
            Self::Jsonl | Self::OpenaiBatch | Self::Parquet => None,
        }
    }

    /// Returns whether the format has columns, which must be known before the first answer is written.
    #[must_use]
    pub(crate) fn is_table(self) -> bool {
        matches!(self, Self::Csv | Self::Tsv | Self::Parquet)
    }

    /// Converts an answer's line of this run to this format; `None` if the line stays unchanged.
    ///
    /// # Errors
    /// Fails if the line is not an answer.
    pub(crate) fn convert_line(
        self,
        line: &[u8],
        run: &RunIdentity,
    ) -> Result<Option<Vec<u8>>, String> {
        match self {
            Self::Jsonl | Self::Csv | Self::Tsv | Self::Parquet => Ok(None),
            Self::OpenaiBatch => to_batch_line(line, run).map(|line| Some(line.into_bytes())),
        }
    }
}

/// The rest of a message about an ending that names no format.
fn unknown_ending(file: &Path, ending: Option<&str>) -> String {
    let why = match ending {
        Some("json") => ", since answers are JSON lines and not one JSON value",
        Some("xlsx" | "xls" | "ods") => "; spreadsheets open .csv",
        _ => "",
    };
    format!(
        "the ending of {} names no format that can be written{why}\nhint: use .jsonl, .csv, .tsv (each also with .gz or \
         .zst) or .parquet, or choose the format with --output-format",
        file.display()
    )
}

impl From<OutputFormat> for AnswerFormat {
    fn from(format: OutputFormat) -> Self {
        match format {
            OutputFormat::Jsonl => Self::Jsonl,
            OutputFormat::OpenaiBatch => Self::OpenaiBatch,
            OutputFormat::Csv => Self::Csv,
            OutputFormat::Tsv => Self::Tsv,
            OutputFormat::Parquet => Self::Parquet,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ending_chooses_the_format_unless_it_contradicts_the_requested_one() {
        use AnswerFormat::{Csv, Jsonl, OpenaiBatch, Parquet, Tsv};
        let choose = |name: &str, requested, otherwise| {
            AnswerFormat::for_file(Path::new(name), requested, otherwise)
        };
        for (name, format) in [
            ("a.jsonl", Jsonl),
            ("a.NDJSON", Jsonl),
            ("a.jl.zst", Jsonl),
            ("a.b.csv", Csv),
            ("a.csv.gz", Csv),
            ("a.tsv.ZST", Tsv),
            ("a.parquet", Parquet),
            ("answers", Jsonl),
            ("answers.gz", Jsonl),
        ] {
            assert_eq!(choose(name, None, Jsonl), Ok(format), "{name}");
        }
        assert_eq!(choose("a.jsonl.gz", None, OpenaiBatch), Ok(OpenaiBatch));
        assert_eq!(choose("answers", None, Tsv), Ok(Tsv));
        assert_eq!(choose("a.csv", None, OpenaiBatch), Ok(Csv));
        assert_eq!(choose("a.jsonl", None, Csv), Ok(Jsonl));
        for name in ["a.xlsx", "a.json", "a.txt", "a.", "a.jsonl.bz2", "a.tar.gz", "a.2026-01-31"] {
            let error = choose(name, None, Jsonl).expect_err(name);
            assert!(error.contains(name) && error.contains("\nhint: use .jsonl"), "{error}");
            assert_eq!(choose(name, Some(Csv), Jsonl), Ok(Csv), "{name}");
        }
        assert_eq!(choose("a.jsonl", Some(OpenaiBatch), Jsonl), Ok(OpenaiBatch));
        for (name, requested) in [("a.jsonl", Csv), ("a.csv.gz", Tsv), ("a.parquet", OpenaiBatch)] {
            let error = choose(name, Some(requested), Jsonl).expect_err(name);
            assert!(error.contains("contradicts") && error.contains(requested.ending()), "{error}");
        }
        for requested in [None, Some(Parquet)] {
            assert!(choose("a.parquet.gz", requested, Jsonl).is_err());
        }
        assert!(choose("a.gz", Some(Parquet), Jsonl).is_err());
    }
}
