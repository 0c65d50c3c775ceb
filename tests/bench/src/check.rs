//! Whether a run did its work: the manifest's counts, the answers' number and order, and some of the
//! answers themselves.
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

/// All of so many prompts answered, by the manifest and by the answers file, in the input's order, and what was looked
/// at is right. The file is never held as a whole.
pub fn all_answered(
    answers: &Path,
    wanted: usize,
    prompt: impl Fn(usize) -> Prompt,
    coster: &Coster,
) -> Result<(), Broken> {
    let manifest = format!("{}.run/manifest.json", answers.display());
    let text = read_to_string(&manifest).map_err(Broken::at(&manifest))?;
    counts(&serde_json::from_str(&text).map_err(Broken::at(&manifest))?, wanted)?;
    let file = File::open(answers).map_err(Broken::at("the answers"))?;
    let mut rows = 0;
    for (at, line) in BufReader::with_capacity(1 << 20, file).lines().enumerate() {
        let line = line.map_err(Broken::at("the answers"))?;
        rows += 1;
        if index(&line) != Some(at) {
            return Err(Broken(format!("in the place of answer {at} stands: {line}")));
        }
        if at % STRIDE == 0 && at < wanted {
            let row: Value = serde_json::from_str(&line).map_err(Broken::at("an answer"))?;
            if row["index"] != at || row["response"] != coster.response(&prompt(at)).as_str() {
                return Err(Broken(format!("answer {at} is not the model's: {line}")));
            }
        }
    }
    (rows == wanted).then_some(()).ok_or(Broken(format!("{rows} answers to {wanted} prompts")))
}

/// A line's index, without reading the whole of it: there may be millions, and it stands near the front.
fn index(line: &str) -> Option<usize> {
    let (_, rest) = line.split_once("\"index\":")?;
    rest.split_once(',')?.0.parse().ok()
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
    fn an_index_is_found_in_a_line() {
        assert_eq!(index("{\"id\":\"p-7\",\"index\":7,\"prompt\":\"\"}"), Some(7));
        assert_eq!(index("{\"id\":\"p-7\"}"), None);
    }

    #[test]
    fn answers_in_another_order_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let answers = folder.path().join("answers.jsonl");
        std::fs::create_dir(folder.path().join("answers.jsonl.run")).unwrap();
        let counts = json!({"submitted": 2, "answered": 2, "failed": 0, "open": 0});
        let manifest = json!({ "counts": counts }).to_string();
        std::fs::write(folder.path().join("answers.jsonl.run/manifest.json"), manifest).unwrap();
        let coster = Coster::new(vllm_sim::AnswerPolicy::default(), 8);
        let prompt = |at| Prompt::plain(format!("{at} what?"));
        let row = |at| json!({"index": at, "response": coster.response(&prompt(at)), "x": 0});
        let check = |order: &[usize]| {
            let text: String = order.iter().map(|at| format!("{}\n", row(*at))).collect();
            std::fs::write(&answers, text).unwrap();
            all_answered(&answers, 2, prompt, &coster)
        };
        assert_eq!(check(&[0, 1]), Ok(()));
        assert!(check(&[1, 0]).is_err());
        assert!(check(&[0]).is_err());
    }

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
