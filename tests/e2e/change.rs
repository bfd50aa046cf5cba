//! A lab that stands is kept in line with its topology, with as little as is needed.

use std::{path::PathBuf, thread, time::Duration};

use anyhow::{Result, ensure};

use crate::suite::{Lab, MAIN, PAIR, Suite, UP_LIMIT, host};

/// When the server started and when it last read its configuration.
const TIMES: &str = "select pg_postmaster_start_time(), pg_conf_load_time()";
const STARTED: &str = "select pg_postmaster_start_time()";
const SLOTS: &str = "select string_agg(slot_name, ',' order by slot_name) from pg_replication_slots";
const CONF: &str = "/etc/postgresql/17/main/conf.d";

/// When there is nothing to do, `plan` and `up` say so and do nothing.
pub fn second_up_changes_nothing(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    lab.is_as_its_topology_says()?;
    let before = lab.psql("m", TIMES)?;
    // Somebody stopped the storage pool: what is in it is not gone for that.
    suite.virsh(["pool-destroy", "pgprov"]).ok()?;
    let again = lab.up(&lab.file)?.exits(0)?.says("0 changes")?;
    ensure!(again.stdout.lines().count() == 1, "expected one line on stdout of\n{again}");
    let json = suite.pgprov(["up", "-o", "json"]).args([&lab.file]).ok()?;
    ensure!(json.json()?["changes"] == 0, "expected `changes` to be 0 in\n{json}");
    let after = lab.psql("m", TIMES)?;
    ensure!(before == after, "expected neither restart nor reload: {before} became {after}");
    Ok(())
}

/// What somebody changed by hand in our files is put right, with a reload when that is enough.
pub fn edited_files_are_put_right(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let started = lab.psql("m", STARTED)?;
    let wanted = lab.psql("m", "show work_mem")?;
    let edit = format!(
        "sed -i 's/^work_mem = .*/work_mem = 77MB/' {CONF}/10-reload.conf && chmod 0666 {CONF}/../pg_hba.conf \
         && runuser -u postgres -- psql -XAtqc 'select pg_reload_conf()'"
    );
    lab.exec("m", &edit)?;
    lab.psql_becomes("m", "show work_mem", "77MB")?;
    let plan = suite.pgprov(["plan"]).args([&lab.file]).run()?.exits(4)?;
    let plan = plan
        .says("10-reload.conf (changed)")?
        .says("-work_mem = 77MB")?
        .says("pg_hba.conf (owner or mode)")?
        .says("reload PostgreSQL, because of work_mem 77MB -> ")?;
    ensure!(!plan.stdout.contains("restart"), "expected no restart in\n{plan}");
    differences(&lab)?;
    lab.up(&lab.file)?.exits(0)?.says("3 changes")?;
    lab.psql_becomes("m", "show work_mem", &wanted)?;
    let mode = lab.exec("m", &format!("stat -c %a {CONF}/../pg_hba.conf"))?;
    ensure!(mode == "640", "expected mode 640 of pg_hba.conf, it has {mode}");
    let same = lab.psql("m", STARTED)?;
    ensure!(same == started, "expected no restart: the server ran since {started}, now since {same}");
    lab.is_as_its_topology_says()
}

/// `diff` shows the lines that were edited, and no secret; `render --secrets` writes what is installed, byte for byte.
fn differences(lab: &Lab) -> Result<()> {
    let suite = lab.suite;
    lab.exec("m", "echo x >>/var/lib/pgprov/postgres/objects.sql")?;
    let diff = suite.pgprov(["diff"]).args([&lab.file]).run()?.exits(4)?;
    let conf = format!("m:{CONF}/10-reload.conf");
    diff.says(&format!("--- {conf} (installed)\n+++ {conf} (rendered)\n@@ "))?
        .says("\n-work_mem = 77MB\n+work_mem = '")?
        .says("pg_hba.conf is postgres:postgres 0666, not postgres:postgres 0640")?
        .says("objects.sql holds another secret")?;
    let out = suite.folder("with-secrets")?;
    let all = suite.pgprov(["render", "--secrets", "--out"]).args([&out, &lab.file]).ok()?;
    let names = "cd / && sha256sum $(cat /var/lib/pgprov/installed)";
    for line in lab.exec("s", names)?.lines() {
        let (sum, path) = line.split_once("  ").unwrap_or_default();
        let rendered = std::fs::read(out.join("s").join(path.trim_start_matches('/')))?;
        ensure!(pgplan::digest::hex(&rendered) == sum, "expected {path} as it is on s, after\n{all}");
    }
    Ok(())
}

