//! Section on the tree of a reduce: its outcome, and a table of levels with bars for prompts and time.

use std::fmt::Write;

use crate::report::format::{format_count, format_number, format_seconds, pluralize};
use crate::report::{
    reduce_levels::{LevelSummary, ReduceSummary},
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
            tree.missing.to_string(),
            format_count(tree.missing),
            "leaves missing in the text",
        ),
        (
            "tree-seconds",
            format!("{:.3}", tree.seconds),
            format_seconds(tree.seconds),
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

/// Describes the shape of the tree and its outcome in two sentences.
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
    let end = match (tree.text, tree.missing) {
        (true, 0) => "All leaves are in the text.".into(),
        (true, 1) => "One leaf is missing in the text; see tree.jsonl for the reason.".into(),
        (true, missing) => format!(
            "{} leaves are missing in the text; see tree.jsonl for the reasons.",
            format_count(missing)
        ),
        (false, 0) => match summary.starts.last().map(|it| it.end) {
            Some("running") => "A session is active.".into(),
            _ => "There is no text yet; the same command resumes.".to_owned(),
        },
        (false, _) => {
            "There is no text, because nothing was left to combine; see tree.jsonl for the reasons."
                .into()
        }
    };
    format!("{shape} {end}")
}

fn levels_table(tree: &ReduceSummary) -> String {
    let most = |of: fn(&LevelSummary) -> f64| tree.levels.iter().map(of).fold(0.0, f64::max);
    let (prompts, time) =
        (most(|it| it.counts.submitted as f64), most(LevelSummary::total_seconds));
    let mut html = String::from(
        r#"<div class="scroll"><table><thead><tr><th class="l"></th><th class="n">nodes</th><th class="n">prompts</th><th class="b"></th><th class="n">answered</th><th class="n">failed</th><th class="n">passed up</th><th class="n">empty</th><th class="n">cut to fit</th><th class="n">time</th><th class="b"></th><th class="n">prompts/s</th><th class="n">tokens/s</th><th class="n">latency ½</th></tr></thead><tbody>"#,
    );
    for it in &tree.levels {
        let dash =
            |number: u64| if it.level == 0 { "–".to_owned() } else { format_count(number) };
        let rate = |it: Option<f64>| it.map_or("–".into(), format_number);
        let name = if it.level == 0 { "leaves".to_owned() } else { format!("level {}", it.level) };
        let cells = [
            ("l", name + level_state_badge(it), None),
            ("n", format_count(it.nodes), Some(("nodes", it.nodes))),
            ("n", format_count(it.counts.submitted), Some(("asked", it.counts.submitted))),
            ("b", draw_share_bar(it.counts.submitted as f64, prompts, "blue"), None),
            ("n", format_count(it.counts.answered), Some(("answered", it.counts.answered))),
            ("n", format_count(it.nodes_without_text()), Some(("failed", it.nodes_without_text()))),
            ("n", dash(it.passed), Some(("passed", it.passed))),
            ("n", dash(it.empty), Some(("empty", it.empty))),
            ("n", dash(it.cut), Some(("cut", it.cut))),
            ("n", format_seconds(it.total_seconds()), None),
            ("b", draw_share_bar(it.total_seconds(), time, "purple"), None),
            ("n", rate(it.prompts_per_s), None),
            ("n", rate(it.tokens_per_s), None),
            ("n", it.latency_s.p50.map_or("–".into(), format_seconds), None),
        ];
        html.push_str("<tr>");
        for (class, text, value) in cells {
            let data = value.map_or(String::new(), |(what, value)| {
                format!(r#" id="level-{}-{what}" data-value="{value}""#, it.level)
            });
            let _ = write!(html, r#"<td class="{class}"{data}>{text}</td>"#);
        }
        html.push_str("</tr>");
    }
    html + "</tbody></table></div>"
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
