//! Prometheus and Grafana in containers: examples/containers, with images from a tar that `scripts/container-images` made.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    command::Program,
    monitoring::until,
    suite::{Suite, UP_LIMIT},
};

const EXAMPLE: &str = "examples/containers";
/// Containers that run, each with its health.
const RUNNING: &str =
    "docker ps --format '{{.Names}} {{.ID}} {{.Status}}' | sed 's/Up.*(\\(.*\\))/\\1/' | sort";
/// Both of them.
const BOTH: &str = "contained-monitoring-grafana-1 healthy,contained-monitoring-prometheus-1 healthy";
/// How many targets answer, pgload's apart.
const SCRAPED: &str = "curl -sf http://$(ss -tlnH sport = :9090 | awk '{ print $4 }')/api/v1/targets?state=active \
    | jq -r '.data.activeTargets | map(select(.labels.job != \"pgload\").health) | group_by(.) | map(\"\\(.[0]) \\(length)\") | join(\" \")'";
const GRAFANA: &str = "curl -sf http://$(ss -tlnH sport = :3000 | awk '{ print $4 }')/api/health";

/// The example, as its user has it: with the images in `files`.
struct Contained<'a> {
    suite: &'a Suite,
    assets: PathBuf,
}

impl Contained<'_> {
    fn pgprov(&self, words: &[&str]) -> Program {
        self.suite.pgprov(words).env("PGPROV_ASSETS", &self.assets).limit(UP_LIMIT)
    }

    fn on_client(&self, script: &str) -> Result<String> {
        Ok(self.pgprov(&["ssh", "--lab", "contained", "client", script]).ok()?.text().to_owned())
    }

    fn up(&self, file: &Path) -> Result<()> {
        self.pgprov(&["up", "--yes"]).args([file]).ok().map(drop)
    }

    fn nothing_to_do(&self, file: &Path) -> Result<()> {
        self.pgprov(&["plan"]).args([file]).ok()?.says("nothing to do").map(drop)
    }

    /// Waits until a script on the client prints that.
    fn until(&self, script: &str, wanted: &str, seconds: u64) -> Result<()> {
        until(wanted, seconds, || {
            let seen = self.pgprov(&["ssh", "--lab", "contained", "client", script]).run()?;
            Ok((seen.stdout.trim() != wanted).then(|| seen.to_string()))
        })
    }

    /// Both run and answer, and every target is read.
    fn answers(&self) -> Result<()> {
        self.until(&format!("{RUNNING} | cut -d' ' -f1,3 | paste -sd,"), BOTH, 180)?;
        self.until(SCRAPED, "up 6", 90)?;
        ensure!(self.on_client(GRAFANA)?.contains("ok"), "expected Grafana to be well");
        Ok(())
    }
}

/// They come up, are told of edits without being made anew, come back after a stop and a reboot, and leave with their key.
pub fn both_run(suite: &Suite) -> Result<()> {
    let images = env::var_os("PGPROV_CONTAINERS")
        .context("PGPROV_CONTAINERS does not name a tar of images; `scripts/container-images` makes it")?;
    suite.destroy_all()?;
    let assets = suite.folder("containers")?;
    let example = suite.repository().join(EXAMPLE);
    symlink(example.join("roles"), assets.join("roles"))?;
    fs::copy(example.join("lab.yaml"), assets.join("lab.yaml"))?;
    fs::create_dir(assets.join("files"))?;
    let lab = Contained { suite, assets };
    let file = lab.assets.join("lab.yaml");
    let missing = lab.pgprov(&["render"]).args([&file]).run()?;
    ensure!(
        missing.stderr.contains("there is no `files/monitoring.tar` in the folder that --assets"),
        "expected to be told about the images that are not there:\n{missing}"
    );
    symlink(images, lab.assets.join("files/monitoring.tar"))?;

    lab.up(&file)?;
    lab.answers()?;
    lab.nothing_to_do(&file)?;
    let logs = lab.pgprov(&["logs", "client", "--role", "monitor", "--lab", "contained"]).ok()?;
    ensure!(logs.stdout.contains("prometheus-1"), "expected the logs of containers:\n{logs}");

    // An edit is read by the Prometheus that runs.
    let made = lab.on_client(RUNNING)?;
    let text = fs::read_to_string(&file)?;
    let edited = suite.file("contained.yaml", &text.replace("docker, monitor", "docker, load, monitor"))?;
    lab.pgprov(&["plan"]).args([&edited]).run()?.exits(4)?.says("reload Prometheus")?;
    let config = "curl -sf http://$(ss -tlnH sport = :9090 | awk '{ print $4 }')/api/v1/status/config \
                  | grep -o 'job_name: pgload'";
    lab.up(&edited)?;
    lab.until(config, "job_name: pgload", 30)?;
    lab.answers()?;
    ensure!(lab.on_client(RUNNING)? == made, "expected the same containers as before the edit");

    // One that was stopped by hand is drift, and a host that was switched off has both again.
    lab.on_client("docker stop contained-monitoring-grafana-1")?;
    lab.pgprov(&["plan"])
        .args([&edited])
        .run()?
        .exits(4)?
        .says("start Prometheus and Grafana in containers")?;
    lab.up(&edited)?;
    lab.answers()?;
    let boot = "cat /proc/sys/kernel/random/boot_id";
    let before = lab.on_client(boot)?;
    lab.pgprov(&["ssh", "--lab", "contained", "client", "systemctl reboot"]).run()?;
    lab.until(&format!("[ \"$({boot})\" = {before} ] || echo another"), "another", 120)?;
    lab.answers()?;

    // The other engine takes their port over, and back; without the key nothing runs.
    let packages = text.replace("engine: containers, images: /srv/images/monitoring.tar", "engine: packages");
    let packages = suite.file("packaged.yaml", &packages)?;
    lab.up(&packages)?;
    lab.until("docker ps -q | wc -l", "0", 30)?;
    lab.until(SCRAPED, "up 6", 90)?;
    lab.nothing_to_do(&packages)?;
    lab.up(&file)?;
    lab.answers()?;
    let without: Vec<&str> = text.lines().filter(|line| !line.starts_with("monitoring:")).collect();
    let without = suite.file("unwatched.yaml", &without.join("\n").replace(", monitor]", "]"))?;
    lab.up(&without)?;
    lab.until("docker ps -q | wc -l", "0", 30)?;
    lab.nothing_to_do(&without)?;
    lab.pgprov(&["destroy", "--yes"]).args([&without]).ok().map(drop)
}
