//! The reduce template: renders the prompt that merges a group's texts into one.
//!
//! Placeholders of row templates are in `input/row`; the limits of a group are in `fit.rs`.

use std::borrow::Cow;

use super::fit::{TokenBudget, truncate_text};
use crate::input::PromptTemplate;

/// Template for reduces without `--reduce-template`.
pub(crate) const DEFAULT_REDUCE_TEMPLATE: &str = "Below are texts that each stand for a part of one larger whole, with a line of --- between \
    them. Make one text of them. Keep every finding, name and number that matters, say only once what several of them say, \
    and where they contradict each other, say so. Answer with that text alone.\n\n{{responses}}";

/// Separator between the texts of a group.
const TEXT_SEPARATOR: &str = "\n---\n";
const RESPONSES_PLACEHOLDER: &str = "responses";
const LEVEL_PLACEHOLDER: &str = "level";

pub(crate) struct ReduceTemplate {
    template: PromptTemplate,
    /// Approximate length of a prompt without its texts, in bytes.
    overhead_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReducePrompt {
    pub prompt: String,
    /// Answer limit in tokens.
    pub max_tokens: u64,
    /// Bytes that are left out of each text.
    pub left_out: Vec<u64>,
}

impl ReduceTemplate {
    /// Parses a template with `{{responses}}` and optionally `{{level}}`.
    ///
    /// # Errors
    /// If `{{responses}}` is missing or another placeholder is used.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let template =
            PromptTemplate::parse(text).map_err(|reason| format!("reduce template: {reason}"))?;
        if let Some(name) = template
            .placeholder_names()
            .iter()
            .find(|it| !matches!(it.as_str(), RESPONSES_PLACEHOLDER | LEVEL_PLACEHOLDER))
        {
            return Err(format!(
                "the reduce template has an unknown placeholder {{{{{name}}}}}\nhint: use {{{{responses}}}}, the group's \
                 texts, and {{{{level}}}}, the level from 1"
            ));
        }
        if !template.placeholder_names().iter().any(|it| it == RESPONSES_PLACEHOLDER) {
            return Err("the reduce template has no {{responses}}\nhint: without it the group's texts would not be in the \
                        prompt"
                .into());
        }
        Ok(Self { template, overhead_bytes: text.len() as u64 })
    }

    /// Renders the prompt of a group of this level, in one pass, so that braces inside the texts stay text.
    #[must_use]
    pub(crate) fn render(
        &self,
        level: u32,
        mut texts: Vec<String>,
        budget: &TokenBudget,
    ) -> ReducePrompt {
        let lengths: Vec<u64> = texts.iter().map(|text| text.len() as u64).collect();
        let between = TEXT_SEPARATOR.len() as u64 * (texts.len() as u64).saturating_sub(1);
        let fit = budget.fit_group(&lengths, self.overhead_bytes + between);
        let truncate = |text| fit.max_text_bytes.map_or(0, |longest| truncate_text(text, longest));
        let left_out: Vec<u64> = texts.iter_mut().map(truncate).collect();
        let (texts, level) = (texts.join(TEXT_SEPARATOR), level.to_string());
        let value = |name: &str| {
            Ok(Some(Cow::Borrowed(if name == RESPONSES_PLACEHOLDER {
                texts.as_str()
            } else {
                level.as_str()
            })))
        };
        // Rendering cannot fail: `parse` has checked the names.
        let prompt = self.template.render(value).unwrap_or_default();
        ReducePrompt { prompt, max_tokens: fit.max_tokens, left_out }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: TokenBudget = TokenBudget {
        fixed_tokens: Some(9),
        leaf_tokens: 512,
        context_tokens: Some(2_000),
        buffer: 100,
    };

    fn owned_texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn placeholders_in_answers_stay_text() {
        let recipe =
            ReduceTemplate::parse("{{level}}: {{responses}} ({level})").expect("a template");
        let rendered = recipe.render(
            2,
            owned_texts(&["{level} {{level}}", "{{responses}} {responses}"]),
            &BUDGET,
        );
        assert_eq!(
            rendered.prompt,
            "2: {level} {{level}}\n---\n{{responses}} {responses} ({level})"
        );
        assert_eq!((rendered.max_tokens, rendered.left_out), (9, vec![0, 0]));
    }

    #[test]
    fn templates_without_the_texts_are_refused() {
        for (template, why) in [
            ("sum up", "no placeholder"),
            ("level {{level}}", "no {{responses}}"),
            ("{{responses}} {{answer}}", "an unknown placeholder {{answer}}"),
            ("{{responses}} {item}", "an unknown placeholder {{item}}"),
        ] {
            let error = ReduceTemplate::parse(template).err().unwrap_or_default();
            assert!(error.contains(why), "{template}: {error}");
        }
        assert!(ReduceTemplate::parse(DEFAULT_REDUCE_TEMPLATE).is_ok());
    }

    #[test]
    fn a_group_that_does_not_fit_is_truncated_and_counted() {
        let recipe = ReduceTemplate::parse("{{responses}}").expect("a template");
        let rendered = recipe.render(1, owned_texts(&["short", &"x".repeat(9_000)]), &BUDGET);
        // 2,000 tokens less 9 and 100, three bytes each.
        assert!(rendered.prompt.len() <= 1_891 * 3 && rendered.prompt.len() > 1_891 * 3 - 64);
        assert!(rendered.prompt.starts_with("short\n---\nxxx"));
        assert!(rendered.prompt.ends_with("of 9000 bytes left out]"), "{}", rendered.prompt);
        assert!(
            rendered.left_out[0] == 0 && rendered.left_out[1] > 3_000,
            "{:?}",
            rendered.left_out
        );
    }
}
