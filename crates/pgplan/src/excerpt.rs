//! Findings as people read them: place, message, the line it is about, hints.

use std::fmt::Write as _;

use unicode_width::UnicodeWidthChar;

use crate::{
    finding::{Finding, Severity, Span},
    yaml::{lines, visible},
};

/// Columns of a line of the text that are shown at most.
const WIDTH_MAX: usize = 100;

/// The findings as plain text, with the lines of `text` that they are about. `file` is shown as it is.
///
/// ```text
/// topologies/x.yaml:12:5: error: unknown key `flavour` in `vm`
///    |
/// 12 |     flavour: big
///    |     ^^^^^^^
///    = allowed: cpus, memory, disk
/// ```
pub fn render(findings: &[Finding], file: &str, text: &str) -> String {
    let lines: Vec<&str> = lines(text.strip_prefix('\u{feff}').unwrap_or(text)).collect();
    let mut out = String::new();
    for (index, finding) in findings.iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        one(&mut out, finding, file, &lines);
    }
    out
}

fn one(out: &mut String, finding: &Finding, file: &str, lines: &[&str]) {
    let Span { line, column, .. } = finding.span;
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let margin = line.to_string().len();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{file}:{line}:{column}: {severity}: {}", safe(&finding.message));
    if let Some(source) = lines.get(line.saturating_sub(1)).filter(|source| !source.trim().is_empty()) {
        let (shown, indent, width) = window(source, finding.span);
        let _ = writeln!(out, "{:margin$} |", "");
        let _ = writeln!(out, "{line} | {}", shown.trim_end());
        let _ = writeln!(out, "{:margin$} | {:indent$}{}", "", "", "^".repeat(width));
    }
    for hint in &finding.hints {
        let _ = writeln!(out, "{:margin$} = {}", "", safe(hint));
    }
}

/// The part of the line around the span, the columns before the underline and the columns of the underline.
fn window(source: &str, span: Span) -> (String, usize, usize) {
    let start = span.column.saturating_sub(1);
    let end = start.saturating_add(span.length.max(1));
    // As much of the span as fits, and something of what stands before it.
    let from = if end <= WIDTH_MAX { 0 } else { start.saturating_sub(WIDTH_MAX / 3) };
    let mut chars = source.chars().map(cell).skip(from);
    let (mut shown, mut indent, mut width) = (String::new(), 0, 0);
    if from > 0 {
        shown.push('…');
        indent = 1;
    }
    for (index, c) in chars.by_ref().take(WIDTH_MAX).enumerate() {
        shown.push(c);
        let columns = c.width().unwrap_or(1);
        if from + index < start {
            indent += columns;
        } else if from + index < end {
            width += columns;
        }
    }
    if chars.next().is_some() {
        shown.push('…');
    }
    (shown, indent, width.max(1))
}

/// A character that takes its place and does nothing to the terminal.
fn cell(c: char) -> char {
    if c == '\t' {
        ' '
    } else if visible(c).nth(1).is_some() || c.width() == Some(0) {
        '\u{fffd}'
    } else {
        c
    }
}

fn safe(text: &str) -> String {
    text.chars().flat_map(visible).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(line: usize, column: usize, length: usize) -> Finding {
        Finding::error(Span { line, column, length }, "", "message").hint("hint")
    }

    #[test]
    fn the_line_is_underlined_where_it_is_wrong() {
        let text = "a: 1\n  ключ: 値段 # x\n";
        let shown = render(&[at(2, 9, 2), at(1, 1, 1)], "f.yaml", text);
        assert_eq!(
            shown,
            "f.yaml:2:9: error: message\n  |\n2 |   ключ: 値段 # x\n  |         ^^^^\n  = hint\n\n\
             f.yaml:1:1: error: message\n  |\n1 | a: 1\n  | ^\n  = hint\n"
        );
    }

    #[test]
    fn long_lines_are_cut_around_the_span() {
        let text = format!("{}BAD{}", "a".repeat(500), "b".repeat(500));
        let shown = render(&[at(1, 501, 3)], "f", &text);
        let line = shown.lines().nth(2).unwrap();
        let underline = shown.lines().nth(3).unwrap();
        assert!(line.chars().count() < 120, "{line}");
        let under: String =
            line.chars().zip(underline.chars()).filter(|(_, u)| *u == '^').map(|(c, _)| c).collect();
        assert_eq!(under, "BAD");
        let all = render(&[at(1, 1, 1003)], "f", &text);
        assert!(all.lines().all(|line| line.chars().count() < 120), "{all}");
    }

    #[test]
    fn nothing_reaches_the_terminal_that_acts_on_it() {
        let mut finding = at(1, 1, 50);
        finding.message = "a\u{1b}[31m\u{202e}".into();
        let shown = render(&[finding], "f", "a\u{1b}[2J\tb\u{202e}c\u{0}");
        assert!(!shown.contains(['\u{1b}', '\u{202e}', '\t', '\u{0}']), "{shown:?}");
    }

    #[test]
    fn places_outside_the_text_are_no_problem() {
        for span in [(0, 0, 0), (1, 0, 0), (9, 9, 9), (1, 900, usize::MAX / 2)] {
            for text in ["", "a", "a\r\nb\rc"] {
                assert!(render(&[at(span.0, span.1, span.2)], "f", text).starts_with("f:"));
            }
        }
    }
}
