//! Each fault is what it says, seen from inside the hosts and by libvirt, and healing undoes exactly it.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    command::{Output, Program},
    suite::{Lab, PAIR, Suite, UP_LIMIT, host},
};

/// `pgprov fault` with those words, on that lab.
fn fault(lab: &Lab, words: &[&str]) -> Program {
    lab.suite.pgprov(["fault"]).args(words).args(["--lab", lab.name]).limit(UP_LIMIT)
}

fn heal(lab: &Lab, host: &str) -> Result<Output> {
    fault(lab, &["heal", host]).ok()?.says("healed: ")
}

/// The pair as it was when it was made, without faults.
fn fresh(suite: &Suite) -> Result<Lab<'_>> {
    let lab = suite.lab(&PAIR)?;
    lab.pgprov("reset", []).limit(UP_LIMIT).ok()?;
    fault(&lab, &["list"]).ok()?.says("no fault is in force")?;
    Ok(lab)
}

/// Whether hosts hear each other: of three pings one arrives.
fn hear(lab: &Lab, from: &str, to: &str) -> Result<bool> {
    let command = format!("ping -n -q -i 0.1 -c 3 -W 1 {to} >/dev/null; echo $?");
    Ok(lab.exec(from, &command)? == "0")
}

fn ensure_hear(lab: &Lab, wanted: bool, when: &str) -> Result<()> {
    for (from, to) in [("m", "s"), ("s", "m")] {
        let hear = hear(lab, from, to)?;
        ensure!(hear == wanted, "expected that {from} reaches {to}: {wanted}, it is {hear}: {when}");
    }
    Ok(())
}

/// The mean time of a ping there and back, in milliseconds.
fn round_trip(lab: &Lab, from: &str, to: &str) -> Result<f64> {
    let text = lab.exec(from, &format!("ping -n -q -i 0.2 -c 5 {to} | tail -n 1"))?;
    let mean = text.split('/').nth(4).with_context(|| format!("expected times of pings, got {text:?}"))?;
    Ok(mean.parse()?)
}

/// The state of a host's domain.
fn domain_state(lab: &Lab, host: &str) -> Result<String> {
    Ok(lab.suite.virsh(["domstate", &lab.domain(host)]).ok()?.text().to_owned())
}

/// Cables and links: cut, isolated, apart in both directions and in one, slow, lossy.
pub fn of_the_network(suite: &Suite) -> Result<()> {
    let lab = fresh(suite)?;
    ensure_hear(&lab, true, "before any fault")?;
    cut_and_isolated(&lab)?;
    apart(&lab)?;
    slow_and_lossy(&lab)
}

fn cut_and_isolated(lab: &Lab) -> Result<()> {
    fault(lab, &["cut", "m"]).ok()?.says("the data cable of m is pulled")?;
    ensure!(
        lab.exec("m", "cat /sys/class/net/eth1/carrier")? == "0",
        "expected m to see that its link is down"
    );
    ensure_hear(lab, false, "the cable of m is pulled")?;
    lab.suite.pgprov(["status", lab.name]).ok()?.says("fault: the data cable of m is pulled, for ")?;
    ensure!(lab.status()?["faults"][0]["fault"] == "cut", "expected the fault in the status as JSON");
    lab.suite.pgprov(["graph", lab.name]).ok()?.says("the data cable of m is pulled")?;
    // Nothing is brought in line by the way, and nothing is saved that is broken.
    let up = lab.up(&lab.file)?;
    up.says("the data cable of m is pulled; heal it with: pgprov fault heal")?;
    let saved = lab.suite.pgprov(["checkpoint", "save", "broken", "--lab", lab.name]).run()?.exits(1)?;
    saved.says("a checkpoint is of a lab without faults")?;
    heal(lab, "m")?;
    ensure_hear(lab, true, "the cable of m is plugged in again")?;
    lab.streams("m", "s", "after the cable")?;

    fault(lab, &["isolate", "m"]).ok()?;
    ensure!(lab.exec("m", "cat /sys/class/net/eth1/carrier")? == "1", "expected the link of m to be up");
    ensure_hear(lab, false, "m is isolated")?;
    heal(lab, "m")?;
    ensure_hear(lab, true, "m is not isolated any more")?;
    let networks = lab.suite.virsh(["net-list", "--all", "--name"]).ok()?;
    ensure!(!networks.text().contains("isolated"), "expected no network for isolated hosts in\n{networks}");
    fault(lab, &["heal", "m"]).ok()?.says("nothing to heal").map(drop)
}

