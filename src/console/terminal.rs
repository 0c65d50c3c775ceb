//! Widths of terminals, and lines and tables that fit into them.

use std::{io::IsTerminal, os::fd::AsFd};

/// Returns the usable columns of the terminal, 79 if its size is unknown. The last column stays free, since some
/// terminals wrap when it is written.
pub(super) fn terminal_width(of: &impl AsFd) -> usize {
    known_terminal_width(of).unwrap_or(79)
}

/// Returns the usable columns if the terminal reports a size. The pseudo-terminals that Open MPI opens for its ranks
/// report none.
pub(super) fn known_terminal_width(of: &impl AsFd) -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(of).ok()?;
    usize::from(size.ws_col).checked_sub(1)
}

/// Returns the usable columns of standard output, `None` if it is not a terminal.
pub(super) fn stdout_columns() -> Option<usize> {
    let out = std::io::stdout();
    known_terminal_width(&out).filter(|_| out.is_terminal())
}

/// Lets a table that is wider than the terminal wrap its cells, not its lines.
pub(super) fn fit_table_width(table: &mut comfy_table::Table) {
    if let Some(columns) = stdout_columns() {
        table.set_width(u16::try_from(columns).unwrap_or(u16::MAX));
    }
}

/// Joins the parts that fit, in order, and skips those that do not. Only the first part is ever cut, if it alone is too
/// wide.
pub(super) fn join_fitting(head: &str, parts: &[String], columns: usize) -> String {
    let width = |text: &str| text.chars().count();
    let mut line = head.to_owned();
    let mut empty = true;
    for part in parts {
        let separator = if empty { "" } else { ", " };
        if width(&line) + width(separator) + width(part) <= columns {
            line = line + separator + part;
            empty = false;
        }
    }
    if empty {
        line.extend(parts.first().map(String::as_str));
    }
    line.chars().take(columns).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_line_is_never_wider_than_its_columns(parts in prop::collection::vec("[a-zé ]{0,30}", 0..9), columns in 0usize..200) {
            let line = join_fitting("head: ", &parts, columns);
            prop_assert!(line.chars().count() <= columns);
        }
    }
}
