//! What is wrong with a text the user wrote, where, and what to do about it.

use serde::Serialize;

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
