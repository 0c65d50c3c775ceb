//! The wait for servers as users see it: log lines while it lasts, and the error if too few become ready.
//!
//! Servers of a node that is not up fail alike: a reason with a count and the first server, not a line per server, keeps
//! 3,000 endpoints readable. How long is waited is decided in `job/setup/readiness.rs`.

use std::{fmt::Write as _, time::Duration};

use tracing::{info, warn};

use crate::{
    domain::ReadinessCounts,
    report::format::{format_elapsed, pluralize},
};

/// Reasons listed in the error about servers that are not ready.
const MAX_LISTED_REASONS: usize = 10;
/// Reasons listed in a log line.
const MAX_LOGGED_REASONS: usize = 3;

/// Logs how many servers are ready and why the others are not. `begins` says that the work begins without them.
pub(crate) fn report_waiting(counts: &ReadinessCounts, waited: Duration, begins: bool) {
    let &ReadinessCounts { ready, all, .. } = counts;
    let waited_s = waited.as_secs_f64();
    let reasons = list_reasons(counts, MAX_LOGGED_REASONS);
    let what = match begins {
        true => format!("beginning without {} of {all} endpoints", all - ready),
        false => format!("waiting for endpoints: {ready} of {all} ready"),
    };
    let after = match waited.as_secs() {
        0 => String::new(),
        _ => format!(" after {}", format_elapsed(waited_s)),
    };
    let hints = hints_of_reasons(counts).into_iter().map(|hint| format!("\nhint: {hint}"));
    let hints: String = hints.collect();
    let text = format!("{what}{after}; {}{hints}", reasons.join("; "));
    if counts.unready.values().any(|group| group.is_unusable) {
        warn!(event = "endpoints_awaited", ready, endpoints = all, waited_s, "{text}");
    } else {
        info!(event = "endpoints_awaited", ready, endpoints = all, waited_s, "{text}");
    }
}

/// Returns the error that too few servers are ready, with the reasons and what can be done.
pub(crate) fn describe_unready(counts: &ReadinessCounts, required: u64) -> String {
    let &ReadinessCounts { ready, all, .. } = counts;
    let required = required.max(1);
    let verb = if required == 1 { "is" } else { "are" };
    let mut text =
        format!("{ready} of {all} endpoints are ready, and at least {required} {verb} needed");
    for reason in list_reasons(counts, MAX_LISTED_REASONS) {
        let _ = write!(text, "\n  {reason}");
    }
    let mut hints = readiness_hints(counts);
    hints.push(
        "nothing was sent; `aurora-swarm check` with the same options shows the endpoints of every rank",
    );
    hints.iter().for_each(|hint| {
        let _ = write!(text, "\nhint: {hint}");
    });
    text
}

/// Returns what can be done about servers that are not ready.
pub(super) fn readiness_hints(counts: &ReadinessCounts) -> Vec<&str> {
    let mut hints = hints_of_reasons(counts);
    let mut pending = counts.unready.iter().filter(|(_, group)| !group.is_unusable);
    if hints.is_empty() && pending.clone().next().is_some() {
        hints.push(match pending.any(|(reason, _)| reason.contains("cannot connect")) {
            true => "are the servers started, on these ports? Loading a model can take minutes: --ready-timeout 30m",
            false => "the servers answer but are not ready: see their logs; --ready-timeout 30m waits longer",
        });
    }
    hints
}

fn hints_of_reasons(counts: &ReadinessCounts) -> Vec<&str> {
    let mut hints = Vec::new();
    for hint in counts.unready.keys().flat_map(|reason| reason.split("\nhint: ").skip(1)) {
        if !hints.contains(&hint) {
            hints.push(hint);
        }
    }
    hints
}

/// Returns the reasons that most servers have, each with its first server and the number of others.
fn list_reasons(counts: &ReadinessCounts, limit: usize) -> Vec<String> {
    let mut groups: Vec<_> = counts.unready.iter().collect();
    groups.sort_by_key(|(_, group)| std::cmp::Reverse(group.count));
    let mut reasons = Vec::new();
    for (reason, group) in groups.iter().take(limit) {
        let reason = reason.split("\nhint: ").next().unwrap_or_default();
        let more = match group.count {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        reasons.push(format!("{}{more}: {reason}", group.first));
    }
    if groups.len() > limit {
        reasons.push(format!("and {}", pluralize((groups.len() - limit) as u64, "other reason")));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{EndpointStatus, Merge, ProbeResult, Url};

    fn counts(reasons: &[(u16, ProbeResult)]) -> ReadinessCounts {
        let mut all = ReadinessCounts::default();
        for (port, probe) in reasons {
            // As the ranks' counts come together.
            let status = EndpointStatus { url: Url::loopback(*port), probe: probe.clone() };
            all.merge(ReadinessCounts::of_statuses([&status], None));
        }
        all
    }

    #[test]
    fn reasons_are_grouped_with_a_count_and_the_first_server() {
        let refused = || ProbeResult::NotReady("cannot connect (refused)".into());
        let no_key =
            ProbeResult::Unusable("GET /v1/models answered 401: no\nhint: set the key".into());
        let counts = counts(&[(1, no_key), (2, refused()), (3, refused()), (4, refused())]);
        assert_eq!(
            describe_unready(&counts, 2),
            "0 of 4 endpoints are ready, and at least 2 are needed\n  http://127.0.0.1:2 and 2 more: cannot connect \
             (refused)\n  http://127.0.0.1:1: GET /v1/models answered 401: no\nhint: set the key\nhint: nothing was sent; \
             `aurora-swarm check` with the same options shows the endpoints of every rank"
        );
        assert!(!counts.are_all_unusable());
    }

    #[test]
    fn many_reasons_are_cut_with_a_count() {
        let reasons: Vec<_> =
            (1..=40).map(|port| (port, ProbeResult::NotReady(format!("reason {port}")))).collect();
        let listed = list_reasons(&counts(&reasons), 3);
        assert_eq!((listed.len(), listed[3].as_str()), (4, "and 37 other reasons"));
    }
}