/// The file for settings of one's own is never touched, and what is in it wins.
pub fn user_file_is_left_alone(suite: &Suite) -> Result<()> {
    const RELOAD: &str = "runuser -u postgres -- psql -XAtqc 'select pg_reload_conf()'";
    let lab = suite.lab(&MAIN)?;
    let file = format!("{CONF}/90-user.conf");
    lab.exec("s", &format!("cp -p {file} /root/ && echo 'work_mem = 33MB' >>{file} && {RELOAD}"))?;
    let seen = user_file_wins(&lab, &file);
    lab.exec("s", &format!("mv /root/90-user.conf {file} && {RELOAD}"))?;
    seen
}

fn user_file_wins(lab: &Lab, file: &str) -> Result<()> {
    let text = lab.exec("s", &format!("cat {file}"))?;
    lab.is_as_its_topology_says()?;
    lab.up(&lab.file)?.exits(0)?.says("0 changes")?;
    let after = lab.exec("s", &format!("cat {file}"))?;
    ensure!(after == text, "expected the file as it was:\n{text}\nit is now\n{after}");
    lab.psql_becomes("s", "show work_mem", "33MB")
}

/// The topology of the main lab with one more PostgreSQL setting.
pub fn with_setting(suite: &Suite, name: &str, setting: &str) -> Result<PathBuf> {
    let text = suite.repository_file("topologies/lab.yaml")?;
    let edited = text.replace("  settings:\n", &format!("  settings:\n    {setting}\n"));
    ensure!(edited != text, "expected `settings:` in topologies/lab.yaml");
    suite.file(name, &edited)
}

/// A setting that a reload applies is applied by a reload, on all servers. The plan for it can be saved, is carried out once,
/// and is refused when the lab is different by then.
pub fn setting_is_reloaded(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let file = with_setting(suite, "work_mem.yaml", "work_mem: 12MB")?;
    let saved = suite.folder("plans")?.join("plan.json");
    suite.pgprov(["plan", "--out"]).args([&saved, &file]).run()?.exits(4)?.says("work_mem")?;
    let started = [lab.psql("m", STARTED)?, lab.psql("s", STARTED)?];
    let up = lab.up(&saved)?.exits(0)?.says("2 changes")?;
    ensure!(up.stderr.contains("reload PostgreSQL"), "expected a reload in\n{up}");
    ensure!(!up.stderr.contains("restart PostgreSQL"), "expected no restart in\n{up}");
    lab.psql_becomes("m", "show work_mem", "12MB")?;
    lab.psql_becomes("s", "show work_mem", "12MB")?;
    let same = [lab.psql("m", STARTED)?, lab.psql("s", STARTED)?];
    ensure!(same == started, "expected no restart: the servers ran since {started:?}, now since {same:?}");
    let refused = lab.up(&saved)?.exits(1)?;
    refused.says("the lab is not what it was when the plan was made")?.says("\n+nothing to do")?;
    with_setting(suite, "work_mem.yaml", "work_mem: 13MB")?;
    lab.up(&saved)?.exits(1)?.says("work_mem.yaml is not what it was when the plan was made")?;
    lab.up(&lab.file)?.exits(0).map(drop)
}

