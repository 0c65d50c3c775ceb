//! Parsing of the hostfile, which lists one server per line.
//!
//! ```text
//! host[TAB]port[TAB]key=value…
//! ```
//!
//! Also accepted: `host:port`, `[v6]:port`, blanks instead of tabs, and `#` comments to the end of the line. A missing
//! port means 8000. Any other line is an error with its number, since a server that is silently dropped is a tile that
//! idles for a night.

use std::{collections::BTreeMap, net::Ipv6Addr};

use crate::domain::Url;

/// Server that a hostfile lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostfileEntry {
    /// Host name or address; an IPv6 address without brackets.
    pub host: String,
    /// Port the server listens on.
    pub port: u16,
    /// Tags of the form `key=value`.
    pub tags: BTreeMap<String, String>,
    /// Line number in the file, from 1.
    pub line: usize,
}

/// Invalid line of a hostfile.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct HostfileError {
    /// Line number in the file, from 1.
    pub line: usize,
    /// Description of what is wrong with the line.
    pub message: String,
}

const DEFAULT_PORT: u16 = 8000;

impl HostfileEntry {
    /// Returns the URL of the server, or `None` if the host does not make a valid one.
    #[must_use]
    pub(crate) fn server_url(&self) -> Option<Url> {
        let host = match self.host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => self.host.clone(),
        };
        format!("http://{host}:{}", self.port).parse().ok()
    }

    /// Returns whether the entry has all of these `key=value` tags.
    #[must_use]
    pub(crate) fn has_tags(&self, wanted: &[String]) -> bool {
        let has = |tag: &String| {
            tag.split_once('=').is_some_and(|(key, value)| {
                self.tags.get(key).is_some_and(|its_value| its_value == value)
            })
        };
        wanted.iter().all(has)
    }
}

/// Quotes a word for a message; one that may contain a password is hidden.
fn quote_word(word: &str) -> String {
    if word.contains('@') { "(hidden)".into() } else { format!("{word:?}") }
}

/// Parses a hostfile; entries are in the order of the file.
///
/// # Errors
/// Fails with all invalid lines, not only the first, so that they can be fixed together.
pub(crate) fn parse_hostfile(text: &str) -> Result<Vec<HostfileEntry>, Vec<HostfileError>> {
    // Some editors write a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines: Vec<HostfileEntry> = Vec::new();
    let mut errors = Vec::new();
    for (number, text) in (1..).zip(text.lines()) {
        let text = text.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        let parsed = parse_entry(text).and_then(|(host, port, tags)| {
            match lines
                .iter()
                .find(|entry| entry.host.eq_ignore_ascii_case(&host) && entry.port == port)
            {
                Some(first) => {
                    Err(format!("{host}:{port} is already listed in line {}", first.line))
                }
                None => Ok(HostfileEntry { host, port, tags, line: number }),
            }
        });
        match parsed {
            Ok(line) => lines.push(line),
            Err(message) => errors.push(HostfileError { line: number, message }),
        }
    }
    if errors.is_empty() { Ok(lines) } else { Err(errors) }
}

type HostPortTags = (String, u16, BTreeMap<String, String>);

fn parse_entry(text: &str) -> Result<HostPortTags, String> {
    let mut words = text.split_whitespace().peekable();
    let first = words.next().unwrap_or_default();
    let (host, mut port) = parse_host_port(first)?;
    if let Some(word) = words.next_if(|word| !word.contains('=')) {
        if port.is_some() {
            return Err(format!(
                "{} already has a port, so {} is not expected",
                quote_word(first),
                quote_word(word)
            ));
        }
        port = Some(parse_port(word)?);
    }
    let mut tags = BTreeMap::new();
    for word in words {
        let Some((key, value)) = word.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(format!("{} is not a tag of the form key=value", quote_word(word)));
        };
        if tags.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(format!("tag {key:?} is given twice"));
        }
    }
    Ok((host, port.unwrap_or(DEFAULT_PORT), tags))
}

