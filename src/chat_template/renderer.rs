//! The chat renderer: the environment that transformers builds with jinja2, built with minijinja.
//!
//! Owns the variables, functions, limits and error mapping. Template files are found in `model_files`.

use std::{error, fmt, io};

use jiff::Zoned;
use minijinja::{
    Environment, Error, ErrorKind, State, UndefinedBehavior, Value, filters,
    syntax::SyntaxConfig,
    value::{Kwargs, ValueKind},
};

use super::{
    ChatRenderError, ChatTemplate, ChatTemplateError,
    jinja2_compat::rewrite_template,
    python_methods::{self, str_strip},
    text_messages, tojson,
};

/// Number of steps after which a template counts as endless: about a second of work, and far more than any conversation
/// that fits a model's context needs.
const MAX_FUEL: u64 = 50_000_000;

/// Maximum depth of nested macro calls. Half of minijinja's default, because asynchronous workers have small stacks.
const MAX_RECURSION: usize = 250;

/// Name of the only template in the environment.
const TEMPLATE_NAME: &str = "chat template";

/// A compiled chat template. Rendering takes no lock, so threads share it in an `Arc`.
#[derive(Debug)]
pub(crate) struct ChatRenderer {
    environment: Environment<'static>,
}

impl ChatTemplate {
    /// Compiles the template.
    ///
    /// # Errors
    /// A text that is not a valid template, or that uses features of jinja2 that minijinja lacks.
    pub(crate) fn compile(&self) -> Result<ChatRenderer, ChatTemplateError> {
        self.compile_with_clock(Zoned::now)
    }

    /// Compiles the template with a clock for `strftime_now`.
    pub(super) fn compile_with_clock(
        &self,
        now: fn() -> Zoned,
    ) -> Result<ChatRenderer, ChatTemplateError> {
        let syntax = |error: &Error| ChatTemplateError::Syntax {
            from: self.source_file.clone(),
            what: describe_error(error),
        };
        let mut environment = build_environment(now).map_err(|error| syntax(&error))?;
        for (name, token) in &self.special_tokens {
            environment.add_global(name.clone(), token.as_str());
        }
        let template = rewrite_template(&self.text);
        environment.add_template_owned(TEMPLATE_NAME, template).map_err(|error| syntax(&error))?;
        Ok(ChatRenderer { environment })
    }
}

impl ChatRenderer {
    /// Renders a conversation to a text that ends where the answer begins. The text contains its special tokens, so it
    /// must be tokenized without adding any.
    ///
    /// `messages` is a JSON list of messages, `extra` a JSON object of further variables (`chat_template_kwargs`).
    ///
    /// # Errors
    /// A conversation with more than text messages, and one that the template rejects or fails on.
    pub(crate) fn render(
        &self,
        messages: &str,
        extra: Option<&str>,
    ) -> Result<String, ChatRenderError> {
        let each = text_messages::map_messages(messages, Value::from_pairs)?;
        let mut variables = vec![("messages".to_owned(), Value::from(each))];
        for (name, json) in text_messages::template_variables(extra)? {
            let value = serde_json::from_str(json).map_err(|error| {
                ChatRenderError::NotTextOnly(format!("chat_template_kwargs: {name}: {error}"))
            })?;
            variables.push((name, value));
        }
        let mut text = BoundedText { bytes: Vec::new(), limit: text_limit(messages.len()) };
        let template = self.environment.get_template(TEMPLATE_NAME);
        let rendered = template.and_then(|template| {
            template.render_captured_to(Value::from_pairs(variables), &mut text).map(drop)
        });
        if text.is_full() {
            return Err(ChatRenderError::LimitExceeded(format!(
                "longer than {} bytes",
                text.limit
            )));
        }
        rendered.map_err(|error| classify_error(&error))?;
        String::from_utf8(text.bytes)
            .map_err(|error| ChatRenderError::TemplateFailed(error.to_string()))
    }
}

/// Returns the size in bytes up to which a template may render messages of this size: far more than one adds.
const fn text_limit(messages_bytes: usize) -> usize {
    messages_bytes.saturating_mul(4).saturating_add(1 << 20)
}

/// A rendered text that does not grow beyond its limit.
struct BoundedText {
    bytes: Vec<u8>,
    limit: usize,
}

impl BoundedText {
    fn is_full(&self) -> bool {
        self.bytes.len() > self.limit
    }
}

