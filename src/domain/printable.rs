//! Text of servers, models, files and users, made safe to print on a terminal or to write into a log.
//!
//! Owns which characters are replaced. It is applied in [`console`](crate::console), which prints, and where a server's
//! words become part of a one-line message; escaping for HTML is in `report/format.rs`.

use std::borrow::Cow;

/// Whether a character would move a terminal's cursor, change its state, or reorder the text around it.
pub(crate) fn is_terminal_control(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Replaces characters that control terminals by U+FFFD, except tabs and line breaks. Servers, models, file names and ids
/// may contain any character; whatever is printed goes through here.
pub(crate) fn clean_for_terminal(text: &str) -> Cow<'_, str> {
    let is_unwanted = |letter: char| is_terminal_control(letter) && !matches!(letter, '\n' | '\t');
    if !text.contains(is_unwanted) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.replace(is_unwanted, "\u{fffd}"))
}

/// Cleans text that belongs on one line: line breaks become spaces.
pub(crate) fn clean_line(text: &str) -> Cow<'_, str> {
    match clean_for_terminal(text) {
        clean if !clean.contains(['\n', '\t']) => clean,
        clean => Cow::Owned(clean.replace(['\n', '\t'], " ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_control_a_terminal_are_replaced_and_text_stays() {
        let hostile = "a\u{1b}[2Jb\u{7}\r\nc\td\u{9b}31m\u{202e}e\u{7f}";
        assert_eq!(
            clean_for_terminal(hostile),
            "a\u{fffd}[2Jb\u{fffd}\u{fffd}\nc\td\u{fffd}31m\u{fffd}e\u{fffd}"
        );
        assert!(!clean_line(hostile).contains(is_terminal_control));
        for plain in ["", "é 漢字 🙂", "two\nlines\tand a tab"] {
            assert!(matches!(clean_for_terminal(plain), Cow::Borrowed(same) if same == plain));
        }
        assert_eq!(clean_line("two\nlines"), "two lines");
    }
}
