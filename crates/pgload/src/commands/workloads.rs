//! `pgload workloads`.

use serde_json::json;

use super::{Context, Verdict};
use crate::{
    cli::Workloads,
    workload::{self, Kind, Workload},
};

pub fn run(context: &Context, arguments: &Workloads) -> anyhow::Result<Verdict> {
    let Some(name) = &arguments.name else { return list(context) };
    let workload = Workload::load(&context.assets, name)?;
    let weights: f64 = workload.statements.iter().map(|statement| statement.weight).sum();
    let share = |weight: f64| format!("{:.1} %", 100.0 * weight / weights);
    let rows: Vec<Vec<String>> = workload
        .statements
        .iter()
        .map(|statement| {
            vec![
                statement.name.clone(),
                if statement.kind == Kind::Read { "read" } else { "write" }.to_owned(),
                share(statement.weight),
                statement.steps.len().to_string(),
                statement.selectivity.clone(),
                statement.description.clone(),
            ]
        })
        .collect();
    context.ui.table(&["STATEMENT", "KIND", "SHARE", "STEPS", "SELECTIVITY", "WHAT IT DOES"], &rows);
    let documents: Vec<_> = workload
        .statements
        .iter()
        .map(|statement| {
            let sql: Vec<&str> = statement.steps.iter().map(|step| step.sql.as_str()).collect();
            json!({
                "name": statement.name,
                "kind": statement.kind,
                "weight": statement.weight,
                "selectivity": statement.selectivity,
                "description": statement.description,
                "sql": sql,
            })
        })
        .collect();
    context.ui.document(&documents)?;
    Ok(Verdict::Fine)
}

fn list(context: &Context) -> anyhow::Result<Verdict> {
    let mut rows = Vec::new();
    let mut documents = Vec::new();
    for name in workload::names(&context.assets) {
        let workload = Workload::load(&context.assets, name)?;
        let count = workload.statements.len();
        rows.push(vec![name.to_owned(), count.to_string(), workload.description.clone()]);
        documents.push(json!({"name": name, "statements": count, "description": workload.description}));
    }
    context.ui.table(&["WORKLOAD", "STATEMENTS", "WHAT IT IS"], &rows);
    context.ui.document(&documents)?;
    Ok(Verdict::Fine)
}
