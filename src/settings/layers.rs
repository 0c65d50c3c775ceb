//! Four layers into one: defaults, file, environment, flags; each value keeps its origin.
//!
//! A layer is a table of keys. Texts (flags and variables have nothing else) are read as whatever type the key has, so
//! that every layer takes the same spellings. Each key is tried by itself first: an error then names the place that is
//! wrong, and a key that nobody knows is answered with the nearest one there is.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::{ApiKey, Environment, Settings};

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SettingOrigin {
    /// Nobody said anything.
    Default,
    /// The file of `--config`.
    File(String),
    /// A variable.
    Environment(String),
    /// A flag.
    Flag(String),
    /// The program that uses this library.
    Program(String),
}

/// Keys and what somebody gave for them.
#[derive(Clone, Debug, Default)]
pub struct SettingsLayer(Vec<(String, Value, SettingOrigin)>);

/// The settings of the job, and where each value that is not a default came from.
#[derive(Clone, Debug, PartialEq)]
pub struct ResolvedSettings {
    /// The values.
    pub settings: Settings,
    /// By key.
    pub origins: BTreeMap<String, SettingOrigin>,
}

/// Settings that cannot be.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("the settings file {path} cannot be read: {error}")]
    UnreadableFile {
        /// Which file.
        path: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file is no TOML.
    #[error("the settings file {path} is not TOML: {detail}")]
    InvalidToml {
        /// Which file.
        path: String,
        /// Where and what.
        detail: String,
    },
    /// A key that nobody knows.
    #[error("{origin}: there is no setting {key:?}{}", nearest_hint(.nearest))]
    UnknownKey {
        /// Where it stands.
        origin: SettingOrigin,
        /// What stands there.
        key: String,
        /// The known key that looks most like it.
        nearest: Option<String>,
    },
    /// A value that does not fit its key.
    #[error("{origin}: {key} cannot be {value}: {detail}")]
    InvalidValue {
        /// Where it stands.
        origin: SettingOrigin,
        /// The key.
        key: String,
        /// What was given.
        value: String,
        /// Why not.
        detail: String,
    },
    /// Values that do not go together.
    #[error("{0}")]
    Conflict(String),
}

/// Variables with our prefix that are no settings: they are read elsewhere, by name.
const NON_SETTING_VARIABLES: [&str; 2] = [ApiKey::ENV_VARIABLE, "AURORA_SWARM_LOG"];
/// Variables whose names are Aurora-Swarm's (the Python one's) and not made of the key.
const VARIABLE_ALIASES: [(&str, &str); 1] = [("AURORA_SWARM_MODEL_MAX_CONTEXT", "max-context")];
const VARIABLE_PREFIX: &str = "AURORA_SWARM_";

impl SettingsLayer {
    /// What the command line says: each key with the texts that were given for it, in order.
    pub fn from_flags(given: impl IntoIterator<Item = (String, Vec<String>)>) -> Self {
        Self::from_texts(given, |key| SettingOrigin::Flag(format!("--{key}")))
    }

    /// What a program says, in the same way.
    pub fn from_program(given: impl IntoIterator<Item = (String, Vec<String>)>) -> Self {
        Self::from_texts(given, |key| SettingOrigin::Program(key.into()))
    }

    fn from_texts(
        given: impl IntoIterator<Item = (String, Vec<String>)>,
        origin: fn(&str) -> SettingOrigin,
    ) -> Self {
        let layer = given.into_iter().filter(|(_, texts)| !texts.is_empty()).map(|(key, texts)| {
            let origin = origin(&key);
            let value = match <[String; 1]>::try_from(texts) {
                Ok([text]) => Value::String(text),
                Err(texts) => Value::Array(texts.into_iter().map(Value::String).collect()),
            };
            (key, value, origin)
        });
        Self(layer.collect())
    }

    /// What `AURORA_SWARM_*` says. An empty variable says nothing, as in a shell's `NAME= command`.
    #[must_use]
    pub fn from_environment(environment: &Environment) -> Self {
        let ours = environment.starting_with(VARIABLE_PREFIX);
        let said =
            ours.filter(|(name, value)| !value.is_empty() && !NON_SETTING_VARIABLES.contains(name));
        let layer = said.map(|(name, value)| {
            let key = name[VARIABLE_PREFIX.len()..].to_lowercase().replace('_', "-");
            let known = VARIABLE_ALIASES.iter().find(|(other, _)| *other == name);
            let key = known.map_or(key, |&(_, key)| key.into());
            (key, Value::String(value.into()), SettingOrigin::Environment(name.into()))
        });
        Self(layer.collect())
    }

