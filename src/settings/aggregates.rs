//! The specification of an aggregate as text: `majority`, `concat`, `json`, `stats`, `top-k=10:/score`, `best`,
//! `failures`.
//!
//! Owns parsing and display. The aggregates themselves are computed in `aggregate`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::values::decode_escapes;

/// Kind and parameters of an aggregate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AggregateSpec {
    /// The answer that was given most often.
    Majority {
        /// JSON pointer to the vote in an answer; default: the whole answer.
        pointer: Option<String>,
    },
    /// All answers as one text.
    Concat {
        /// Text between two answers.
        separator: String,
    },
    /// All answers as one JSON list.
    Json,
    /// Statistics of numbers and of answer lengths.
    Stats {
        /// JSON pointer to the number in an answer; default: the whole answer.
        pointer: Option<String>,
    },
    /// The answers with the highest scores.
    TopK {
        /// Number of answers, from 1 to 1000.
        k: usize,
        /// JSON pointer to the score in an answer; default: the whole answer.
        pointer: Option<String>,
    },
    /// Failures by kind.
    Failures {
        /// Number of examples per kind.
        example_limit: usize,
    },
}

/// Largest k and number of examples. The texts are kept in memory and sent between ranks.
const MAX_TOP_K: usize = 1000;
const DEFAULT_FAILURE_EXAMPLES: usize = 10;
const SPEC_EXAMPLES: &str = "majority, majority:/answer, concat, concat=\\n---\\n, json, stats, stats:/score, top-k=10:/score, \
                        best:/score or failures=10";

impl AggregateSpec {
    /// Returns the ending of the aggregate's own file, for kinds that write one and can therefore occur only once.
    #[must_use]
    pub(crate) fn file_suffix(&self) -> Option<&'static str> {
        match self {
            Self::Concat { .. } => Some("concat.txt"),
            Self::Json => Some("merged.json"),
            _ => None,
        }
    }

    /// Checks that no aggregate occurs twice and that no two write the same file.
    ///
    /// # Errors
    /// A sentence that names the duplicate.
    pub(crate) fn check_duplicates(all: &[Self]) -> Result<(), String> {
        let twice = (1..all.len()).find(|&at| match all[at].file_suffix() {
            Some(file) => all[..at].iter().any(|it| it.file_suffix() == Some(file)),
            None => all[..at].contains(&all[at]),
        });
        match twice {
            Some(at) => Err(format!(
                "--aggregate {} is given twice or writes the same file as another",
                all[at]
            )),
            None => Ok(()),
        }
    }
}

impl FromStr for AggregateSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!("{text:?} is not an aggregate{why}\nhint: for example {SPEC_EXAMPLES}")
        };
        if let Some(separator) = text.strip_prefix("concat=") {
            return Ok(Self::Concat { separator: decode_escapes(separator) });
        }
        let (head, at) = match text.split_once(':') {
            Some((head, at)) if at.starts_with('/') => (head, Some(at.to_owned())),
            Some(_) => {
                return Err(wrong(" (a JSON pointer after the colon starts with /)"));
            }
            None => (text, None),
        };
        let (name, number) = match head.split_once('=') {
            Some((name, number)) => {
                let number = number.parse().ok().filter(|it| (1..=MAX_TOP_K).contains(it));
                (name, Some(number.ok_or_else(|| wrong(" (the number after = is 1 to 1000)"))?))
            }
            None => (head, None),
        };
        match (name, number) {
            ("majority", None) => Ok(Self::Majority { pointer: at }),
            ("concat", None) if at.is_none() => Ok(Self::Concat { separator: "\n".into() }),
            ("json", None) if at.is_none() => Ok(Self::Json),
            ("stats", None) => Ok(Self::Stats { pointer: at }),
            ("best", None) => Ok(Self::TopK { k: 1, pointer: at }),
            ("top-k", Some(k)) => Ok(Self::TopK { k, pointer: at }),
            ("failures", named) if at.is_none() => {
                Ok(Self::Failures { example_limit: named.unwrap_or(DEFAULT_FAILURE_EXAMPLES) })
            }
            _ => Err(wrong("")),
        }
    }
}

impl fmt::Display for AggregateSpec {
    /// Writes the specification so that it parses again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = match self {
            Self::Majority { pointer: at }
            | Self::Stats { pointer: at }
            | Self::TopK { pointer: at, .. } => at.as_deref(),
            _ => None,
        };
        match self {
            Self::Majority { .. } => f.write_str("majority"),
            Self::Concat { separator } if separator == "\n" => f.write_str("concat"),
            Self::Concat { separator } => write!(f, "concat={}", escape_text(separator)),
            Self::Json => f.write_str("json"),
            Self::Stats { .. } => f.write_str("stats"),
            Self::TopK { k: 1, .. } => f.write_str("best"),
            Self::TopK { k, .. } => write!(f, "top-k={k}"),
            Self::Failures { example_limit: DEFAULT_FAILURE_EXAMPLES } => f.write_str("failures"),
            Self::Failures { example_limit: named } => write!(f, "failures={named}"),
        }?;
        at.map_or(Ok(()), |at| write!(f, ":{at}"))
    }
}

fn escape_text(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t")
}

impl Serialize for AggregateSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AggregateSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregate_specs_round_trip_through_text() {
        for text in [
            "majority",
            "majority:/answer",
            "concat",
            "concat=",
            "concat=\\n---\\n",
            "concat=:/x=",
            "json",
            "stats",
            "stats:/a/0",
            "best",
            "best:/score",
            "top-k=10:/score",
            "top-k=1000",
            "failures",
            "failures=3",
        ] {
            assert_eq!(text.parse::<AggregateSpec>().map(|it| it.to_string()), Ok(text.into()));
        }
        let separator = "\n---\n".to_owned();
        assert_eq!("concat=\\n---\n".parse(), Ok(AggregateSpec::Concat { separator }));
    }

    #[test]
    fn unknown_aggregates_are_refused_with_examples() {
        for text in [
            "",
            "mean",
            "top-k",
            "top-k=0",
            "top-k=1001",
            "top-k=x",
            "best:score",
            "json:/x",
            "majority=3",
            "stats:",
            "failures:/x",
        ] {
            let error = text.parse::<AggregateSpec>().expect_err(text);
            assert!(error.contains("top-k=10:/score"), "{error}");
        }
    }

    #[test]
    fn two_that_write_one_file_are_refused() {
        let all = |texts: &[&str]| texts.iter().map(|it| it.parse().expect(it)).collect::<Vec<_>>();
        for good in [&[][..], &["stats", "stats:/x", "concat", "json"], &["top-k=2", "top-k=3"]] {
            assert_eq!(AggregateSpec::check_duplicates(&all(good)), Ok(()));
        }
        for bad in [&["concat", "json", "concat=-"][..], &["stats", "stats"], &["top-k=1", "best"]]
        {
            assert!(
                AggregateSpec::check_duplicates(&all(bad)).is_err_and(|it| it.contains("twice")),
                "{bad:?}"
            );
        }
    }
}
