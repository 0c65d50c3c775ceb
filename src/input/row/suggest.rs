//! Suggestions for column names that do not exist.

/// The nearest of the columns that are there, else all of them: the end of a sentence.
pub(crate) fn suggest_column(name: &str, columns: &[String]) -> String {
    match crate::settings::nearest_name(name, columns.iter().cloned()) {
        Some(column) => format!("; is it {column:?}?"),
        None if columns.is_empty() => String::new(),
        None => {
            let some: Vec<_> = columns.iter().take(20).map(|it| format!("{it:?}")).collect();
            format!("; there are {}", some.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_column_is_named() {
        let columns = ["question".to_owned(), "context".to_owned()];
        assert_eq!(suggest_column("qestion", &columns), "; is it \"question\"?");
        assert_eq!(suggest_column("zzz", &columns), "; there are \"question\", \"context\"");
        assert_eq!(suggest_column("zzz", &[]), "");
    }
}
