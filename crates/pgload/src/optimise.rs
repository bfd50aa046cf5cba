//! `pgload optimise`: measure, apply a stage, measure again, keep what helped.
//!
//! Reads are run one after the other with the same parameters at every stage. Before a statement is written anew, its
//! results are kept, and the new text must return the same. What a stage costs when data is written is measured by a
//! short closed loop of writes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio_postgres::{Client, types::ToSql};

use crate::{
    data::hex,
    environment::Counters,
    plan,
    rng::Rng,
    run::{self, Live, Load, Options, Stop},
    session::{Connector, Session},
    stage::Stage,
    target::Target,
    value::AsSent,
    workload::{Bound, Kind, Values, Workload},
};

/// How to measure.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Each statement is run for so long,
    pub time: Duration,
    /// but so often at least,
    pub least: u64,
    /// and so often at most.
    pub most: u64,
    /// Writes are measured for so long.
    pub write_time: Duration,
    /// By so many clients.
    pub write_clients: u32,
    /// Of parameters.
    pub seed: u64,
    /// A stage is not kept when writes become so many times slower.
    pub write_limit: f64,
}

/// A statement at a stage.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// Of the statement.
    pub name: String,
    /// How often it was run.
    pub runs: u64,
    /// Milliseconds.
    pub p50: f64,
    /// Milliseconds.
    pub p95: f64,
    /// Access to tables and joins, in lines.
    pub plan: Vec<String>,
    /// What is different from the plan of the last stage that was kept.
    pub changes: Vec<String>,
}

/// What writing costs.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Writes {
    /// Transactions a second.
    pub rate: f64,
    /// Milliseconds, the worst of all statements.
    pub p95: f64,
    /// Bytes of WAL a transaction.
    pub wal: f64,
}

/// A stage's measurements.
#[derive(Clone, Debug, Serialize)]
pub struct Measured {
    /// `baseline`, or the stage's.
    pub stage: String,
    /// In a sentence.
    pub description: String,
    /// Seconds that applying it took.
    pub applied_in: f64,
    /// Bytes of tables, indexes and views.
    pub bytes: i64,
    /// Reads.
    pub figures: Vec<Figure>,
    /// Writes.
    pub writes: Writes,
    /// Geometric mean of the medians, divided by that of the last stage that was kept.
    pub ratio: f64,
    /// Whether it stays.
    pub kept: bool,
    /// Why.
    pub reason: String,
}

/// Tells what is going on.
pub type Say<'a> = &'a dyn Fn(&str);

/// Measures the baseline and all stages, each on top of those that were kept.
///
/// # Errors
/// The server's; a statement that cannot be run.
pub fn optimise(
    target: &Target,
    reads: &Workload,
    writes: &Workload,
    stages: &[Stage],
    settings: &Settings,
    stop: &Stop,
    say: Say,
) -> anyhow::Result<Vec<Measured>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut lab = Lab {
        target,
        reads: reads.clone(),
        writes,
        settings,
        stop,
        kept: Vec::new(),
        plans: BTreeMap::new(),
    };
    say("taking back what is applied");
    runtime.block_on(lab.take_back_all(stages))?;
    let mut all = vec![lab.measure(&runtime, "baseline", "keys only", 0.0, say)?];
    let mut last = 0;
    for stage in stages {
        if stop.is_set() {
            break;
        }
        say(&format!("applying {}", stage.name));
        let before = lab.reads.clone();
        let checked = runtime.block_on(lab.apply(stage));
        let (seconds, different) = checked.with_context(|| format!("cannot apply stage {}", stage.name))?;
        let mut measured = lab.measure(&runtime, &stage.name, &stage.description, seconds, say)?;
        judge(&mut measured, &all[last], settings, &different);
        say(&format!(
            "{}: {} ({})",
            stage.name,
            if measured.kept { "kept" } else { "taken back" },
            measured.reason
        ));
        if measured.kept {
            last = all.len();
            lab.kept.push(stage.clone());
        } else {
            lab.reads = before;
            runtime.block_on(lab.take_back(stage))?;
        }
        all.push(measured);
    }
    Ok(all)
}

/// Whether a stage stays, from what it did to reads and writes.
fn judge(now: &mut Measured, before: &Measured, settings: &Settings, different: &[String]) {
    let mut sum = 0.0;
    let (mut faster, mut slower) = (0, 0);
    for (new, old) in now.figures.iter().zip(&before.figures) {
        let ratio = new.p50.max(1e-3) / old.p50.max(1e-3);
        sum += ratio.ln();
        faster += u32::from(ratio < 0.9);
        slower += u32::from(ratio > 1.1);
    }
    now.ratio = (sum / now.figures.len().max(1) as f64).exp();
    let writes = if now.writes.rate > 0.0 { before.writes.rate / now.writes.rate } else { 1.0 };
    let counted = format!(
        "{faster} statements faster, {slower} slower, all x{:.2}, writes take x{writes:.2}",
        now.ratio
    );
    now.kept = different.is_empty() && now.ratio < 0.97 && writes < settings.write_limit;
    now.reason = match different {
        [] => counted,
        names => format!("returns something else for {}; {counted}", names.join(", ")),
    };
}

