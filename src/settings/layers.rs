//! Resolution of the layers defaults, file, environment and command line into settings, with the origin of each value.
//!
//! A layer is a table of keys and values. Texts, the only type that options and variables have, are parsed as the key's
//! type, so every layer accepts the same spellings. Each key is checked by itself first, so that an error names its
//! place, and an unknown key gets the most similar one as a suggestion. Types of values are in `values.rs`, rules
//! between settings in `mod.rs` and `serve.rs`.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::{ApiKey, Environment, Settings, Violation, values::decode_escapes};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SettingOrigin {
    /// Not set anywhere.
    Default,
    /// Settings file with this path.
    File(String),
    /// Environment variable with this name.
    Environment(String),
    /// Command line option, with its dashes.
    Flag(String),
    /// Program that uses the library; the key that it has set.
    Program(String),
}

/// Keys and values from one source.
#[derive(Clone, Debug, Default)]
pub(crate) struct SettingsLayer(Vec<(String, Value, SettingOrigin)>);

/// Settings of a job and the origin of each value that is not a default.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ResolvedSettings {
    pub settings: Settings,
    /// Origins by key.
    pub origins: BTreeMap<String, SettingOrigin>,
}

#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("cannot read the settings file {path}: {error}")]
    UnreadableFile { path: String, error: std::io::Error },
    #[error("the settings file {path} is not TOML: {detail}")]
    InvalidToml { path: String, detail: String },
    #[error(
        "AURORA_SWARM_API_KEY has a character that no request header may contain\nhint: look for line breaks and \
         other invisible characters in it"
    )]
    InvalidKey,
    #[error("unknown setting {key:?} ({origin}){}", nearest_hint(.nearest))]
    UnknownKey { origin: SettingOrigin, key: String, nearest: Option<String> },
    /// A value does not fit its key.
    #[error("invalid value {value} for {}: {detail}", value_place(.origin, .key))]
    InvalidValue {
        origin: SettingOrigin,
        key: String,
        /// The value, quoted.
        value: String,
        /// Reason or expected form.
        detail: String,
    },
    /// A value is out of range, or settings contradict each other.
    #[error("{message}")]
    Conflict {
        /// The error, and a hint if there is one.
        message: String,
        /// Whether an option on the command line takes part in it.
        is_usage: bool,
    },
}

/// Variables with the prefix of settings that are read elsewhere, by name.
const NON_SETTING_VARIABLES: [&str; 2] = [ApiKey::ENV_VARIABLE, "AURORA_SWARM_LOG"];
/// Variable names of the Python Aurora-Swarm that differ from the key.
const VARIABLE_ALIASES: [(&str, &str); 1] = [("AURORA_SWARM_MODEL_MAX_CONTEXT", "max-context")];
const VARIABLE_PREFIX: &str = "AURORA_SWARM_";

/// Settings that are texts of prompts. Typed as an option or in a variable, their escapes are decoded.
const TEXT_KEYS: [&str; 4] = ["template", "reduce-template", "system", "stop"];

/// Returns the name of a setting's environment variable.
pub(crate) fn environment_variable(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.to_uppercase().replace('-', "_"))
}

impl SettingsLayer {
    /// Creates the layer of the command line: each key with its texts, in order.
    pub(crate) fn from_flags(options: impl IntoIterator<Item = (String, Vec<String>)>) -> Self {
        Self::from_texts(options, |key| SettingOrigin::Flag(format!("--{key}")))
    }

    /// Creates the layer of a program that uses the library: each key with its texts, in order.
    pub(crate) fn from_program(settings: impl IntoIterator<Item = (String, Vec<String>)>) -> Self {
        Self::from_texts(settings, |key| SettingOrigin::Program(key.into()))
    }

    fn from_texts(
        texts_by_key: impl IntoIterator<Item = (String, Vec<String>)>,
        origin: fn(&str) -> SettingOrigin,
    ) -> Self {
        let present = texts_by_key.into_iter().filter(|(_, texts)| !texts.is_empty());
        let layer = present.map(|(key, texts)| {
            let origin = origin(&key);
            let value = match <[String; 1]>::try_from(texts) {
                Ok([text]) => Value::String(text),
                Err(texts) => Value::Array(texts.into_iter().map(Value::String).collect()),
            };
            (key, value, origin)
        });
        Self(layer.collect())
    }

