//! Suggestions for column names that do not exist.

use crate::settings::nearest_name;

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

/// Returns the existing columns and the one most similar to a placeholder's name, as the end of an error message.
pub(crate) fn suggest_column(name: &str, columns: &[String]) -> String {
    let hint = nearest_name(name, columns.iter().cloned())
        .map(|column| format!("\nhint: did you mean {{{{{column}}}}}?"));
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
    fn the_most_similar_column_is_suggested() {
        let columns = ["question".to_owned(), "context".to_owned()];
        let listed = " (columns: question, context)";
        let suggestion = format!("{listed}\nhint: did you mean {{{{question}}}}?");
        assert_eq!(suggest_column("qestion", &columns), suggestion);
        assert_eq!(suggest_column("zzz", &columns), listed);
        assert_eq!(suggest_column("zzz", &[]), "");
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
