//! Prompt templates: a text with placeholders for a row's columns.
//!
//! Owns the notation. Columns are looked up by name through a closure, so the form of a row is not known here.
//!
//! | in the template | in the prompt |
//! |---|---|
//! | `{{column}}` | the row's column; white space around the name is ignored |
//! | `{{item}}` or `{item}` | the row's text |
//! | `{{{{` | `{{` |
//! | a lone `{` or `}`, as in `{"json": 1}` | itself; so do `}}`, and `{` before `{{column}}` |
//!
//! Substitution is a single pass: braces inside a value stay text.

use std::borrow::Cow;

/// Name of the placeholder for a row's text.
pub(crate) const ITEM_COLUMN: &str = "item";

/// A parsed prompt template, ready to render rows.
pub(crate) struct PromptTemplate {
    parts: Vec<TemplatePart>,
    names: Vec<String>,
}

#[derive(Debug, PartialEq)]
enum TemplatePart {
    Text(String),
    /// A placeholder, as an index into the names.
    Column(usize),
}

/// Reason why a template cannot be filled with a row.
#[derive(Debug, PartialEq)]
pub(crate) enum TemplateFillError {
    /// The row lacks the columns of these placeholders, given by number.
    MissingColumns(Vec<usize>),
    /// A column's value cannot be decoded.
    UnusableColumn(String),
}

impl PromptTemplate {
    /// Parses the notation.
    ///
    /// # Errors
    /// A sentence about what is invalid. A template without a placeholder is an error, since every row would send the
    /// same prompt.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let template = Self::parse_with_images(text)?;
        if template.names.is_empty() {
            return Err("no placeholder such as {{item}} or {{column}}, so every row would send the same prompt".into());
        }
        Ok(template)
    }

    /// Parses the template of rows with images, which needs no placeholder.
    ///
    /// # Errors
    /// A sentence about what is invalid.
    pub(crate) fn parse_with_images(text: &str) -> Result<Self, String> {
        let mut template = Self { parts: Vec::new(), names: Vec::new() };
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            template.push_text(&rest[..at]);
            rest = template.parse_brace(&rest[at..])?;
        }
        template.push_text(rest);
        Ok(template)
    }

    /// Returns the distinct names of the placeholders.
    #[must_use]
    pub(crate) fn placeholder_names(&self) -> &[String] {
        &self.names
    }

    /// Renders the prompt for a row, whose columns are looked up with `column`.
    ///
    /// # Errors
    /// The placeholders without a column, or the reason why a column cannot be used.
    pub(crate) fn render<'v>(
        &self,
        mut column: impl FnMut(&str) -> Result<Option<Cow<'v, str>>, String>,
    ) -> Result<String, TemplateFillError> {
        let mut values = Vec::with_capacity(self.names.len());
        let mut missing = Vec::new();
        for (at, name) in self.names.iter().enumerate() {
            match column(name)
                .map_err(|reason| TemplateFillError::UnusableColumn(format!("{name}: {reason}")))?
            {
                Some(value) => values.push(value),
                None => missing.push(at),
            }
        }
        if !missing.is_empty() {
            return Err(TemplateFillError::MissingColumns(missing));
        }
        let text = |part: &TemplatePart| match part {
            TemplatePart::Text(text) => text.len(),
            TemplatePart::Column(at) => values[*at].len(),
        };
        let mut prompt = String::with_capacity(self.parts.iter().map(text).sum());
        for part in &self.parts {
            prompt.push_str(match part {
                TemplatePart::Text(text) => text,
                TemplatePart::Column(at) => &values[*at],
            });
        }
        Ok(prompt)
    }

    /// Parses the text at a `{` and returns the rest.
    fn parse_brace<'t>(&mut self, text: &'t str) -> Result<&'t str, String> {
        if let Some(rest) = text.strip_prefix("{{{{") {
            self.push_text("{{");
            return Ok(rest);
        }
        if let Some(rest) = text.strip_prefix("{item}") {
            self.push_column(ITEM_COLUMN);
            return Ok(rest);
        }
        if !text.starts_with("{{") || text.starts_with("{{{") {
            self.push_text("{");
            return Ok(&text[1..]);
        }
        let (name, rest) = text[2..].split_once("}}").ok_or_else(|| invalid_placeholder(text))?;
        if name.trim().is_empty() || name.contains(['{', '}', '\n', '"']) {
            return Err(invalid_placeholder(text));
        }
        self.push_column(name.trim());
        Ok(rest)
    }

    fn push_text(&mut self, text: &str) {
        match self.parts.last_mut() {
            Some(TemplatePart::Text(before)) => before.push_str(text),
            _ => self.parts.push(TemplatePart::Text(text.to_owned())),
        }
    }

    fn push_column(&mut self, name: &str) {
        let at = self.names.iter().position(|known| known == name).unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        });
        self.parts.push(TemplatePart::Column(at));
    }
}

fn invalid_placeholder(text: &str) -> String {
    let start: String = text.chars().take(24).collect();
    format!(
        "{start:?} is not a placeholder of the form {{{{column}}}}; write {{{{{{{{ for two literal braces"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn render_with(
        template: &str,
        columns: &[(&'static str, &'static str)],
    ) -> Result<String, TemplateFillError> {
        let column = |name: &str| {
            Ok(columns
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| Cow::Borrowed(*value)))
        };
        PromptTemplate::parse(template).unwrap().render(column)
    }

    #[test]
    fn every_notation_renders() {
        let columns = [("item", "I"), ("a b", "{item}{{x}}")];
        for (template, prompt) in [
            ("{item} {{item}} {{ item }}", "I I I"),
            ("<{{a b}}>", "<{item}{{x}}>"),
            (r#"{"json": 1, "q": "{{item}}"}"#, r#"{"json": 1, "q": "I"}"#),
            ("{{{{item}} {{item}}", "{{item}} I"),
            ("{{{item}}}", "{I}"),
            ("{{{{{{item}}}}", "{{I}}"),
            ("{x} } }} { {item}}}", "{x} } }} { I}}"),
            ("{{{{{item}", "{{I"),
        ] {
            assert_eq!(render_with(template, &columns).unwrap(), prompt, "{template}");
        }
        assert_eq!(
            render_with("{{x}}{item}{{y}}{{x}}", &columns),
            Err(TemplateFillError::MissingColumns(vec![0, 2]))
        );
    }

    #[test]
    fn an_invalid_template_is_an_error_with_its_reason() {
        for (template, reason) in [
            ("all the same", "no placeholder"),
            ("{{item", "is not a placeholder"),
            ("{{}} {item}", "is not a placeholder"),
            (r#"{{"json": {item}}}"#, "write {{{{ for two literal braces"),
        ] {
            let error = PromptTemplate::parse(template).err().unwrap();
            assert!(error.contains(reason), "{template}: {error}");
        }
    }

    proptest! {
        #[test]
        fn values_are_never_parsed_as_templates(value in "[{}item\\\\ é]{0,30}", noise in "[{}itemx ]{0,20}") {
            let column = |_: &str| Ok(Some(Cow::Borrowed(value.as_str())));
            let prompt = PromptTemplate::parse("<{item}|{{x}}>").unwrap().render(column).unwrap();
            prop_assert_eq!(prompt, format!("<{value}|{value}>"));
            if let Ok(template) = PromptTemplate::parse(&noise) {
                prop_assert!(template.render(column).is_ok());
            }
        }
    }
}
