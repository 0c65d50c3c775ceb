//! Tables of the page: failures, slowest answers, stragglers, outages, sessions and settings.

use std::fmt::Write;

use serde_json::Value;

use crate::report::format::{
    escape_html, format_count, format_number, format_seconds, format_timestamp, pluralize,
    shorten_endpoint,
};
use crate::report::{
    distribution::{FailureSummary, InvalidSummary},
    endpoint_load::EndpointLoad,
    summary::{RunSummary, SessionSummary, SettingValue},
};

/// Draws a table; each head has the class of its column and a name.
pub(super) fn html_table(
    heads: &[(&str, &str)],
    rows: impl IntoIterator<Item = Vec<String>>,
) -> String {
    let head: String = heads
        .iter()
        .map(|(class, name)| format!(r#"<th scope="col" class="{class}">{name}</th>"#))
        .collect();
    let row = |cells: Vec<String>| {
        let cells: String = heads
            .iter()
            .zip(cells)
            .map(|((class, _), cell)| format!(r#"<td class="{class}">{cell}</td>"#))
            .collect();
        format!("<tr>{cells}</tr>")
    };
    let rows: String = rows.into_iter().map(row).collect();
    format!(
        r#"<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"#
    )
}

/// Draws a table and folds the rows beyond the first ten away.
fn collapsible_table(heads: &[(&str, &str)], mut rows: Vec<Vec<String>>) -> String {
    const SHOWN_ROWS: usize = 10;
    let rest = rows.split_off(rows.len().min(SHOWN_ROWS));
    let first = html_table(heads, rows);
    if rest.is_empty() {
        return first;
    }
    let many = rest.len();
    format!("{first}<details><summary>{many} more</summary>{}</details>", html_table(heads, rest))
}

/// Formats an id without JSON quotes, cut to 80 characters.
fn format_id(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let short: String = text.chars().take(80).collect();
    format!(
        "<code>{}{}</code>",
        escape_html(&short),
        if short.len() < text.len() { "…" } else { "" }
    )
}

pub(super) fn failures_section(summary: &RunSummary) -> String {
    let mut html = String::from(r#"<section id="failures"><h2>Failures</h2>"#);
    let above = summary.reduce.iter().flat_map(|it| it.levels.iter().skip(1));
    let above: Vec<_> = above.filter(|it| !it.failures.is_empty()).collect();
    if summary.failures.is_empty() && above.is_empty() {
        html.push_str(r#"<p class="note">No failed prompts.</p>"#);
    }
    summary
        .failures
        .iter()
        .for_each(|(kind, failure)| html.push_str(&failure_kind_table("", kind, failure)));
    for level in above {
        let id_prefix = format!("level-{}-", level.level);
        level.failures.iter().for_each(|(kind, failure)| {
            html.push_str(&failure_kind_table(&id_prefix, kind, failure))
        });
    }
    html.push_str(&invalid_answers_table(&summary.invalid_answers));
    if summary.unreadable_lines > 0 {
        let _ = write!(
            html,
            r#"<p class="note">{} lines of shard files could not be read and are not counted here.</p>"#,
            format_count(summary.unreadable_lines)
        );
    }
    html + "</section>"
}

/// Draws the table of prompts with answers that were not valid; nothing if there are none.
fn invalid_answers_table(invalid: &InvalidSummary) -> String {
    if invalid.answers == 0 {
        return String::new();
    }
    let mut html = format!(
        r#"<h3>Invalid answers <span class="soft">{} to {}, {}</span></h3><span hidden id="invalid-answers" data-value="{}"></span>"#,
        pluralize(invalid.answers, "answer"),
        pluralize(invalid.prompts, "prompt"),
        pluralize(invalid.completion_tokens, "token"),
        invalid.answers
    );
    let rows = invalid
        .examples
        .iter()
        .map(|it| vec![format_id(&it.id), format_count(it.index), escape_html(&it.message)]);
    html.push_str(&html_table(&[("i", "id"), ("n", "row"), ("w", "first reason")], rows));
    html
}

fn failure_kind_table(id_prefix: &str, kind: &str, failure: &FailureSummary) -> String {
    let them = if failure.count == 1 { "it" } else { "them" };
    let again = if failure.retryable {
        format!("the same command retries {them}")
    } else {
        format!("<code>--retry-failed</code> sends {them} again")
    };
    let name = id_prefix.replace('-', " ") + kind;
    let mut html = format!(
        r#"<h3>{} <span class="soft">{}; {again}</span></h3><span hidden id="{id_prefix}failed-{}" data-value="{}"></span>"#,
        escape_html(&name),
        pluralize(failure.count, "prompt"),
        escape_html(kind),
        failure.count
    );
    // Equal messages in a row are shown once: the first failures of a kind mostly share their message.
    let mut said = None;
    let rows = failure.examples.iter().map(|it| {
        let why = match said.replace(&it.message) {
            Some(before) if *before == it.message => {
                r#"<span class="soft">same as above</span>"#.into()
            }
            _ => escape_html(&it.message),
        };
        vec![
            format_id(&it.id),
            format_count(it.index),
            it.status.map_or("–".into(), |it| it.to_string()),
            why,
        ]
    });
    html.push_str(&html_table(&[("i", "id"), ("n", "row"), ("n", "status"), ("w", "error")], rows));
    let more = failure.count - (failure.examples.len() as u64).min(failure.count);
    if more > 0 {
        let _ = write!(
            html,
            r#"<p class="note">and {} more; the answers have all of them.</p>"#,
            format_count(more)
        );
    }
    html
}

pub(super) fn slowest_section(summary: &RunSummary) -> String {
    if summary.slowest_answers.is_empty() {
        return String::new();
    }
    let rows = summary.slowest_answers.iter().map(|it| {
        let at = escape_html(&shorten_endpoint(&it.endpoint));
        vec![format_id(&it.id), format_count(it.index), at, format_seconds(it.latency_s)]
    });
    let heads = [("i", "id"), ("n", "row"), ("w", "endpoint"), ("n", "latency")];
    let rows = html_table(&heads, rows);
    format!(r#"<section id="slowest"><h2>Slowest answers</h2>{rows}</section>"#)
}

pub(super) fn straggler_table(load: &EndpointLoad) -> String {
    let mut html = format!(
        r#"<h3>Slow endpoints</h3><span hidden id="straggling" data-value="{}"></span>"#,
        load.n_slow
    );
    let Some(median) = load.median_latency_s else {
        return html + r#"<p class="note">No endpoint has answered enough prompts to compare.</p>"#;
    };
    if load.stragglers.is_empty() {
        let _ = write!(
            html,
            r#"<p class="note">No slow endpoints (limit: a mean latency of 1.5 × the median, {}).</p>"#,
            format_seconds(median)
        );
        return html;
    }
    let _ = write!(
        html,
        r#"<p class="note">Mean latency of at least 1.5 × the median endpoint's, {}.</p>"#,
        format_seconds(median)
    );
    let heads =
        [("w", "endpoint"), ("n", "mean latency"), ("n", "ratio to median"), ("n", "answered")];
    let rows = load.stragglers.iter().map(|it| {
        vec![
            escape_html(&shorten_endpoint(&it.endpoint)),
            format_seconds(it.latency_s),
            format!("{}×", format_number(it.ratio_to_median)),
            format_count(it.answered),
        ]
    });
    html.push_str(&collapsible_table(&heads, rows.collect()));
    let more = load.n_slow - (load.stragglers.len() as u64).min(load.n_slow);
    if more > 0 {
        let _ = write!(html, r#"<p class="note">and {} more.</p>"#, format_count(more));
    }
    html
}

pub(super) fn downtime_table(load: &EndpointLoad) -> String {
    if load.outages.is_empty() {
        return String::new();
    }
    let rows = load.outages.iter().map(|it| {
        let description = match (it.n_outages, it.down_at_end) {
            (0, true) => "never ready".into(),
            (0, false) => "became ready late".into(),
            (count, down_at_end) => {
                let end = if down_at_end { "down at the end" } else { "recovered" };
                format!("{}, {end}", pluralize(count, "outage"))
            }
        };
        vec![
            escape_html(&shorten_endpoint(&it.endpoint)),
            it.session.to_string(),
            description,
            format_seconds(it.downtime_s),
        ]
    });
    let heads = [("w", "endpoint"), ("n", "session"), ("w", "what happened"), ("n", "downtime")];
    format!("<h3>Outages</h3>{}", collapsible_table(&heads, rows.collect()))
}

pub(super) fn sessions_section(summary: &RunSummary) -> String {
    let mut html = format!(
        r#"<section id="sessions"><h2>Sessions</h2><span hidden id="session-count" data-value="{}"></span>"#,
        summary.sessions.len()
    );
    if summary.unrecorded_sessions > 0 {
        let _ = write!(
            html,
            r#"<p class="note">Earlier sessions without a record: {}.</p>"#,
            summary.unrecorded_sessions
        );
    }
    let rows = summary.sessions.iter().map(|it| {
        let job =
            it.job.as_ref().map_or(String::new(), |job| format!(", job {}", escape_html(job)));
        vec![
            it.session.to_string(),
            format!(
                "{}<br><span class=\"soft\">{}{job}</span>",
                format_timestamp(it.began),
                escape_html(&it.host)
            ),
            format!(r#"<span class="state {0}">{0}</span>"#, it.outcome),
            it.ranks.to_string(),
            format_seconds(it.active_s),
            format_count(it.done_before),
            format_count(it.answered),
            format_count(it.failed),
            format_count(it.requests),
            session_events(it),
        ]
    });
    let heads = [
        ("n", "session"),
        ("l", "started"),
        ("l", "outcome"),
        ("n", "ranks"),
        ("n", "working time"),
        ("n", "done before"),
        ("n", "answered"),
        ("n", "failed"),
        ("n", "requests"),
        ("w", "what happened"),
    ];
    html.push_str(&html_table(&heads, rows));
    html + r#"<p class="note">Numbers of a killed session are those of its last sample, at most five seconds before.</p></section>"#
}

/// Lists what happened in a session: resumption, lost ranks, outages, retries, accepted changes.
fn session_events(session: &SessionSummary) -> String {
    let mut all = Vec::new();
    if session.done_before > 0 {
        all.push("resumed".to_owned());
    }
    match &session.above {
        Some(above) => all.push(format!(
            "{} finished in {}, up to level {}",
            pluralize(above.answered + above.failed, "group"),
            format_seconds(above.seconds),
            above.level
        )),
        None if session.answered + session.failed == 0 => all.push("sent nothing".into()),
        None => {}
    }
    if !session.lost.is_empty() {
        let named = session.lost.iter().take(8).map(|it| format!("{} on {}", it.rank, it.host));
        let more = session.lost.len().saturating_sub(8);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        all.push(format!("lost rank {}{more}", named.collect::<Vec<_>>().join(", ")));
    }
    match session.n_outages {
        Some(count) if count > 0 => all.push(pluralize(count, "endpoint outage")),
        _ => {}
    }
    if session.retried > 0 {
        all.push(format!("{} retried", pluralize(session.retried, "prompt")));
    }
    all.extend(session.changes.iter().cloned());
    if all.is_empty() { "–".into() } else { escape_html(&all.join("; ")) }
}

pub(super) fn settings_section(summary: &RunSummary) -> String {
    let is_default = |it: &SettingValue| it.origin == "default";
    let rows = |default: bool| {
        summary.settings.iter().filter(move |(_, it)| is_default(it) == default).map(|(key, it)| {
            // A system prompt or a template in the settings may be pages long.
            let value: String = it.value.to_string().chars().take(400).collect();
            vec![
                format!("<code>{}</code>", escape_html(key)),
                format!("<code>{}</code>", escape_html(&value)),
                escape_html(&it.origin),
            ]
        })
    };
    let heads = [("l", "setting"), ("w", "value"), ("l", "origin")];
    format!(
        r#"<section id="settings"><h2>Settings</h2><p class="note">Of the latest session.</p>{}<details><summary>Settings at their defaults</summary>{}</details></section>"#,
        html_table(&heads, rows(false)),
        html_table(&heads, rows(true)),
    )
}
