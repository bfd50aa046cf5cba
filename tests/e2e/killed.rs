//! `up` and `destroy` may be killed at any point: the next one finishes the work.

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{
    command::Running,
    neighbours::nothing_left,
    suite::{Lab, PAIR, Suite, UP_LIMIT},
};

const SIGKILL: Option<i32> = Some(9);

/// A point in the course of `up`.
pub enum Point {
    /// That file of the lab's state exists.
    State(&'static str),
    /// A file of the pool whose name ends so exists.
    Volume(&'static str),
    /// libvirt has that definition.
    Definition(&'static str),
    /// `up` said that, so many milliseconds ago.
    Said(&'static str, u64),
}

impl Point {
    fn reached(&self, suite: &Suite, up: &Running) -> bool {
        match self {
            Self::State(name) => suite.state().join(PAIR.name).join(name).exists(),
            Self::Volume(end) => {
                let files = std::fs::read_dir(suite.pool()).into_iter().flatten().filter_map(Result::ok);
                files.into_iter().any(|file| file.file_name().to_string_lossy().ends_with(end))
            }
            Self::Definition(name) => suite.definitions().join(name).exists(),
            Self::Said(text, _) => up.stderr().contains(text),
        }
    }

    fn delay(&self) -> Duration {
        match self {
            Self::Said(_, milliseconds) => Duration::from_millis(*milliseconds),
            _ => Duration::ZERO,
        }
    }
}

/// Makes a lab from nothing, kills `up` at that point, and lets the next `up` finish.
///
/// # Errors
/// The point was not reached, or the next `up` does not finish the work.
pub fn at(suite: &Suite, point: &Point) -> Result<()> {
    suite.pgprov(["destroy", "pair", "--yes"]).limit(120).ok()?;
    suite.forget(&PAIR);
    let file = suite.topology(&PAIR)?;
    let mut up = suite.pgprov(["up"]).args([&file]).limit(UP_LIMIT).start()?;
    up.wait_until(|up| point.reached(suite, up))?;
    thread::sleep(point.delay());
    up.kill()?;
    let killed = up.wait()?;
    ensure!(killed.signal == SIGKILL, "expected to kill it before it ended:\n{killed}");

    let next = suite.pgprov(["up"]).args([&file]).limit(UP_LIMIT).ok();
    let lab = suite.made(&PAIR, next.with_context(|| format!("after killing\n{killed}")))?;
    lab.is_as_its_topology_says()?;
    lab.streams("m", "s", "after the kill")?;
    healthy(&lab)
}

/// Nothing of the killed run is left on hosts, and their services run.
fn healthy(lab: &Lab) -> Result<()> {
    let script = "systemctl is-system-running; ls -d /var/lib/postgresql/*/*.new /run/pgprov/stage /var/lib/pgprov/placing \
                  2>/dev/null; \
                  find /etc /var/lib/pgprov /root -name '*.pgprov-new'";
    for (host, text) in lab.exec_everywhere(script)? {
        ensure!(text == "running", "expected {host} to be running and without leftovers, got\n{text}");
    }
    let slots =
        lab.psql("m", "select string_agg(slot_name || ' ' || active, ',') from pg_replication_slots")?;
    ensure!(slots == "pgprov_s true", "expected one slot, that of s, in use; got {slots:?}");
    Ok(())
}

/// `up` with the copy of the image in the pool half made.
pub fn while_copying_the_image(suite: &Suite) -> Result<()> {
    suite.pgprov(["destroy", "--all", "--yes"]).limit(120).ok()?;
    suite.forget(&PAIR);
    for volume in suite.everything()?.iter().filter_map(|name| name.strip_prefix("volume pgprov/")) {
        suite.virsh(["vol-delete", volume, "--pool", "pgprov"]).ok()?;
    }
    at(suite, &Point::Volume(".qcow2"))
}

/// A setting is half applied when `up` is killed: files are new, the server has not read them. The next `up` sees to it.
pub fn while_applying_a_setting(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&PAIR)?;
    let text = std::fs::read_to_string(&lab.file)?;
    for attempt in 0..5 {
        let setting = format!("{}MB", 5 + attempt);
        let edited =
            text.replace("postgres:\n", &format!("postgres:\n  settings: {{ work_mem: {setting} }}\n"));
        ensure!(edited != text, "expected `postgres:` in\n{text}");
        let file = suite.file("half.yaml", &edited)?;
        let mut up = suite.pgprov(["up"]).args([&file]).limit(UP_LIMIT).start()?;
        up.wait_until(|up| up.stderr().contains("m applying"))?;
        thread::sleep(Duration::from_millis(150 * attempt));
        up.kill()?;
        let killed = up.wait()?;
        let next = lab.up(&file)?.exits(0)?;
        for host in ["m", "s"] {
            let now = lab.psql(host, "show work_mem")?;
            ensure!(
                now == setting,
                "expected work_mem {setting} on {host}, it is {now}; killed:\n{killed}\nnext:\n{next}"
            );
        }
        suite.pgprov(["plan"]).args([&file]).ok()?;
    }
    lab.up(&lab.file)?.exits(0).map(drop)
}

/// A restart is under way when `up` is killed.
pub fn while_restarting(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&PAIR)?;
    let text = std::fs::read_to_string(&lab.file)?;
    let edited = text.replace("postgres:\n", "postgres:\n  settings: { shared_buffers: 80MB }\n");
    let file = suite.file("restart.yaml", &edited)?;
    let mut up = suite.pgprov(["up"]).args([&file]).limit(UP_LIMIT).start()?;
    up.wait_until(|up| up.stderr().contains("m restart PostgreSQL"))?;
    up.kill()?;
    ensure!(up.wait()?.signal == SIGKILL, "expected to kill it before it ended");
    lab.up(&file)?.exits(0)?;
    for host in ["m", "s"] {
        lab.psql_becomes(host, "show shared_buffers", "80MB")?;
    }
    suite.pgprov(["plan"]).args([&file]).ok()?;
    lab.streams("m", "s", "after the restart")?;
    healthy(&lab)
}

/// An edit whose files are only half installed is taken back: nothing of it is left that a boot might install.
pub fn edit_is_taken_back(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&PAIR)?;
    let before = lab.psql("m", "show work_mem")?;
    half_installed(&lab)?;
    let left = "- m: file /etc/postgresql/17/main/conf.d/10-reload.conf.pgprov-new";
    suite.pgprov(["plan"]).args([&lab.file]).run()?.exits(4)?.says(left)?;
    lab.up(&lab.file)?.exits(0)?;
    healthy(&lab)?;
    suite.pgprov(["plan"]).args([&lab.file]).ok()?;
    lab.psql_becomes("m", "show work_mem", &before)
}

/// A host that somebody powered off is started again, with its data.
pub fn powered_off_host_comes_back(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&PAIR)?;
    lab.streams("m", "s", "before the power cut")?;
    let edited = half_installed(&lab)?;
    let domain = lab.domain("m");
    suite.virsh(["destroy", &domain]).ok()?;
    suite.pgprov(["plan"]).args([&edited]).run()?.exits(4)?.says("start m")?;
    lab.up(&edited)?.exits(0)?;
    let finished = lab.exec(
        "m",
        "test ! -e /var/lib/pgprov/placing && systemctl show -p ConditionResult,Result pgprov-files",
    )?;
    ensure!(
        finished == "Result=success\nConditionResult=yes",
        "expected the boot of m to finish the installation of files, got\n{finished}"
    );
    lab.psql_becomes("m", "show work_mem", "13MB")?;
    healthy(&lab)?;
    lab.up(&lab.file)?.exits(0)?;
    let rows = lab.psql("m", "select count(*) from seen where mark = 'before the power cut'")?;
    ensure!(rows == "1", "expected the row that was written before the power cut, found {rows}");
    lab.streams("m", "s", "after the power cut")?;
    lab.is_as_its_topology_says()
}

