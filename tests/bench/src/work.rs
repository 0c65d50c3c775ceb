//! The work: prompts, how long they and their answers are, and the input file they stand in.
//!
//! It owns what the bound is made of: the lengths come from the simulator's own answer function,
//! not from a measurement.

use serde_json::json;
use std::borrow::Borrow;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use vllm_sim::cache::PrefixCache;
use vllm_sim::{AnswerPolicy, Params, answer, tokens};

/// One row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    pub text: String,
    /// The answer's exact length, told to the client: `max_tokens` with `ignore_eos`.
    pub exactly: Option<usize>,
}

impl Prompt {
    /// A row of nothing but a text.
    pub fn plain(text: String) -> Self {
        Self { text, exactly: None }
    }

    fn params(&self, max_tokens: usize) -> Params {
        Params {
            max_tokens: Some(self.exactly.unwrap_or(max_tokens)),
            ignore_eos: self.exactly.is_some(),
            ..Params::default()
        }
    }

    fn row(&self) -> serde_json::Value {
        match self.exactly {
            None => json!({"prompt": self.text}),
            Some(n) => json!({"prompt": self.text, "max_tokens": n, "ignore_eos": true}),
        }
    }
}

/// What a prompt costs a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Its tokens.
    pub prompt: usize,
    /// Those of them that no prefix cache, however large, could have: no earlier prompt has them.
    pub fresh: usize,
    /// The tokens of its answer.
    pub output: usize,
}

/// Works out what prompts cost, in their order.
pub struct Coster {
    policy: AnswerPolicy,
    max_tokens: usize,
    block_size: usize,
    ideal: PrefixCache,
}

impl Coster {
    /// For a model and the run's `--max-tokens`.
    pub fn new(policy: AnswerPolicy, max_tokens: usize) -> Self {
        let block_size = 16;
        Self { policy, max_tokens, block_size, ideal: PrefixCache::new(block_size, usize::MAX) }
    }

    /// The next prompt's cost.
    pub fn cost(&mut self, prompt: &Prompt) -> Cost {
        let ids = tokens::encode(&prompt.text);
        let chain = PrefixCache::chain(self.block_size, &ids);
        let known = self.ideal.admit(&chain, ids.len());
        let output = answer(&self.policy, &ids, &prompt.params(self.max_tokens)).token_ids.len();
        Cost { prompt: ids.len(), fresh: ids.len() - known, output }
    }

    /// What the model says to it.
    pub fn response(&self, prompt: &Prompt) -> String {
        let ids = tokens::encode(&prompt.text);
        answer(&self.policy, &ids, &prompt.params(self.max_tokens)).text
    }
}

/// Writes the input file.
pub fn write(
    prompts: impl IntoIterator<Item = impl Borrow<Prompt>>,
    path: &Path,
) -> io::Result<()> {
    let mut file = BufWriter::new(std::fs::File::create(path)?);
    for prompt in prompts {
        serde_json::to_writer(&mut file, &prompt.borrow().row())?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lengths::text;

    #[test]
    fn a_shared_head_is_fresh_once_and_a_told_length_is_kept() {
        let mut coster = Coster::new(AnswerPolicy::default(), 48);
        let head = text(1, 64);
        let first = coster.cost(&Prompt::plain(format!("{head}{}", text(2, 10))));
        let second = Prompt { text: format!("{head}{}", text(3, 10)), exactly: Some(7) };
        let second = coster.cost(&second);
        assert_eq!((first.fresh, first.output), (first.prompt, 48));
        assert_eq!((second.fresh, second.output), (second.prompt - 64, 7));
    }

    #[test]
    fn rows_are_json_lines() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let prompts = [
            Prompt::plain("a \"b\"".to_owned()),
            Prompt { text: "c".to_owned(), exactly: Some(3) },
        ];
        write(&prompts, file.path()).unwrap();
        assert_eq!(
            std::fs::read_to_string(file.path()).unwrap(),
            "{\"prompt\":\"a \\\"b\\\"\"}\n{\"ignore_eos\":true,\"max_tokens\":3,\"prompt\":\"c\"}\n"
        );
    }
}
