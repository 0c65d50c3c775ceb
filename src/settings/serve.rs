//! Settings of servers that the job starts itself: layouts, defaults that follow from `--serve`, and conflicts with it.
//!
//! Knows the number of servers and tiles of each layout. The environments of servers are set in `serve`.

use serde::{Deserialize, Serialize};

use super::{HumanDuration, Settings, Violation};

/// Assignment of a node's GPU tiles to its servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ServeLayout {
    /// No assignment; servers see the same tiles as this process.
    #[serde(rename = "none")]
    None,
    /// Twelve servers with one tile each.
    #[serde(rename = "aurora-12x1")]
    Aurora12x1,
    /// Six servers with two tiles each.
    #[serde(rename = "aurora-6x2")]
    Aurora6x2,
    /// Three servers with four tiles each.
    #[serde(rename = "aurora-3x4")]
    Aurora3x4,
    /// One server with all twelve tiles.
    #[serde(rename = "aurora-1x12")]
    Aurora1x12,
}

/// Tiles of an Aurora node: six GPUs with two tiles each.
const TILES_PER_NODE: u16 = 12;
/// Default `--ready-timeout` with `--serve`: loading a large model takes minutes, and its first start many.
const SERVE_READY_TIMEOUT: HumanDuration = HumanDuration::from_secs(30 * 60);

impl ServeLayout {
    /// Returns the number of servers per node; `None` without a layout.
    #[must_use]
    pub(crate) fn servers_per_node(self) -> Option<u16> {
        self.tiles_per_server().map(|tiles| TILES_PER_NODE / tiles)
    }

    /// Returns the number of tiles per server; `None` without a layout.
    #[must_use]
    pub(crate) fn tiles_per_server(self) -> Option<u16> {
        match self {
            Self::None => None,
            Self::Aurora12x1 => Some(1),
            Self::Aurora6x2 => Some(2),
            Self::Aurora3x4 => Some(4),
            Self::Aurora1x12 => Some(TILES_PER_NODE),
        }
    }
}

impl Settings {
    /// Fills in the ports and the longer ready timeout that follow from `serve`.
    pub(super) fn apply_serve_defaults(&mut self, has_ready_timeout: bool) {
        if self.serve.is_none() {
            return;
        }
        self.base_port.get_or_insert(8000);
        self.endpoints_per_node.get_or_insert(self.serve_layout.servers_per_node().unwrap_or(1));
        if !has_ready_timeout {
            self.ready_timeout = SERVE_READY_TIMEOUT;
        }
    }

    pub(super) fn check_serve(&self) -> Result<(), Violation> {
        let Some(command) = &self.serve else { return Ok(()) };
        if command.trim().is_empty() {
            let message = "--serve is empty\nhint: pass the command that starts a server";
            return Err(Violation::new(&["serve"], message));
        }
        let elsewhere =
            [(!self.endpoint.is_empty(), "endpoint"), (self.hostfile.is_some(), "hostfile")];
        if let Some((_, name)) = elsewhere.iter().find(|(given, _)| *given) {
            return Err(Violation::new(
                &["serve", *name],
                format!(
                    "--serve starts servers on each node, and --{name} names others\nhint: drop --{name}; ports are set by \
                 --base-port (default 8000) and --endpoints-per-node"
                ),
            ));
        }
        let count = self.endpoints_per_node.unwrap_or(1);
        if let Some(most) = self.serve_layout.servers_per_node().filter(|&most| most < count) {
            return Err(Violation::new(
                &["serve-layout", "endpoints-per-node"],
                format!(
                    "--endpoints-per-node {count} exceeds the {most} servers per node of --serve-layout"
                ),
            ));
        }
        for pair in &self.serve_env {
            let name = pair.split_once('=').map(|(name, _)| name.trim());
            let Some(name) = name.filter(|name| !name.is_empty()) else {
                return Err(Violation::new(
                    &["serve-env"],
                    format!(
                        "--serve-env {pair:?} does not have the form NAME=VALUE\nhint: repeat the option for several \
                     variables; commas separate them only in AURORA_SWARM_SERVE_ENV"
                    ),
                ));
            };
            if is_secret_name(name) {
                return Err(Violation::new(
                    &["serve-env"],
                    format!(
                        "--serve-env {name} looks like a secret, and settings are written to the manifest\nhint: set it in \
                     the job script's environment, which servers inherit"
                    ),
                ));
            }
        }
        if let Some(name) = find_command_secret(command) {
            return Err(Violation::new(
                &["serve"],
                format!(
                    "--serve passes a secret as {name}, where the manifest, logs and process lists show it\nhint: set \
                     VLLM_API_KEY in the job script's environment, which servers inherit, or begin the command with \
                     VLLM_API_KEY=\"$AURORA_SWARM_API_KEY\""
                ),
            ));
        }
        let per_server = |text: &str| text.contains("{port}") || text.contains("{k}");
        if count > 1 && !per_server(command) && !self.serve_env.iter().any(|it| per_server(it)) {
            return Err(Violation::new(
                &["serve", "endpoints-per-node"],
                format!(
                    "{count} servers per node need a port each\nhint: use {{port}} in the command of --serve"
                ),
            ));
        }
        if self.model.is_none() && command.contains("{model}") {
            return Err(Violation::new(
                &["serve"],
                "--serve contains {model}, and --model is not set",
            ));
        }
        Ok(())
    }
}