/// How many pings arrived at a host.
fn arrived(lab: &Lab, host: &str) -> Result<u64> {
    let count = "awk '/^Icmp:/ { if (seen++) print $names[\"InEchos\"]; else for (i = 1; i <= NF; i++) names[$i] = i }' \
                 /proc/net/snmp";
    let count = count.replace("$names[\"InEchos\"]", "$(names[\"InEchos\"])");
    Ok(lab.exec(host, &count)?.parse()?)
}

fn apart(lab: &Lab) -> Result<()> {
    fault(lab, &["partition", "m", "--from", "s"]).ok()?.says("m and s cannot hear each other")?;
    ensure_hear(lab, false, "m and s are apart")?;
    heal(lab, "s")?;
    ensure_hear(lab, true, "m and s are together again")?;

    fault(lab, &["partition", "m", "--from", "s", "--one-way"]).ok()?;
    let before = arrived(lab, "s")?;
    ensure_hear(lab, false, "m does not hear s")?;
    let after = arrived(lab, "s")?;
    // ICMP is counted after the firewall: what m says is heard, its answers are as well.
    ensure!(after >= before + 3, "expected s to hear m, {before} pings became {after}");
    let deaf = arrived(lab, "m")?;
    hear(lab, "s", "m")?;
    ensure!(arrived(lab, "m")? == deaf, "expected m not to hear s");
    let error = fault(lab, &["partition", "m", "--from", "m"]).run()?.exits(2)?;
    error.says("on both sides")?;
    heal(lab, "m")?;
    ensure_hear(lab, true, "m hears s again").map(drop)
}

fn slow_and_lossy(lab: &Lab) -> Result<()> {
    fault(lab, &["delay", "m", "300ms"]).ok()?;
    let slow = round_trip(lab, "s", "m")?;
    ensure!(slow >= 300.0, "expected 300 ms and more, a ping takes {slow} ms");
    fault(lab, &["loss", "m", "60%"]).ok()?;
    let lost = lab.exec("s", "ping -n -q -i 0.02 -c 100 -W 1 m | grep -o '[0-9.]*% packet loss'")?;
    let per_cent: f64 = lost.split('%').next().unwrap_or_default().parse()?;
    ensure!((30.0..90.0).contains(&per_cent), "expected about 60 % to be lost, it is {lost}");
    fault(lab, &["loss", "m", "101%"]).run()?.exits(2)?.says("from 1% to 100%")?;
    fault(lab, &["rate", "m", "256kbit"]).ok()?;
    let list = fault(lab, &["list"]).ok()?;
    list.says("60 % of what m sends are lost")?.says("no more than 256 kbit/s")?.says("300 ms later")?;
    // They are part of the host until they are healed: also after it was without power.
    lab.suite.virsh(["destroy", &lab.domain("m")]).ok()?;
    lab.suite.virsh(["start", &lab.domain("m")]).ok()?;
    lab.up(&lab.file)?.exits(0)?;
    let rules = lab.exec("m", "tc qdisc show dev eth1")?;
    let all = rules.contains("delay 300ms") && rules.contains("loss 60%") && rules.contains("rate 256Kbit");
    ensure!(all, "expected delay, loss and rate after a reboot, tc shows {rules:?}");
    let healed = fault(lab, &["heal", "--all"]).ok()?;
    ensure!(healed.stdout.matches("healed: ").count() == 3, "expected three faults to be healed:\n{healed}");
    let fast = round_trip(lab, "s", "m")?;
    ensure!(fast < 300.0, "expected the delay to be gone, a ping takes {fast} ms");
    let left =
        lab.exec("m", "ls /etc/pgprov/fault.sh /etc/systemd/system/pgprov-fault.service 2>/dev/null; true")?;
    ensure!(left.is_empty(), "expected nothing of the faults to be left on m: {left}");
    lab.streams("m", "s", "after the slow network").map(drop)
}