    /// Creates the layer of `AURORA_SWARM_*` variables. An empty variable counts as unset, as after `NAME= command` in
    /// a shell.
    #[must_use]
    pub(crate) fn from_environment(environment: &Environment) -> Self {
        let is_set = |(name, value): &(&str, &str)| {
            !value.is_empty() && !NON_SETTING_VARIABLES.contains(name)
        };
        let variables = environment.starting_with(VARIABLE_PREFIX).filter(is_set);
        let layer = variables.map(|(name, value)| {
            let key = name[VARIABLE_PREFIX.len()..].to_lowercase().replace('_', "-");
            let alias = VARIABLE_ALIASES.iter().find(|(other, _)| *other == name);
            let key = alias.map_or(key, |&(_, key)| key.into());
            (key, Value::String(value.into()), SettingOrigin::Environment(name.into()))
        });
        Self(layer.collect())
    }

    /// Reads the layer of a TOML file; `_` and `-` are equal in its keys.
    ///
    /// # Errors
    /// If the file cannot be read or is not TOML.
    pub(crate) fn from_file(path: &str) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(PathBuf::from(path))
            .map_err(|error| SettingsError::UnreadableFile { path: path.into(), error })?;
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            // The parser's full text quotes the line, which may hold a key.
            let line = error.span().map(|at| 1 + text[..at.start].matches('\n').count());
            let detail = match line {
                Some(line) => format!("line {line}: {}", error.message()),
                None => error.message().to_owned(),
            };
            SettingsError::InvalidToml { path: path.into(), detail }
        })?;
        let origin = SettingOrigin::File(path.into());
        let layer =
            table.into_iter().map(|(key, value)| (key.replace('_', "-"), value, origin.clone()));
        Ok(Self(layer.collect()))
    }

    /// Returns whether the layer sets a key.
    #[must_use]
    pub(crate) fn has_key(&self, key: &str) -> bool {
        self.0.iter().any(|(known, ..)| known == key)
    }
}

/// Applies layers, lowest precedence first, to the defaults.
///
/// # Errors
/// The first unknown key, invalid value, value out of range or contradiction.
pub(crate) fn resolve_layers(
    layers: impl IntoIterator<Item = SettingsLayer>,
) -> Result<ResolvedSettings, SettingsError> {
    let mut table = Table::new();
    let mut origins = BTreeMap::new();
    for (key, value, origin) in layers.into_iter().flat_map(|layer| layer.0) {
        let value = decode_typed_text(&key, parse_value(&key, value, &origin)?, &origin);
        table.insert(key.clone(), value);
        origins.insert(key, origin);
    }
    let mut settings: Settings = table.try_into().map_err(conflict_error)?;
    settings.apply_serve_defaults(origins.contains_key("ready-timeout"));
    settings.check_consistency().map_err(|violation| conflict_from(violation, &origins))?;
    Ok(ResolvedSettings { settings, origins })
}

impl ResolvedSettings {
    /// Returns the error about the value of a setting whose content is checked elsewhere, such as a file's.
    pub(crate) fn value_error(&self, key: &'static str, message: String) -> SettingsError {
        conflict_from(Violation::new(&[key], message), &self.origins)
    }
}

fn conflict_error(error: toml::de::Error) -> SettingsError {
    SettingsError::Conflict { message: error.message().to_owned(), is_usage: false }
}

/// Adds the origins of the settings involved, unless the message already names what was typed.
fn conflict_from(violation: Violation, origins: &BTreeMap<String, SettingOrigin>) -> SettingsError {
    let involved: Vec<_> = violation.keys.iter().filter_map(|key| origins.get(*key)).collect();
    let is_usage = involved.iter().any(|origin| matches!(origin, SettingOrigin::Flag(_)));
    let message = if is_usage || involved.is_empty() {
        violation.message
    } else {
        let places: Vec<String> = involved.iter().map(ToString::to_string).collect();
        let (fact, hint) = match violation.message.split_once('\n') {
            Some((fact, hint)) => (fact, format!("\n{hint}")),
            None => (violation.message.as_str(), String::new()),
        };
        format!("{fact} ({}){hint}", places.join(", "))
    };
    SettingsError::Conflict { message, is_usage }
}

