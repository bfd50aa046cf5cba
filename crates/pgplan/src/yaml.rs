//! YAML text -> tree that knows the place of every node.
//!
//! The events come from saphyr-parser; the tree is ours because a finding needs the place of every key and value and
//! the text as it was written. Hostile text ends in a finding: text, depth, nodes and alias expansion are limited, and
//! `feed` bounds what the scanner reads ahead, in which its work is quadratic.

mod build;
mod feed;
mod scalar;

use indexmap::IndexMap;

use crate::finding::{Finding, Findings, Span};
pub use scalar::{Kind, Scalar};

/// What one text may be at most. The defaults are far beyond any lab.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of the text.
    pub bytes: usize,
    /// Mappings and sequences inside each other.
    pub depth: usize,
    /// Nodes, aliases expanded.
    pub nodes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 4 << 20, depth: 64, nodes: 500_000 }
    }
}

/// A value with its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where the value begins; the length ends with the line.
    pub span: Span,
    /// The value.
    pub value: Value,
}

/// A YAML value.
#[derive(Clone, Debug)]
pub enum Value {
    /// Text, number, boolean or nothing.
    Scalar(Scalar),
    /// A list.
    Sequence(Vec<Node>),
    /// Keys and values in the order of the text.
    Mapping(IndexMap<String, Entry>),
}

/// A value in a mapping.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where the key stands.
    pub key: Span,
    /// The value.
    pub node: Node,
}

/// A node looked up by its path.
#[derive(Clone, Debug)]
pub struct Location {
    /// As findings show it: `postgres.databases[0].name`.
    pub path: String,
    /// The key, or the element of a list.
    pub key: Span,
    /// The value.
    pub value: Span,
}

/// Reads one document. What is wrong goes to `findings`; `None` when there is no tree to go on with.
pub fn parse(text: &str, limits: Limits, findings: &mut Findings) -> Option<Node> {
    if text.len() > limits.bytes {
        let message = format!("the text is too long: {} bytes, at most {}", text.len(), limits.bytes);
        findings.add(|| Finding::error(START, "", message));
        return None;
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !all_printable(text, findings) {
        return None;
    }
    build::build(text, limits, findings)
}

/// The text of a file, or a finding at the first byte that is not UTF-8.
///
/// # Errors
/// When the bytes are not UTF-8.
pub fn decode(bytes: &[u8]) -> Result<&str, Box<Finding>> {
    std::str::from_utf8(bytes).map_err(|error| {
        let good = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let mut span = START;
        for (number, line) in lines(&good).enumerate() {
            span = Span { line: number + 1, column: line.chars().count() + 1, length: 1 };
        }
        Box::new(Finding::error(span, "", "the file is not UTF-8 text").hint("save it as UTF-8"))
    })
}

/// The lines of a text as YAML counts them: ended by `\n`, `\r\n` or `\r`.
pub fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(['\n', '\r']) else {
            rest = None;
            return Some(text);
        };
        let next = if text[end..].starts_with("\r\n") { end + 2 } else { end + 1 };
        rest = Some(&text[next..]);
        Some(&text[..end])
    })
}

const START: Span = Span { line: 1, column: 1, length: 1 };

/// Whether all characters may stand in YAML; the first few that may not become findings.
fn all_printable(text: &str, findings: &mut Findings) -> bool {
    const SHOWN_MAX: usize = 5;
    let allowed = |c: char| match c {
        '\t' | '\n' | '\r' | '\u{85}' => true,
        '\u{feff}' | '\u{fffe}' | '\u{ffff}' => false,
        _ => !c.is_control(),
    };
    let mut bad = 0;
    for (number, line) in lines(text).enumerate() {
        for (column, c) in line.chars().enumerate().filter(|(_, c)| !allowed(*c)) {
            bad += 1;
            if bad <= SHOWN_MAX {
                let span = Span { line: number + 1, column: column + 1, length: 1 };
                let message = format!("the character U+{:04X} may not stand in YAML", u32::from(c));
                findings.add(|| {
                    Finding::error(span, "", message)
                        .hint("remove it, or write it as an escape in double quotes")
                });
            }
        }
    }
    bad == 0
}

impl Node {
    /// What it is, with article: `text`, `a number`, `a list`.
    pub fn kind_name(&self) -> &'static str {
        match &self.value {
            Value::Scalar(scalar) => scalar.kind.name(),
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "a mapping",
        }
    }

    /// The scalar, when it is one.
    pub fn scalar(&self) -> Option<&Scalar> {
        if let Value::Scalar(scalar) = &self.value { Some(scalar) } else { None }
    }

    /// The keys and values, when it is a mapping.
    pub fn mapping(&self) -> Option<&IndexMap<String, Entry>> {
        if let Value::Mapping(entries) = &self.value { Some(entries) } else { None }
    }

    /// The place of the node at `path` (keys, and indexes of lists as decimal numbers). Where the text ends earlier,
    /// because the rest is a default, the place of the last node on the way.
    pub fn locate(&self, path: &[&str]) -> Location {
        let mut location = Location { path: String::new(), key: self.span, value: self.span };
        let mut node = Some(self);
        for step in path {
            let mut index = None;
            let next = node.and_then(|node| match &node.value {
                Value::Mapping(entries) => entries.get(*step).map(|entry| (entry.key, &entry.node)),
                Value::Sequence(items) => {
                    index = step.parse::<usize>().ok();
                    items.get(index?).map(|item| (item.span, item))
                }
                Value::Scalar(_) => None,
            });
            match index {
                Some(index) => location.path = format!("{}[{index}]", location.path),
                None => location.path = join(&location.path, step),
            }
            if let Some((key, node)) = next {
                location.key = key;
                location.value = node.span;
            }
            node = next.map(|(_, node)| node);
        }
        location
    }
}

/// The path of the key `step` in the mapping at `path`. Long keys are cut.
pub(crate) fn join(path: &str, step: &str) -> String {
    let step = short(step);
    if path.is_empty() { step } else { format!("{path}.{step}") }
}

/// A piece of the user's text for a message: cut when it is long, without control characters.
pub(crate) fn short(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut short: String = text.chars().take(CHARS_MAX).flat_map(visible).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        short.push('…');
    }
    short
}

/// The character, or its escape when a terminal would act on it.
pub(crate) fn visible(c: char) -> impl Iterator<Item = char> {
    // Bidirectional controls reorder what stands around them on the terminal.
    let acts = c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
    let escaped = acts.then(|| c.escape_default());
    escaped.into_iter().flatten().chain((!acts).then_some(c))
}

#[cfg(test)]
mod tests;
