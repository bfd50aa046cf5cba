//! What cannot work is refused before anything is changed; what takes too long says what it waited for.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    neighbours::nothing_left,
    suite::{MAIN, PAIR, Suite, UP_LIMIT},
};

/// A lab that needs more memory than there is is refused with a table.
pub fn too_little_memory_is_refused(suite: &Suite) -> Result<()> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    let gib: u64 = kib.map(|kib: u64| (kib >> 20) + 1).context("no MemTotal in /proc/meminfo")?;
    let hosts = "  a: { roles: [arbiter] }\n  m: { roles: [postgres] }\n";
    let file = suite.file("huge.yaml", &format!("lab: huge\nvm: {{ memory: {gib}GiB }}\nhosts:\n{hosts}"))?;
    let before = suite.everything()?;
    let refused = suite.pgprov(["up"]).args([&file]).run()?.exits(1)?;
    refused
        .says("not enough room for lab huge")?
        .says("needed")?
        .says("memory")?
        .says(&format!("{}.", gib * 2))?;
    ensure!(suite.everything()? == before, "expected no change by a refused `up`");
    Ok(())
}

/// A lab that needs more disk than the pool has is refused with a table, before anything is copied.
pub fn too_small_pool_is_refused(suite: &Suite) -> Result<()> {
    suite.lab(&MAIN)?;
    let file = suite.file("full.yaml", "lab: full\nhosts:\n  m: { roles: [postgres] }\n")?;
    let before = suite.everything()?;
    let refused = suite.with_small_pool(300, || suite.pgprov(["up"]).args([&file]).run())?;
    let refused = refused.exits(1)?.says("not enough room for lab full")?;
    let row = refused.stderr.lines().find(|line| line.starts_with("disk "));
    let row = row.with_context(|| format!("expected a row about the disk in\n{refused}"))?;
    let words: Vec<&str> = row.split_whitespace().collect();
    ensure!(
        words[2..5] == ["GiB", "0.3", "GiB"] && words[1].parse::<f64>().is_ok_and(|gib| gib >= 0.5),
        "expected what is needed, and 0.3 GiB available: {row}"
    );
    ensure!(row.contains("remove labs or images"), "expected a remedy: {row}");
    ensure!(!refused.stderr.contains("memory "), "expected enough memory in\n{refused}");
    ensure!(suite.everything()? == before, "expected no change by a refused `up`");
    ensure!(!suite.state().join("full").exists(), "expected no state of a lab that was refused");
    Ok(())
}

/// When hosts do not boot in time, `up` says what it waited for; the next one goes on from there.
pub fn boot_timeout_names_what_it_waited_for(suite: &Suite) -> Result<()> {
    suite.pgprov(["destroy", "pair", "--yes"]).limit(120).ok()?;
    suite.forget(&PAIR);
    let file = suite.topology(&PAIR)?;
    let slow =
        suite.pgprov(["up", "--boot", "--boot-timeout", "3"]).args([&file]).limit(60).run()?.exits(5)?;
    slow.says("m: waited 3.0 s for host m to say who it is")?.says("nothing was destroyed")?;
    let domains = suite.virsh(["list", "--name"]).ok()?;
    ensure!(domains.stdout.contains("pair-m"), "expected pair-m to go on booting:\n{domains}");
    let lab = suite.made(&PAIR, suite.pgprov(["up"]).args([&file]).limit(UP_LIMIT).ok())?;
    lab.streams("m", "s", "in time")?;
    lab.is_as_its_topology_says()
}

/// An image that a lab uses stays; one that none uses is removed from the pool.
pub fn image_in_use_is_not_removed(suite: &Suite) -> Result<()> {
    suite.lab(&MAIN)?;
    let image = image_of(suite, "lab")?;
    suite.pgprov(["image", "list"]).ok()?.says(&image)?;
    let refused = suite.pgprov(["image", "remove", &image]).run()?.exits(1)?;
    refused.says(&format!("image {image} is used by"))?.says("destroy those labs first")?;
    suite.pgprov(["image", "remove", "nothing"]).run()?.exits(2)?.says("there is no image nothing")?;
    let lab = suite.lab(&MAIN)?;
    lab.exec("m", "true").map(drop)
}

/// The image that a lab uses, by `image list`.
fn image_of(suite: &Suite, lab: &str) -> Result<String> {
    let list = suite.pgprov(["image", "list", "-o", "json"]).ok()?;
    let rows = list.json()?;
    let uses =
        |row: &&Value| row["labs"].as_str().is_some_and(|labs| labs.split(", ").any(|name| name == lab));
    let row = rows["images"].as_array().and_then(|rows| rows.iter().find(uses));
    let row = row.with_context(|| format!("expected an image that lab {lab} uses in\n{list}"))?;
    ensure!(row["cached"] == true && row["in_pool"] == true, "expected the image in cache and pool: {row:#}");
    Ok(row["name"].as_str().unwrap_or_default().to_owned())
}

/// The pool's copy of an image goes when no lab uses it; `up` makes it again from the cache.
pub fn unused_image_is_removed(suite: &Suite) -> Result<()> {
    suite.lab(&PAIR)?;
    let image = image_of(suite, "pair")?;
    let cache = suite.folder("cache")?;
    let of_image = || -> Result<Vec<String>> {
        Ok(suite.everything()?.into_iter().filter(|name| name.contains(&image)).collect())
    };
    let before = of_image()?;
    suite.pgprov(["image", "prune", "--all"]).env("XDG_CACHE_HOME", &cache).ok()?;
    ensure!(of_image()? == before, "expected image {image} to be kept for the lab: {before:?}");
    // Those of other cases use it as well.
    suite.destroy_all()?;
    nothing_left(suite, "pair")?;
    // Another cache: the user's own copy of the image is kept.
    let remove = suite.pgprov(["image", "remove", &image]).env("XDG_CACHE_HOME", &cache);
    remove.ok()?.says(&format!("image {image} is removed"))?;
    let left = of_image()?;
    ensure!(left.is_empty(), "expected no volume of image {image}, found {left:?}");
    Ok(())
}
