//! What differs between two texts: as lines, for people, and as settings, for those who have to act on it.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;
use similar::TextDiff;

/// Unchanged lines around a change.
const AROUND: usize = 3;
/// Lines of a difference that a plan shows before it refers to `pgprov diff`.
const BRIEF: usize = 16;

/// The changes from `old` to `new` as a unified diff without its two header lines; empty when there are none. Control
/// characters, which a terminal would obey, are replaced.
pub fn unified(old: &str, new: &str) -> String {
    let (old, new) = (harmless(old), harmless(new));
    TextDiff::from_lines(&old, &new).unified_diff().context_radius(AROUND).to_string()
}

/// The text without control characters, which a terminal would obey.
pub(crate) fn harmless(text: &str) -> String {
    let replace =
        |c: char| if c.is_control() && c != '\n' && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(replace).collect()
}

/// The changed lines of a unified diff, and where they are; the end of a long one is left out.
pub fn brief(diff: &str) -> Vec<String> {
    let mut lines: Vec<String> =
        diff.lines().filter(|line| line.starts_with(['@', '-', '+'])).map(str::to_owned).collect();
    if lines.len() > BRIEF {
        let more = lines.len() - BRIEF;
        lines.truncate(BRIEF);
        lines.push(format!("and {more} more lines: see `pgprov diff`"));
    }
    lines
}

/// A setting whose value changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Edit {
    /// Its name.
    pub name: String,
    /// Its value, without quotes; nothing when it is new.
    pub from: Option<String>,
    /// Its value, without quotes; nothing when it goes.
    pub to: Option<String>,
}

impl Edit {
    /// Whether it is a number that gets smaller. One that comes or goes may do so: the other value is a default.
    pub fn may_shrink(&self) -> bool {
        let number = |value: &Option<String>| value.as_deref().map(str::parse::<f64>);
        match (number(&self.from), number(&self.to)) {
            (Some(Ok(from)), Some(Ok(to))) => to < from,
            (Some(Ok(_)), None) | (None, Some(Ok(_))) => true,
            _ => false,
        }
    }
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => write!(f, "{} {from} -> {to}", self.name),
            (None, Some(to)) => write!(f, "{} {to}", self.name),
            (_, None) => write!(f, "{} goes", self.name),
        }
    }
}

/// The settings that differ between two texts of lines `name = value` with `#` comments, by name.
pub fn edits(old: &str, new: &str) -> Vec<Edit> {
    let (old, new) = (settings(old), settings(new));
    let names = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
    let mut edits: Vec<Edit> = names
        .filter(|name| old.get(*name) != new.get(*name))
        .map(|name| Edit {
            name: (*name).to_owned(),
            from: old.get(name).cloned(),
            to: new.get(name).cloned(),
        })
        .collect();
    edits.sort_by(|a, b| a.name.cmp(&b.name));
    edits
}

/// Name and value of each setting; the last line of a name counts.
fn settings(text: &str) -> BTreeMap<&str, String> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim(), bare(value.trim())))
        .collect()
}

/// A value without its quotes.
fn bare(value: &str) -> String {
    let inner = value.strip_prefix('\'').and_then(|value| value.strip_suffix('\''));
    inner.map_or_else(|| value.to_owned(), |inner| inner.replace("''", "'").replace("\\\\", "\\"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_differ_with_what_is_around_them() {
        let old = "a\nb\nc\nd\ne\nf\n";
        assert_eq!(unified(old, old), "");
        assert_eq!(
            unified(old, "a\nb\nc\nd\nE\x1b[2J\nf\n"),
            "@@ -2,5 +2,5 @@\n b\n c\n d\n-e\n+E\u{fffd}[2J\n f\n"
        );
        assert_eq!(brief(&unified(old, "a\nb\nc\nd\nE\nf\n")), ["@@ -2,5 +2,5 @@", "-e", "+E"]);
        let long = brief(&unified("", &"x\n".repeat(40)));
        assert_eq!((long.len(), long[BRIEF].as_str()), (BRIEF + 1, "and 25 more lines: see `pgprov diff`"));
    }

    #[test]
    fn settings_that_differ() {
        let old = "# why\nwork_mem = '4MB'\nmax_connections = '60'\ngone = '1'\n#x = 1\n";
        let new = "# another reason\nwork_mem = '12MB'\nmax_connections = '40'\nsearch_path = '''a'', b'\n";
        let edits = edits(old, new);
        let shown: Vec<String> = edits.iter().map(Edit::to_string).collect();
        assert_eq!(
            shown,
            ["gone goes", "max_connections 60 -> 40", "search_path 'a', b", "work_mem 4MB -> 12MB"]
        );
        let shrinks: Vec<bool> = edits.iter().map(Edit::may_shrink).collect();
        assert_eq!(shrinks, [true, true, false, false]);
    }

    #[test]
    fn another_comment_is_no_other_setting() {
        assert_eq!(edits("# 1 GiB\na = 1\n", "# 2 GiB\na = 1\n"), []);
    }
}
