//! The chat template: a conversation as the text that the model sees.
//!
//! It owns ChatML, so that a client that renders the same template itself and sends the text to
//! the completions route gets the same tokens and the same answer.

/// One message of a conversation, its content parts joined.
pub struct Turn<'a> {
    /// Who says it; any name goes.
    pub role: &'a str,
    /// What is said.
    pub content: &'a str,
}

/// What a request can change about the rendering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rendering {
    /// Whether the assistant's turn is opened at the end.
    pub add_generation_prompt: bool,
    /// Whether the last message is left open, to be gone on with.
    pub continue_final_message: bool,
    /// False tells a reasoning model that it has thought already.
    pub enable_thinking: Option<bool>,
}

impl Default for Rendering {
    fn default() -> Self {
        Self { add_generation_prompt: true, continue_final_message: false, enable_thinking: None }
    }
}

/// The prompt of a conversation.
#[must_use]
pub fn render(turns: &[Turn<'_>], rendering: Rendering) -> String {
    let length: usize = turns.iter().map(|t| t.role.len() + t.content.len() + 26).sum();
    let mut text = String::with_capacity(length + 48);
    for (at, turn) in turns.iter().enumerate() {
        text.push_str("<|im_start|>");
        text.push_str(turn.role);
        text.push('\n');
        text.push_str(turn.content);
        if !(rendering.continue_final_message && at + 1 == turns.len()) {
            text.push_str("<|im_end|>\n");
        }
    }
    if rendering.add_generation_prompt {
        text.push_str("<|im_start|>assistant\n");
        if rendering.enable_thinking == Some(false) {
            text.push_str("<think>\n\n</think>\n\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conversation_becomes_chatml() {
        let turns = [Turn { role: "user", content: "hi" }];
        assert_eq!(
            render(&turns, Rendering { enable_thinking: Some(false), ..Rendering::default() }),
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        );
        let open = Rendering {
            add_generation_prompt: false,
            continue_final_message: true,
            enable_thinking: None,
        };
        assert_eq!(render(&turns, open), "<|im_start|>user\nhi");
    }
}
