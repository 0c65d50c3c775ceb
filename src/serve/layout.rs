//! The plan of the servers on a node: commands with their placeholders filled in, tile masks, ports and start delays.
//! Pure.
//!
//! Which ports a rank drives is decided in `site/assign_endpoints.rs`; processes are started in `supervisor.rs`.

use std::{path::Path, time::Duration};

use super::ServerSpec;
use crate::settings::{ServeLayout, Settings};

/// Rank and node that the servers belong to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerContext<'a> {
    /// Host name of the node.
    pub host: &'a str,
    /// Index of the rank among the ranks of its node.
    pub local_rank: usize,
    /// Folder of the servers' logs.
    pub log_folder: &'a Path,
}

/// First port for the internal use of vLLM's engines; below the range that the system uses for connections (from
/// 32768).
const ENGINE_PORT_BASE: u32 = 20_000;
/// More than an engine with a dozen workers needs.
const ENGINE_PORTS_PER_SERVER: u32 = 200;

/// Plans the servers with these numbers, from 0 and per node; server k listens on `base_port + k`. Returns no servers
/// without `--serve`.
#[must_use]
pub(crate) fn plan_servers(
    settings: &Settings,
    server_numbers: impl Iterator<Item = u16>,
    context: ServerContext<'_>,
) -> Vec<ServerSpec> {
    let (Some(command), Some(base)) = (&settings.serve, settings.base_port) else {
        return Vec::new();
    };
    let server = |k: u16| {
        // A server whose port would exceed 65535 is left out.
        let port = base.checked_add(k)?;
        let values = [
            ("{port}", port.to_string()),
            ("{k}", k.to_string()),
            ("{local_rank}", context.local_rank.to_string()),
            ("{host}", context.host.to_owned()),
            ("{model}", settings.model.as_deref().unwrap_or("{model}").to_owned()),
        ];
        let fill = |text: &str| fill_placeholders(text, &values, None);
        let mut variables = tile_variables(settings.serve_layout, k);
        // The user's variables come last, since the last value of a name wins.
        variables.extend(settings.serve_env.iter().filter_map(|pair| {
            let (name, value) = pair.split_once('=')?;
            Some((name.trim().to_owned(), fill(value)))
        }));
        Some(ServerSpec {
            port,
            command: fill_placeholders(command, &values, Some("{model}")),
            variables,
            log: context.log_folder.join(format!("{}-{port}.log", context.host)),
            // The delay depends on the server's number on the node, so that ranks sharing it do not start theirs
            // together.
            delay: settings
                .serve_stagger
                .to_duration()
                .saturating_mul(u32::from(k))
                .min(MAX_START_DELAY),
        })
    };
    server_numbers.filter_map(server).collect()
}

const MAX_START_DELAY: Duration = Duration::from_secs(3600);

/// Fills in the placeholders of a text. Other braces belong to the shell or to JSON, and `${port}` is a shell variable.
/// The value of `quoted_name` is quoted for the shell that the text is for, whatever quotes surround the placeholder.
fn fill_placeholders(text: &str, values: &[(&str, String)], quoted_name: Option<&str>) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('{') {
        let (before, from) = rest.split_at(at);
        filled.push_str(before);
        let found = values.iter().find(|(name, _)| from.starts_with(name));
        match found.filter(|_| !before.ends_with('$')) {
            Some((name, value)) => {
                if quoted_name == Some(*name) {
                    let template = &text[..text.len() - from.len()];
                    filled.push_str(&quote_for_shell(value, open_quote(template)));
                } else {
                    filled.push_str(value);
                }
                rest = &from[name.len()..];
            }
            None => {
                filled.push('{');
                rest = &from[1..];
            }
        }
    }
    filled + rest
}

/// Returns the quote that is open at the end of a piece of a shell command.
fn open_quote(command: &str) -> Option<char> {
    let (mut open, mut letters) = (None, command.chars());
    while let Some(letter) = letters.next() {
        match (open, letter) {
            // The next character is literal, except inside single quotes.
            (None | Some('"'), '\\') => drop(letters.next()),
            (None, '"' | '\'') => open = Some(letter),
            (Some(quote), letter) if quote == letter => open = None,
            _ => {}
        }
    }
    open
}

/// Returns a value as a POSIX shell reads it as one word. Ordinary model names and paths stay as they are.
fn quote_for_shell(value: &str, open: Option<char>) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "/._-:@+,=%{}".contains(letter);
    let in_single_quotes = || value.replace('\'', r"'\''");
    match open {
        _ if value.chars().all(is_plain) => value.to_owned(),
        Some('\'') => in_single_quotes(),
        Some(_) => value.chars().fold(String::new(), |text, letter| {
            if "\\\"$`".contains(letter) {
                text + "\\" + letter.encode_utf8(&mut [0; 4])
            } else {
                text + letter.encode_utf8(&mut [0; 4])
            }
        }),
        None => format!("'{}'", in_single_quotes()),
    }
}

