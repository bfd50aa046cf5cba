//! Which branch of a union a node was meant to be.

use serde_json::Value as Json;

use super::rules::{allows, choices};
use crate::yaml::{Kind, Node, Value};

/// The branch that allows what the node is; of several mappings the one whose keys fit best. `resolve` follows `$ref`.
pub(super) fn branch<'s>(
    branches: &'s [Json],
    node: &Node,
    resolve: impl Fn(&'s Json) -> &'s Json,
) -> Option<&'s Json> {
    let mut best: Option<(i64, &Json)> = None;
    for branch in branches {
        let schema = resolve(branch);
        let inner = schema.get("anyOf").and_then(Json::as_array);
        let fits = match inner {
            Some(inner) => inner.iter().any(|schema| allows_node(resolve(schema), node)),
            None => allows_node(schema, node),
        };
        if !fits {
            continue;
        }
        let score = score(schema, node);
        if best.is_none_or(|(highest, _)| score > highest) {
            best = Some((score, branch));
        }
    }
    best.map(|(_, branch)| branch)
}

/// The key that tells the branches apart, with its values: each branch has it with a constant of its own.
pub(super) fn tag<'s>(
    branches: &'s [Json],
    resolve: impl Fn(&'s Json) -> &'s Json,
) -> Option<(&'s str, Vec<&'s str>)> {
    let constant = |branch, name: &str| resolve(branch).get("properties")?.get(name)?.get("const")?.as_str();
    let properties = resolve(branches.first()?).get("properties")?.as_object()?;
    properties.keys().find_map(|name| {
        let constants: Option<Vec<_>> = branches.iter().map(|branch| constant(branch, name)).collect();
        Some((name.as_str(), constants?))
    })
}

fn allows_node(schema: &Json, node: &Node) -> bool {
    let scalar = match &node.value {
        Value::Sequence(_) => return allows(schema, "array"),
        Value::Mapping(_) => return allows(schema, "object"),
        Value::Scalar(scalar) => scalar,
    };
    match scalar.kind {
        Kind::Null => allows(schema, "null"),
        Kind::Bool(_) => allows(schema, "boolean"),
        Kind::Integer(_) => allows(schema, "integer") || allows(schema, "number"),
        Kind::Float(_) => allows(schema, "number"),
        Kind::Text => allows(schema, "string") || choices(schema).is_some(),
    }
}

/// How many keys of the node the schema knows; a constant that is right or wrong decides.
fn score(schema: &Json, node: &Node) -> i64 {
    const TAG: i64 = 1000;
    let Some(entries) = node.mapping() else { return 0 };
    let Some(properties) = schema.get("properties").and_then(Json::as_object) else { return 0 };
    // Few properties, any number of entries: look up each property.
    let of_property = |(name, property): (&String, &Json)| {
        let entry = entries.get(name)?;
        let constant = property.get("const").and_then(Json::as_str);
        let text = entry.node.scalar().map(|scalar| scalar.raw.as_str());
        Some(match constant {
            None => 1,
            Some(constant) if Some(constant) == text => TAG,
            Some(_) => -TAG,
        })
    };
    properties.iter().filter_map(of_property).sum()
}