struct Lab<'a> {
    target: &'a Target,
    reads: Workload,
    writes: &'a Workload,
    settings: &'a Settings,
    stop: &'a Stop,
    kept: Vec<Stage>,
    plans: BTreeMap<String, serde_json::Value>,
}

impl Lab<'_> {
    async fn connect(&self) -> anyhow::Result<Session> {
        let setup = self.reads.session_setup();
        let connector = Connector::new(self.target.clone(), setup).map_err(anyhow::Error::msg)?;
        connector.connect().await.with_context(|| format!("cannot connect to {}", self.target))
    }

    /// Takes back, in reverse order, the stages that are recorded in the database.
    async fn take_back_all(&self, stages: &[Stage]) -> anyhow::Result<()> {
        let session = self.connect().await?;
        session
            .client
            .batch_execute(
                "SET client_min_messages = warning; CREATE SCHEMA IF NOT EXISTS pgload; \
                 CREATE TABLE IF NOT EXISTS pgload.stage (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())",
            )
            .await?;
        let rows = session.client.query("SELECT name FROM pgload.stage ORDER BY name DESC", &[]).await?;
        for name in rows.iter().map(|row| row.get::<_, String>(0)) {
            let stage = stages.iter().find(|stage| stage.name == name);
            let stage = stage.with_context(|| {
                format!("stage {name} is applied, and there is no file that takes it back")
            })?;
            self.take_back(stage).await?;
        }
        Ok(())
    }

    async fn take_back(&self, stage: &Stage) -> anyhow::Result<()> {
        let session = self.connect().await?;
        let down = async {
            session.client.batch_execute("BEGIN").await?;
            session.client.batch_execute(&stage.down).await?;
            session.client.execute("DELETE FROM pgload.stage WHERE name = $1", &[&stage.name]).await?;
            session.client.batch_execute("COMMIT").await
        };
        down.await.with_context(|| format!("cannot take back stage {}", stage.name))
    }

    /// Applies a stage; returns the seconds that took, and the statements that return something else with it.
    async fn apply(&mut self, stage: &Stage) -> anyhow::Result<(f64, Vec<String>)> {
        let session = self.connect().await?;
        // What the stages before have stored is brought up to date, so that all see the same data.
        refresh(&session.client, &self.kept).await?;
        let bound = self.reads.bind(&session.client).await?;
        let mut expected = Vec::new();
        for (name, _) in &stage.rewrites {
            expected.push(self.results(&session.client, &bound, name).await?);
        }
        let begun = Instant::now();
        session.client.batch_execute("BEGIN; SET LOCAL maintenance_work_mem = '128MB'").await?;
        session.client.batch_execute(&stage.up).await?;
        session.client.execute("INSERT INTO pgload.stage (name) VALUES ($1)", &[&stage.name]).await?;
        session.client.batch_execute("COMMIT").await?;
        let seconds = begun.elapsed().as_secs_f64();
        let mut different = Vec::new();
        for ((name, sql), expected) in stage.rewrites.iter().zip(expected) {
            self.reads.rewrite(name, sql)?;
            if self.results(&session.client, &bound, name).await? != expected {
                different.push(name.clone());
            }
        }
        Ok((seconds, different))
    }

    /// Digests of what a statement returns for a few parameters.
    async fn results(&self, client: &Client, bound: &Bound, name: &str) -> anyhow::Result<Vec<String>> {
        let index = self.reads.statements.iter().position(|statement| statement.name == name);
        let index = index.with_context(|| format!("there is no statement `{name}`"))?;
        let mut digests = Vec::new();
        for number in 0..3 {
            let values = bound.values(index, &mut Rng::new(self.settings.seed, 105, number));
            digests.push(digest(client, &self.reads, index, &values).await.with_context(|| name.to_owned())?);
        }
        Ok(digests)
    }

    fn measure(
        &mut self,
        runtime: &tokio::runtime::Runtime,
        stage: &str,
        description: &str,
        applied_in: f64,
        say: Say,
    ) -> anyhow::Result<Measured> {
        say(&format!("{stage}: measuring"));
        let (figures, bytes) = runtime.block_on(self.measure_reads())?;
        let writes = self.measure_writes(runtime)?;
        Ok(Measured {
            stage: stage.to_owned(),
            description: description.to_owned(),
            applied_in,
            bytes,
            figures,
            writes,
            ratio: 1.0,
            kept: true,
            reason: String::new(),
        })
    }

    async fn measure_reads(&mut self) -> anyhow::Result<(Vec<Figure>, i64)> {
        let session = self.connect().await?;
        let client = &session.client;
        refresh(client, &self.kept).await?;
        client.batch_execute("VACUUM (ANALYZE)").await.context("cannot vacuum")?;
        let bound = self.reads.bind(client).await?;
        let mut figures = Vec::new();
        for (index, statement) in self.reads.statements.iter().enumerate() {
            ensure!(
                statement.kind == Kind::Read && statement.steps.len() == 1,
                "{} does more than read",
                statement.name
            );
            let step = &statement.steps[0];
            let prepared = client.prepare(&step.sql).await.with_context(|| statement.name.clone())?;
            let mut histogram = Histogram::<u64>::new(3)?;
            let begun = Instant::now();
            // The first is not counted: it fetches what the others find in memory.
            for number in 0..=self.settings.most {
                let enough = number > self.settings.least && begun.elapsed() >= self.settings.time;
                if enough || self.stop.is_set() {
                    break;
                }
                let values = bound.values(index, &mut Rng::new(self.settings.seed, 106, number));
                let parameters = parameters(&step.parameters, &values);
                let at = Instant::now();
                client.execute(&prepared, &parameters).await.with_context(|| statement.name.clone())?;
                if number > 0 {
                    histogram.record(at.elapsed().as_micros() as u64)?;
                }
            }
            let values = bound.values(index, &mut Rng::new(self.settings.seed, 106, 1));
            let plan = plan::explain(client, step, &values, true).await?;
            let changes = self.plans.get(&statement.name).map(|before| plan::difference(before, &plan));
            figures.push(Figure {
                name: statement.name.clone(),
                runs: histogram.len(),
                p50: histogram.value_at_quantile(0.5) as f64 / 1e3,
                p95: histogram.value_at_quantile(0.95) as f64 / 1e3,
                plan: plan::shape(&plan),
                changes: changes.unwrap_or_default(),
            });
            self.plans.insert(statement.name.clone(), plan);
        }
        let sql = "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class \
                   WHERE relnamespace = 'wms'::regnamespace AND relkind IN ('r', 'm')";
        Ok((figures, client.query_one(sql, &[]).await?.get(0)))
    }

    fn measure_writes(&self, runtime: &tokio::runtime::Runtime) -> anyhow::Result<Writes> {
        if self.settings.write_time.is_zero() || self.stop.is_set() {
            return Ok(Writes::default());
        }
        let wal = || {
            runtime.block_on(async {
                let counters = Counters::read(&self.connect().await?.client).await?;
                anyhow::Ok(counters.0.get("wal_position").copied().unwrap_or_default())
            })
        };
        let options = Options {
            load: Load::Closed { clients: self.settings.write_clients, think: Duration::ZERO },
            warmup: self.settings.write_time / 5,
            duration: self.settings.write_time,
            statements: None,
            seed: self.settings.seed,
            tries: 20,
            deadline: Duration::from_secs(30),
            pipeline: true,
            ledger: None,
            id: String::new(),
            run: 0,
            started: String::new(),
            metrics: None,
            stage: String::new(),
            live: Live::No,
            live_file: None,
        };
        let before = wal()?;
        let measured = run::run(self.target, self.writes, &options, self.stop)?;
        let bytes = wal()? - before;
        let good: u64 = measured.statements.iter().map(|statement| statement.counts.ok).sum();
        let p95 =
            measured.statements.iter().map(|statement| statement.response.value_at_quantile(0.95)).max();
        // Warm-up wrote WAL, too.
        let all = good as f64 * 1.2;
        Ok(Writes {
            rate: good as f64 / measured.elapsed.max(1e-9),
            p95: p95.unwrap_or_default() as f64 / 1e3,
            wal: bytes / all.max(1.0),
        })
    }
}

