//! What is wrong with a text the user wrote, where, and what to do about it.

use serde::Serialize;

/// Findings kept for one text: more help nobody, and a hostile text must not fill the memory.
pub const FINDINGS_MAX: usize = 100;

/// A place in a text. Lines and columns start at 1; columns count characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Span {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// Characters to underline, at least 1.
    pub length: usize,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The topology cannot be used.
    Error,
    /// The topology can be used, but probably means something else.
    Warning,
}

/// One problem in a topology or manifest, with place and hint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whether the text can still be used.
    pub severity: Severity,
    /// Where in the text.
    pub span: Span,
    /// Path of the node, e.g. `hosts.s.follows`; empty for the whole text.
    pub path: String,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// What is allowed, and "did you mean": one hint a line.
    pub hints: Vec<String>,
}

impl Finding {
    /// A finding that makes the text unusable.
    pub fn error(span: Span, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            span,
            path: path.into(),
            message: message.into(),
            hints: Vec::new(),
        }
    }

    /// A finding that leaves the text usable.
    pub fn warning(span: Span, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(span, path, message) }
    }

    /// The same with one more hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

/// Collects at most [`FINDINGS_MAX`] findings and counts the others.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    list: Vec<Finding>,
    dropped: usize,
}

impl Findings {
    /// Adds what `finding` makes. It is not called when there is no room, so a suggestion in it costs nothing then.
    pub fn add(&mut self, finding: impl FnOnce() -> Finding) {
        if self.list.len() < FINDINGS_MAX {
            let mut finding = finding();
            for text in [&mut finding.message, &mut finding.path].into_iter().chain(&mut finding.hints) {
                cut(text);
            }
            self.list.push(finding);
        } else {
            self.dropped += 1;
        }
    }

    /// Whether there is a finding with the same place and path as `finding`.
    pub fn contains_at(&self, finding: &Finding) -> bool {
        self.list.iter().any(|other| (other.span, &other.path) == (finding.span, &finding.path))
    }

    /// Whether findings were dropped.
    pub fn overflowed(&self) -> bool {
        self.dropped > 0
    }

    /// Whether the text cannot be used.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|finding| finding.severity == Severity::Error)
    }

    /// The findings in the order of the text, the last of them about those that were dropped.
    pub fn into_sorted(mut self) -> Vec<Finding> {
        self.list.sort_by_key(|finding| (finding.span.line, finding.span.column));
        if let (Some(last), 1..) = (self.list.last(), self.dropped) {
            let message = format!("{} more findings are not shown", self.dropped);
            let severity = if self.has_errors() { Severity::Error } else { Severity::Warning };
            self.list.push(Finding { severity, ..Finding::error(last.span, "", message) });
        }
        self.list
    }
}

/// Cuts a text that quotes too much of the user's.
fn cut(text: &mut String) {
    const CHARS_MAX: usize = 500;
    if let Some((end, _)) = text.char_indices().nth(CHARS_MAX) {
        text.truncate(end);
        text.push('…');
    }
}
