//! A model's files: where its chat template is and what its special tokens are.
//!
//! Owns the files' names and which of them wins. Does not read the template itself: whether it is one shows when it is
//! compiled.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{ChatTemplate, ChatTemplateError};

const TEMPLATE_FILE: &str = "chat_template.jinja";
/// Older models with images keep it here.
const LEGACY_TEMPLATE_FILE: &str = "chat_template.json";
const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
const SPECIAL_TOKENS_FILE: &str = "special_tokens_map.json";

/// The special tokens that templates see, by the names of transformers.
const SPECIAL_TOKEN_NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl ChatTemplate {
    /// Of a model's folder, of a tokenizer_config.json, or of a file that is a template.
    ///
    /// # Errors
    /// A file that is not there or not what its name says, and files without a template.
    pub fn load(path: &Path) -> Result<Self, ChatTemplateError> {
        let is_config = path.extension().is_some_and(|it| it.eq_ignore_ascii_case("json"));
        let folder = if path.is_dir() { Some(path) } else { path.parent() };
        let beside = |name: &str| folder.map_or_else(|| PathBuf::from(name), |it| it.join(name));
        let config = if is_config { path.to_path_buf() } else { beside(TOKENIZER_CONFIG_FILE) };

        let found = if path.is_dir() {
            vec![beside(TEMPLATE_FILE), config.clone(), beside(LEGACY_TEMPLATE_FILE)]
        } else if is_config {
            // A tokenizer that was saved lately has its template in a file of its own.
            vec![require_file(path)?, beside(TEMPLATE_FILE)]
        } else {
            vec![require_file(path)?]
        };
        for file in found {
            if let Some(text) = read_template(&file)? {
                let special = read_special_tokens(&config, &beside(SPECIAL_TOKENS_FILE))?;
                return Ok(Self {
                    text,
                    special_tokens: special,
                    source_file: file.display().to_string(),
                });
            }
        }
        Err(ChatTemplateError::NoTemplate { path: path.to_path_buf() })
    }
}

fn require_file(path: &Path) -> Result<PathBuf, ChatTemplateError> {
    match fs::metadata(path) {
        Ok(_) => Ok(path.to_path_buf()),
        Err(source) => Err(ChatTemplateError::Io { path: path.to_path_buf(), source }),
    }
}

/// The template of a file, which is one or has one.
fn read_template(path: &Path) -> Result<Option<String>, ChatTemplateError> {
    if path.extension().is_none_or(|it| !it.eq_ignore_ascii_case("json")) {
        return read(path);
    }
    let wrong = |what: &str| ChatTemplateError::Malformed {
        path: path.to_path_buf(),
        what: what.to_owned(),
    };
    match read_json_object(path)?.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(all)) => {
            let default = all.iter().find(|it| it["name"] == "default");
            let text = default.and_then(|it| it["template"].as_str());
            text.map(|it| Some(it.to_owned())).ok_or_else(|| {
                wrong("its chat_template is a list without one of the name \"default\"; put the one to use into a file of its own")
            })
        }
        Some(_) => Err(wrong("its chat_template is neither a text nor a list of named ones")),
    }
}

/// The special tokens: of the config, and those that it lacks of the map.
fn read_special_tokens(
    config: &Path,
    map: &Path,
) -> Result<BTreeMap<String, String>, ChatTemplateError> {
    let (config, map) = (read_json_object(config)?, read_json_object(map)?);
    let text = |token: &Value| match token {
        Value::String(text) => Some(text.clone()),
        Value::Object(token) => token.get("content")?.as_str().map(str::to_owned),
        _ => None,
    };
    let of = |name: &str| text(&config[name]).or_else(|| text(&map[name]));
    Ok(SPECIAL_TOKEN_NAMES
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), of(name)?)))
        .collect())
}

/// A JSON object; an empty one where there is no such file.
fn read_json_object(path: &Path) -> Result<Value, ChatTemplateError> {
    let Some(text) = read(path)? else { return Ok(Value::Object(serde_json::Map::new())) };
    let wrong = |what: String| ChatTemplateError::Malformed { path: path.to_path_buf(), what };
    match serde_json::from_str(&text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(wrong("it is no JSON object".into())),
        Err(error) => Err(wrong(format!("it is no JSON: {error}"))),
    }
}

fn read(path: &Path) -> Result<Option<String>, ChatTemplateError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ChatTemplateError::Io { path: path.to_path_buf(), source }),
    }
}