async fn refresh(client: &Client, stages: &[Stage]) -> anyhow::Result<()> {
    for stage in stages.iter().filter(|stage| !stage.refresh.is_empty()) {
        client
            .batch_execute(&stage.refresh)
            .await
            .with_context(|| format!("cannot refresh {}", stage.name))?;
    }
    Ok(())
}

fn parameters<'a>(names: &[String], values: &'a Values) -> Vec<&'a (dyn ToSql + Sync)> {
    let value = |name: &String| values.iter().find(|(known, _)| known == name).map(|(_, value)| value as _);
    names.iter().filter_map(value).collect()
}

/// SHA-256 of everything a statement returns, in order.
async fn digest(
    client: &Client,
    workload: &Workload,
    index: usize,
    values: &Values,
) -> anyhow::Result<String> {
    let step = &workload.statements[index].steps[0];
    let prepared = client.prepare(&step.sql).await?;
    let rows = client.query(&prepared, &parameters(&step.parameters, values)).await?;
    let mut digest = Sha256::new();
    for row in &rows {
        for column in 0..row.len() {
            let AsSent(ty, bytes) = row.try_get(column)?;
            digest.update(ty.name());
            digest.update(format!("{bytes:?}"));
        }
        digest.update("\n");
    }
    Ok(format!("{} rows {}", rows.len(), hex(&digest.finalize())))
}
