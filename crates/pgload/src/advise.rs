//! `pgload advise`: indexes for the slowest statements, from their plans.
//!
//! A table that is read whole though few of its rows are wanted is where an index may help: on the columns of its filter,
//! or on those it is joined by. Each candidate is tried: with HypoPG as an index that does not exist, else by building it
//! in a transaction that is rolled back. What is printed is what the planner itself says about it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context as _;
use serde::Serialize;
use serde_json::Value as Json;
use tokio_postgres::Client;

use crate::{
    plan::{self, Node},
    rng::Rng,
    workload::{Kind, Workload},
};

/// How candidates are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// HypoPG: nothing is built, nobody waits.
    Hypothetical,
    /// Built and rolled back: writers of the table wait meanwhile.
    Built,
    /// Not at all.
    Untried,
}

/// An index, and what it does for a statement.
#[derive(Clone, Debug, Serialize)]
pub struct Advice {
    /// As it would be made.
    pub sql: String,
    /// Of the statement.
    pub statement: String,
    /// The planner's cost without it.
    pub before: f64,
    /// And with it; none when it was not tried.
    pub after: Option<f64>,
}

/// Proposes indexes; those that do not lower the cost by a tenth are left out.
///
/// # Errors
/// The server's.
pub async fn advise(
    client: &Client,
    workload: &Workload,
    seed: u64,
    build: bool,
) -> anyhow::Result<(How, Vec<Advice>)> {
    let bound = workload.bind(client).await?;
    let installed = "SELECT count(*) FROM pg_extension WHERE extname = 'hypopg'";
    let hypothetical = client.query_one(installed, &[]).await?.get::<_, i64>(0) > 0;
    let how = match (hypothetical, build) {
        (true, _) => How::Hypothetical,
        (false, true) => How::Built,
        (false, false) => How::Untried,
    };
    let columns = columns(client).await?;
    let mut advice = Vec::new();
    for (index, statement) in workload.statements.iter().enumerate() {
        if statement.kind == Kind::Write || statement.steps.len() > 1 {
            continue;
        }
        let values = bound.values(index, &mut Rng::new(seed, 106, 1));
        let step = &statement.steps[0];
        let analysed =
            plan::explain(client, step, &values, true).await.with_context(|| statement.name.clone())?;
        let before = cost(&plan::explain(client, step, &values, false).await?);
        for (table, names) in candidates(&analysed, &columns) {
            let sql = format!("CREATE INDEX ON {table} ({})", names.join(", "));
            let after = match how {
                How::Untried => None,
                How::Hypothetical => {
                    client.query("SELECT hypopg_create_index($1)", &[&sql]).await?;
                    let plan = plan::explain(client, step, &values, false).await;
                    client.query("SELECT hypopg_reset()", &[]).await?;
                    Some(cost(&plan?))
                }
                How::Built => {
                    client.batch_execute(&format!("BEGIN; SET LOCAL lock_timeout = '2s'; {sql}")).await?;
                    let plan = plan::explain(client, step, &values, false).await;
                    client.batch_execute("ROLLBACK").await?;
                    Some(cost(&plan?))
                }
            };
            if after.is_none_or(|after| after < before * 0.9) {
                advice.push(Advice { sql, statement: statement.name.clone(), before, after });
            }
        }
    }
    advice.sort_by(|a, b| gain(b).total_cmp(&gain(a)));
    Ok((how, advice))
}

/// What the planner saves.
fn gain(advice: &Advice) -> f64 {
    advice.before - advice.after.unwrap_or(0.0)
}

fn cost(plan: &Json) -> f64 {
    Node::top(plan).map_or(0.0, |top| top.number("Total Cost"))
}

