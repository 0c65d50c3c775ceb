//! Formats of numbers, durations, times and names, shared by the report and the console; escaping for HTML. Pure.

use std::time::{Duration, SystemTime};

use crate::domain::{FlawCounts, is_terminal_control};

/// Escapes text that comes from data, so that none of it is markup.
pub(crate) fn escape_html(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            // Bidirectional controls would reorder the text around them; line breaks would collapse anyway.
            '\n' | '\t' => safe.push(' '),
            letter if is_terminal_control(letter) => safe.push('\u{fffd}'),
            letter => safe.push(letter),
        }
    }
    safe
}

/// Formats 1234567 as `1,234,567`.
pub(crate) fn format_count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats the flaws among answers, as `2 cut, 1 blank`; empty if there are none.
pub(crate) fn format_flaws(flaws: FlawCounts) -> String {
    let parts: Vec<String> = flaws
        .named_counts()
        .map(|(count, name)| format!("{} {name}", format_count(count)))
        .collect();
    parts.join(", ")
}

/// Formats a figure with about three significant digits.
pub(crate) fn format_number(number: f64) -> String {
    match number.abs() {
        it if it >= 99.95 => format_count(round_clamped(number)),
        it if it >= 9.995 => format!("{number:.1}"),
        0.0 => "0".into(),
        it if it >= 0.01 => format!("{number:.2}"),
        _ => format!("{number:.1e}"),
    }
}

/// Formats an axis label: 20000 as `20k`.
pub(crate) fn format_tick(number: f64) -> String {
    let (scaled, unit) = match number {
        it if it >= 1e9 => (it / 1e9, "G"),
        it if it >= 1e6 => (it / 1e6, "M"),
        it if it >= 1e4 => (it / 1e3, "k"),
        it => (it, ""),
    };
    // Axis labels have at most three significant digits.
    let text = if scaled < 1.0 { format!("{scaled:.3}") } else { format!("{scaled:.2}") };
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "negative and huge numbers are clamped"
)]
fn round_clamped(number: f64) -> u64 {
    number.round().max(0.0) as u64
}

/// Formats a count with its noun: `1 prompt`, `2 prompts`.
pub(crate) fn pluralize(number: u64, what: &str) -> String {
    format!("{} {what}{}", format_count(number), if number == 1 { "" } else { "s" })
}

/// Names that a message lists, at most.
const MAX_LISTED_NAMES: usize = 5;

/// Joins names for a message: the first few, and the number of the others.
pub(crate) fn shorten_list(names: &[impl AsRef<str>]) -> String {
    let listed: Vec<&str> = names.iter().take(MAX_LISTED_NAMES).map(AsRef::as_ref).collect();
    match names.len().saturating_sub(MAX_LISTED_NAMES) {
        0 => listed.join(", "),
        more => format!("{} and {more} more", listed.join(", ")),
    }
}

/// Formats 0.42 as `42 %`. Only 1 is shown as 100 % and only 0 as 0 %, whatever the rounding.
pub(crate) fn format_percent(share: f64) -> String {
    match share * 100.0 {
        it if it > 0.0 && it < 0.1 => "< 0.1 %".into(),
        it if it < 100.0 && it > 99.9 => "> 99.9 %".into(),
        it if it < 10.0 && it > 0.0 => format!("{it:.1} %"),
        it if it > 99.0 && it < 100.0 => format!("{it:.1} %"),
        it => format!("{it:.0} %"),
    }
}

/// Formats a duration with its unit: `120 ms`, `9.50 s`, `1 min 01 s`, `2 h 03 min`.
pub(crate) fn format_seconds(seconds: f64) -> String {
    let all = round_clamped(seconds);
    match seconds {
        it if it < 0.0005 => "0 s".into(),
        it if it < 1.0 => format!("{:.0} ms", it * 1000.0),
        it if it < 10.0 => format!("{it:.2} s"),
        it if it < 59.95 => format!("{it:.1} s"),
        it if it < 3599.5 => format!("{} min {:02} s", all / 60, all % 60),
        it if it < 86_370.0 => format!("{} h {:02} min", (all + 30) / 3600, (all + 30) / 60 % 60),
        _ => format!("{} d {:02} h", (all + 1800) / 86_400, (all + 1800) / 3600 % 24),
    }
}

