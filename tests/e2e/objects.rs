//! What a topology no longer has goes from PostgreSQL too; what was made by hand stays.

use anyhow::{Result, ensure};

use crate::suite::{Lab, MAIN, PAIR, Suite, UP_LIMIT};

const USERS: &str = "select string_agg(rolname, ',' order by rolname) from pg_roles where rolname in ('anna', 'ben', 'byhand')";
const DATABASES: &str =
    "select string_agg(datname, ',' order by datname) from pg_database where datname in ('extra', 'byhand')";

/// Users, their memberships, extensions and databases come and go with the topology: users only when they own nothing,
/// databases only when that is confirmed.
pub fn users_and_databases_come_and_go(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let text = suite.repository_file("topologies/lab.yaml")?;
    let with = |users: &str, extra: &str| {
        let edited =
            text.replace("  databases:\n", &format!("  hba: [{{ user: ben, address: 10.1.0.0/16, method: reject }}]\n  users: [{users}]\n  databases:\n    - {extra}\n"));
        ensure!(edited != text, "expected `databases:` in\n{text}");
        Ok(edited)
    };
    lab.psql("m", "create role byhand login")?;
    lab.psql("m", "create database byhand")?;
    let extra = "{ name: extra, owner: anna, extensions: [pg_trgm, citext] }";
    let all = suite
        .file("objects.yaml", &with("{ name: anna, member_of: [pg_monitor] }, { name: ben }", extra)?)?;
    let plan = suite.pgprov(["plan"]).args([&all]).run()?.exits(4)?;
    plan.says("+ create user anna")?.says("+ create database extra")?;
    lab.up(&all)?.exits(0)?;
    let rules = "select count(*) from pg_hba_file_rules where user_name = '{ben}'";
    ensure!(
        [lab.psql("m", rules)?, lab.psql("s", rules)?] == ["1", "1"],
        "expected the line for ben in pg_hba.conf"
    );
    goes_in_part(&lab, suite, &with("{ name: anna }, { name: ben }", &extra.replace(", citext", ""))?)?;

    // Ben owns a table now: he stays until somebody says what becomes of it.
    lab.exec("m", "runuser -u postgres -- psql -XAtqd wms -c 'create schema ben authorization ben'")?;
    let refused = suite.pgprov(["up", "--yes"]).args([&lab.file]).limit(200).run()?.exits(1)?;
    refused
        .says("user ben cannot be dropped: it owns objects, or has privileges, in database wms")?
        .says("DROP OWNED BY ben")?;
    lab.exec("m", "runuser -u postgres -- psql -XAtqd wms -c 'drop owned by ben'")?;
    let plan = suite.pgprov(["plan"]).args([&lab.file]).run()?.exits(4)?;
    plan.says("- drop user ben")?;
    ensure!(lab.psql("m", rules)? == "0", "expected the line for ben to be gone from pg_hba.conf");
    suite.pgprov(["up", "--yes"]).args([&lab.file]).limit(200).ok()?;
    ensure!(
        lab.psql("m", USERS)? == "byhand" && lab.psql("m", DATABASES)? == "byhand",
        "expected what was made by hand"
    );
    lab.psql("m", "drop database byhand")?;
    lab.psql("m", "drop role byhand")?;
    lab.is_as_its_topology_says()
}

fn goes_in_part(lab: &Lab, suite: &Suite, text: &str) -> Result<()> {
    let groups = "select count(*) from pg_auth_members where member = 'anna'::regrole";
    let extensions = "runuser -u postgres -- psql -XAtqd extra -c \"select string_agg(extname, ',') from pg_extension where extname <> 'plpgsql'\"";
    ensure!(
        lab.psql("m", groups)? == "1" && lab.exec("m", extensions)? == "pg_trgm,citext",
        "expected what was asked for"
    );
    let part = suite.file("part.yaml", text)?;
    lab.up(&part)?.exits(0)?;
    ensure!(lab.psql("m", groups)? == "0", "expected anna to be no member of pg_monitor any more");
    let left = lab.exec("m", extensions)?;
    ensure!(left == "pg_trgm", "expected pg_trgm only, got {left}");
    // Without consent nothing goes.
    let refused = lab.up(&lab.file)?.exits(2)?;
    refused.says("drop database extra and all data in it on m")?.says("--yes")?;
    ensure!(lab.psql("m", DATABASES)? == "byhand,extra", "expected the database to be there without consent");
    Ok(())
}

/// What somebody set over rendered settings with ALTER SYSTEM is shown, and taken back.
pub fn alter_system_is_drift(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let wanted = lab.psql("s", "show work_mem")?;
    lab.psql("s", "alter system set work_mem = '77MB'")?;
    lab.psql("s", "alter system set default_statistics_target = 321")?;
    lab.psql("s", "select pg_reload_conf()")?;
    lab.psql_becomes("s", "show work_mem", "77MB")?;
    let plan = suite.pgprov(["plan"]).args([&lab.file]).run()?.exits(4)?;
    plan.says("- ALTER SYSTEM SET work_mem = '77MB'")?.says("1 change")?;
    lab.up(&lab.file)?.exits(0)?.says("1 change")?;
    lab.psql_becomes("s", "show work_mem", &wanted)?;
    // What the topology does not set is the user's.
    lab.psql_becomes("s", "show default_statistics_target", "321")?;
    lab.psql("s", "alter system reset default_statistics_target")?;
    lab.psql("s", "select pg_reload_conf()")?;
    lab.is_as_its_topology_says()
}

/// Where nobody else takes care of replication, its settings are drift like others; but not after a failover by hand, which
/// `up` must not undo.
pub fn altered_replication_is_drift(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&PAIR)?;
    let slot = lab.psql("s", "show primary_slot_name")?;
    let reloaded = |host: &str, sql: &str| -> Result<()> {
        lab.psql(host, sql)?;
        lab.psql(host, "select pg_reload_conf()").map(drop)
    };
    reloaded("m", "alter system set synchronous_standby_names = 's'")?;
    reloaded("s", "alter system set primary_slot_name = ''")?;
    lab.psql_becomes("s", "show primary_slot_name", "")?;
    let plan = suite.pgprov(["plan"]).args([&lab.file]).run()?.exits(4)?;
    plan.says("- ALTER SYSTEM SET synchronous_standby_names = 's'")?
        .says("- ALTER SYSTEM SET primary_slot_name = ''")?
        .says("2 changes")?;
    lab.up(&lab.file)?.exits(0)?;
    lab.psql_becomes("m", "show synchronous_standby_names", "")?;
    lab.psql_becomes("s", "show primary_slot_name", &slot)?;
    lab.is_as_its_topology_says()?;

    lab.psql("s", "select pg_promote()")?;
    reloaded("s", "alter system set primary_slot_name = 'of_mine'")?;
    let plan = suite.pgprov(["plan"]).args([&lab.file]).run()?;
    ensure!(!plan.to_string().contains("ALTER SYSTEM"), "expected it to be left alone:\n{plan}");
    lab.pgprov("reset", []).limit(UP_LIMIT).ok()?;
    lab.is_as_its_topology_says()
}
