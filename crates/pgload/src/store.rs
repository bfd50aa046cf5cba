//! Results in a database: schema `pgload`, on any PostgreSQL.

use anyhow::Context as _;
use tokio_postgres::Client;

use crate::{
    assets::Assets,
    results::{Results, Run},
    run::{Counts, Latency},
};

/// Adds a run, or puts it in the place of what was there of it.
///
/// # Errors
/// The server's.
pub async fn publish(client: &mut Client, assets: &Assets, results: &Results) -> anyhow::Result<()> {
    let schema = assets.text("pgload/results.sql")?;
    client.batch_execute(schema).await.context("cannot make the tables for results")?;
    let transaction = client.transaction().await?;
    let run = &results.run;
    transaction.execute("DELETE FROM pgload.run WHERE id = $1", &[&run.id]).await?;
    add_run(&transaction, run).await.with_context(|| format!("cannot store run {}", run.id))?;
    for statement in &run.statements {
        let plan = results.plans.get(&statement.name).map(ToString::to_string);
        let kind = format!("{:?}", statement.kind).to_lowercase();
        let sql = format!(
            "INSERT INTO pgload.statement (run, name, kind, rate, plan, {COLUMNS}) VALUES ($1, $2, $3, $4, $5::text::jsonb, {})",
            figures(&statement.counts, &statement.response)
        );
        transaction.execute(&sql, &[&run.id, &statement.name, &kind, &statement.rate, &plan]).await?;
    }
    for row in &results.seconds {
        let sql = format!(
            "INSERT INTO pgload.second (run, at, statement, {COLUMNS}) \
             VALUES ($1, $2::text::timestamptz + $3 * interval '1 second', $4, {})",
            figures(&row.counts, &row.latency)
        );
        transaction.execute(&sql, &[&run.id, &run.started, &f64::from(row.second), &row.statement]).await?;
    }
    for row in &results.errors {
        let sql = "INSERT INTO pgload.error (run, statement, phase, sqlstate, count, first_s, last_s, message) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
        let count = row.count as i64;
        transaction
            .execute(
                sql,
                &[
                    &run.id,
                    &row.statement,
                    &row.phase,
                    &row.code,
                    &count,
                    &row.first,
                    &row.last,
                    &row.message,
                ],
            )
            .await?;
    }
    transaction.commit().await.with_context(|| format!("cannot store run {}", run.id))
}

async fn add_run(transaction: &tokio_postgres::Transaction<'_>, run: &Run) -> anyhow::Result<()> {
    let outage = run.outage.as_ref().map(crate::run::Outage::length);
    let document = serde_json::to_string(run)?;
    let sql = "INSERT INTO pgload.run (id, started, workload, workload_digest, stage, load, target, elapsed, cpu, outage, \
               invalid, document) VALUES ($1, $2::text::timestamptz, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::text::jsonb)";
    transaction
        .execute(
            sql,
            &[
                &run.id,
                &run.started,
                &run.workload,
                &run.workload_digest,
                &run.stage,
                &run.load,
                &run.target,
                &run.elapsed,
                &run.cpu,
                &outage,
                &run.invalid,
                &document,
            ],
        )
        .await?;
    Ok(())
}

const COLUMNS: &str =
    "ok, weak, idle, aborted, indeterminate, retries, mean_us, p50_us, p95_us, p99_us, max_us";

/// Values of [`COLUMNS`]: numbers only, so they may stand in the text.
fn figures(counts: &Counts, latency: &Latency) -> String {
    let (c, l) = (counts, latency);
    format!(
        "{}, {}, {}, {}, {}, {}, {}, {}, {}, {}, {}",
        c.ok, c.weak, c.idle, c.aborted, c.indeterminate, c.retries, l.mean, l.p50, l.p95, l.p99, l.max
    )
}
