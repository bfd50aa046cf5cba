//! Where a run took place: what has to be the same for two runs to be comparable, or explains why they differ.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, Row};

/// Server, data and machine of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// Of this program.
    pub pgload: String,
    /// Of the server, in its words.
    pub server: String,
    /// `primary` or `standby`, with its standbys and their state.
    pub topology: Vec<String>,
    /// Settings that are not the default's.
    pub settings: BTreeMap<String, String>,
    /// Which data: seed, scale and digest, when `pgload init` made it.
    pub dataset: Option<String>,
    /// Bytes of tables, indexes and materialised views, by schema.
    pub sizes: BTreeMap<String, i64>,
    /// Machine that pgload runs on: kernel and cores.
    pub client: String,
}

/// Counters of the server that only grow.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters(pub BTreeMap<String, f64>);

impl Counters {
    /// How much they grew since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let grown = |(name, value): (&String, &f64)| {
            (name.clone(), value - before.0.get(name).copied().unwrap_or_default())
        };
        Self(self.0.iter().map(grown).collect())
    }

    /// Reads them.
    ///
    /// # Errors
    /// The server's.
    pub async fn read(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let sql = "SELECT xact_commit::float8, xact_rollback::float8, blks_read::float8, blks_hit::float8, \
                   tup_returned::float8, tup_fetched::float8, tup_inserted::float8, tup_updated::float8, \
                   tup_deleted::float8, temp_files::float8, temp_bytes::float8, deadlocks::float8, conflicts::float8 \
                   FROM pg_stat_database WHERE datname = current_database()";
        let mut counters = BTreeMap::new();
        let mut add = |row: &Row| {
            for (index, column) in row.columns().iter().enumerate() {
                counters.insert(column.name().to_owned(), row.get(index));
            }
        };
        add(&client.query_one(sql, &[]).await?);
        // Views of version 14 and of primaries only: what is not there is not counted.
        for sql in [
            "SELECT wal_bytes::float8, wal_records::float8, wal_fpi::float8 FROM pg_stat_wal",
            "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8 AS wal_position",
        ] {
            if let Ok(row) = client.query_one(sql, &[]).await {
                add(&row);
            }
        }
        Ok(Self(counters))
    }
}

impl Environment {
    /// Asks the server and looks at this machine.
    ///
    /// # Errors
    /// The server's.
    pub async fn read(client: &Client) -> Result<Self, tokio_postgres::Error> {
        let pairs = |rows: Vec<Row>| rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        let settings = "SELECT name, setting || coalesce(unit, '') FROM pg_settings \
                        WHERE source NOT IN ('default', 'override', 'client', 'session') AND setting IS DISTINCT FROM boot_val \
                        AND name !~ '(file|directory|directories|_path|listen_addresses|conninfo)$'";
        let settings = pairs(client.query(settings, &[]).await?);
        let sizes = "SELECT nspname || CASE relkind WHEN 'i' THEN ' indexes' WHEN 'm' THEN ' materialised views' \
                     ELSE ' tables' END, sum(pg_relation_size(c.oid))::bigint \
                     FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
                     WHERE relkind IN ('r', 'i', 'm') AND nspname !~ '^pg_' AND nspname <> 'information_schema' \
                     GROUP BY 1 ORDER BY 1";
        let sizes = client.query(sizes, &[]).await?;
        let topology = "SELECT CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE 'primary' END \
                        UNION ALL SELECT format('%s %s %s', application_name, state, sync_state) FROM pg_stat_replication";
        Ok(Self {
            pgload: env!("CARGO_PKG_VERSION").to_owned(),
            server: client.query_one("SELECT version()", &[]).await?.get(0),
            topology: client.query(topology, &[]).await?.iter().map(|row| row.get(0)).collect(),
            settings,
            dataset: dataset(client).await,
            sizes: sizes.iter().map(|row| (row.get(0), row.get(1))).collect(),
            client: client_machine(),
        })
    }
}

async fn dataset(client: &Client) -> Option<String> {
    let sql = "SELECT format('seed %s, scale %s, digest %s', seed, shards / 16.0::float8, left(digest, 16)) FROM wms.dataset";
    client.query_opt(sql, &[]).await.ok().flatten().and_then(|row| row.get(0))
}

fn client_machine() -> String {
    let name = rustix::system::uname();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{} {} {}, {cores} cores",
        name.sysname().to_string_lossy(),
        name.release().to_string_lossy(),
        name.machine().to_string_lossy()
    )
}
