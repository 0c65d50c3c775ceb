//! The log lines about endpoints that go down, come up or refuse requests.
//!
//! Owns their grouping: the servers of a node mostly fail together, and one line per second and kind of event keeps a log
//! readable in which hundreds of nodes have a dozen servers each. Whether an endpoint is suspended is decided in
//! `availability`.

use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::domain::Url;

/// What happened to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NewsKind {
    Unreachable,
    Suspended,
    /// It refuses requests with 503 or 429.
    Refusing,
    /// It, or a proxy in front of it, gives up requests that take long.
    GivingUp,
    Ready,
}

/// An event of one endpoint that is to be logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EndpointNews {
    pub(crate) kind: NewsKind,
    /// The reason, if it went down.
    pub(crate) reason: String,
}

/// Events that are not logged yet, by kind.
#[derive(Debug, Default)]
pub(crate) struct NewsLog {
    groups: Vec<NewsGroup>,
}

/// Events of one kind.
#[derive(Debug)]
struct NewsGroup {
    news: EndpointNews,
    /// The first endpoint, to which the reason belongs.
    first: Url,
    count: usize,
    due: Instant,
}

/// Time in which events of one kind are collected.
const GROUP_TIME: Duration = Duration::from_secs(1);

impl NewsLog {
    /// Adds an event, which is logged together with others of its kind.
    pub(crate) fn add(&mut self, endpoint: &Url, news: EndpointNews, now: Instant) {
        match self.groups.iter_mut().find(|group| group.news.kind == news.kind) {
            Some(group) => group.count += 1,
            None => self.groups.push(NewsGroup {
                news,
                first: endpoint.clone(),
                count: 1,
                due: now + GROUP_TIME,
            }),
        }
    }

    /// Logs the groups whose time is over, in the order in which they began.
    pub(crate) fn log_due(&mut self, now: Instant) {
        self.groups.retain(|group| {
            let is_due = group.due <= now;
            if is_due {
                group.log();
            }
            !is_due
        });
    }

    /// Logs all groups.
    pub(crate) fn log_all(&mut self) {
        self.groups.drain(..).for_each(|group| group.log());
    }
}

impl NewsGroup {
    fn log(&self) {
        let (endpoint, endpoints) = (&self.first, self.count);
        let text = self.text();
        match self.news.kind {
            NewsKind::Unreachable => {
                warn!(event = "endpoint_unreachable", %endpoint, endpoints, "{text}");
            }
            NewsKind::Suspended => {
                warn!(event = "endpoint_suspended", %endpoint, endpoints, "{text}");
            }
            NewsKind::Refusing => {
                warn!(event = "requests_refused", %endpoint, endpoints, "{text}");
            }
            NewsKind::GivingUp => {
                warn!(event = "requests_given_up", %endpoint, endpoints, "{text}");
            }
            NewsKind::Ready => info!(event = "endpoint_ready", %endpoint, endpoints, "{text}"),
        }
    }

    fn text(&self) -> String {
        let state = match self.news.kind {
            NewsKind::Unreachable => "unreachable",
            NewsKind::Suspended => "suspended",
            NewsKind::Refusing => "refusing requests",
            NewsKind::GivingUp => "giving up requests",
            NewsKind::Ready => "ready",
        };
        let (first, reason) = (&self.first, &self.news.reason);
        let colon = if reason.is_empty() { "" } else { ": " };
        match self.count {
            1 => format!("endpoint {state}: {first}{colon}{reason}"),
            count => format!("{count} endpoints {state}, the first {first}{colon}{reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_one_kind_and_second_are_one_line() {
        let now = Instant::now();
        let mut log = NewsLog::default();
        let news = |kind, reason: &str| EndpointNews { kind, reason: reason.into() };
        for port in 1..=12 {
            log.add(
                &Url::loopback(port),
                news(NewsKind::Unreachable, &format!("reset {port}")),
                now,
            );
        }
        log.add(&Url::loopback(9), news(NewsKind::Ready, ""), now + GROUP_TIME / 2);
        let texts = |log: &NewsLog| log.groups.iter().map(NewsGroup::text).collect::<Vec<_>>();
        let (down, up) = (
            "12 endpoints unreachable, the first http://127.0.0.1:1: reset 1",
            "endpoint ready: http://127.0.0.1:9",
        );
        assert_eq!(texts(&log), [down, up]);
        log.log_due(now + GROUP_TIME / 2);
        assert_eq!(texts(&log), [down, up], "more may follow");
        log.log_due(now + GROUP_TIME);
        assert_eq!(texts(&log), [up]);
        log.log_all();
        assert!(log.groups.is_empty());
    }
}