/// Formats a duration of whole seconds with its two largest units, such as `3h 25m`.
pub(crate) fn format_duration(seconds: f64) -> String {
    let period = Duration::try_from_secs_f64(seconds.ceil()).unwrap_or(Duration::MAX);
    if period > Duration::from_secs(100 * 86_400) {
        return "over 100 days".into();
    }
    let all = humantime::format_duration(period).to_string();
    all.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// Formats elapsed time: tenths of a second below a minute, else two units.
pub(crate) fn format_elapsed(seconds: f64) -> String {
    if seconds < 60.0 { format!("{seconds:.1} s") } else { format_duration(seconds) }
}

/// Formats a measured figure with three significant digits and without separators, so that it can be pasted elsewhere.
pub(crate) fn format_figure(figure: f64) -> String {
    match figure.abs() {
        it if it >= 100.0 => format!("{figure:.0}"),
        it if it >= 10.0 => format!("{figure:.1}"),
        it if it >= 1.0 => format!("{figure:.2}"),
        0.0 => "0".into(),
        _ => format!("{figure:.3}"),
    }
}

/// Formats a duration as an axis label, in its largest unit.
pub(crate) fn format_tick_time(seconds: f64) -> String {
    let unit = |number: f64, unit: &str| format!("{} {unit}", format_tick(number));
    match seconds {
        0.0 => "0".into(),
        it if it < 1.0 => unit(it * 1000.0, "ms"),
        it if it < 120.0 => unit(it, "s"),
        it if it < 7200.0 => unit((it / 6.0).round() / 10.0, "min"),
        it if it < 172_800.0 => unit((it / 360.0).round() / 10.0, "h"),
        it => unit((it / 8640.0).round() / 10.0, "d"),
    }
}

/// Formats seconds since 1970 as `2026-11-27 23:38:20 UTC`.
pub(crate) fn format_timestamp(since_1970: u64) -> String {
    let moment =
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(since_1970.min(253_402_300_799)));
    let text =
        humantime::format_rfc3339_seconds(moment.unwrap_or(SystemTime::UNIX_EPOCH)).to_string();
    text.replace('T', " ").replace('Z', " UTC")
}

/// Shortens an endpoint's name (host and URL) to `host:port`.
pub(crate) fn shorten_endpoint(name: &str) -> String {
    let Some((host, url)) = name.split_once(' ') else { return name.to_owned() };
    let (url, suffix) = url
        .split_once(' ')
        .map_or((url, String::new()), |(url, suffix)| (url, format!(" {suffix}")));
    let authority = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let local =
        ["127.0.0.1", "localhost", "[::1]"].iter().find_map(|it| authority.strip_prefix(it));
    match local {
        Some(port) => format!("{host}{port}{suffix}"),
        None => format!("{authority}{suffix}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn text_from_data_is_never_markup(text in ".{0,40}") {
            let safe = escape_html(&text);
            prop_assert!(!safe.contains(['<', '>', '"', '\'']));
            prop_assert!(safe.replace("&amp;", "").replace("&lt;", "").replace("&gt;", "").replace("&quot;", "").replace("&#39;", "").find('&').is_none());
        }

        #[test]
        fn formatted_numbers_are_short_at_any_size(it in prop_oneof![0.0..1e15f64, 0.0..100.0f64]) {
            for text in [format_tick(it), format_seconds(it), format_tick_time(it), format_number(it), format_percent(it.min(1.0))] {
                prop_assert!(text.len() <= 22, "{text}");
            }
        }
    }

    proptest! {
        #[test]
        fn durations_have_at_most_two_units(seconds in 0.0..1e6f64) {
            prop_assert!(format_duration(seconds).split(' ').count() <= 2);
        }
    }

    #[test]
    fn figures_have_three_significant_digits() {
        let all = [0.0, 0.01234, 1.234, 12.34, 123.4, 123_456.7].map(format_figure);
        assert_eq!(all, ["0", "0.012", "1.23", "12.3", "123", "123457"]);
    }

    #[test]
    fn numbers_are_formatted_by_their_size() {
        assert_eq!(format_count(1_234_567), "1,234,567");
        assert_eq!(
            [format_number(0.0), format_number(3.456), format_number(42.04), format_number(1234.5)],
            ["0", "3.46", "42.0", "1,235"]
        );
        assert_eq!(
            [format_tick(0.5), format_tick(9000.0), format_tick(25_000.0), format_tick(3e6)],
            ["0.5", "9000", "25k", "3M"]
        );
        assert_eq!(
            [
                format_percent(0.0),
                format_percent(0.99999),
                format_percent(1.0),
                format_percent(0.5)
            ],
            ["0 %", "> 99.9 %", "100 %", "50 %"]
        );
        assert_eq!(
            [format_seconds(0.12), format_seconds(61.2), format_seconds(7380.0)],
            ["120 ms", "1 min 01 s", "2 h 03 min"]
        );
        assert_eq!(format_timestamp(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(shorten_endpoint("n1 http://127.0.0.1:8000"), "n1:8000");
        assert_eq!(shorten_endpoint("n1 http://n7:8000"), "n7:8000");
    }
}
