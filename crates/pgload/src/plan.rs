//! Execution plans: captured as JSON, reduced to what matters for comparison.

use std::collections::BTreeMap;

use serde_json::Value as Json;
use tokio_postgres::Client;

use crate::{script::Step, session::Failure, value::AsSent, workload::Values};

/// Explains a step with these values; the JSON is what EXPLAIN says, as tools for plans take it.
///
/// # Errors
/// The server's.
pub async fn explain(client: &Client, step: &Step, values: &Values, analyze: bool) -> Result<Json, Failure> {
    let options = if analyze { "ANALYZE, BUFFERS, SETTINGS, FORMAT JSON" } else { "FORMAT JSON" };
    let prepared = client.prepare(&format!("EXPLAIN ({options}) {}", step.sql)).await?;
    let value = |name: &String| values.iter().find(|(known, _)| known == name).map(|(_, value)| value);
    let parameters: Vec<_> = step.parameters.iter().filter_map(value).collect();
    let parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
        parameters.into_iter().map(|value| value as _).collect();
    let row = client.query_one(&prepared, &parameters).await?;
    let AsSent(_, bytes) = row.try_get(0)?;
    serde_json::from_slice(&bytes.unwrap_or_default())
        .map_err(|error| Failure::connection(format!("cannot read a plan: {error}")))
}

/// A node of a plan.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a>(&'a Json);

impl<'a> Node<'a> {
    /// The top of what EXPLAIN returned.
    pub fn top(plan: &'a Json) -> Option<Self> {
        plan.get(0)?.get("Plan").map(Node)
    }

    /// A text of it.
    pub fn text(self, key: &str) -> Option<&'a str> {
        self.0.get(key)?.as_str()
    }

    /// A number of it. PostgreSQL 18 counts rows in fractions.
    pub fn number(self, key: &str) -> f64 {
        self.0.get(key).and_then(Json::as_f64).unwrap_or_default()
    }

    /// Whether it has this key.
    pub fn has(self, key: &str) -> bool {
        self.0.get(key).is_some()
    }

    /// Those below it.
    pub fn children(self) -> impl Iterator<Item = Node<'a>> {
        self.0.get("Plans").and_then(Json::as_array).into_iter().flatten().map(Node)
    }

    /// It and all below it, from the top.
    pub fn all(self) -> Vec<Node<'a>> {
        let mut nodes = vec![self];
        for child in self.children() {
            nodes.extend(child.all());
        }
        nodes
    }

    /// What it does, without costs and times: `Index Scan using lot_product on lot`.
    pub fn title(self) -> String {
        let mut title = self.text("Node Type").unwrap_or("?").to_owned();
        if let Some(index) = self.text("Index Name") {
            title += &format!(" using {index}");
        }
        if let Some(relation) = self.text("Relation Name") {
            title += &format!(" on {relation}");
        }
        title
    }
}

/// The shape of a plan, a line a node. Equal shapes do the same.
pub fn shape(plan: &Json) -> Vec<String> {
    fn walk(node: Node, depth: usize, out: &mut Vec<String>) {
        out.push(format!("{}{}", "  ".repeat(depth), node.title()));
        for child in node.children() {
            walk(child, depth + 1, out);
        }
    }
    let mut out = Vec::new();
    if let Some(top) = Node::top(plan) {
        walk(top, 0, &mut out);
    }
    out
}

/// Milliseconds of execution, blocks that were hit and read.
pub fn cost(plan: &Json) -> (f64, f64, f64) {
    let time =
        plan.get(0).and_then(|plan| plan.get("Execution Time")).and_then(Json::as_f64).unwrap_or_default();
    let Some(top) = Node::top(plan) else { return (time, 0.0, 0.0) };
    (time, top.number("Shared Hit Blocks"), top.number("Shared Read Blocks"))
}

/// How each table is read: by alias, as partitions and children are many.
fn access(plan: &Json) -> BTreeMap<String, (String, String)> {
    let mut paths: BTreeMap<String, (String, String)> = BTreeMap::new();
    let nodes = Node::top(plan).map(Node::all).unwrap_or_default();
    for node in nodes {
        let Some(relation) = node.text("Relation Name") else { continue };
        let alias = node.text("Alias").unwrap_or(relation);
        let kind = node.text("Node Type").unwrap_or("?").replace("Bitmap Heap", "Bitmap");
        paths.entry(alias.to_owned()).or_insert((relation.to_owned(), kind));
    }
    paths
}

/// What is different between two plans, in words; empty when they have the same shape.
pub fn difference(before: &Json, after: &Json) -> Vec<String> {
    let (old, new) = (shape(before), shape(after));
    if old == new {
        return Vec::new();
    }
    let (was, is) = (access(before), access(after));
    let mut lines = Vec::new();
    for (alias, (relation, kind)) in &was {
        match is.get(alias) {
            Some((_, now)) if now != kind => lines.push(format!("{relation} {alias}: {kind} -> {now}")),
            Some(_) => {}
            None => lines.push(format!("{relation} {alias}: {kind} -> not read")),
        }
    }
    for (alias, (relation, kind)) in &is {
        if !was.contains_key(alias) {
            lines.push(format!("{relation} {alias}: not read -> {kind}"));
        }
    }
    let joins = |plan: &Json| {
        let mut counts: BTreeMap<String, i32> = BTreeMap::new();
        for node in Node::top(plan).map(Node::all).unwrap_or_default() {
            let kind = node.text("Node Type").unwrap_or_default();
            if kind.contains("Join") || kind == "Nested Loop" {
                *counts.entry(kind.to_owned()).or_default() += 1;
            }
        }
        counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect::<Vec<_>>().join(", ")
    };
    let (was, is) = (joins(before), joins(after));
    if was != is {
        lines.push(format!("joins: {was} -> {is}"));
    }
    if lines.is_empty() {
        lines.push("another order or other indexes".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_plan_that_uses_an_index_now_is_described_so() {
        let before = json!([{"Plan": {"Node Type": "Hash Join", "Plans": [
            {"Node Type": "Seq Scan", "Relation Name": "lot", "Alias": "l"},
            {"Node Type": "Seq Scan", "Relation Name": "product", "Alias": "p"}]}}]);
        let after = json!([{"Plan": {"Node Type": "Nested Loop", "Plans": [
            {"Node Type": "Index Scan", "Index Name": "lot_product", "Relation Name": "lot", "Alias": "l"},
            {"Node Type": "Seq Scan", "Relation Name": "product", "Alias": "p"}]}}]);
        assert_eq!(
            difference(&before, &after),
            ["lot l: Seq Scan -> Index Scan", "joins: 1 Hash Join -> 1 Nested Loop"]
        );
        assert_eq!(difference(&before, &before), Vec::<String>::new());
        assert_eq!(
            shape(&after),
            ["Nested Loop", "  Index Scan using lot_product on lot", "  Seq Scan on product"]
        );
    }
}
