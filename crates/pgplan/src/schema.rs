//! Text -> checked value of a Rust type, with everything that is wrong in one pass.
//!
//! The rules come from the JSON Schema that schemars makes of the type, so editors and pgprov cannot disagree. A node
//! that breaks a rule becomes a finding and is left out (or replaced, where the type needs it: a *hole*), and the rest
//! is deserialised: what comes after sees the good parts, and asks [`Loaded::is_hole`] before it wonders about others.
//!
//! Supported are the keywords that our types use; [`unsupported`] lists the others, for a test of each type.

mod choose;
mod place;
mod read;
mod rules;

use std::collections::{BTreeSet, HashSet};

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use crate::{
    finding::{Finding, Findings, Span},
    yaml::{self, Limits, Location, Node},
};

/// What was read from a text.
#[derive(Debug)]
pub struct Loaded<T> {
    /// The good parts; `None` when nothing could be made of the text.
    pub value: Option<T>,
    /// What is wrong.
    pub findings: Findings,
    /// The text as tree, for the places of further findings.
    pub tree: Option<Node>,
    holes: HashSet<String>,
}

impl<T> Loaded<T> {
    /// Whether the node at `path` (or one that it stands in) was refused or is missing, so that the value says nothing about it.
    pub fn is_hole(&self, path: &str) -> bool {
        let ends = path.match_indices(['.', '[']).map(|(end, _)| end).chain([path.len()]);
        !self.holes.is_empty() && ends.into_iter().any(|end| self.holes.contains(&path[..end]))
    }

    /// Whether anything inside the node at `path` was refused or is missing, or the node itself.
    pub fn has_holes(&self, path: &str) -> bool {
        let inside = |hole: &String| hole.strip_prefix(path).is_some_and(|rest| rest.starts_with(['.', '[']));
        self.is_hole(path) || self.holes.iter().any(inside)
    }

    /// The place of the node at `path`: see [`Node::locate`].
    pub fn locate(&self, path: &[&str]) -> Location {
        let nowhere = Span { line: 1, column: 1, length: 1 };
        let none = Location { path: String::new(), key: nowhere, value: nowhere };
        self.tree.as_ref().map_or(none, |tree| tree.locate(path))
    }

    /// The value, when nothing is wrong with it, and the findings in the order of the text.
    pub fn finish(self) -> (Option<T>, Vec<Finding>) {
        let value = if self.findings.has_errors() { None } else { self.value };
        (value, self.findings.into_sorted())
    }
}

/// Reads a value of type `T`.
pub fn load<T: DeserializeOwned + JsonSchema>(text: &str, limits: Limits) -> Loaded<T> {
    let mut findings = Findings::default();
    let Some(tree) = yaml::parse(text, limits, &mut findings) else {
        return Loaded { value: None, findings, tree: None, holes: HashSet::new() };
    };
    let schema = schemars::schema_for!(T).to_value();
    let (json, holes) = read::read(&schema, &tree, &mut findings);
    let mut value = None;
    // With so much wrong, the good parts say little, and holes could be anywhere.
    if let Some(json) = json.filter(|_| !findings.overflowed()) {
        match serde_json::from_value(json) {
            Ok(read) => value = Some(read),
            Err(error) => findings.add(|| Finding::error(tree.span, "", format!("cannot be read: {error}"))),
        }
    }
    Loaded { value, findings, tree: Some(tree), holes }
}

/// The keywords in the schema of `T` that this module does not support, with their places: empty for a usable type.
pub fn unsupported<T: JsonSchema>() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    visit(&schemars::schema_for!(T).to_value(), "#", &mut found);
    found
}

fn visit(schema: &Json, at: &str, found: &mut BTreeSet<String>) {
    let Some(keywords) = schema.as_object() else {
        if !schema.is_boolean() {
            found.insert(format!("{at}: {schema}"));
        }
        return;
    };
    for (keyword, value) in keywords {
        let at = format!("{at}/{keyword}");
        match (keyword.as_str(), value) {
            ("properties" | "$defs", Json::Object(members)) => {
                members.iter().for_each(|(name, member)| visit(member, &format!("{at}/{name}"), found));
            }
            ("anyOf" | "oneOf", Json::Array(branches)) => {
                branches.iter().for_each(|branch| visit(branch, &at, found));
            }
            ("items" | "additionalProperties" | "propertyNames", _) => visit(value, &at, found),
            ("format", Json::String(format)) if rules::is_format(format) => {}
            ("pattern", Json::String(pattern)) if regex_lite::Regex::new(pattern).is_ok() => {}
            ("$ref", Json::String(target)) if target.starts_with("#/$defs/") => {}
            (
                "$schema" | "$id" | "title" | "description" | "default" | "type" | "const" | "enum"
                | "required" | "minimum" | "maximum" | "minLength" | "maxLength" | "minItems" | "maxItems"
                | "uniqueItems" | "minProperties" | "maxProperties" | ALLOWED,
                _,
            ) => {}
            _ => {
                found.insert(at);
            }
        }
    }
}

/// Our own keyword: what a pattern allows, in words.
const ALLOWED: &str = "x-allowed";

#[cfg(test)]
mod tests;