/// Columns of all tables on the search path, by table.
async fn columns(client: &Client) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
    let sql = "SELECT c.oid::regclass::text, array_agg(attname::text ORDER BY attnum) FROM pg_class c \
               JOIN pg_attribute a ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped \
               WHERE relkind IN ('r', 'p') AND pg_table_is_visible(c.oid) AND relnamespace <> 'pg_catalog'::regnamespace \
               GROUP BY c.oid";
    let rows = client.query(sql, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Fewer rows than this are read as fast without an index.
const ROWS_MIN: f64 = 1_000.0;

/// Tables and columns that an index could be on.
fn candidates(plan: &Json, columns: &BTreeMap<String, Vec<String>>) -> BTreeSet<(String, Vec<String>)> {
    let mut found = BTreeSet::new();
    let nodes = Node::top(plan).map(Node::all).unwrap_or_default();
    let conditions: Vec<&str> = nodes
        .iter()
        .flat_map(|node| ["Hash Cond", "Merge Cond", "Join Filter"].map(|key| node.text(key)))
        .flatten()
        .collect();
    for node in nodes.iter().filter(|node| node.text("Node Type") == Some("Seq Scan")) {
        let (Some(table), Some(alias)) = (node.text("Relation Name"), node.text("Alias")) else { continue };
        let loops = node.number("Actual Loops").max(1.0);
        let (kept, removed) =
            (node.number("Actual Rows") * loops, node.number("Rows Removed by Filter") * loops);
        let Some(columns) = columns.get(table).filter(|_| kept + removed >= ROWS_MIN) else { continue };
        if let Some(filter) = node.text("Filter").filter(|_| removed > kept) {
            let (equal, range) = filtered(filter, columns);
            let all: Vec<String> = equal.into_iter().chain(range.into_iter().take(1)).collect();
            if !all.is_empty() {
                found.insert((table.to_owned(), all));
            }
        }
        for condition in &conditions {
            for column in columns.iter().filter(|column| names(condition, &format!("{alias}.{column}"))) {
                found.insert((table.to_owned(), vec![column.clone()]));
            }
        }
    }
    found
}

/// Whether a condition has this name as a whole.
fn names(condition: &str, name: &str) -> bool {
    let word = |c: char| c.is_alphanumeric() || c == '_' || c == '.';
    condition.split(|c| !word(c)).any(|part| part == name)
}

/// Columns that a filter compares: for equality, and for less or more.
fn filtered(filter: &str, columns: &[String]) -> (Vec<String>, Vec<String>) {
    let (mut equal, mut range) = (Vec::new(), Vec::new());
    let tokens: Vec<&str> = filter.split([' ', '(', ')']).filter(|token| !token.is_empty()).collect();
    for pair in tokens.windows(2) {
        let Some(column) = columns.iter().find(|column| *column == pair[0]) else { continue };
        let list = match pair[1] {
            "=" => &mut equal,
            "<" | ">" | "<=" | ">=" => &mut range,
            _ => continue,
        };
        if !list.contains(column) {
            list.push(column.clone());
        }
    }
    (equal, range)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn candidates_are_what_filters_and_joins_compare() {
        let columns = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let tables = BTreeMap::from([
            ("orders".to_owned(), columns(&["id", "customer", "placed", "status"])),
            ("lines".to_owned(), columns(&["order_id", "product"])),
            ("small".to_owned(), columns(&["id"])),
        ]);
        let plan = json!([{"Plan": {"Node Type": "Hash Join", "Hash Cond": "(l.order_id = o.id)", "Plans": [
            {"Node Type": "Seq Scan", "Relation Name": "lines", "Alias": "l", "Actual Rows": 50000, "Actual Loops": 1},
            {"Node Type": "Seq Scan", "Relation Name": "orders", "Alias": "o", "Actual Rows": 10, "Actual Loops": 1,
             "Rows Removed by Filter": 9990,
             "Filter": "((placed >= '2025-01-01'::date) AND (placed < $1) AND (customer = 7) AND ((status)::text <> 'x'::text))"},
            {"Node Type": "Seq Scan", "Relation Name": "small", "Alias": "s", "Actual Rows": 10, "Actual Loops": 1,
             "Rows Removed by Filter": 20, "Filter": "(id = 3)"}]}}]);
        let found: Vec<String> = candidates(&plan, &tables)
            .into_iter()
            .map(|(table, names)| format!("{table}({})", names.join(",")))
            .collect();
        assert_eq!(found, ["lines(order_id)", "orders(customer,placed)", "orders(id)"]);
    }
}