/// Power, CPUs, disks, clock, services, processes.
pub fn of_the_machine(suite: &Suite) -> Result<()> {
    let lab = fresh(suite)?;
    processes_and_services(&lab)?;
    disk_and_clock(&lab)?;
    fault(&lab, &["pause", "s", "--for", "4s"]).ok()?.says("heals by itself after 4s")?;
    ensure!(domain_state(&lab, "s")? == "paused", "expected s to stand still");
    let list = fault(&lab, &["list"]).ok()?;
    list.says("the CPUs of s stand still")?.says("in ")?;
    wait(&lab, 30, "s to go on by itself", |lab| {
        Ok(domain_state(lab, "s")? == "running" && fault(lab, &["list"]).ok()?.stdout.contains("no fault"))
    })?;
    let off: f64 = clock_offset(&lab, "s")?;
    ensure!(off.abs() < 2.0, "expected the clock of s to be right after it stood still, it is {off} s ahead");

    fault(&lab, &["kill", "s"]).ok()?.says("s has no power")?;
    ensure!(domain_state(&lab, "s")? == "shut off", "expected s to be off");
    ensure!(host(&lab.status()?, "s")?["state"] == "off", "expected status to show that s is off");
    fault(&lab, &["pause", "s"]).run()?.exits(1)?.says("host s does not run")?;
    heal(&lab, "s")?;
    // What `up` has started is no fault any more.
    fault(&lab, &["pause", "m"]).ok()?;
    lab.up(&lab.file)?.exits(0)?.says("the CPUs of m stand still")?;
    ensure!(domain_state(&lab, "m")? == "running", "expected `up` to let m go on");
    fault(&lab, &["list"]).ok()?.says("no fault is in force")?;
    wait(&lab, 60, "the standby to stream again", |lab| Ok(lab.streams("m", "s", "after the power").is_ok()))
}

fn processes_and_services(lab: &Lab) -> Result<()> {
    fault(lab, &["kill-process", "m"]).ok()?.says("killed the oldest process called postgres on m")?;
    wait(lab, 30, "PostgreSQL to be gone", |lab| Ok(lab.exec("m", "pgrep -x postgres; true")?.is_empty()))?;
    // Nothing restarts it in this lab; that it does not run is nothing that `up` would leave as it is.
    lab.up(&lab.file)?.exits(0)?.says("start PostgreSQL")?;
    lab.streams("m", "s", "after SIGKILL")?;
    fault(lab, &["kill-process", "m", "no-such-process"]).run()?.exits(1)?.says("no process is called")?;
    fault(lab, &["stop-service", "m", "cron"]).ok()?.says("cron is stopped on m")?;
    ensure!(lab.exec("m", "systemctl is-active cron; true")? == "inactive", "expected cron to be stopped");
    fault(lab, &["stop-service", "m", "no-such-unit"]).run()?.exits(1)?.says("does not run on m")?;
    heal(lab, "m")?;
    ensure!(lab.exec("m", "systemctl is-active cron; true")? == "active", "expected cron to run");
    Ok(())
}

/// How far the clock of a host is ahead of ours, in seconds.
fn clock_offset(lab: &Lab, host: &str) -> Result<f64> {
    let there: f64 = lab.exec(host, "date +%s.%N")?.parse()?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
    Ok(there - now)
}

fn disk_and_clock(lab: &Lab) -> Result<()> {
    fault(lab, &["fill-disk", "m"]).ok()?.says("the disk of m is full")?;
    let full = lab.exec(
        "m",
        "runuser -u postgres -- dd if=/dev/zero of=/var/lib/postgresql/x bs=1M count=8 2>&1; true",
    )?;
    ensure!(full.contains("No space left on device"), "expected no room for 8 MiB, got {full}");
    heal(lab, "m")?;
    lab.exec("m", "runuser -u postgres -- dd if=/dev/zero of=/var/lib/postgresql/x bs=1M count=8 && rm /var/lib/postgresql/x")?;

    let copy = "dd if=/dev/urandom of=/root/x bs=64k count=32 oflag=direct 2>&1 | tail -n 1; rm /root/x";
    let seconds = |text: String| -> Result<f64> {
        let took = text.split(", ").nth(2).and_then(|part| part.split(' ').next()?.parse().ok());
        took.with_context(|| format!("expected how long it took, got {text:?}"))
    };
    fault(lab, &["slow-disk", "m", "--kib", "512"]).ok()?;
    let slow = seconds(lab.exec("m", copy)?)?;
    heal(lab, "m")?;
    let fast = seconds(lab.exec("m", copy)?)?;
    // 2 MiB at 512 KiB/s take four seconds.
    ensure!(
        slow > 2.5 && fast < slow / 2.0,
        "expected 2 MiB to take about 4 s and then less: {slow} s, {fast} s"
    );

    fault(lab, &["clock", "m", "+5m"]).ok()?.says("the clock of m is 300 s ahead")?;
    let off = clock_offset(lab, "m")?;
    ensure!((290.0..310.0).contains(&off), "expected the clock of m 300 s ahead, it is {off} s");
    fault(lab, &["clock", "m", "5m"]).run()?.exits(2)?.says("say which way")?;
    heal(lab, "m")?;
    let off = clock_offset(lab, "m")?;
    ensure!(off.abs() < 2.0, "expected the clock of m to be right, it is {off} s ahead");
    Ok(())
}