/// A host that does not answer stops no other one, and the next `up` brings it along. The hypervisor could still tell it what to do;
/// but one that cannot be logged in to is not as it should be, and says so.
pub fn unreachable_host_is_left_out(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let file = with_setting(suite, "without-s.yaml", "work_mem: 14MB")?;
    let hold = "nft add table inet hold; nft add chain inet hold input '{ type filter hook input priority -10; }'; \
                nft add rule inet hold input iifname eth0 drop";
    // It answers again when the lease of this test is over.
    let script = format!("sleep 2; {hold}; sleep 46; nft delete table inet hold");
    lab.exec("s", &format!("systemd-run -q --no-block -u hold sh -c \"{script}\""))?;
    std::thread::sleep(std::time::Duration::from_secs(4));
    let begun = std::time::Instant::now();
    let up = lab.up(&file)?.exits(1)?;
    up.says("error: s: waited")?.says("s is asked what it has, and does not answer yet")?;
    let waited = begun.elapsed().as_secs();
    ensure!(
        waited < 42,
        "expected a host that does not answer to be given up after half a minute, not {waited} s"
    );
    lab.psql_becomes("m", "show work_mem", "14MB")?;
    std::thread::sleep(std::time::Duration::from_secs(10));
    lab.up(&file)?.exits(0)?;
    lab.psql_becomes("s", "show work_mem", "14MB")?;
    lab.up(&lab.file)?.exits(0)?;
    lab.is_as_its_topology_says()
}

/// A standby of the standby is added to a lab that runs, and goes again only when that is confirmed.
pub fn cascaded_standby_comes_and_goes(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&PAIR)?;
    let text = std::fs::read_to_string(&lab.file)?;
    let more =
        format!("{text}  far: {{ roles: [postgres], follows: s }}\n  visitor: {{ roles: [client] }}\n");
    let file = suite.file("cascade.yaml", &more)?;
    let checkpoint = |what| suite.pgprov(["checkpoint", what, "alone", "--lab", lab.name]).limit(120);
    checkpoint("save").ok()?;
    let before = others(&lab)?;
    lab.up(&file)?.exits(0)?;
    let found = lab.exec("visitor", "psql -XAtqw service=pair-rw -c 'select 1'")?;
    ensure!(found == "1", "expected the new client to find the primary, it says {found}");
    lab.streams("m", "far", "down the cascade")?;
    // What its upstream has long since gone on from is no beginning.
    lab.exec("far", "test -e /var/lib/postgresql/17/main/backup_label.old")?;
    let sender = "select application_name || ' ' || state from pg_stat_replication";
    lab.psql_becomes("s", sender, "far streaming")?;
    let sync = lab.status()?;
    ensure!(host(&sync, "far")?["follows"] == "s", "expected far to follow s in {sync:#}");
    let now = others(&lab)?;
    ensure!(now == before, "expected m and s to be left alone: {before:?} became {now:?}");

    // Going back would take them away, with what is on them.
    let refused = lab.pgprov("reset", ["alone"]).run()?.exits(2)?;
    refused.says("destroy far, visitor with all data")?.says("--yes")?;
    checkpoint("remove").ok()?;

    // It is told to follow m while it streams from s: the slot that it uses there goes all the same.
    let direct = suite.file("direct.yaml", &more.replace("follows: s }", "follows: m }"))?;
    lab.up(&direct)?.exits(0)?;
    suite.pgprov(["plan"]).args([&direct]).ok()?.says("nothing to do")?;
    lab.streams("m", "far", "straight from m")?;
    let senders =
        "select string_agg(application_name, ',' order by application_name) from pg_stat_replication";
    lab.psql_becomes("m", senders, "far,s")?;
    let slots = lab.psql("s", SLOTS)?;
    ensure!(slots.is_empty(), "expected s to have no slot for far, which follows m now, it has {slots}");
    lab.up(&file)?.exits(0)?;
    lab.streams("m", "far", "down the cascade again")?;
    lab.psql_becomes("s", sender, "far streaming")?;
    let slots = [lab.psql("m", SLOTS)?, lab.psql("s", SLOTS)?];
    ensure!(slots == ["pgprov_s", "pgprov_far"], "expected the slots of the cascade, got {slots:?}");

    // Its role is taken from it: PostgreSQL ends there, with consent, and its data stays for when it has the role again.
    let other = suite.file("other.yaml", &more.replace("[postgres], follows: s }", "[client] }"))?;
    lab.up(&other)?.exits(2)?.says("stop postgresql@17-main.service for good on far")?;
    suite.pgprov(["up", "--yes"]).args([&other]).limit(200).ok()?;
    let ended = "pgrep -x postgres; ls /etc/systemd/system/multi-user.target.wants | grep postgres; \
                 test -s /var/lib/postgresql/17/main/PG_VERSION && echo kept";
    let ended = lab.exec("far", ended)?;
    ensure!(ended == "kept", "expected PostgreSQL to end on far and its data to stay, found\n{ended}");
    let slots = lab.psql("s", SLOTS)?;
    ensure!(slots.is_empty(), "expected no slot on s for a client, found {slots}");
    suite.pgprov(["plan"]).args([&other]).ok()?.says("nothing to do")?;
    lab.up(&file)?.exits(0)?;
    lab.streams("m", "far", "as a standby again")?;

    no_mixture_when_killed(suite, &lab, &more)?;
    lab.up(&file)?.exits(0)?;

    let refused = lab.up(&lab.file)?.exits(2)?.says("destroy far and its disk")?.says("--yes")?;
    ensure!(
        lab.psql("far", "select pg_is_in_recovery()")? == "t",
        "expected far to be left alone by\n{refused}"
    );
    lab.psql("s", "select pg_create_physical_replication_slot('mine')")?;
    suite.pgprov(["up", "--yes"]).args([&lab.file]).limit(200).ok()?;
    let gone = |name: &String| name.contains("far") || name.contains("visitor");
    let left: Vec<String> = suite.everything()?.into_iter().filter(gone).collect();
    ensure!(left.is_empty(), "expected nothing of far and visitor, found {left:?}");
    let slots = lab.psql("s", SLOTS)?;
    ensure!(slots == "mine", "expected s to have no slot but the one that is not ours, it has {slots}");
    lab.psql("s", "select pg_drop_replication_slot('mine')")?;
    let now = others(&lab)?;
    ensure!(now == before, "expected m and s to be left alone: {before:?} became {now:?}");
    lab.is_as_its_topology_says()
}