fn parse_host_port(word: &str) -> Result<(String, Option<u16>), String> {
    if word.contains("://") {
        return Err(format!("{} is a URL; expected a host and a port", quote_word(word)));
    }
    if let Some(rest) = word.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else {
            return Err(format!("{} has no closing bracket", quote_word(word)));
        };
        let address: Ipv6Addr =
            address.parse().map_err(|_| format!("{address:?} is not an IPv6 address"))?;
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(parse_port(port)?),
            None if rest.is_empty() => None,
            None => {
                return Err(format!(
                    "expected :PORT after the bracket, found {}",
                    quote_word(rest)
                ));
            }
        };
        return Ok((address.to_string(), port));
    }
    if let Ok(address) = word.parse::<Ipv6Addr>() {
        return Ok((address.to_string(), None));
    }
    if word.contains('@') {
        return Err("a name or password is not accepted here\nhint: put the API key into AURORA_SWARM_API_KEY".into());
    }
    let (host, port) = match word.split_once(':') {
        Some((host, port)) => (host, Some(parse_port(port)?)),
        None => (word, None),
    };
    let is_host_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() || !host.chars().all(is_host_char) {
        return Err(format!("{host:?} is not a valid host name"));
    }
    Ok((host.to_owned(), port))
}

fn parse_port(word: &str) -> Result<u16, String> {
    let port = word.parse::<u16>().ok().filter(|&port| port != 0);
    port.ok_or_else(|| format!("{} is not a port from 1 to 65535", quote_word(word)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed_urls(text: &str) -> Vec<String> {
        let lines = parse_hostfile(text).expect("every line is good");
        lines.iter().filter_map(HostfileEntry::server_url).map(|url| url.to_string()).collect()
    }

    #[test]
    fn every_documented_form_is_parsed() {
        let text = "\u{feff}# servers\r\n\
                    n1\t8001\trole=chat\n\
                    n2:8002 role=embed  # spare\n\n\
                    n3 8003\n\
                    n4\n\
                    [::1]:8005\n\
                    fe80::7\n";
        assert_eq!(
            parsed_urls(text),
            [
                "http://n1:8001",
                "http://n2:8002",
                "http://n3:8003",
                "http://n4:8000",
                "http://[::1]:8005",
                "http://[fe80::7]:8000"
            ]
        );
    }

    #[test]
    fn entries_are_selected_by_all_given_tags() {
        let lines = parse_hostfile("a\trole=chat\tnode=1\nb\trole=embed\nc\n").expect("good");
        let with = |tags: &[&str]| {
            let tags: Vec<String> = tags.iter().map(|&tag| tag.into()).collect();
            lines
                .iter()
                .filter(|it| it.has_tags(&tags))
                .map(|it| it.host.as_str())
                .collect::<Vec<_>>()
        };
        assert_eq!(with(&["role=chat"]), ["a"]);
        assert_eq!(with(&["role=chat", "node=2"]), Vec::<&str>::new());
        assert_eq!(with(&[]), ["a", "b", "c"]);
    }

    #[test]
    fn every_invalid_line_is_reported_with_its_number() {
        for line in ["user:sk-1@h:1", "h 80 user:sk-1@x", "http://user:sk-1@h:1"] {
            let errors = parse_hostfile(line).expect_err(line);
            assert!(!errors[0].to_string().contains("sk-1"), "{}", errors[0]);
        }
        let bad = "a 99999\nb:\nok\n[::1\nhttp://x\nc d=1 e\nok 8000\nf =v\ng 80 80\n";
        let errors = parse_hostfile(bad).expect_err("nearly all are wrong");
        let numbers: Vec<_> = errors.iter().map(|error| error.line).collect();
        assert_eq!(numbers, [1, 2, 4, 5, 6, 7, 8, 9]);
        assert!(errors[5].message.contains("line 3"), "{}", errors[5]);
    }

    proptest! {
        #[test]
        fn any_text_gives_valid_urls_or_errors_with_line_numbers(text in "(\\PC|[\t\n:\\[\\]=#])*") {
            match parse_hostfile(&text) {
                Ok(lines) => prop_assert!(lines.iter().all(|line| line.server_url().is_some())),
                Err(errors) => prop_assert!(errors.iter().all(|it| it.line >= 1)),
            }
        }
    }
}
