//! Tables that fit the terminal.

use std::io::{IsTerminal, stdout};

/// Columns in width of their widest cell; on a terminal too narrow the widest column gives way.
pub fn print(header: &[&str], rows: &[Vec<String>]) {
    let limit = if stdout().is_terminal() {
        rustix::termios::tcgetwinsize(stdout()).map_or(usize::MAX, |size| match size.ws_col {
            0 => usize::MAX,
            columns => usize::from(columns),
        })
    } else {
        usize::MAX
    };
    for line in render(header, rows, limit) {
        println!("{line}");
    }
}

fn render(header: &[&str], rows: &[Vec<String>], limit: usize) -> Vec<String> {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let gaps = 2 * widths.len().saturating_sub(1);
    while widths.iter().sum::<usize>() + gaps > limit {
        match widths.iter_mut().max() {
            Some(widest) if *widest > 8 => *widest -= 1,
            _ => break,
        }
    }
    let line = |cells: Vec<&str>| {
        let cells: Vec<String> = cells.iter().zip(&widths).map(|(cell, width)| fit(cell, *width)).collect();
        cells.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(header.to_vec())];
    lines.extend(rows.iter().map(|row| line(row.iter().map(String::as_str).collect())));
    lines
}

fn fit(cell: &str, width: usize) -> String {
    // What people named may hold anything; a terminal gets no control characters from us.
    let cell: String = cell.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    if cell.chars().count() > width {
        let mut short: String = cell.chars().take(width.saturating_sub(1)).collect();
        short.push('…');
        short
    } else {
        format!("{cell:width$}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_shortens_the_widest_column() {
        let rows = vec![vec!["1i1".to_owned(), "x".repeat(60)]];
        for line in render(&["ID", "NAME"], &rows, 30) {
            assert!(line.chars().count() <= 30, "{line}");
        }
        assert!(render(&["ID", "NAME"], &rows, usize::MAX)[1].ends_with(&"x".repeat(60)));
    }

    #[test]
    fn escape_sequences_do_not_reach_the_terminal() {
        assert!(!fit("a\u{1b}[31mb", 20).contains('\u{1b}'));
    }
}
