//! The thinking of models whose server does not separate it: `<think>` tags and the channels of harmony. Pure.
//!
//! Owns where thinking ends and the answer begins. Only thinking at the very start of a text is recognised, and the text
//! can always be put together again: marks, thinking and answer are its parts in their order.

/// A text taken apart; the text is `marks[0]`, `reasoning`, `marks[1]`, `answer`, `marks[2]`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ThoughtText<'t> {
    pub(super) reasoning: &'t str,
    pub(super) answer: &'t str,
    pub(super) marks: [&'t str; 3],
}

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";
const CHANNEL: &str = "<|channel|>";
const MESSAGE: &str = "<|message|>";
const FINAL: &str = "<|channel|>final";

/// Takes the text of a sequence apart if it begins with the model's thinking. `was_cut` is whether it ended at its token
/// limit: then thinking may have no end.
pub(super) fn split_thinking(text: &str, was_cut: bool) -> Option<ThoughtText<'_>> {
    let start = text.trim_start();
    if start.starts_with(OPEN) {
        let begin = text.len() - start.len() + OPEN.len();
        return match text[begin..].find(CLOSE) {
            Some(length) => Some(at_tag(text, begin, begin + length)),
            None => was_cut.then(|| unfinished(text, begin)),
        };
    }
    if start.starts_with(CHANNEL) || start.starts_with("<|start|>assistant<|channel|>") {
        return split_channels(text, was_cut);
    }
    // The chat template has opened the tag, so that only its end is in the text.
    let close = text.find(CLOSE)?;
    is_bare_tag(text, close).then(|| at_tag(text, 0, close))
}

/// Returns whether the first closing tag ends thinking that has begun before the text. A text that merely speaks of the
/// tag quotes it, sets it between blanks in the middle of a line, or has an opening tag before it.
fn is_bare_tag(text: &str, close: usize) -> bool {
    let (before, after) = (&text[..close], &text[close + CLOSE.len()..]);
    let is_mark = |c: char| matches!(c, '`' | '\'' | '"' | '“' | '”' | '‘' | '’' | '«' | '»' | '(');
    let (last, next) = (before.chars().next_back(), after.chars().next());
    let is_quoted = last.is_some_and(is_mark) || next.is_some_and(is_mark);
    let is_in_line =
        last == Some(' ') && next.is_some_and(|c| c == ' ' || c.is_ascii_punctuation());
    !is_quoted && !is_in_line && !before.contains(OPEN) && !after.contains(CLOSE)
}

/// Takes a text apart whose thinking goes from `begin` to the closing tag at `close`. White space around the tags
/// belongs to neither part.
fn at_tag(text: &str, begin: usize, close: usize) -> ThoughtText<'_> {
    let reasoning = text[begin..close].trim();
    let from = text[begin..close].len() - text[begin..close].trim_start().len() + begin;
    let answer = text[close + CLOSE.len()..].trim_start();
    let end = from + reasoning.len();
    ThoughtText {
        reasoning,
        answer,
        marks: [&text[..from], &text[end..text.len() - answer.len()], ""],
    }
}

/// Takes a text apart that ended while the model was thinking.
fn unfinished(text: &str, begin: usize) -> ThoughtText<'_> {
    let reasoning = text[begin..].trim_start();
    let from = text.len() - reasoning.len();
    ThoughtText { reasoning, answer: "", marks: [&text[..from], "", ""] }
}

/// Takes apart what a model writes in harmony, the format of gpt-oss, as a completions route returns it: messages in
/// channels, of which `final` is the answer. What comes before it is thinking.
fn split_channels(text: &str, was_cut: bool) -> Option<ThoughtText<'_>> {
    let first = text.find(MESSAGE)? + MESSAGE.len();
    let Some(at) = text.find(FINAL) else {
        return was_cut.then(|| unfinished(text, first));
    };
    let answer_from = text[at..].find(MESSAGE)? + at + MESSAGE.len();
    let rest = &text[answer_from..];
    let answer = rest.find("<|return|>").or(rest.find("<|end|>")).map_or(rest, |end| &rest[..end]);
    let ending = &rest[answer.len()..];
    if answer_from == first {
        return Some(ThoughtText { reasoning: "", answer, marks: [&text[..first], "", ending] });
    }
    let between = &text[first..at];
    let thought = between.strip_suffix("<|start|>assistant").unwrap_or(between);
    let reasoning = thought.strip_suffix("<|end|>").unwrap_or(thought);
    let end = first + reasoning.len();
    Some(ThoughtText {
        reasoning,
        answer,
        marks: [&text[..first], &text[end..answer_from], ending],
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parts(text: &str, was_cut: bool) -> Option<(&str, &str)> {
        let split = split_thinking(text, was_cut)?;
        let [before, between, after] = split.marks;
        let whole = [before, split.reasoning, between, split.answer, after].concat();
        assert_eq!(whole, text, "nothing is lost");
        Some((split.reasoning, split.answer))
    }

    #[test]
    fn thinking_at_the_start_is_taken_from_the_answer() {
        for (text, expected) in [
            ("<think>\nlet me think\n</think>\n\nsix", ("let me think", "six")),
            ("\n <think>a</think>b</think>", ("a", "b</think>")),
            ("<think></think>\n\nsix", ("", "six")),
            ("<think>\n\n</think>\n\nsix", ("", "six")),
            ("let me think\n</think>\n\nsix", ("let me think", "six")),
            ("let me think</think>six", ("let me think", "six")),
            ("</think>\n\nsix", ("", "six")),
            ("let me think\n</think>", ("let me think", "")),
            (
                "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>six<|return|>",
                ("hm", "six"),
            ),
            ("<|channel|>final<|message|>six", ("", "six")),
            (
                "<|start|>assistant<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary<|message|>b<|end|><|start|>assistant<|channel|>final <|constrain|>json<|message|>{}",
                ("a<|end|><|start|>assistant<|channel|>commentary<|message|>b", "{}"),
            ),
        ] {
            assert_eq!(parts(text, false), Some(expected), "{text}");
        }
    }

    #[test]
    fn texts_that_only_speak_of_thinking_are_left_alone() {
        for text in [
            "six",
            "",
            "Write <think>a</think> first.",
            "Close it with `</think>` and go on.",
            "The tag </think> ends it.",
            "Use \"</think>\".",
            "a</think>b</think>c",
            "<think>not closed",
            "<thinking>a</thinking>b",
            "<|channel|>analysis<|message|>hm",
            "The marker is <|channel|>final<|message|>.",
        ] {
            assert_eq!(parts(text, false), None, "{text}");
        }
    }

    #[test]
    fn an_answer_that_was_cut_while_thinking_is_all_thinking() {
        assert_eq!(parts("<think>\nlet me", true), Some(("let me", "")));
        assert_eq!(parts("<|channel|>analysis<|message|>let me", true), Some(("let me", "")));
        assert_eq!(parts("let me", true), None, "it may be the answer");
    }

    proptest! {
        #[test]
        fn no_text_is_lost(pieces in prop::collection::vec(prop::sample::select(vec![
            "<think>", "</think>", "<|channel|>", "final", "analysis", "<|message|>", "<|end|>", "<|return|>",
            "<|start|>assistant", "é", " ", "\n", "`", "word",
        ]), 0..12), was_cut: bool) {
            parts(&pieces.concat(), was_cut);
        }
    }
}