const RELOAD: &str = "/etc/postgresql/17/main/conf.d/10-reload.conf";

fn edited(lab: &Lab) -> Result<PathBuf> {
    let text = std::fs::read_to_string(&lab.file)?;
    let edited = text.replace("postgres:\n", "postgres:\n  settings: { work_mem: 13MB }\n");
    lab.suite.file("half.yaml", &edited)
}

/// Some files of an edit have their names on m, one still waits for it, and m was interrupted there. Returns the edited
/// topology.
fn half_installed(lab: &Lab) -> Result<PathBuf> {
    let file = edited(lab)?;
    let out = lab.suite.folder("rendered")?;
    lab.suite.pgprov(["render"]).args([&file]).args(["--out".as_ref(), out.as_path()]).ok()?;
    let candidate = std::fs::read_to_string(out.join("m").join(RELOAD.trim_start_matches('/')))?;
    let candidate = format!("cat >{RELOAD}.pgprov-new <<'END'\n{candidate}END\n");
    let owner = format!("chown --reference={RELOAD} {RELOAD}.pgprov-new");
    let list = format!("printf '/etc/hosts\\n{RELOAD}\\n' >/var/lib/pgprov/placing");
    lab.exec("m", &format!("{candidate}{owner}; {list}; sync"))?;
    Ok(file)
}