impl io::Write for BoundedText {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.is_full() {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        // One byte beyond the limit tells that there was more.
        let room = self.limit + 1 - self.bytes.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.bytes.extend_from_slice(taken);
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn build_environment(now: fn() -> Zoned) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    // As transformers configures jinja2.
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
    environment.set_syntax(syntax);
    // As jinja2's default: an undefined variable prints as nothing, only access to its members is an error.
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_fuel(Some(MAX_FUEL));
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_unknown_method_callback(python_methods::call_method);

    environment.add_filter("tojson", tojson::tojson_filter);
    environment.add_filter("trim", trim_filter);
    environment.add_filter("indent", python_methods::indent_filter);
    environment.add_filter("length", length_filter);
    environment.add_filter("int", int_filter);
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", is_iterable);
    environment.add_test("divisibleby", is_divisible_by);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", move |format: &str| format_now(format, &now()));

    environment.add_global("tools", ());
    environment.add_global("documents", ());
    environment.add_global("add_generation_prompt", true);
    Ok(environment)
}

/// jinja2's filter `trim`. minijinja's own does not know all of Python's white space.
fn trim_filter(value: &Value, chars: Option<&str>, named: Kwargs) -> Result<String, Error> {
    let chars =
        chars.map_or_else(|| named.get::<Option<&str>>("chars"), |value| Ok(Some(value)))?;
    named.assert_all_used()?;
    Ok(match value.as_str() {
        Some(text) => str_strip(text, chars, true, true).to_owned(),
        None => str_strip(&value.to_string(), chars, true, true).to_owned(),
    })
}

/// jinja2's filter `length`, which is 0 for an undefined value.
fn length_filter(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() { Ok(0) } else { filters::length(value) }
}

/// jinja2's filter `int`, which is 0 for a non-number; minijinja's is an error.
fn int_filter(
    state: &State,
    value: &Value,
    default: Option<Value>,
    base: Option<u32>,
    named: Kwargs,
) -> Value {
    filters::int(state, value, default, base, named).unwrap_or_else(|_| 0.into())
}

/// jinja2's test `sequence`, which holds for anything with a length and an index, also for a string or a dict.
fn is_sequence(value: &Value) -> bool {
    let kinds = [ValueKind::Undefined, ValueKind::String, ValueKind::Seq, ValueKind::Map];
    kinds.contains(&value.kind()) || (value.kind() == ValueKind::Iterable && value.len().is_some())
}

/// jinja2's test `iterable`. minijinja iterates over `none` as over an empty list, which Python does not.
fn is_iterable(value: &Value) -> bool {
    is_sequence(value) || value.kind() == ValueKind::Iterable
}

/// jinja2's test `divisibleby`. minijinja's own panics on a divisor of 0.
fn is_divisible_by(value: i64, by: i64) -> Result<bool, Error> {
    let rest = value.checked_rem(by);
    rest.map(|rest| rest == 0).ok_or_else(|| {
        Error::new(ErrorKind::InvalidOperation, format!("{value} cannot be divided by {by}"))
    })
}

fn format_now(format: &str, now: &Zoned) -> Result<String, Error> {
    jiff::fmt::strtime::format(format, now).map_err(|error| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now({format:?}): {error}"))
    })
}

/// Message with which a template rejects a conversation.
#[derive(Debug)]
struct RaisedException(String);

impl fmt::Display for RaisedException {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl error::Error for RaisedException {}

fn raise_exception(reason: &Value) -> Result<Value, Error> {
    let refusal = RaisedException(reason.to_string());
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(refusal))
}

fn classify_error(error: &Error) -> ChatRenderError {
    let mut next: Option<&(dyn error::Error + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(RaisedException(reason)) = cause.downcast_ref() {
            return ChatRenderError::TemplateRefused(reason.clone());
        }
        next = cause.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => {
            ChatRenderError::LimitExceeded(format!("not finished within {MAX_FUEL} steps"))
        }
        _ => ChatRenderError::TemplateFailed(describe_error(error)),
    }
}

/// Formats an error with its line and its causes.
fn describe_error(error: &Error) -> String {
    let mut sentence = error.to_string();
    let mut next = error::Error::source(error);
    while let Some(cause) = next {
        sentence.push_str(&format!(": {cause}"));
        next = cause.source();
    }
    sentence
}
