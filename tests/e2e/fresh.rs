//! A lab made from nothing is what its topology says.

use anyhow::{Result, ensure};

use crate::suite::{MAIN, PAIR, Suite, TWELVE, UP_LIMIT, host};

/// `up` makes four VMs and says how to connect.
pub fn up_from_nothing(suite: &Suite) -> Result<()> {
    suite.pgprov(["destroy", "--yes", MAIN.name]).limit(120).ok()?;
    suite.forget(&MAIN);
    let made = suite.lab(&MAIN)?.made;
    for text in ["lab lab is up: ", "HOST", "Connect:\n", "psql service=lab-rw", "pgprov ssh m --lab lab"] {
        ensure!(made.stdout.contains(text), "expected {text:?} on stdout of\n{made}");
    }
    for name in ["m", "s", "arbiter", "client"] {
        let done = made.stderr.lines().any(|line| {
            line.contains(&format!("✓ {name} ")) && line.contains(" up in ") && line.contains("configured in")
        });
        ensure!(done, "expected a line with the times of {name} on stderr of\n{made}");
    }
    Ok(())
}

/// `status -o json` has all hosts, with roles, addresses and replication.
pub fn status_as_json(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let status = lab.status()?;
    for (name, role) in [("m", "primary"), ("s", "standby"), ("arbiter", "arbiter"), ("client", "client")] {
        let host = host(&status, name)?;
        let address = |key: &str| host[key].as_str().unwrap_or_default().to_owned();
        ensure!(
            host["role"] == role && host["state"] == "running",
            "expected {name} to be a running {role}: {host:#}"
        );
        ensure!(
            address("address").starts_with("10.77.10."),
            "expected {name} on the network of the topology: {host:#}"
        );
        ensure!(
            !address("mgmt_address").starts_with("10.77.10."),
            "expected another management network: {host:#}"
        );
        ensure!(
            host["uptime_seconds"].as_u64().is_some_and(|uptime| uptime > 0),
            "expected an uptime: {host:#}"
        );
        ensure!(host["error"].is_null(), "expected no error: {host:#}");
    }
    let (m, s) = (&host(&status, "m")?["postgres"], &host(&status, "s")?["postgres"]);
    for server in [m, s] {
        let version = server["version"].as_str().unwrap_or_default();
        ensure!(
            server["accepting"] == true && version.starts_with("17."),
            "expected PostgreSQL 17: {server:#}"
        );
        ensure!(
            server["pending_restart"].as_array().is_some_and(Vec::is_empty),
            "expected none pending: {server:#}"
        );
    }
    ensure!(m["in_recovery"] == false && m["standbys"][0] == "s", "expected a primary with standby s: {m:#}");
    ensure!(
        s["in_recovery"] == true && s["receiver"] == "streaming",
        "expected a standby that streams: {s:#}"
    );
    ensure!(s["sync_state"] == "sync", "expected sync_state sync: {s:#}");
    ensure!(s["lag_bytes"].as_u64().is_some_and(|lag| lag < 1 << 20), "expected a lag below 1 MiB: {s:#}");
    ensure!(s["lag_seconds"].as_f64().is_some_and(|lag| lag < 10.0), "expected a lag below 10 s: {s:#}");
    suite.pgprov(["status"]).ok()?.says("sync")?.says("10.77.10.").map(drop)
}

/// What is committed on the primary can be read on the standby.
pub fn row_on_primary_is_read_on_standby(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    lab.psql("m", "create table if not exists notes (id int generated always as identity, body text)")?;
    lab.psql("m", "insert into notes (body) values ('written on m')")?;
    lab.psql_becomes("s", "select distinct body from notes", "written on m")
}

/// The standby refuses to write.
pub fn standby_is_read_only(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let refused = lab.try_psql("s", "create table refused ()")?;
    ensure!(refused.code != Some(0), "expected a failure of\n{refused}");
    refused.says("cannot execute CREATE TABLE in a read-only transaction").map(drop)
}

/// A standby that is made together with its primary is no copy over the network: both began as what the image has, and are the same.
pub fn standby_begins_as_what_the_image_has(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let labels = "ls /var/lib/postgresql/17/main | grep backup_label || echo none";
    let label = lab.exec("s", labels)?;
    ensure!(label == "none", "expected no base backup of s, it has {label}");
    let identifier = "select system_identifier from pg_control_system()";
    let (of_m, of_s) = (lab.psql("m", identifier)?, lab.psql("s", identifier)?);
    ensure!(of_m == of_s, "expected one system identifier, got {of_m} on m and {of_s} on s");
    let origin = lab.exec("m", "ls /usr/lib/pgprov/postgres")?;
    ensure!(origin.is_empty(), "expected what the image had to be in use, {origin} is left");
    let rows = |table: &str| format!("(select md5(string_agg(t::text, ',' order by oid)) from {table} t)");
    let tables = ["pg_class", "pg_proc", "pg_type", "pg_operator", "pg_collation", "pg_authid"].map(rows);
    let sums = format!("select concat_ws(' ', {})", tables.join(", "));
    let of_m = lab.psql("m", &sums)?;
    ensure!(of_m.split(' ').count() == 6, "expected six sums, got {of_m}");
    lab.psql_becomes("s", &sums, &of_m)
}

/// Another release in the topology of a lab that stands: its hosts are made anew, with consent, and back again.
pub fn another_release_replaces_hosts(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&PAIR)?;
    let text = std::fs::read_to_string(&lab.file)?;
    let file = suite.file("older.yaml", &format!("{text}image: debian-12\n"))?;
    let boot = lab.exec("m", "cat /proc/sys/kernel/random/boot_id")?;
    lab.up(&file)?.exits(2)?.says("destroy m and its disk, which is of image debian-13-")?.says("--yes")?;
    ensure!(
        lab.exec("m", "cat /proc/sys/kernel/random/boot_id")? == boot,
        "expected m to be left alone without consent"
    );
    for (file, version) in [(&file, "15."), (&lab.file, "17.")] {
        suite.pgprov(["up", "--yes"]).args([file]).limit(UP_LIMIT).ok()?;
        for name in ["m", "s"] {
            let now = lab.psql(name, "show server_version")?;
            ensure!(now.starts_with(version), "expected PostgreSQL {version} on {name}, it is {now}");
        }
        lab.streams("m", "s", version)?;
        suite.pgprov(["plan"]).args([file]).ok()?.says("nothing to do")?;
        lab.pgprov("reset", []).limit(UP_LIMIT).ok()?.says("checkpoint ready")?;
    }
    lab.is_as_its_topology_says()
}

/// The older release, with the PostgreSQL it has.
pub fn debian_12(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&TWELVE)?;
    let status = lab.status()?;
    for name in ["m", "s"] {
        let version = &host(&status, name)?["postgres"]["version"];
        let expected = version.as_str().is_some_and(|version| version.starts_with("15."));
        ensure!(expected, "expected PostgreSQL 15 on {name} in {status:#}");
    }
    let release = lab.exec("m", ". /etc/os-release; echo $VERSION_ID; systemctl is-system-running")?;
    ensure!(release == "12\nrunning", "expected a running Debian 12, got {release:?}");
    lab.streams("m", "s", "on debian-12")?;
    lab.is_as_its_topology_says()
}
