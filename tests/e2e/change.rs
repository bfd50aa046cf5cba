//! A lab that stands is kept in line with its topology, with as little as is needed.

use anyhow::{Result, ensure};

use crate::suite::{MAIN, Suite};

/// When there is nothing to do, `plan` and `up` say so and do nothing.
pub fn second_up_changes_nothing(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    lab.is_as_its_topology_says()?;
    let before = lab.psql("m", "select pg_postmaster_start_time(), pg_conf_load_time()")?;
    let again = lab.up(&lab.file)?.exits(0)?.says("0 changes")?;
    ensure!(again.stdout.lines().count() == 1, "expected one line on stdout of\n{again}");
    let json = suite.pgprov(["up", "-o", "json"]).args([&lab.file]).ok()?;
    ensure!(json.json()?["changes"] == 0, "expected `changes` to be 0 in\n{json}");
    let after = lab.psql("m", "select pg_postmaster_start_time(), pg_conf_load_time()")?;
    ensure!(before == after, "expected neither restart nor reload: {before} became {after}");
    Ok(())
}