/// Converts a value to the key's type. A text may stand for a text, a number, a boolean or a list.
fn parse_value(key: &str, value: Value, origin: &SettingOrigin) -> Result<Value, SettingsError> {
    if !all_keys().any(|known| known == key) {
        return Err(SettingsError::UnknownKey {
            origin: origin.clone(),
            key: key.into(),
            nearest: nearest_name(key, all_keys()),
        });
    }
    let fits = |value: &Value| {
        let alone = Table::from_iter([(key.to_owned(), value.clone())]);
        alone.try_into::<Settings>().map(drop)
    };
    let mut readings = vec![value.clone()];
    if let Value::String(text) = &value {
        readings.extend(parse_scalar(text));
        let list = |text: &str| text.split(',').map(|it| Value::String(it.trim().into())).collect();
        // Options are repeatable, so their commas belong to the value; a variable has no other way to hold a list.
        readings.push(Value::Array(match origin {
            SettingOrigin::Environment(_) => list(text),
            _ => vec![value.clone()],
        }));
    }
    // The error of the text itself explains best; those of the other readings are about types.
    let mut errors = Vec::new();
    for reading in readings {
        match fits(&reading) {
            Ok(()) => return Ok(reading),
            Err(error) => errors.push(error.message().to_owned()),
        }
    }
    let detail = errors.iter().find(|error| !error.starts_with("invalid type")).or(errors.first());
    Err(SettingsError::InvalidValue {
        origin: origin.clone(),
        key: key.into(),
        value: redact_value(&value),
        detail: detail.map(|detail| explain_types(detail)).unwrap_or_default(),
    })
}

/// Decodes the escapes of a text that was typed where line breaks are hard to type. A settings file has escapes of its
/// own, and `@FILE` is a name.
fn decode_typed_text(key: &str, value: Value, origin: &SettingOrigin) -> Value {
    let is_typed = matches!(origin, SettingOrigin::Flag(_) | SettingOrigin::Environment(_));
    if !is_typed || !TEXT_KEYS.contains(&key) {
        return value;
    }
    match value {
        Value::String(text) if key == "stop" || !text.starts_with('@') => {
            Value::String(decode_escapes(&text))
        }
        Value::Array(texts) => Value::Array(
            texts.into_iter().map(|text| decode_typed_text(key, text, origin)).collect(),
        ),
        other => other,
    }
}

/// Parses a text as a number or boolean.
fn parse_scalar(text: &str) -> Option<Value> {
    let text = text.trim();
    text.parse()
        .map(Value::Integer)
        .ok()
        .or_else(|| text.parse().map(Value::Boolean).ok())
        .or_else(|| text.parse().ok().filter(|number: &f64| number.is_finite()).map(Value::Float))
}

/// Replaces the names of Rust types, and serde's list of variants, in an error message.
fn explain_types(detail: &str) -> String {
    if let Some(("", expected)) = detail.split_once("unknown variant ")
        && let Some((_, expected)) = expected.split_once(", expected ")
    {
        let words: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
        return format!("possible values: {}", words.join(", "));
    }
    detail
        .replace("expected u16", "expected a whole number from 0 to 65535")
        .replace("expected usize", "expected a whole number")
        .replace("expected u64", "expected a whole number")
        .replace("expected u32", "expected a whole number")
}

/// Quotes a value for an error message. Values that may contain a password or a key are hidden: the part before a host
/// name, the query of a URL.
fn redact_value(value: &Value) -> String {
    let text = match value {
        Value::String(text) => format!("'{text}'"),
        other => other.to_string(),
    };
    if text.contains(['@', '?']) { "(hidden)".into() } else { text }
}

fn all_keys() -> impl Iterator<Item = String> {
    let all = serde_json::to_value(Settings::default()).unwrap_or_default();
    let keys: Vec<String> =
        all.as_object().map(|all| all.keys().cloned().collect()).unwrap_or_default();
    keys.into_iter()
}

/// Returns the number of letters in which two names differ; two swapped neighbours count once.
pub(crate) fn letter_distance(one: &str, other: &str) -> usize {
    strsim::damerau_levenshtein(one, other)
}

/// Returns the known name most similar to `name`, unless more than half of the letters differ.
pub(crate) fn nearest_name(
    name: &str,
    known_names: impl Iterator<Item = String>,
) -> Option<String> {
    let close = |known: String| (letter_distance(&known, name), known);
    let (distance, known) = known_names.map(close).min()?;
    (distance <= name.len().div_ceil(2)).then_some(known)
}