/// `up` is killed while it applies an edit that changes two files on three hosts: each host has both or none of them.
fn no_mixture_when_killed(suite: &Suite, lab: &Lab, text: &str) -> Result<()> {
    let mut whole = Vec::new();
    for attempt in [0, 2] {
        let (setting, address) = (format!("{}MB", 11 + attempt), format!("192.0.2.{attempt}/32"));
        let edit =
            format!("postgres:\n  settings: {{ work_mem: {setting} }}\n  hba: [{{ address: {address} }}]\n");
        let file = suite.file("three.yaml", &text.replace("postgres:\n", &edit))?;
        let mut up = suite.pgprov(["up"]).args([&file]).limit(UP_LIMIT).start()?;
        up.wait_until(|up| up.stderr().contains("applying"))?;
        thread::sleep(Duration::from_millis(200 * attempt));
        up.kill()?;
        up.wait()?;
        for host in ["m", "s", "far"] {
            // What was begun there ends by itself, when it finds nobody to tell.
            let look = format!(
                "flock -w 20 /run/pgprov.lock true; cd {CONF}/..; grep -c \"^work_mem = '{setting}'\" conf.d/10-reload.conf; grep -c -F '{address}' pg_hba.conf; true"
            );
            let seen = lab.exec(host, &look)?;
            ensure!(
                seen == "0\n0" || seen == "1\n1",
                "expected both files or none on {host}, killed after {attempt}: {seen:?}"
            );
            whole.push(seen == "1\n1");
        }
        lab.up(&file)?.exits(0)?;
        for host in ["m", "s", "far"] {
            ensure!(lab.psql(host, "show work_mem")? == setting, "expected work_mem {setting} on {host}");
        }
    }
    ensure!(whole.contains(&false), "expected to kill it before all hosts had their files");
    Ok(())
}

/// What shows that m and s were neither restarted nor rebooted.
fn others(lab: &Lab) -> Result<[String; 4]> {
    let boot = |host: &str| lab.exec(host, "cat /proc/sys/kernel/random/boot_id");
    Ok([boot("m")?, boot("s")?, lab.psql("m", STARTED)?, lab.psql("s", STARTED)?])
}
