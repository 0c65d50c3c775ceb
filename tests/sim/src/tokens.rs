//! The tokenizer: text to token ids and back, without loss.
//!
//! It owns the vocabulary of 1460 ids, the size of the model that the recorded exchanges come
//! from, so that their out-of-vocabulary errors hold here too. It knows nothing of chats or
//! answers. `decode(encode(text))` is `text`; other ids than those `encode` makes are fine too.

use std::collections::HashMap;
use std::sync::LazyLock;

/// A token id.
pub type Id = u32;

/// The number of ids; every id below it can be decoded.
pub const VOCABULARY: Id = 1460;
/// `<|im_start|>`, which opens a message of a chat.
pub const IM_START: Id = 1;
/// `<|im_end|>`, which closes a message and is the end-of-sequence token.
pub const EOS: Id = 2;
/// The longest token in characters: vLLM refuses, without tokenizing it, a text of more than
/// this many characters times the context length.
pub const LONGEST_TOKEN: usize = 17;

const SPECIALS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

// The layout of the ids after the three specials.
const BYTES: Id = 3;
const LETTER_PAIRS: Id = BYTES + 256;
const DIGIT_PAIRS: Id = LETTER_PAIRS + 26 * 26;
const SPACE_LETTERS: Id = DIGIT_PAIRS + 100;
const SPACED_WORDS: Id = SPACE_LETTERS + 26;
const BARE_WORDS: Id = SPACED_WORDS + WORD_COUNT as Id;
const WORD_COUNT: usize = 200;

const WORDS: &str = "the launcher reads a prompt rank writes two requests each worker waits \
for answer and of to in is that it was on are as with his they at be this from have or by one had \
not but what all were when we there can an your which their said if do will each about how up out \
them then she many some so these would other into has more her like him see time could no make \
than first been its who now people my made over did down only way find use may water long little \
very after words called just where most know get through back much before go good new write our \
used me man too any day same right look think also around another came come work three word must \
because does part even place well such here take why things help put years different away again \
off went old number great tell men say small every found still between name should home big give \
air line set own under read last never us left end along while might next sound below saw \
something thought both few those always looked show large often together asked house world going \
want school important until form food keep children feet land side without boy once animals life \
enough took";

static LIST: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let mut words: Vec<&str> = Vec::with_capacity(WORD_COUNT);
    for word in WORDS.split_whitespace() {
        if word.len() > 1 && words.len() < WORD_COUNT && !words.contains(&word) {
            words.push(word);
        }
    }
    words
});

static INDEX: LazyLock<HashMap<&'static [u8], Id>> = LazyLock::new(|| {
    LIST.iter().enumerate().map(|(at, word)| (word.as_bytes(), at as Id)).collect()
});

/// The letter pair number `n` (modulo 676) as a token: the building block of an answer's head.
#[must_use]
pub fn letter_pair(n: u64) -> Id {
    LETTER_PAIRS + (n % 676) as Id
}

/// The word number `n` (modulo the list) with a space before it, as a token.
#[must_use]
pub fn spaced_word(n: u64) -> Id {
    SPACED_WORDS + (n % LIST.len() as u64) as Id
}

/// Splits a text into token ids.
#[must_use]
pub fn encode(text: &str) -> Vec<Id> {
    let mut ids = Vec::with_capacity(text.len() / 3 + 4);
    encode_into(text, usize::MAX, &mut ids);
    ids
}

/// Appends the ids of a text, and stops soon after `limit` ids: a server that refuses a prompt
/// for its length need not tokenize it to the end.
pub fn encode_into(text: &str, limit: usize, ids: &mut Vec<Id>) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() && ids.len() < limit {
        let (id, taken) = next_token(&bytes[at..]);
        ids.push(id);
        at += taken;
    }
}

fn next_token(rest: &[u8]) -> (Id, usize) {
    match rest[0] {
        b' ' => after_space(rest),
        b'a'..=b'z' => letters(rest),
        b'0'..=b'9' if rest.get(1).is_some_and(u8::is_ascii_digit) => {
            (DIGIT_PAIRS + Id::from(rest[0] - b'0') * 10 + Id::from(rest[1] - b'0'), 2)
        }
        b'<' => special(rest).unwrap_or((BYTES + Id::from(b'<'), 1)),
        byte => (BYTES + Id::from(byte), 1),
    }
}

