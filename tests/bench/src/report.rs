//! What people and programs get to read: the table, the JSON, a line after each run.
//!
//! It owns their looks and measures nothing.

use crate::scenario::{Bar, Done, Pick, Repeat, Row, Scenario, Size};
use serde_json::{Value, json};
use std::fmt::Write;

const HEAD: [&str; 6] = ["scenario, figure", "measured", "spread", "bar", "reached", "at best"];

/// The table of all rows.
pub fn table(done: &[Done]) -> String {
    let mut lines = vec![HEAD.map(str::to_owned)];
    for done in done {
        lines.extend(done.scenario.rows.iter().map(|row| line(done, row)));
    }
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..HEAD.len()).map(width).collect();
    let mut text = String::new();
    for (at, line) in lines.iter().enumerate() {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        let cells: Vec<String> = cells.collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", cells.join("  ").trim_end());
        if at == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            let _ = writeln!(text, "{}", rules.join("  "));
        }
    }
    for done in done.iter().filter(|done| done.broken()) {
        for repeat in &done.repeats {
            if let Err(broken) = &repeat.outcome {
                let _ = writeln!(text, "BROKEN {}: {}", done.scenario.name, broken.0);
            }
        }
    }
    text
}

fn line(done: &Done, row: &Row) -> [String; 6] {
    let name = format!("{}: {}", done.scenario.name, row.label);
    let bar = row.bar.map_or_else(String::new, |bar| match bar {
        Bar::AtLeast(bar) => format!(">= {}", number(bar)),
        Bar::AtMost(bar) => format!("<= {}", number(bar)),
    });
    let Some(measured) = done.measured(row) else {
        return [name, "broken".into(), String::new(), bar, "no".into(), String::new()];
    };
    let reached = match row.bar {
        None => "",
        Some(bar) if bar.reached(measured.value) => "yes",
        Some(_) => "NO",
    };
    let best = row.bound.and_then(|figure| crate::stats::median(&done.all(figure)));
    [
        name,
        format!("{} {}", number(measured.value), row.unit).trim_end().to_owned(),
        format!("{}..{}", number(measured.least), number(measured.most)),
        bar,
        reached.to_owned(),
        best.map_or_else(String::new, number),
    ]
}

/// A number with as many digits as it deserves.
fn number(number: f64) -> String {
    match number.abs() {
        n if n >= 1000.0 => format!("{number:.0}"),
        n if n >= 100.0 => format!("{number:.1}"),
        n if n >= 4.0 => format!("{number:.2}"),
        _ => format!("{number:.3}"),
    }
}

/// A run in a line.
pub fn in_short(scenario: &Scenario, repeat: &Repeat) -> String {
    match &repeat.outcome {
        Err(broken) => format!("BROKEN: {}", broken.0),
        Ok(figures) => {
            let rows = scenario.rows.iter().filter_map(|row| {
                let figure = number(*figures.get(row.figure)?);
                Some(format!("{} {figure} {}", row.label, row.unit).trim_end().to_owned())
            });
            let rows: Vec<String> = rows.collect();
            format!("{} ({:.0} s)", rows.join(", "), repeat.seconds)
        }
    }
}

/// Everything.
pub fn json(suite: &str, label: &str, size: Size, machine: &Value, done: &[Done]) -> Value {
    json!({
        "suite": suite,
        "label": label,
        "quick": size == Size::Quick,
        "machine": machine,
        "scenarios": done.iter().map(scenario).collect::<Vec<_>>(),
    })
}

fn scenario(done: &Done) -> Value {
    let Scenario { name, title, why, rows, parameters, .. } = &done.scenario;
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let measured = done.measured(row);
            let (at_least, at_most) = match row.bar {
                Some(Bar::AtLeast(bar)) => (Some(bar), None),
                Some(Bar::AtMost(bar)) => (None, Some(bar)),
                None => (None, None),
            };
            json!({
                "figure": row.figure, "label": row.label, "unit": row.unit,
                "of_repeats": if row.pick == Pick::Median { "median" } else { "least" },
                "measured": measured.map(|m| m.value), "least": measured.map(|m| m.least),
                "most": measured.map(|m| m.most), "at_least": at_least, "at_most": at_most,
                "reached": row.bar.map(|bar| measured.is_some_and(|m| bar.reached(m.value))),
            })
        })
        .collect();
    let repeats: Vec<Value> = done
        .repeats
        .iter()
        .map(|repeat| {
            json!({
                "load_before": repeat.load_before, "seconds": repeat.seconds,
                "figures": repeat.outcome.as_ref().ok(),
                "broken": repeat.outcome.as_ref().err().map(|broken| &broken.0),
            })
        })
        .collect();
    json!({
        "name": name, "title": title, "why": why, "parameters": parameters, "rows": rows,
        "repeats": repeats,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Broken, Figures};

    fn done(outcomes: Vec<Result<f64, &str>>) -> Done {
        let share = Row::of("share", "share", "").bar(Bar::AtLeast(0.96)).bound("ideal");
        let scenario = Scenario {
            name: "even",
            title: "even load",
            why: "because",
            rows: vec![share, Row::of("wall_s", "wall", "s")],
            once: false,
            parameters: json!({"slots": 128}),
            measure: Box::new(|_| Ok(Figures::new())),
        };
        let figures = |share: f64| {
            Figures::from(
                [("share", share), ("wall_s", 12.0), ("ideal", 0.99)]
                    .map(|(k, v)| (k.to_owned(), v)),
            )
        };
        let repeats = outcomes.into_iter().map(|outcome| Repeat {
            load_before: 0.5,
            seconds: 13.0,
            outcome: outcome.map(figures).map_err(|why| Broken(why.to_owned())),
        });
        Done { scenario, repeats: repeats.collect() }
    }

    #[test]
    fn a_row_says_what_was_measured_and_whether_it_is_enough() {
        let text = table(&[done(vec![Ok(0.95), Ok(0.97), Ok(0.965)])]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "scenario, figure  measured  spread        bar       reached  at best",
                "----------------  --------  ------------  --------  -------  -------",
                "even: share       0.965     0.950..0.970  >= 0.960  yes      0.990",
                "even: wall        12.00 s   12.00..12.00",
            ]
        );
        assert!(table(&[done(vec![Ok(0.95)])]).contains("  NO "));
    }

    #[test]
    fn what_is_broken_is_said_and_no_bar_of_it_is_reached() {
        let done = [done(vec![Err("exit code 3")])];
        let text = table(&done);
        assert!(
            text.contains("even: share       broken") && text.contains("BROKEN even: exit code 3"),
            "{text}"
        );
        let json = json("engine", "", Size::Full, &Value::Null, &done);
        let scenario = &json["scenarios"][0];
        assert_eq!(scenario["rows"][0]["reached"], false);
        assert_eq!(scenario["repeats"][0]["broken"], "exit code 3");
        assert_eq!(scenario["parameters"]["slots"], 128);
    }

    #[test]
    fn numbers_have_the_digits_they_deserve() {
        assert_eq!([0.8123, 4.567, 123.45, 2710.4].map(number), ["0.812", "4.57", "123.5", "2710"]);
    }
}
