//! Whether a run did its work: the manifest's counts, the answers' number, and some of the answers
//! themselves.
//!
//! It owns the product's files as a user sees them, and no type of the product.

use crate::scenario::Broken;
use crate::work::{Coster, Prompt};
use serde_json::Value;
use std::fs::{File, read_to_string};
use std::io::{BufRead, BufReader};
use std::path::Path;

/// Every so many-th answer is read: enough to see a mix-up, and no work to speak of.
const STRIDE: usize = 97;

/// All prompts answered, by the manifest and by the answers file, and what was looked at is right.
pub fn all_answered(answers: &Path, prompts: &[Prompt], coster: &Coster) -> Result<(), Broken> {
    let manifest = format!("{}.run/manifest.json", answers.display());
    let text = read_to_string(&manifest).map_err(Broken::at(&manifest))?;
    counts(&serde_json::from_str(&text).map_err(Broken::at(&manifest))?, prompts.len())?;
    let file = File::open(answers).map_err(Broken::at("the answers"))?;
    let mut rows = 0;
    for (at, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(Broken::at("the answers"))?;
        rows += 1;
        if let Some(prompt) = prompts.get(at).filter(|_| at % STRIDE == 0) {
            let row: Value = serde_json::from_str(&line).map_err(Broken::at("an answer"))?;
            if row["index"] != at || row["response"] != coster.response(prompt).as_str() {
                return Err(Broken(format!("answer {at} is not the model's: {line}")));
            }
        }
    }
    let wanted = prompts.len();
    (rows == wanted).then_some(()).ok_or(Broken(format!("{rows} answers to {wanted} prompts")))
}

fn counts(manifest: &Value, wanted: usize) -> Result<(), Broken> {
    let counts = &manifest["counts"];
    let is = |name: &str, n: usize| counts[name].as_u64() == Some(n as u64);
    let right = is("submitted", wanted) && is("answered", wanted) && is("open", 0);
    if right && is("failed", 0) {
        Ok(())
    } else {
        Err(Broken(format!("the manifest counts {counts} of {wanted} prompts")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_all_answered_is_right() {
        let manifest = |answered, failed, open| {
            json!({"counts":
                {"submitted": 10, "answered": answered, "failed": failed, "open": open}})
        };
        assert_eq!(counts(&manifest(10, 0, 0), 10), Ok(()));
        assert!(counts(&manifest(9, 1, 0), 10).is_err());
        assert!(counts(&manifest(9, 0, 1), 10).is_err());
        assert!(counts(&manifest(10, 0, 0), 11).is_err());
        assert!(counts(&json!({}), 0).is_err());
    }
}