/// Returns whether the name of a variable, option or field suggests a secret value: its last word does, or it contains
/// a word that names nothing else. `MAX_TOKENS` and `stop_token_ids` are no secrets.
#[must_use]
pub(crate) fn is_secret_name(name: &str) -> bool {
    let name = format!("_{}_", name.to_uppercase().replace('-', "_"));
    ["_KEY_", "_TOKEN_", "_PAT_"].iter().any(|word| name.ends_with(word))
        || SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// Words of names, in any place, that name secrets only.
const SECRET_WORDS: [&str; 9] = [
    "_APIKEY_",
    "_API_KEY_",
    "_ACCESS_KEY_",
    "_PRIVATE_KEY_",
    "_SECRET_",
    "_PASSWORD_",
    "_PASSWD_",
    "_PASSPHRASE_",
    "_CREDENTIALS_",
];

/// Returns the name of the first option or variable of a shell command that passes a secret. A variable may be set from
/// another variable, which the shell reads and nothing shows; the value of an option ends up in the process list even
/// then.
fn find_command_secret(command: &str) -> Option<String> {
    let is_separator =
        |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ';' | '&' | '|' | '(' | ')');
    let words: Vec<&str> = command.split(is_separator).filter(|word| !word.is_empty()).collect();
    words.iter().enumerate().find_map(|(at, word)| {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (*word, None),
        };
        let is_option = name.starts_with('-');
        let bare = name.trim_start_matches('-');
        if bare.is_empty() || !is_secret_name(bare) {
            return None;
        }
        let next = words.get(at + 1).copied();
        let passes = match (is_option, value) {
            (true, Some(_)) => true,
            (true, None) => next.is_some_and(|next| !next.starts_with('-')),
            // A quoted value is the next word, since quotes separate words here.
            (false, Some("")) => next.is_some_and(|next| !next.starts_with('$')),
            (false, Some(value)) => !value.starts_with('$'),
            (false, None) => false,
        };
        passes.then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use crate::settings::{HumanDuration, Settings, SettingsError, SettingsLayer, resolve_layers};

    fn resolve_flags(given: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let flags = given.iter().map(|(key, text)| ((*key).into(), vec![(*text).into()]));
        resolve_layers([SettingsLayer::from_flags(flags)]).map(|it| it.settings)
    }

    #[test]
    fn serve_defaults_are_applied() {
        let settings =
            resolve_flags(&[("serve", "s --port {port}"), ("serve-layout", "aurora-6x2")]);
        let settings = settings.expect("good");
        assert_eq!((settings.base_port, settings.endpoints_per_node), (Some(8000), Some(6)));
        assert_eq!(settings.ready_timeout, HumanDuration::from_secs(1800));
        let given = [("serve", "s"), ("ready-timeout", "5s"), ("base-port", "9000")];
        let settings = resolve_flags(&given).expect("good");
        assert_eq!((settings.base_port, settings.endpoints_per_node), (Some(9000), Some(1)));
        assert_eq!(settings.ready_timeout, HumanDuration::from_secs(5));
        assert_eq!(resolve_flags(&[]).expect("good").ready_timeout, HumanDuration::from_secs(60));
    }

    #[test]
    fn conflicts_with_serve_are_explained() {
        for (more, words) in [
            (("endpoint", "http://a:1"), "--endpoint names others"),
            (("hostfile", "f"), "--hostfile names others"),
            (("endpoints-per-node", "2"), "{port}"),
            (("serve-env", "ZE_AFFINITY_MASK"), "NAME=VALUE"),
            (("serve-env", "HF_TOKEN=x"), "job script"),
            (("serve-layout", "aurora-12x1"), "{port}"),
        ] {
            let error = resolve_flags(&[("serve", "s"), more]).expect_err(words).to_string();
            assert!(error.contains(words), "{error}");
        }
        for (command, words) in [
            (" ", "empty"),
            ("s {model}", "--model is not set"),
            ("s --api-key sk-1", "--api-key"),
            ("s --api-key='sk-1'", "--api-key"),
            ("s --api-key \"$AURORA_SWARM_API_KEY\"", "--api-key"),
            ("VLLM_API_KEY=sk-1 s", "VLLM_API_KEY"),
            ("env HF_TOKEN='sk-1' s", "HF_TOKEN"),
            ("export AWS_SECRET_ACCESS_KEY=sk-1; s", "AWS_SECRET_ACCESS_KEY"),
            ("s --hf-token sk-1", "--hf-token"),
        ] {
            let error = resolve_flags(&[("serve", command)]).expect_err(words).to_string();
            assert!(error.contains(words) && !error.contains("sk-1"), "{error}");
        }
        for command in [
            "VLLM_API_KEY=\"$AURORA_SWARM_API_KEY\" s",
            "HF_TOKEN=$HF_TOKEN s",
            "s --api-keys 7",
            "TOKENIZERS_PARALLELISM=false s --max-num-batched-tokens 8192 --tokenizer m",
        ] {
            resolve_flags(&[("serve", command)]).expect(command);
        }
        let many =
            [("serve", "s {k}"), ("serve-layout", "aurora-3x4"), ("endpoints-per-node", "4")];
        assert!(resolve_flags(&many).expect_err("too many").to_string().contains("3 servers"));
    }
}
