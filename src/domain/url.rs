//! Server URLs, validated once.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, de};

/// URL of a server, `http://host:port`: possibly with placeholders and a path, without password and query.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Url(String);

impl Url {
    /// Returns the URL as text, without a trailing slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the URL of a server on this node. It has the address and not `localhost`, which may resolve to `::1`.
    #[must_use]
    pub fn loopback(port: u16) -> Self {
        Self(format!("http://127.0.0.1:{port}"))
    }

    /// Returns the host part, with placeholders; an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        let rest = self.0.split_once("://").map_or("", |(_, rest)| rest);
        let authority = rest.split('/').next().unwrap_or_default();
        match authority.strip_prefix('[') {
            Some(v6) => v6.split(']').next().unwrap_or_default(),
            None => authority.split(':').next().unwrap_or_default(),
        }
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let trimmed = text.trim().trim_end_matches('/');
        // The API prefix is often copied along; requests add it themselves.
        let trimmed = trimmed.strip_suffix("/v1").unwrap_or(trimmed);
        let Some((scheme, rest)) = trimmed.split_once("://") else {
            return Err(match trimmed.contains('@') {
                // What may be a password is not repeated.
                true => "URL without a scheme".into(),
                false => format!("URL without a scheme; did you mean http://{trimmed}?"),
            });
        };
        if !matches!(scheme, "http" | "https") {
            return Err(format!("unsupported URL scheme {scheme}; use http:// or https://"));
        }
        let authority = rest.split('/').next().unwrap_or_default();
        if authority.contains('@') {
            // The message must not repeat the text, which contains the password.
            return Err(
                "a URL must not contain a name or password\nhint: put the API key into AURORA_SWARM_API_KEY"
                    .into(),
            );
        }
        if authority.is_empty() || rest.contains(['?', '#', ' ', '\t']) {
            return Err("invalid URL; expected one such as http://127.0.0.1:8000".into());
        }
        let mut url = Self(trimmed.to_owned());
        if url.host().eq_ignore_ascii_case("localhost") {
            // Replaced by the address: the name may resolve to ::1 first, where a server on 127.0.0.1 does not listen.
            url = Self(format!("{scheme}://127.0.0.1{}", &rest["localhost".len()..]));
        }
        let port =
            authority.rsplit_once(':').filter(|_| !authority.ends_with(']')).map(|(_, port)| port);
        match port.filter(|port| !port.contains('}')).map(str::parse::<u16>) {
            Some(Err(_)) => Err("invalid port in URL; must be between 1 and 65535".into()),
            _ if url.host().is_empty() => Err("URL without a host".into()),
            _ => Ok(url),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Url {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_are_normalised_and_keep_placeholders() {
        let url = |text: &str| text.parse::<Url>().map(|url| url.to_string());
        assert_eq!(url("http://127.0.0.1:8000/v1/"), Ok("http://127.0.0.1:8000".into()));
        assert_eq!(url("http://{host}:80{local_rank}"), Ok("http://{host}:80{local_rank}".into()));
        assert_eq!(url("http://[::1]:8000"), Ok("http://[::1]:8000".into()));
        assert_eq!(url("http://LocalHost:7/x"), Ok("http://127.0.0.1:7/x".into()));
        assert_eq!(
            "http://[::1]:8000/x".parse::<Url>().map(|url| url.host().to_owned()),
            Ok("::1".into())
        );
        for bad in [
            "localhost:8000",
            "ftp://x",
            "http://",
            "http://h:99999",
            "http://h:port",
            "http://a b",
        ] {
            assert!(url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_password_in_a_url_is_rejected_and_not_repeated() {
        let error = "http://me:hunter2@h:8000".parse::<Url>().expect_err("it holds a password");
        assert!(!error.contains("hunter2"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_a_url_or_an_error(text in "\\PC*") {
            if let Ok(url) = text.parse::<Url>() {
                prop_assert_eq!(url.to_string().parse::<Url>(), Ok(url));
            }
        }
    }
}