fn after_space(rest: &[u8]) -> (Id, usize) {
    let run = word_length(&rest[1..]);
    if run == 0 {
        return (BYTES + Id::from(b' '), 1);
    }
    match INDEX.get(&rest[1..=run]) {
        Some(at) => (SPACED_WORDS + at, run + 1),
        None => (SPACE_LETTERS + Id::from(rest[1] - b'a'), 2),
    }
}

fn letters(rest: &[u8]) -> (Id, usize) {
    let run = word_length(rest);
    if let Some(at) = INDEX.get(&rest[..run]).filter(|at| BARE_WORDS + **at < VOCABULARY) {
        return (BARE_WORDS + at, run);
    }
    if run == 1 {
        return (BYTES + Id::from(rest[0]), 1);
    }
    (LETTER_PAIRS + Id::from(rest[0] - b'a') * 26 + Id::from(rest[1] - b'a'), 2)
}

/// The length of the run of small letters at the start; a run longer than any word of the list
/// is cut, it is only looked up.
fn word_length(rest: &[u8]) -> usize {
    rest.iter().take(LONGEST_TOKEN).take_while(|b| b.is_ascii_lowercase()).count()
}

fn special(rest: &[u8]) -> Option<(Id, usize)> {
    let at = SPECIALS.iter().position(|s| rest.starts_with(s.as_bytes()))?;
    Some((at as Id, SPECIALS[at].len()))
}

/// The text of some ids; special tokens are left out when `skip_special` is set, and ids outside
/// the vocabulary are nothing, as vLLM's detokenizer has it.
#[must_use]
pub fn decode(ids: &[Id], skip_special: bool) -> String {
    let mut bytes = Vec::with_capacity(ids.len() * 5);
    for id in ids {
        push_piece(*id, skip_special, &mut bytes);
    }
    into_text(bytes)
}

/// Bytes as text; what is not UTF-8 becomes U+FFFD, as it does in vLLM.
#[must_use]
pub fn into_text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// Appends the bytes of one token.
pub fn push_piece(id: Id, skip_special: bool, bytes: &mut Vec<u8>) {
    match id {
        0..BYTES if skip_special => {}
        0..BYTES => bytes.extend_from_slice(SPECIALS[id as usize].as_bytes()),
        BYTES..LETTER_PAIRS => bytes.push((id - BYTES) as u8),
        LETTER_PAIRS..DIGIT_PAIRS => {
            let pair = id - LETTER_PAIRS;
            bytes.extend_from_slice(&[b'a' + (pair / 26) as u8, b'a' + (pair % 26) as u8]);
        }
        DIGIT_PAIRS..SPACE_LETTERS => {
            let pair = id - DIGIT_PAIRS;
            bytes.extend_from_slice(&[b'0' + (pair / 10) as u8, b'0' + (pair % 10) as u8]);
        }
        SPACE_LETTERS..SPACED_WORDS => {
            bytes.extend_from_slice(&[b' ', b'a' + (id - SPACE_LETTERS) as u8]);
        }
        SPACED_WORDS..BARE_WORDS => {
            bytes.push(b' ');
            bytes.extend_from_slice(LIST[(id - SPACED_WORDS) as usize].as_bytes());
        }
        BARE_WORDS..VOCABULARY => {
            bytes.extend_from_slice(LIST[(id - BARE_WORDS) as usize].as_bytes());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_word_list_fills_its_place_in_the_vocabulary() {
        assert_eq!(LIST.len(), WORD_COUNT);
        assert!(VOCABULARY - BARE_WORDS <= WORD_COUNT as Id);
    }

    #[test]
    fn special_tokens_are_single_ids() {
        assert_eq!(encode("<|im_start|>a<|im_end|>"), [IM_START, BYTES + 97, EOS]);
        assert_eq!(decode(&[IM_START, EOS], true), "");
        assert_eq!(decode(&[EOS], false), "<|im_end|>");
    }

    #[test]
    fn common_english_takes_about_one_token_a_word() {
        let text = "each worker waits for the answer and then writes two requests";
        assert!(encode(text).len() <= 12, "{:?}", encode(text));
    }

    proptest! {
        #[test]
        fn text_comes_back_as_it_was(text in "(\\PC|[a-z ]{1,9}|<\\|im_end\\|>|\n)*") {
            let ids = encode(&text);
            prop_assert!(ids.iter().all(|id| *id < VOCABULARY));
            prop_assert_eq!(decode(&ids, false), text);
        }
    }
}
