//! Paths into a row: `title`, `meta.title`, `choices[0]`, `choices.0`, `turns[-1].content`.
//!
//! Owns the notation and the search. A member whose whole name is the path, or the longest beginning of it, comes first,
//! since data sets have names with dots. A null is an absent value.

use crate::domain::raw_json::{JsonMembers, json_kind, list_elements};

/// Paths that a row's members are listed with, at most, for suggestions.
const MAX_PATHS: usize = 200;
/// Depth of the listed paths.
const MAX_DEPTH: usize = 3;

/// Returns the JSON of the value at a path; `None` if the row lacks it or it is null.
///
/// # Errors
/// A value on the way that is not valid JSON.
pub(crate) fn find_in_members<'a>(
    members: &JsonMembers<'a>,
    path: &str,
) -> Result<Option<&'a str>, String> {
    if let Some(json) = members.value(path) {
        return Ok(Some(json));
    }
    for (name, rest) in path_splits(path) {
        if let Some(json) = members.value(name)
            && let Some(found) = find_in_value(json, rest)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Returns the JSON of the value at a path that begins with `.` or `[`, inside this value.
pub(crate) fn find_in_value<'a>(json: &'a str, path: &str) -> Result<Option<&'a str>, String> {
    match json_kind(json) {
        "an object" => {
            let members = JsonMembers::parse(json)?;
            match (path.strip_prefix('.'), split_step(path)) {
                (Some(path), _) => find_in_members(&members, path),
                (None, Some((name, ""))) => Ok(members.value(name)),
                (None, Some((name, rest))) => match members.value(name) {
                    Some(json) => find_in_value(json, rest),
                    None => Ok(None),
                },
                (None, None) => Ok(None),
            }
        }
        "a list" => {
            let Some((index, rest)) = split_step(path) else { return Ok(None) };
            let elements = list_elements(json)?;
            let from_end = index.strip_prefix('-').and_then(|back| back.parse().ok());
            let at = match from_end {
                Some(back) => elements.len().checked_sub(back),
                None => index.parse().ok(),
            };
            match at.and_then(|at: usize| elements.get(at)) {
                Some(&"null") | None => Ok(None),
                Some(json) if rest.is_empty() => Ok(Some(json)),
                Some(json) => find_in_value(json, rest),
            }
        }
        _ => Ok(None),
    }
}

/// Returns the beginnings of a path that may be a member's name, the longest first, each with the rest.
pub(crate) fn path_splits(path: &str) -> impl Iterator<Item = (&str, &str)> {
    path.rmatch_indices(['.', '[']).filter(|(at, _)| *at > 0).map(|(at, _)| path.split_at(at))
}

/// Splits off the first step of a path: `.name`, or `[name]`.
fn split_step(path: &str) -> Option<(&str, &str)> {
    if let Some(inner) = path.strip_prefix('[') {
        return inner.split_once(']').map(|(step, rest)| (step.trim(), rest));
    }
    let path = path.strip_prefix('.')?;
    Some(path.split_at(path.find(['.', '[']).unwrap_or(path.len())))
}

/// Returns the paths of a row's members, for suggestions: the members, their members, and the first elements of lists.
pub(crate) fn list_paths(members: &JsonMembers<'_>) -> Vec<String> {
    let mut paths: Vec<String> = members.iter().map(|(name, _)| name.to_owned()).collect();
    for (name, json) in members.iter() {
        add_paths(name, json, 1, &mut paths);
    }
    paths
}

fn add_paths(path: &str, json: &str, depth: usize, paths: &mut Vec<String>) {
    let inner: Vec<(String, &str)> = match json_kind(json) {
        "an object" => JsonMembers::parse(json).map_or(Vec::new(), |members| {
            members.iter().map(|(name, json)| (format!("{path}.{name}"), json)).collect()
        }),
        "a list" => list_elements(json)
            .ok()
            .and_then(|elements| elements.first().map(|json| (format!("{path}[0]"), *json)))
            .into_iter()
            .collect(),
        _ => return,
    };
    for (path, json) in inner {
        if depth > MAX_DEPTH || paths.len() >= MAX_PATHS {
            return;
        }
        paths.push(path.clone());
        add_paths(&path, json, depth + 1, paths);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROW: &str = r#"{"a": {"b": "B", "c.d": {"e": [1, {"f": "F"}, null]}}, "a.b": "literal", "x.y": {"z": 2},
        "l": ["zero", ["deep"]], "m": {"0": "key"}, "n": null}"#;

    #[test]
    fn paths_lead_into_objects_and_lists_and_whole_names_win() {
        let members = JsonMembers::parse(ROW).unwrap();
        for (path, found) in [
            ("a.b", Some("\"literal\"")),
            ("a[b]", Some("\"B\"")),
            ("a.c.d.e[0]", Some("1")),
            ("a.c.d.e.1.f", Some("\"F\"")),
            ("a.c.d.e[-2].f", Some("\"F\"")),
            ("a.c.d.e[2]", None),
            ("x.y.z", Some("2")),
            ("l[0]", Some("\"zero\"")),
            ("l.1[0]", Some("\"deep\"")),
            ("l[ 1 ]", Some("[\"deep\"]")),
            ("l[2]", None),
            ("l[-3]", None),
            ("l.zero", None),
            ("m[0]", Some("\"key\"")),
            ("m.0", Some("\"key\"")),
            ("n", None),
            ("a.b.c", None),
            ("l[0", None),
            ("", None),
            (".", None),
        ] {
            assert_eq!(find_in_members(&members, path), Ok(found), "{path}");
        }
        let paths = list_paths(&members);
        for path in ["a", "a.b", "a.c.d.e", "l[0]", "x.y.z"] {
            assert!(paths.iter().any(|known| known == path), "{path}: {paths:?}");
        }
    }
}
