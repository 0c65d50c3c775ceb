//! Suggestions for column names that do not exist.

use super::{ColumnNames, conversation::parse_messages};
use crate::{domain::raw_json::JsonMembers, settings::nearest_name};

/// Number of columns that a message lists.
const MAX_LISTED: usize = 20;
/// Characters that a placeholder's name, or a shell argument in single quotes, cannot contain.
const UNUSABLE: [char; 5] = ['{', '}', '"', '\'', '\n'];

/// Describes a missing prompt column of a table, such as "no `prompt` column (columns: city, country)", with a hint on
/// its own line. `missing` names the absent column or columns.
pub(crate) fn describe_missing_prompt(missing: &str, columns: &[String]) -> String {
    let hint = match nearest_name("prompt", columns.iter().cloned()) {
        Some(column) => {
            format!("\nhint: rename `{column}` to `prompt`, or pass --template '{{{{{column}}}}}'")
        }
        None => {
            let usable = columns.iter().filter(|name| !name.is_empty() && !name.contains(UNUSABLE));
            let example: Vec<_> = usable.take(2).map(|name| format!("{{{{{name}}}}}")).collect();
            if example.is_empty() {
                String::new()
            } else {
                format!("\nhint: pass a template, such as --template '{}'", example.join(" "))
            }
        }
    };
    format!("no {missing} column{}{hint}", list_columns(columns))
}

/// Returns the existing columns and the path most similar to a placeholder's name, as the end of an error message.
pub(crate) fn suggest_column(name: &str, names: &ColumnNames) -> String {
    let nested =
        |path: &&String| path.strip_suffix(name).is_some_and(|before| before.ends_with(['.', ']']));
    let nearest = names.paths.iter().find(nested).cloned();
    let nearest = nearest.or_else(|| nearest_name(name, names.paths.iter().cloned()));
    let hint = nearest.map(|path| format!("\nhint: did you mean {{{{{path}}}}}?"));
    format!("{}{}", list_columns(&names.columns), hint.unwrap_or_default())
}

/// Describes a row without a prompt: returns its fields, and how to use them. `json` is the row.
pub(crate) fn describe_row_without_prompt(columns: &[String], json: &[u8]) -> (String, String) {
    let members = std::str::from_utf8(json).ok().and_then(|json| JsonMembers::parse(json).ok());
    let is_conversation = |name: &&String| {
        let json = members.as_ref().and_then(|members| members.value(name));
        json.is_some_and(|json| parse_messages(json, name).is_ok())
    };
    let usable = |name: &&String| !name.is_empty() && !name.contains(UNUSABLE);
    let is_text = |name: &&String| {
        let json = members.as_ref().and_then(|members| members.value(name));
        json.is_some_and(|json| json.starts_with('"')) && !matches!(name.as_str(), "id" | "prompt")
    };
    let fields = match columns.len() {
        0 => "the row has no fields".to_owned(),
        _ => format!(
            "the row has{}",
            list_columns(columns).replacen(" (columns: ", " the fields ", 1)
        ),
    };
    let fields = fields.strip_suffix(')').unwrap_or(&fields).to_owned();
    let advice = if let Some(name) = columns.iter().filter(usable).find(is_conversation) {
        format!("pass --messages-column {name}")
    } else if let Some(name) = columns.iter().filter(usable).find(is_text) {
        format!("pass --prompt-column {name}, or a template, such as --template '{{{{{name}}}}}'")
    } else {
        "a row needs `prompt` or `messages`, or pass a template (--template)".into()
    };
    (fields, advice)
}

/// Returns the existing columns and the one most similar to an image column's name, as the end of an error message.
pub(crate) fn suggest_image_column(name: &str, columns: &[String]) -> String {
    let hint = nearest_name(name, columns.iter().cloned())
        .map(|column| format!("\nhint: did you mean --image-column {column}?"));
    format!("{}{}", list_columns(columns), hint.unwrap_or_default())
}

fn list_columns(columns: &[String]) -> String {
    if columns.is_empty() {
        return String::new();
    }
    let listed: Vec<_> = columns.iter().take(MAX_LISTED).map(String::as_str).collect();
    let more = if columns.len() > MAX_LISTED { ", …" } else { "" };
    format!(" (columns: {}{more})", listed.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_similar_path_is_suggested() {
        let columns = ["question".to_owned(), "meta".to_owned()];
        let paths = [&columns[..], &["meta.title".to_owned(), "meta.tags[0]".to_owned()]].concat();
        let names = ColumnNames { columns: columns.into(), paths };
        let listed = " (columns: question, meta)";
        for (name, meant) in
            [("qestion", "question"), ("meta.titel", "meta.title"), ("title", "meta.title")]
        {
            let suggestion = format!("{listed}\nhint: did you mean {{{{{meant}}}}}?");
            assert_eq!(suggest_column(name, &names), suggestion);
        }
        assert_eq!(suggest_column("zzz", &names), listed);
        assert_eq!(suggest_column("zzz", &ColumnNames::default()), "");
    }

    #[test]
    fn a_row_without_a_prompt_is_described_with_the_option_that_fits() {
        let hint = |json: &str| {
            let columns = JsonMembers::parse(json).unwrap().member_names();
            let (fields, advice) = describe_row_without_prompt(&columns, json.as_bytes());
            format!("{fields}; {advice}")
        };
        assert_eq!(
            hint(r#"{"id": "a", "text": "one"}"#),
            "the row has the fields id, text; pass --prompt-column text, or a template, such as --template '{{text}}'"
        );
        assert_eq!(
            hint(r#"{"id": "a", "conversations": [{"from": "human", "value": "x"}]}"#),
            "the row has the fields id, conversations; pass --messages-column conversations"
        );
        assert!(hint("{}").starts_with("the row has no fields; a row needs `prompt` or"));
    }

    #[test]
    fn a_missing_prompt_column_is_described_with_a_template_that_fits() {
        let columns = ["city".to_owned(), "it's".to_owned(), "country".to_owned()];
        assert_eq!(
            describe_missing_prompt("`prompt`", &columns),
            "no `prompt` column (columns: city, it's, country)\n\
             hint: pass a template, such as --template '{{city}} {{country}}'"
        );
        assert_eq!(describe_missing_prompt("`prompt`", &[]), "no `prompt` column");
    }
}