    /// What a TOML file says; `_` and `-` are the same in its keys.
    ///
    /// # Errors
    /// Where it cannot be read or is no TOML.
    pub fn from_file(path: &str) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(PathBuf::from(path))
            .map_err(|error| SettingsError::UnreadableFile { path: path.into(), error })?;
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            SettingsError::InvalidToml { path: path.into(), detail: error.to_string() }
        })?;
        let origin = SettingOrigin::File(path.into());
        let layer =
            table.into_iter().map(|(key, value)| (key.replace('_', "-"), value, origin.clone()));
        Ok(Self(layer.collect()))
    }

    /// Does it say anything of this key?
    #[must_use]
    pub fn names(&self, key: &str) -> bool {
        self.0.iter().any(|(its, ..)| its == key)
    }
}

/// The layers, lowest first, over the defaults.
///
/// # Errors
/// The first unknown key, bad value or contradiction.
pub fn resolve_layers(
    layers: impl IntoIterator<Item = SettingsLayer>,
) -> Result<ResolvedSettings, SettingsError> {
    let mut table = Table::new();
    let mut origins = BTreeMap::new();
    for (key, value, origin) in layers.into_iter().flat_map(|layer| layer.0) {
        table.insert(key.clone(), read(&key, value, &origin)?);
        origins.insert(key, origin);
    }
    let mut settings: Settings = table.try_into().map_err(conflict_error)?;
    settings.apply_serve_defaults(origins.contains_key("ready-timeout"));
    settings.check_consistency().map_err(SettingsError::Conflict)?;
    Ok(ResolvedSettings { settings, origins })
}

fn conflict_error(error: toml::de::Error) -> SettingsError {
    SettingsError::Conflict(error.message().to_owned())
}

/// The value as its key's type takes it. A text may be a text, a number or truth value, or a list.
fn read(key: &str, value: Value, origin: &SettingOrigin) -> Result<Value, SettingsError> {
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
        // A flag's commas are its own, since it can be given again; a variable has no other way to hold a list.
        readings.push(Value::Array(match origin {
            SettingOrigin::Environment(_) => list(text),
            _ => vec![value.clone()],
        }));
    }
    // The text's own error is the one that explains; the other readings' would speak of types.
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
        value: shown(&value),
        detail: detail.map(|detail| explain_types(detail)).unwrap_or_default(),
    })
}

/// A text as the number or truth value it spells.
fn parse_scalar(text: &str) -> Option<Value> {
    let text = text.trim();
    text.parse()
        .map(Value::Integer)
        .ok()
        .or_else(|| text.parse().map(Value::Boolean).ok())
        .or_else(|| text.parse().ok().filter(|number: &f64| number.is_finite()).map(Value::Float))
}

/// Rust's names of types, as people say them.
fn explain_types(detail: &str) -> String {
    detail
        .replace("expected u16", "expected a whole number from 0 to 65535")
        .replace("expected usize", "expected a whole number")
        .replace("expected u64", "expected a whole number")
        .replace("expected u32", "expected a whole number")
}

/// The value for an error message; what may hold a password is left out.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.contains('@') { "that".into() } else { text }
}

/// Every key there is.
fn all_keys() -> impl Iterator<Item = String> {
    let all = serde_json::to_value(Settings::default()).unwrap_or_default();
    let keys: Vec<String> =
        all.as_object().map(|all| all.keys().cloned().collect()).unwrap_or_default();
    keys.into_iter()
}

/// Which of the names that there are somebody may have meant.
pub fn nearest_name(name: &str, there: impl Iterator<Item = String>) -> Option<String> {
    let close = |known: String| (strsim::damerau_levenshtein(&known, name), known);
    let (distance, known) = there.map(close).min()?;
    (distance <= name.len().div_ceil(2)).then_some(known)
}

fn nearest_hint(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or(String::new(), |it| format!("; did you mean {it:?}?"))
}

impl SettingsError {
    /// Was it the command line that was wrong?
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::InvalidValue { origin: SettingOrigin::Flag(_), .. }
                | Self::UnknownKey { origin: SettingOrigin::Flag(_), .. }
        )
    }
}

impl fmt::Display for SettingOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Environment(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Program(key) => write!(f, "the program's {key}"),
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

    fn file(text: &str) -> (tempfile::NamedTempFile, SettingsLayer) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("written");
        let layer = SettingsLayer::from_file(&file.path().to_string_lossy()).expect("it is TOML");
        (file, layer)
    }

    #[test]
    fn flags_beat_the_environment_which_beats_the_file_which_beats_defaults() {
        let (_kept, in_file) = file("model = 'a'\nready_timeout = 5\nbase-port = 7000");
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
        assert_eq!(resolved.settings.ready_timeout, HumanDuration::seconds(120));
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
        assert_eq!(resolved.settings.ready_timeout, HumanDuration::seconds(0));
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
            ("log-format", "xml", "text"),
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
    fn conflicting_settings_are_refused() {
        for given in [
            &[("endpoint", "http://a:1"), ("base-port", "8000")][..],
            &[("endpoints-per-node", "4")],
            &[("base-port", "65000"), ("endpoints-per-node", "1000")],
            &[("tag", "role=chat")],
            &[("hostfile", "f"), ("tag", "role")],
        ] {
            assert!(
                matches!(resolve_layers([flags_layer(given)]), Err(SettingsError::Conflict(_))),
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
