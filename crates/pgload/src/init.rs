//! `pgload init`: schema, data by binary COPY on several connections, keys, statistics. Interrupted at any point, the next
//! run goes on with the parts that are missing.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures_util::SinkExt as _;
use tokio_postgres::{Client, CopyInSink};

use crate::{
    assets::Assets,
    data::{self, Generator, Part, Scale},
    session::{Connector, Session},
    target::Target,
};

/// What to make.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names the data.
    pub seed: u64,
    /// How much.
    pub scale: Scale,
    /// Connections that load at the same time.
    pub jobs: usize,
    /// Drop what is there, whatever it is.
    pub replace: bool,
}

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Rows loaded by this run.
    pub rows: u64,
    /// Parts that were there already.
    pub parts_kept: usize,
    /// Of all data.
    pub digest: String,
    /// Size of the database, bytes.
    pub bytes: i64,
}

/// Follows the loading: parts done of all, rows so far.
pub type Progress = Arc<dyn Fn(usize, usize, u64) + Send + Sync>;

/// What is in the database before.
enum Present {
    Nothing,
    Incomplete { parts: Vec<i32> },
    Complete { digest: String },
}

/// Makes the warehouse `options` ask for, or what is missing of it.
///
/// # Errors
/// Another data set is there and `replace` is not set; whatever the server says.
pub async fn run(
    target: &Target,
    assets: &Assets,
    options: &Options,
    progress: Progress,
) -> anyhow::Result<Report> {
    let session = connect(target).await?;
    let client = &session.client;
    let generator = Arc::new(Generator::new(options.seed, options.scale));
    let done = match present(client, options).await? {
        Present::Complete { digest } => {
            let bytes = size(client).await?;
            return Ok(Report { rows: 0, parts_kept: generator.parts().len(), digest, bytes });
        }
        Present::Incomplete { parts } => parts,
        Present::Nothing => {
            create(client, assets, options).await?;
            Vec::new()
        }
    };
    let missing: Vec<i32> = generator.parts().filter(|part| !done.contains(part)).collect();
    let rows = load(target, &generator, missing, done.len(), options.jobs, progress).await?;
    let finish = async {
        client.batch_execute("BEGIN; SET LOCAL maintenance_work_mem = '128MB'").await?;
        client.batch_execute(assets.text("wms/02-constraints.sql")?).await?;
        let parts = client.query("SELECT digest FROM wms.dataset_part ORDER BY part", &[]).await?;
        let digest = data::digest(parts.iter().map(|row| row.get::<_, String>(0)));
        client.execute("UPDATE wms.dataset SET complete = true, digest = $1", &[&digest]).await?;
        client.batch_execute("COMMIT").await?;
        anyhow::Ok(digest)
    };
    let digest = finish.await.context("cannot add keys")?;
    client.batch_execute("VACUUM (ANALYZE)").await.context("cannot vacuum")?;
    Ok(Report { rows, parts_kept: done.len(), digest, bytes: size(client).await? })
}

async fn connect(target: &Target) -> anyhow::Result<Session> {
    let connector = Connector::new(target.clone(), String::new()).map_err(anyhow::Error::msg)?;
    connector.connect().await.with_context(|| format!("cannot connect to {target}"))
}