fn wait(lab: &Lab, seconds: u64, what: &str, so: impl Fn(&Lab) -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(seconds) {
        if so(lab)? {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(500));
    }
    anyhow::bail!("waited {seconds} s for {what}")
}

/// Killed while it causes a fault or heals one, `pgprov` leaves nothing that it does not know of; and `reset` needs no
/// healing.
pub fn healed_after_sigkill(suite: &Suite) -> Result<()> {
    let lab = fresh(suite)?;
    let noted = lab.state_file("faults.json");
    for delay in [0, 150, 500] {
        let mut running = fault(&lab, &["partition", "m", "--from", "s"]).start()?;
        running.wait_until(|_| noted.exists())?;
        thread::sleep(Duration::from_millis(delay));
        running.kill()?;
        running.wait()?;
        fault(&lab, &["list"]).ok()?.says("m and s cannot hear each other")?;
        let mut healing = fault(&lab, &["heal", "m"]).start()?;
        thread::sleep(Duration::from_millis(delay));
        healing.kill()?;
        healing.wait()?;
        fault(&lab, &["heal", "--all"]).ok()?;
        ensure_hear(&lab, true, "healed after it was killed")?;
    }
    fault(&lab, &["cut", "s"]).ok()?;
    fault(&lab, &["slow-disk", "m"]).ok()?;
    fault(&lab, &["delay", "m", "200ms"]).ok()?;
    fresh(suite)?;
    ensure_hear(&lab, true, "after a reset")?;
    let limit = lab.suite.virsh(["blkdeviotune", &lab.domain("m"), "vda"]).ok()?;
    let total = limit.text().lines().find(|line| line.starts_with("total_bytes_sec:")).unwrap_or_default();
    ensure!(total.ends_with(" 0"), "expected no limit on the disk of m:\n{limit}");
    let fast = round_trip(&lab, "s", "m")?;
    ensure!(fast < 200.0, "expected the delay to be gone after the reset, a ping takes {fast} ms");
    Ok(())
}

/// `watch` draws the lab on a terminal, breaks a host with a key, and heals it with another.
pub fn watched(suite: &Suite) -> Result<()> {
    let lab = fresh(suite)?;
    suite.pgprov(["watch", lab.name]).run()?.exits(2)?.says("watch needs a terminal")?;
    let screen = lab.state_file("screen");
    // Keys as a user would press them: down to s and cut it, look for a while, heal everything, leave.
    let script = format!(
        "stty rows 40 cols 120 2>/dev/null; (sleep 4; printf j; sleep 1; printf c; sleep 7; printf H; sleep 6; printf q) | \
         script -qefc 'stty rows 40 cols 120; TERM=xterm PGPROV_STATE_DIR={} {} watch --interval 1 {}' {}",
        suite.state().display(),
        suite.program().display(),
        lab.name,
        screen.display()
    );
    Program::new("bash").args(["-c", &script]).limit(120).ok()?;
    let drawn = text_of(&String::from_utf8_lossy(&std::fs::read(&screen)?));
    for wanted in [
        "lab pair",
        "primary",
        "rows written per second",
        "pgprov fault cut s",
        "the data cable of s is pulled",
        "healed: ",
    ] {
        ensure!(drawn.contains(wanted), "expected {wanted:?} on the screen, which was\n{drawn}");
    }
    fault(&lab, &["list"]).ok()?.says("no fault is in force").map(drop)
}

/// What was drawn on a terminal, as words: each escape sequence is a space, as it moves the cursor over what is blank.
fn text_of(drawn: &str) -> String {
    let mut parts = drawn.split('\u{1b}');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|char: char| "[?;".contains(char) || char.is_ascii_digit());
        text.push(' ');
        text.extend(rest.chars().skip(1));
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