/// One of the files cannot get its name: all are as they were, and when it can, the next `up` installs them.
pub fn a_name_that_cannot_be_had(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&PAIR)?;
    let file = edited(&lab)?;
    let profile = "/etc/profile.d/pgprov.sh";
    let as_before = || {
        let seen = format!(
            "tail -n 1 /etc/hosts; stat -c '%U:%G %a' /etc/hosts; grep -c 13MB {RELOAD}; \
             find /etc /var/lib/pgprov -name '*.pgprov-new' -o -path /var/lib/pgprov/placing"
        );
        let seen = lab.exec("m", &seen)?;
        ensure!(seen == "# mine\nroot:root 640\n0", "expected m to have its old files, got\n{seen}");
        Ok(())
    };
    // Found before the first is renamed; and when some have their names already.
    lab.exec("m", "echo '# mine' >>/etc/hosts; chmod 640 /etc/hosts")?;
    lab.exec("m", &format!("mv {profile} /root/kept; mkdir {profile}"))?;
    lab.up(&file)?.exits(1)?.says("could not install its files")?.says("Is a directory")?;
    as_before()?;
    lab.exec("m", &format!("rmdir {profile}; mv /root/kept {profile}; echo '#' >>{profile}"))?;
    lab.exec("m", &format!("mount --bind {profile} {profile}"))?;
    lab.up(&file)?.exits(1)?.says("could not install its files")?.says("busy")?;
    as_before()?;
    // What is neither a file nor a folder is replaced, and waited for by nobody.
    lab.exec(
        "m",
        &format!("umount {profile}; rm {profile} /etc/hosts; mkfifo {profile}; ln -s /root /etc/hosts"),
    )?;
    lab.up(&file)?.exits(0)?;
    ensure!(
        lab.exec("m", &format!("find {profile} /etc/hosts -type f | wc -l"))? == "2",
        "expected two files"
    );
    lab.psql_becomes("m", "show work_mem", "13MB")?;
    lab.up(&lab.file)?.exits(0)?;
    lab.is_as_its_topology_says()
}

/// `destroy` is killed half way, several times: the next one takes the rest away.
pub fn destroy(suite: &Suite) -> Result<()> {
    suite.lab(&PAIR)?;
    suite.forget(&PAIR);
    for delay in [0, 30, 120] {
        let mut destroy = suite.pgprov(["destroy", "pair", "--yes"]).limit(120).start()?;
        destroy.wait_until(|destroy| destroy.stderr().contains("destroying"))?;
        thread::sleep(Duration::from_millis(delay));
        destroy.kill()?;
        destroy.wait()?;
    }
    suite.pgprov(["destroy", "pair", "--yes"]).limit(120).ok()?;
    nothing_left(suite, "pair")
}