fn nearest_hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or(String::new(), |name| format!("\nhint: did you mean {name:?}?"))
}

/// Names a setting as the user wrote it.
fn value_place(origin: &SettingOrigin, key: &str) -> String {
    match origin {
        SettingOrigin::Flag(option) => option.clone(),
        SettingOrigin::Environment(variable) => variable.clone(),
        SettingOrigin::File(path) => format!("{key} in {path}"),
        SettingOrigin::Default | SettingOrigin::Program(_) => key.into(),
    }
}

impl SettingsError {
    /// Creates an error about options on the command line.
    pub(crate) fn usage(message: String) -> Self {
        Self::Conflict { message, is_usage: true }
    }

    /// Returns whether the command line causes the error.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self {
            Self::InvalidValue { origin, .. } | Self::UnknownKey { origin, .. } => {
                matches!(origin, SettingOrigin::Flag(_))
            }
            Self::Conflict { is_usage, .. } => *is_usage,
            Self::UnreadableFile { .. } | Self::InvalidToml { .. } | Self::InvalidKey => false,
        }
    }
}

impl fmt::Display for SettingOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Program(key) => write!(f, "program setting {key}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{HumanDuration, RemoteEndpointPolicy};

    fn flags_layer(given: &[(&str, &str)]) -> SettingsLayer {
        SettingsLayer::from_flags(
            given.iter().map(|(key, text)| ((*key).into(), vec![(*text).into()])),
        )
    }

    fn file_layer(text: &str) -> (tempfile::NamedTempFile, SettingsLayer) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("written");
        let layer = SettingsLayer::from_file(&file.path().to_string_lossy()).expect("it is TOML");
        (file, layer)
    }

    #[test]
    fn flags_beat_the_environment_which_beats_the_file_which_beats_defaults() {
        let (_kept, in_file) = file_layer("model = 'a'\nready_timeout = 5\nbase-port = 7000");
        let environment = Environment::from([
            ("AURORA_SWARM_MODEL", "b"),
            ("AURORA_SWARM_READY_TIMEOUT", "2m"),
            ("AURORA_SWARM_API_KEY", "hidden"),
            ("AURORA_SWARM_TAG", ""),
        ]);
        let layers = [
            in_file,
            SettingsLayer::from_environment(&environment),
            flags_layer(&[("model", "c")]),
        ];
        let resolved = resolve_layers(layers).expect("all known and good");
        assert_eq!(resolved.settings.model.as_deref(), Some("c"));
        assert_eq!(resolved.settings.ready_timeout, HumanDuration::from_secs(120));
        assert_eq!(resolved.settings.base_port, Some(7000));
        assert_eq!(resolved.settings.remote_endpoints, RemoteEndpointPolicy::Refuse);
        assert_eq!(resolved.origins["model"], SettingOrigin::Flag("--model".into()));
        assert_eq!(
            resolved.origins["ready-timeout"],
            SettingOrigin::Environment("AURORA_SWARM_READY_TIMEOUT".into())
        );
        assert!(matches!(resolved.origins["base-port"], SettingOrigin::File(_)));
        assert!(!resolved.origins.contains_key("quiet"));
    }

    #[test]
    fn zero_and_a_model_of_digits_are_values() {
        let resolved =
            resolve_layers([flags_layer(&[("ready-timeout", "0"), ("model", "7")])]).expect("good");
        assert_eq!(resolved.settings.ready_timeout, HumanDuration::from_secs(0));
        assert_eq!(resolved.settings.model.as_deref(), Some("7"));
    }

    #[test]
    fn lists_come_from_repeated_flags_and_from_commas_in_a_variable() {
        let urls = |layer| {
            let settings = resolve_layers([layer]).expect("good").settings;
            settings.endpoint.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let twice = SettingsLayer::from_flags([(
            "endpoint".into(),
            vec!["http://a:1".into(), "http://b:2".into()],
        )]);
        assert_eq!(urls(twice), ["http://a:1", "http://b:2"]);
        assert_eq!(urls(flags_layer(&[("endpoint", "http://a:1")])), ["http://a:1"]);
        let variable = Environment::from([("AURORA_SWARM_ENDPOINT", "http://a:1, http://b:2")]);
        assert_eq!(urls(SettingsLayer::from_environment(&variable)), ["http://a:1", "http://b:2"]);
    }

    #[test]
    fn escapes_are_decoded_in_texts_that_were_typed_and_nowhere_else() {
        let (_kept, file) = file_layer(r"system = 'a\nb'");
        let typed = SettingsLayer::from_flags([
            ("stop".to_owned(), vec![r"\n\n".to_owned(), r"@\t".to_owned()]),
            ("template".to_owned(), vec![r"@dir\new".to_owned()]),
            ("output".to_owned(), vec![r"dir\new".to_owned()]),
        ]);
        let variable = Environment::from([("AURORA_SWARM_REDUCE_TEMPLATE", r"{{responses}}\n")]);
        let variable = SettingsLayer::from_environment(&variable);
        let settings = resolve_layers([file, variable, typed]).expect("good").settings;
        assert_eq!(settings.stop, ["\n\n", "@\t"]);
        assert_eq!(settings.system.as_deref(), Some(r"a\nb"));
        assert_eq!(settings.template.as_deref(), Some(r"@dir\new"));
        assert_eq!(settings.output.as_deref(), Some(r"dir\new"));
        let many = SettingsLayer::from_flags([("stop".to_owned(), vec!["x".to_owned(); 9])]);
        let many = resolve_layers([many]).expect("servers know how many they take").settings;
        assert_eq!(many.stop.len(), 9);
        assert_eq!(settings.reduce_template.as_deref(), Some("{{responses}}\n"));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place_and_the_nearest_key() {
        let variable = Environment::from([("AURORA_SWARM_REDY_TIMEOUT", "5")]);
        let error = resolve_layers([SettingsLayer::from_environment(&variable)])
            .expect_err("a typing mistake");
        let text = error.to_string();
        assert!(
            text.contains("AURORA_SWARM_REDY_TIMEOUT") && text.contains("\"ready-timeout\""),
            "{text}"
        );
        assert!(!error.is_usage());
    }

    #[test]
    fn a_bad_value_is_named_with_its_place_and_reason() {
        for (key, text, reason) in [
            ("base-port", "70000", "65535"),
            ("ready-timeout", "soon", "soon"),
            ("log-format", "xml", "possible values: text, json"),
            ("endpoint", "localhost", "URL"),
            ("expect-ranks", "-1", "-1"),
        ] {
            let error = resolve_layers([flags_layer(&[(key, text)])]).expect_err(text);
            assert!(error.is_usage());
            let message = error.to_string();
            assert!(message.contains(&format!("--{key}")) && message.contains(reason), "{message}");
        }
    }

    #[test]
    fn a_password_is_not_repeated() {
        let error = resolve_layers([flags_layer(&[("endpoint", "http://me:hunter2@h:1")])])
            .expect_err("a password");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    #[test]
    fn conflicts_outside_the_command_line_name_their_origin() {
        let variable = Environment::from([("AURORA_SWARM_TEMPERATURE", "3")]);
        let error =
            resolve_layers([SettingsLayer::from_environment(&variable)]).expect_err("out of range");
        assert!(!error.is_usage());
        let text =
            "--temperature 3: must be between 0 and 2 (environment AURORA_SWARM_TEMPERATURE)";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn conflicting_settings_are_refused() {
        for given in [
            &[("endpoint", "http://a:1"), ("base-port", "8000")][..],
            &[("endpoints-per-node", "4")],
            &[("base-port", "65000"), ("endpoints-per-node", "1000")],
            &[("tag", "role=chat")],
            &[("hostfile", "f"), ("tag", "role")],
            &[("template", "{{a}}"), ("messages-column", "b")],
        ] {
            assert!(
                matches!(
                    resolve_layers([flags_layer(given)]),
                    Err(SettingsError::Conflict { is_usage: true, .. })
                ),
                "{given:?}"
            );
        }
    }

    #[test]
    fn settings_round_trip_through_json() {
        let resolved = resolve_layers([flags_layer(&[("base-port", "9000"), ("quiet", "true")])])
            .expect("good");
        let text = serde_json::to_string(&resolved.settings).expect("plain data");
        assert_eq!(serde_json::from_str::<Settings>(&text).expect("as written"), resolved.settings);
    }
}