/// Returns the variables that bind server `k` to its own tiles of an Aurora node.
fn tile_variables(layout: ServeLayout, k: u16) -> Vec<(String, String)> {
    let Some(tiles) = layout.tiles_per_server() else { return Vec::new() };
    let first = k * tiles;
    let mask: Vec<String> = (first..first + tiles).map(|tile| tile.to_string()).collect();
    let engine_port = ENGINE_PORT_BASE + ENGINE_PORTS_PER_SERVER * u32::from(k);
    // Twelve processes that each use all cores for arithmetic are slower than twelve that use a few.
    let threads = if tiles == 1 { 8 } else { 16 };
    let variables = [
        // Only in this hierarchy do the numbers below mean tiles instead of whole GPUs.
        ("ZE_FLAT_DEVICE_HIERARCHY", "FLAT".to_owned()),
        ("ZE_AFFINITY_MASK", mask.join(",")),
        ("VLLM_PORT", engine_port.to_string()),
        ("OMP_NUM_THREADS", threads.to_string()),
        // Compute nodes have a proxy configured, and the processes of an engine connect to each other.
        ("no_proxy", "localhost,127.0.0.1".to_owned()),
        ("NO_PROXY", "localhost,127.0.0.1".to_owned()),
    ];
    variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serve_settings(serve: &str, layout: ServeLayout, env: &[&str]) -> Settings {
        Settings {
            serve: Some(serve.into()),
            serve_layout: layout,
            serve_env: env.iter().map(|&it| it.into()).collect(),
            base_port: Some(8000),
            model: Some("m/7b".into()),
            ..Settings::default()
        }
    }

    fn server_context() -> ServerContext<'static> {
        ServerContext { host: "x1", local_rank: 3, log_folder: Path::new("run/servers") }
    }

    fn variable_value<'a>(server: &'a ServerSpec, name: &str) -> Option<&'a str> {
        let last = server.variables.iter().rev().find(|(its, _)| its == name);
        last.map(|(_, value)| value.as_str())
    }

    #[test]
    fn placeholders_are_filled_in_and_other_braces_stay() {
        let command =
            r#"v {model} --port {port} -c '{"k": {k}}' ${port} {host}/{local_rank} {x} {"#;
        let servers = plan_servers(
            &serve_settings(command, ServeLayout::None, &["N={k}:{port}"]),
            2..3,
            server_context(),
        );
        assert_eq!(servers[0].command, r#"v m/7b --port 8002 -c '{"k": 2}' ${port} x1/3 {x} {"#);
        assert_eq!(servers[0].variables, [("N".to_owned(), "2:8002".to_owned())]);
        assert_eq!(servers[0].log, Path::new("run/servers/x1-8002.log"));
        assert_eq!(servers[0].delay, Duration::from_secs(1));
    }

    #[test]
    fn a_model_name_reaches_the_shell_as_one_word() {
        for model in ["a b; touch pwned", "it's \"$HOME\" `id` \\", "plain/model-7b", "é 漢"] {
            for template in ["printf %s {model}", "printf %s '{model}'", "printf %s \"{model}\""] {
                let settings = Settings {
                    model: Some(model.into()),
                    ..serve_settings(template, ServeLayout::None, &[])
                };
                let servers = plan_servers(&settings, 0..1, server_context());
                let output = std::process::Command::new("/bin/sh")
                    .args(["-c", &servers[0].command])
                    .output()
                    .expect("a shell");
                assert_eq!(String::from_utf8_lossy(&output.stdout), model, "{template}");
            }
        }
    }

    #[test]
    fn without_serve_there_are_no_servers() {
        assert!(plan_servers(&Settings::default(), 0..4, server_context()).is_empty());
    }

    #[test]
    fn every_layout_assigns_every_tile_exactly_once() {
        for (layout, second) in [
            (ServeLayout::Aurora12x1, "1"),
            (ServeLayout::Aurora6x2, "2,3"),
            (ServeLayout::Aurora3x4, "4,5,6,7"),
        ] {
            let count = layout.servers_per_node().expect("a number of servers");
            let servers =
                plan_servers(&serve_settings("s {port}", layout, &[]), 0..count, server_context());
            let masks: Vec<&str> =
                servers.iter().filter_map(|it| variable_value(it, "ZE_AFFINITY_MASK")).collect();
            assert_eq!(masks[1], second);
            let all: Vec<String> = (0..12).map(|tile| tile.to_string()).collect();
            assert_eq!(masks.join(","), all.join(","), "{layout:?}");
            let mut ports: Vec<_> =
                servers.iter().filter_map(|it| variable_value(it, "VLLM_PORT")).collect();
            ports.dedup();
            assert_eq!(ports.len(), usize::from(count));
        }
        let all = plan_servers(
            &serve_settings("s", ServeLayout::Aurora1x12, &[]),
            0..1,
            server_context(),
        );
        assert_eq!(variable_value(&all[0], "ZE_AFFINITY_MASK"), Some("0,1,2,3,4,5,6,7,8,9,10,11"));
    }

    #[test]
    fn serve_env_overrides_the_layouts_variables() {
        let settings = serve_settings("s {port}", ServeLayout::Aurora12x1, &["OMP_NUM_THREADS=4"]);
        let servers = plan_servers(&settings, 0..1, server_context());
        assert_eq!(variable_value(&servers[0], "OMP_NUM_THREADS"), Some("4"));
    }
}
