//! Compatibility with jinja2: rewrites syntax that minijinja treats differently into syntax that both treat alike.
//!
//! Owns three rewritings, all inside tags, never inside text or comments:
//!
//! | in the template | for minijinja | why |
//! |---|---|---|
//! | `{% generation %}`, `{% endgeneration %}` | `{% with %}`, `{% endwith %}` | only training needs the tag; its block has its own scope |
//! | `x[a:b:c]` | `x.__slice__(a, b, c)` | minijinja panics on some backward slices, such as of an empty list |
//! | `\r\n` and `\r` | `\n` | as jinja2 does |
//!
//! Does not validate: an invalid template stays invalid.

/// Name of the method that replaces slices with a step; `python_methods` implements it.
pub(super) const SLICE_METHOD: &str = "__slice__";

/// Rewrites a template for minijinja.
pub(super) fn rewrite_template(template: &str) -> String {
    let template = template.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(template.len() + 64);
    let mut rest = template.as_str();
    while let Some(at) =
        rest.find("{{").into_iter().chain(rest.find("{%")).chain(rest.find("{#")).min()
    {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        rest = match &tag[..2] {
            "{#" => copy_through(&mut out, tag, "#}"),
            "{%" if tag_name(tag) == "raw" => copy_raw_block(&mut out, tag),
            open => rewrite_tag(&mut out, tag, if open == "{{" { "}}" } else { "%}" }),
        };
    }
    out.push_str(rest);
    out
}

/// Copies the text up to and including `end`, or all of it. Returns the rest.
fn copy_through<'t>(out: &mut String, text: &'t str, end: &str) -> &'t str {
    let at = text.find(end).map_or(text.len(), |at| at + end.len());
    out.push_str(&text[..at]);
    &text[at..]
}

/// Returns the first word of a block tag.
fn tag_name(tag: &str) -> &str {
    let inner = tag[2..].trim_start_matches(['-', '+']).trim_start();
    let end = inner.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(inner.len());
    &inner[..end]
}

/// Copies a `raw` block, whose content is text. Returns the rest.
fn copy_raw_block<'t>(out: &mut String, text: &'t str) -> &'t str {
    let mut rest = copy_through(out, text, "%}");
    while let Some(at) = rest.find("{%") {
        let ends = tag_name(&rest[at..]) == "endraw";
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if ends {
            return copy_through(out, rest, "%}");
        }
        out.push_str("{%");
        rest = &rest[2..];
    }
    out.push_str(rest);
    ""
}

/// An open bracket with the offsets of the colons directly inside it.
struct OpenBracket {
    bracket: char,
    offset: usize,
    colons: Vec<usize>,
}

/// Rewrites a tag up to its end. Returns the rest.
fn rewrite_tag<'t>(out: &mut String, tag: &'t str, end: &str) -> &'t str {
    let replacement = match tag_name(tag) {
        "generation" if end == "%}" => Some(("generation", "with")),
        "endgeneration" if end == "%}" => Some(("endgeneration", "endwith")),
        _ => None,
    };
    let mut open: Vec<OpenBracket> = Vec::new();
    let mut chars = tag.char_indices().skip(2);
    out.push_str(&tag[..2]);
    let from = out.len();
    let mut done = tag.len();
    while let Some((at, c)) = chars.next() {
        if open.is_empty() && tag[at..].starts_with(end) {
            done = at;
            break;
        }
        out.push(c);
        match c {
            '\'' | '"' => {
                let mut escaped = false;
                for (_, inner) in chars.by_ref() {
                    out.push(inner);
                    if inner == c && !escaped {
                        break;
                    }
                    escaped = inner == '\\' && !escaped;
                }
            }
            '[' | '(' | '{' => {
                open.push(OpenBracket { bracket: c, offset: out.len() - 1, colons: vec![] })
            }
            ':' => {
                if let Some(last) = open.last_mut().filter(|open| open.bracket == '[') {
                    last.colons.push(out.len() - 1);
                }
            }
            ']' | ')' | '}' => {
                // Only a bracket with two colons is a slice with a step; others pass unchanged.
                if let Some(OpenBracket { offset: at, colons, .. }) = open.pop()
                    && let [first, second] = colons[..]
                {
                    let slice = |from: usize, to: usize| match out[from..to].trim() {
                        "" => "none".to_owned(),
                        given => given.to_owned(),
                    };
                    let parts = [
                        slice(at + 1, first),
                        slice(first + 1, second),
                        slice(second + 1, out.len() - 1),
                    ];
                    out.truncate(at);
                    out.push_str(&format!(".{SLICE_METHOD}({})", parts.join(", ")));
                }
            }
            _ => {}
        }
    }
    if let Some((from_word, to_word)) = replacement {
        let tail = out[from..].replacen(from_word, to_word, 1);
        out.truncate(from);
        out.push_str(&tail);
    }
    &tag[done..]
}
