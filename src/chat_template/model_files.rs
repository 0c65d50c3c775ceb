//! Model files: finds a model's chat template and special tokens.
//!
//! Owns the file names and their precedence. Whether a template is valid shows when it is compiled, in `renderer`.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::{ChatTemplate, ChatTemplateError};

const TEMPLATE_FILE: &str = "chat_template.jinja";
/// File in which older multimodal models keep the template.
const LEGACY_TEMPLATE_FILE: &str = "chat_template.json";
const TOKENIZER_CONFIG_FILE: &str = "tokenizer_config.json";
/// Largest size of a file that is read. A tokenizer's config with many added tokens has some hundred kilobytes.
const MAX_FILE_BYTES: u64 = 64 << 20;
const SPECIAL_TOKENS_FILE: &str = "special_tokens_map.json";

/// Names of the special tokens that templates can use, as in transformers.
const SPECIAL_TOKEN_NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl ChatTemplate {
    /// Loads the template of a model folder, of a `tokenizer_config.json`, or of a template file.
    ///
    /// # Errors
    /// A file that does not exist or is malformed, and files without a template.
    pub(crate) fn load(path: &Path) -> Result<Self, ChatTemplateError> {
        let is_config =
            path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let folder = if path.is_dir() { Some(path) } else { path.parent() };
        let beside =
            |name: &str| folder.map_or_else(|| PathBuf::from(name), |folder| folder.join(name));
        let config = if is_config { path.to_path_buf() } else { beside(TOKENIZER_CONFIG_FILE) };

        let candidates = if path.is_dir() {
            vec![beside(TEMPLATE_FILE), config.clone(), beside(LEGACY_TEMPLATE_FILE)]
        } else if is_config {
            // Recent versions of transformers save the template in a separate file.
            vec![require_file(path)?, beside(TEMPLATE_FILE)]
        } else {
            vec![require_file(path)?]
        };
        for file in candidates {
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

/// Reads the template of a file, which is either a template or a JSON file that contains one.
fn read_template(path: &Path) -> Result<Option<String>, ChatTemplateError> {
    if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("json")) {
        return read_if_exists(path);
    }
    let malformed = |what: &str| ChatTemplateError::Malformed {
        path: path.to_path_buf(),
        what: what.to_owned(),
    };
    match read_json_object(path)?.get("chat_template") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(Value::Array(all)) => {
            let default = all.iter().find(|entry| entry["name"] == "default");
            let text = default.and_then(|entry| entry["template"].as_str());
            text.map(|text| Some(text.to_owned())).ok_or_else(|| {
                malformed("chat_template is a list without an entry named \"default\"\nhint: put the template to use into a file of its own, and pass it to --chat-template")
            })
        }
        Some(_) => {
            Err(malformed("chat_template is neither a string nor a list of named templates"))
        }
    }
}

/// Reads the special tokens from the tokenizer's config, and missing ones from the special tokens map.
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
    let token_of = |name: &str| text(&config[name]).or_else(|| text(&map[name]));
    Ok(SPECIAL_TOKEN_NAMES
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), token_of(name)?)))
        .collect())
}

/// Reads a JSON object; returns an empty one if the file does not exist.
fn read_json_object(path: &Path) -> Result<Value, ChatTemplateError> {
    let Some(text) = read_if_exists(path)? else {
        return Ok(Value::Object(serde_json::Map::new()));
    };
    let malformed = |what: String| ChatTemplateError::Malformed { path: path.to_path_buf(), what };
    match serde_json::from_str(&text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(_) => Err(malformed("not a JSON object".into())),
        Err(error) => Err(malformed(format!("not JSON: {error}"))),
    }
}

fn read_if_exists(path: &Path) -> Result<Option<String>, ChatTemplateError> {
    let read = || {
        // Opening a pipe would wait for its writer, and a device has no end.
        let metadata = fs::metadata(path)?;
        if !metadata.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a plain file"));
        }
        if metadata.len() > MAX_FILE_BYTES {
            let too_large = format!("larger than {} MiB", MAX_FILE_BYTES >> 20);
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, too_large));
        }
        fs::read_to_string(path)
    };
    match read() {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ChatTemplateError::Io { path: path.to_path_buf(), source }),
    }
}