async fn size(client: &Client) -> anyhow::Result<i64> {
    let sql = "SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c \
               WHERE relnamespace = 'wms'::regnamespace AND relkind IN ('r', 'm', 'p')";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

async fn present(client: &Client, options: &Options) -> anyhow::Result<Present> {
    let exists = client
        .query_one("SELECT to_regnamespace('wms') IS NOT NULL, to_regclass('wms.dataset') IS NOT NULL", &[])
        .await?;
    let (schema, dataset): (bool, bool) = (exists.get(0), exists.get(1));
    if !schema || options.replace {
        return Ok(Present::Nothing);
    }
    let row = match dataset {
        true => {
            client.query_opt("SELECT version, seed, shards, complete, digest FROM wms.dataset", &[]).await?
        }
        false => None,
    };
    let hint = "use --replace to drop schema wms and load it anew";
    let Some(row) = row else { bail!("schema wms is there, but not made by pgload init; {hint}") };
    let (version, seed, shards): (i32, i64, i32) = (row.get(0), row.get(1), row.get(2));
    if (version, seed as u64, shards) != (data::VERSION, options.seed, options.scale.shards) {
        let scale = f64::from(shards) / data::SHARDS_PER_SCALE;
        bail!("schema wms holds data of seed {}, scale {scale}, generator {version}; {hint}", seed as u64);
    }
    if row.get(3) {
        return Ok(Present::Complete { digest: row.get(4) });
    }
    let parts = client.query("SELECT part FROM wms.dataset_part", &[]).await?;
    Ok(Present::Incomplete { parts: parts.iter().map(|row| row.get(0)).collect() })
}

async fn create(client: &Client, assets: &Assets, options: &Options) -> anyhow::Result<()> {
    let create = async {
        client
            .batch_execute(
                "BEGIN; SET LOCAL client_min_messages = warning; DROP SCHEMA IF EXISTS wms CASCADE",
            )
            .await?;
        // No stage of optimisation is applied to what is about to be made.
        let exists = client.query_one("SELECT to_regclass('pgload.stage') IS NOT NULL", &[]).await?;
        if exists.get(0) {
            client.batch_execute("DELETE FROM pgload.stage").await?;
        }
        client.batch_execute(assets.text("wms/01-tables.sql")?).await?;
        let epoch = "date '1970-01-01'";
        let sql = format!(
            "INSERT INTO wms.dataset (version, seed, shards, first_day, last_day) \
             VALUES ($1, $2, $3, {epoch} + $4::int, {epoch} + $5::int)"
        );
        let seed = options.seed as i64;
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&data::VERSION, &seed, &options.scale.shards, &data::FIRST_DAY, &data::LAST_DAY];
        client.execute(&sql, &values).await?;
        client.batch_execute("COMMIT").await?;
        anyhow::Ok(())
    };
    create.await.context("cannot create the tables")
}

/// Loads parts on `jobs` connections, each part in a transaction of its own together with the record that it is there.
async fn load(
    target: &Target,
    generator: &Arc<Generator>,
    parts: Vec<i32>,
    kept: usize,
    jobs: usize,
    progress: Progress,
) -> anyhow::Result<u64> {
    let all = parts.len() + kept;
    let next = Arc::new(AtomicUsize::new(0));
    let rows = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let finished = Arc::new(AtomicUsize::new(kept));
    let parts = Arc::new(parts);
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..jobs.clamp(1, parts.len().max(1)) {
        let session = connect(target).await?;
        let (generator, parts, next) = (generator.clone(), parts.clone(), next.clone());
        let (rows, finished, progress) = (rows.clone(), finished.clone(), progress.clone());
        tasks.spawn(async move {
            session.client.batch_execute("SET search_path = wms").await?;
            while let Some(number) = parts.get(next.fetch_add(1, Ordering::Relaxed)).copied() {
                let generator = generator.clone();
                let part = tokio::task::spawn_blocking(move || generator.part(number)).await?;
                let count = part.rows;
                load_part(&session.client, number, part)
                    .await
                    .with_context(|| format!("cannot load part {number}"))?;
                let rows = rows.fetch_add(count, Ordering::Relaxed) + count;
                progress(finished.fetch_add(1, Ordering::Relaxed) + 1, all, rows);
            }
            anyhow::Ok(())
        });
    }
    while let Some(result) = tasks.join_next().await {
        result??;
    }
    Ok(rows.load(Ordering::Relaxed))
}

async fn load_part(client: &Client, number: i32, part: Part) -> anyhow::Result<()> {
    client.batch_execute("BEGIN").await?;
    for (table, columns, rows) in part.tables {
        let copy = async {
            let sink =
                client.copy_in(&format!("COPY {table} ({columns}) FROM STDIN (FORMAT binary)")).await?;
            let mut sink = pin!(sink as CopyInSink<Bytes>);
            let mut rows = Bytes::from(rows);
            while !rows.is_empty() {
                sink.as_mut().send(rows.split_to(rows.len().min(1 << 18))).await?;
            }
            sink.finish().await
        };
        copy.await.with_context(|| format!("cannot copy into {table}"))?;
    }
    client
        .execute("INSERT INTO dataset_part (part, digest) VALUES ($1, $2)", &[&number, &part.digest])
        .await?;
    client.batch_execute("COMMIT").await?;
    Ok(())
}
