//! Section on the tree of a reduce: its outcome, and a table of levels with bars for prompts and time.

use std::fmt::Write;

use crate::report::format::{format_count, format_number, format_seconds, pluralize};
use crate::report::{
    reduce_levels::{LevelSummary, ReduceSummary, truncation_text},
    summary::RunSummary,
};

/// Returns the section, empty for a plain run.
pub(super) fn reduce_section(summary: &RunSummary) -> String {
    let Some(tree) = &summary.reduce else { return String::new() };
    let mut html = format!(
        r#"<section id="tree"><h2>Reduce tree</h2><p class="note">{}</p>"#,
        describe_outcome(tree, summary)
    );
    let rate = |it: Option<f64>| it.map_or("–".into(), format_number);
    let data = |it: Option<f64>| it.map(|it| format!("{it:.3}")).unwrap_or_default();
    let facts = [
        (
            "tree-submitted",
            tree.counts.submitted.to_string(),
            format_count(tree.counts.submitted),
            "prompts",
        ),
        ("tree-failed", tree.counts.failed.to_string(), format_count(tree.counts.failed), "failed"),
        (
            "tree-missing",
            tree.loss.missing.to_string(),
            format_count(tree.loss.missing),
            "leaves missing in the text",
        ),
        ("tree-cut", tree.loss.cut.to_string(), format_count(tree.loss.cut), "leaves truncated"),
        (
            "tree-seconds",
            format!("{:.3}", tree.active_s),
            format_seconds(tree.active_s),
            "working time",
        ),
        (
            "tree-prompts-per-s",
            data(tree.prompts_per_s),
            rate(tree.prompts_per_s),
            "prompts/s overall",
        ),
        ("tree-tokens-per-s", data(tree.tokens_per_s), rate(tree.tokens_per_s), "tokens/s overall"),
    ];
    html.push_str(r#"<div class="facts">"#);
    for (id, value, shown, what) in facts {
        let _ = write!(
            html,
            r#"<div><b id="{id}" data-value="{value}">{shown}</b> <span>{what}</span></div>"#
        );
    }
    html.push_str("</div>");
    html.push_str(&levels_table(tree));
    html + r#"<p class="note">A group of one text is passed up without a prompt. Time covers building a level's prompts and its pass; rates cover the pass alone.</p></section>"#
}

/// Describes the shape of the tree, its outcome and the truncation of texts.
fn describe_outcome(tree: &ReduceSummary, summary: &RunSummary) -> String {
    let above = tree.levels.len() as u64 - 1;
    let shape = format!(
        "{} under {}, at most {} texts per group.",
        if tree.levels[0].nodes == 1 {
            "1 leaf".into()
        } else {
            format!("{} leaves", format_count(tree.levels[0].nodes))
        },
        pluralize(above, "level"),
        format_count(tree.fan_in)
    );
    let end = match (tree.text, tree.loss.missing) {
        (true, 0) if tree.loss.cut > 0 => "All leaves are in the text, but not whole.".into(),
        (true, 0) => "All leaves are in the text.".into(),
        (true, 1) => "One leaf is missing in the text; see tree.jsonl for the reason.".into(),
        (true, missing) => format!(
            "{} leaves are missing in the text; see tree.jsonl for the reasons.",
            format_count(missing)
        ),
        (false, 0) => match summary.sessions.last().map(|it| it.outcome) {
            Some("running") => "A session is active.".into(),
            _ => "There is no text yet; the same command resumes.".to_owned(),
        },
        (false, _) => {
            "There is no text, because nothing was left to combine; see tree.jsonl for the reasons."
                .into()
        }
    };
    let loss = match truncation_text(&tree.loss, tree.levels[0].nodes) {
        None => String::new(),
        Some(text) => format!(r#" <b class="bad">{text}.</b>"#),
    };
    format!("{shape} {end}{loss}")
}

fn levels_table(tree: &ReduceSummary) -> String {
    const HEADS: [(&str, &str); 14] = [
        ("l", "level"),
        ("n", "nodes"),
        ("n", "prompts"),
        ("b", ""),
        ("n", "answered"),
        ("n", "failed"),
        ("n", "passed up"),
        ("n", "empty"),
        ("n", "truncated"),
        ("n", "time"),
        ("b", ""),
        ("n", "prompts/s"),
        ("n", "tokens/s"),
        ("n", "median latency"),
    ];
    let head: String = HEADS
        .iter()
        .map(|(class, name)| format!(r#"<th scope="col" class="{class}">{name}</th>"#))
        .collect();
    let most = |of: fn(&LevelSummary) -> f64| tree.levels.iter().map(of).fold(0.0, f64::max);
    let longest = (most(|it| it.counts.submitted as f64), most(LevelSummary::total_seconds));
    let rows: String = tree.levels.iter().map(|level| level_row(level, longest)).collect();
    format!(
        r#"<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"#
    )
}

/// Draws the row of a level; its bars are relative to the largest number of prompts and the longest time of all levels.
fn level_row(level: &LevelSummary, (most_prompts, longest_s): (f64, f64)) -> String {
    let dash = |number: u64| if level.level == 0 { "–".to_owned() } else { format_count(number) };
    let rate = |rate: Option<f64>| rate.map_or("–".into(), format_number);
    let name = match level.level {
        0 => "leaves".to_owned(),
        number => format!("level {number}"),
    };
    let counts = &level.counts;
    let cells = [
        ("l", name + level_state_badge(level), None),
        ("n", format_count(level.nodes), Some(("nodes", level.nodes))),
        ("n", format_count(counts.submitted), Some(("asked", counts.submitted))),
        ("b", draw_share_bar(counts.submitted as f64, most_prompts, "blue"), None),
        ("n", format_count(counts.answered), Some(("answered", counts.answered))),
        (
            "n",
            format_count(level.nodes_without_text()),
            Some(("failed", level.nodes_without_text())),
        ),
        ("n", dash(level.passed), Some(("passed", level.passed))),
        ("n", dash(level.empty), Some(("empty", level.empty))),
        ("n", dash(level.cut), Some(("cut", level.cut))),
        ("n", format_seconds(level.total_seconds()), None),
        ("b", draw_share_bar(level.total_seconds(), longest_s, "purple"), None),
        ("n", rate(level.prompts_per_s), None),
        ("n", rate(level.tokens_per_s), None),
        ("n", level.latency_s.p50.map_or("–".into(), format_seconds), None),
    ];
    let mut html = String::from("<tr>");
    for (class, text, value) in cells {
        let data = value.map_or(String::new(), |(what, value)| {
            format!(r#" id="level-{}-{what}" data-value="{value}""#, level.level)
        });
        let _ = write!(html, r#"<td class="{class}"{data}>{text}</td>"#);
    }
    html + "</tr>"
}

fn level_state_badge(level: &LevelSummary) -> &'static str {
    match level.state {
        "waiting" => r#" <span class="soft">not started</span>"#,
        "stopped" => r#" <span class="soft">not finished</span>"#,
        _ => "",
    }
}

/// Draws a bar whose length is the share of the largest value.
fn draw_share_bar(value: f64, most: f64, class: &str) -> String {
    let share = if most > 0.0 { 100.0 * value / most } else { 0.0 };
    // A small value must stay visible.
    let share = if value > 0.0 { share.max(1.5) } else { 0.0 };
    format!(r#"<i class="{class}" style="width:{share:.1}%"></i>"#)
}
