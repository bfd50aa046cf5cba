//! A role of one's own: examples/pgbouncer, made of YAML and templates only.

use anyhow::{Result, ensure};

use crate::{
    command::Program,
    suite::{Suite, UP_LIMIT},
};

const ASSETS: &str = "examples/pgbouncer";

/// Clients reach the server through the pool, with the certificate and the password that they know already; many of them share
/// few connections; the role says how many.
pub fn pool_of_connections(suite: &Suite) -> Result<()> {
    let assets = suite.repository().join(ASSETS);
    let file = assets.join("lab.yaml");
    let pgprov =
        |words: &[&str]| -> Program { suite.pgprov(words).env("PGPROV_ASSETS", &assets).limit(UP_LIMIT) };
    suite.destroy_all()?;
    pgprov(&["up", "--yes"]).args([&file]).ok()?;
    let pool = "service=pooled-rw port=6432";
    let on_client = |script: &str| pgprov(&["ssh", "--lab", "pooled", "client", script]).ok();
    on_client(&format!(
        "psql -XAtqw '{pool}' -c 'create table seen (id int)' -c 'insert into seen values (7)'"
    ))?;
    on_client("psql -XAtqw service=pooled-rw -c 'select id from seen'")?.prints("7")?;
    // Twenty clients with transactions, five connections.
    on_client(&format!(
        "echo 'select pg_sleep(0.05), pg_backend_pid();' >/tmp/pid.sql; \
         pgbench -n -M prepared -c 20 -j 2 -t 5 -f /tmp/pid.sql '{pool}' >/tmp/bench 2>&1 || {{ cat /tmp/bench; exit 1; }}"
    ))?;
    let servers =
        "select count(*) from pg_stat_activity where usename = 'shop' and backend_type = 'client backend'";
    let count: u32 = on_client(&format!("psql -XAtqw '{pool}' -c \"{servers}\""))?.text().parse()?;
    ensure!((1..=5).contains(&count), "expected at most five connections of the pool, got {count}");
    let status = pgprov(&["status", "-o", "json", "pooled"]).ok()?.json()?;
    ensure!(status.to_string().contains(r#""servers":"#), "expected the pool in the status: {status:#}");
    pgprov(&["plan"]).args([&file]).ok()?.says("nothing to do")?;
    pgprov(&["destroy", "--yes"]).args([&file]).ok().map(drop)
}
