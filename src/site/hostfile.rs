//! The hostfile: servers, a line each.
//!
//! ```text
//! host[TAB]port[TAB]key=value…
//! ```
//!
//! Also `host:port`, `[v6]:port`, blanks instead of tabs, and `#` comments to the end of a line. A port that is left out
//! is 8000. Every line that is none of this is an error with its number: a server that is dropped without a word is a
//! tile that idles for a night.

use std::{collections::BTreeMap, net::Ipv6Addr};

use crate::domain::Url;

/// One server of a hostfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostfileEntry {
    /// Name or address; an IPv6 address without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// Where it stands, from 1.
    pub line: usize,
}

/// A line that names no server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("hostfile line {line}: {what}")]
pub struct HostfileError {
    /// Where, from 1.
    pub line: usize,
    /// What is wrong there.
    pub what: String,
}

const DEFAULT_PORT: u16 = 8000;

impl HostfileEntry {
    /// Where the server is.
    #[must_use]
    pub fn server_url(&self) -> Option<Url> {
        let host = match self.host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => self.host.clone(),
        };
        format!("http://{host}:{}", self.port).parse().ok()
    }

    /// Does it have all of these `key=value` tags?
    #[must_use]
    pub fn has_tags(&self, wanted: &[String]) -> bool {
        let has = |tag: &String| {
            tag.split_once('=')
                .is_some_and(|(key, value)| self.tags.get(key).is_some_and(|it| it == value))
        };
        wanted.iter().all(has)
    }
}

/// All servers in the order of the file.
///
/// # Errors
/// Every line that is wrong, not only the first: they are mended together.
pub fn parse_hostfile(text: &str) -> Result<Vec<HostfileEntry>, Vec<HostfileError>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines: Vec<HostfileEntry> = Vec::new();
    let mut errors = Vec::new();
    for (number, text) in (1..).zip(text.lines()) {
        let text = text.split('#').next().unwrap_or_default().trim();
        if text.is_empty() {
            continue;
        }
        let parsed = server(text).and_then(|(host, port, tags)| {
            match lines.iter().find(|it| it.host.eq_ignore_ascii_case(&host) && it.port == port) {
                Some(first) => Err(format!("{host}:{port} stands in line {} already", first.line)),
                None => Ok(HostfileEntry { host, port, tags, line: number }),
            }
        });
        match parsed {
            Ok(line) => lines.push(line),
            Err(what) => errors.push(HostfileError { line: number, what }),
        }
    }
    if errors.is_empty() { Ok(lines) } else { Err(errors) }
}

type HostPortTags = (String, u16, BTreeMap<String, String>);

fn server(text: &str) -> Result<HostPortTags, String> {
    let mut words = text.split_whitespace().peekable();
    let first = words.next().unwrap_or_default();
    let (host, mut port) = parse_host_port(first)?;
    if let Some(word) = words.next_if(|word| !word.contains('=')) {
        if port.is_some() {
            return Err(format!("{first:?} has a port, and {word:?} is another"));
        }
        port = Some(parse_port(word)?);
    }
    let mut tags = BTreeMap::new();
    for word in words {
        let Some((key, value)) = word.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(format!("{word:?} is no tag of the form key=value"));
        };
        if tags.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(format!("the tag {key:?} is there twice"));
        }
    }
    Ok((host, port.unwrap_or(DEFAULT_PORT), tags))
}

fn parse_host_port(word: &str) -> Result<(String, Option<u16>), String> {
    if word.contains("://") {
        return Err(format!("{word:?} is a URL; a hostfile has host and port"));
    }
    if let Some(rest) = word.strip_prefix('[') {
        let Some((v6, rest)) = rest.split_once(']') else {
            return Err(format!("{word:?} has no closing bracket"));
        };
        let v6: Ipv6Addr = v6.parse().map_err(|_| format!("{v6:?} is no IPv6 address"))?;
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(parse_port(port)?),
            None if rest.is_empty() => None,
            None => return Err(format!("{rest:?} after the bracket is no port")),
        };
        return Ok((v6.to_string(), port));
    }
    if let Ok(v6) = word.parse::<Ipv6Addr>() {
        return Ok((v6.to_string(), None));
    }
    let (host, port) = match word.split_once(':') {
        Some((host, port)) => (host, Some(parse_port(port)?)),
        None => (word, None),
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if host.is_empty() || !host.chars().all(fits) {
        return Err(format!("{host:?} is no host name"));
    }
    Ok((host.to_owned(), port))
}

fn parse_port(word: &str) -> Result<u16, String> {
    let port = word.parse::<u16>().ok().filter(|&port| port != 0);
    port.ok_or_else(|| format!("{word:?} is no port from 1 to 65535"))
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
    fn every_form_in_use_is_read() {
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
    fn tags_select() {
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
    fn every_bad_line_is_named() {
        let bad = "a 99999\nb:\nok\n[::1\nhttp://x\nc d=1 e\nok 8000\nf =v\ng 80 80\n";
        let errors = parse_hostfile(bad).expect_err("nearly all are wrong");
        let numbers: Vec<_> = errors.iter().map(|error| error.line).collect();
        assert_eq!(numbers, [1, 2, 4, 5, 6, 7, 8, 9]);
        assert!(errors[5].what.contains("line 3"), "{}", errors[5]);
    }

    proptest! {
        #[test]
        fn any_text_gives_servers_or_numbered_lines(text in "(\\PC|[\t\n:\\[\\]=#])*") {
            match parse_hostfile(&text) {
                Ok(lines) => prop_assert!(lines.iter().all(|line| line.server_url().is_some())),
                Err(errors) => prop_assert!(errors.iter().all(|it| it.line >= 1)),
            }
        }
    }
}
