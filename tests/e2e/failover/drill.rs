//! A lab with agents under load, and hands to break it with: cables, power, processes.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::ledger::{self, Summary, Try};
use crate::{
    command::Program,
    suite::{Lab, MAIN, Suite, UP_LIMIT},
};

/// The times of `rto: safe`, in seconds, which topologies/lab.yaml has.
pub const FENCE: f64 = 5.0;
/// See [`FENCE`].
pub const PROMOTE: f64 = 7.5;

/// How clients of a failover connect: nothing may take longer to notice than the failover itself.
pub const CLIENT: &str =
    "connect_timeout=2 tcp_user_timeout=3000 keepalives_idle=1 keepalives_interval=1 keepalives_count=3";

/// When clients end by themselves: after so many tries or seconds.
const TRIES: u32 = 1_000_000;
const SECONDS: u32 = 4 * 3600;
/// What an observer asks.
const ROLE: &str = "select case when pg_is_in_recovery() then 'standby' else 'primary' end";

/// A lab under load.
pub struct Drill<'a> {
    /// The lab.
    pub lab: Lab<'a>,
    /// Those with PostgreSQL.
    servers: Vec<String>,
    macs: BTreeMap<String, String>,
    cuts: RefCell<BTreeSet<(String, String)>>,
    /// Seconds that the client's clock is ahead of ours.
    offset: f64,
}

impl<'a> Drill<'a> {
    /// The lab of the README as it was when it was made, in sync; with a writer, and an observer of each database host.
    ///
    /// # Errors
    /// The lab does not come up or does not get in sync.
    pub fn begin(suite: &'a Suite) -> Result<Self> {
        let lab = suite.lab(&MAIN)?;
        lab.pgprov("reset", []).limit(UP_LIMIT).ok()?;
        // What watched the arguments of processes while the lab was made lives on in its checkpoint.
        lab.exec_everywhere("touch /run/e2e-stop")?;
        let mut drill = Self::of(lab, &["m", "s"], &["arbiter", "client"])?;
        drill.until("m", &["sync"], 60)?;
        drill.until("s", &["standby"], 10)?;
        drill.load()?;
        Ok(drill)
    }

    /// A lab with those servers and those other hosts, a client among them, as it is; nothing uses it yet.
    ///
    /// # Errors
    /// A host has no interface on the data network.
    pub fn of(lab: Lab<'a>, servers: &[&str], others: &[&str]) -> Result<Self> {
        let mut drill = Drill {
            lab,
            servers: servers.iter().map(|host| (*host).to_owned()).collect(),
            macs: BTreeMap::new(),
            cuts: RefCell::default(),
            offset: 0.0,
        };
        drill.bridge("delete table bridge drill").run()?;
        for host in servers.iter().chain(others) {
            let list = drill.lab.suite.virsh(["domiflist", &drill.lab.domain(host)]).ok()?;
            let line = list.text().lines().find(|line| line.contains("-data"));
            let mac = line.and_then(|line| line.split_whitespace().nth(4));
            let mac = mac.with_context(|| format!("expected a data interface in\n{list}"))?;
            drill.macs.insert((*host).to_owned(), mac.to_owned());
        }
        Ok(drill)
    }

    /// Starts the clients: a writer, and an observer of each database host.
    ///
    /// # Errors
    /// The first of them gets nothing done.
    pub fn load(&mut self) -> Result<()> {
        let (lab, servers) = (self.lab.name, self.servers.join(" "));
        let script = format!(
            "rm -rf /tmp/drill && mkdir /tmp/drill && cat >/tmp/drill/loop.sh <<'END'\n{}END\n
             psql -XAtqw service={lab}-rw -c 'drop table if exists ledger, x; create table ledger(i bigint primary key)' &&
             run() {{
               setsid bash /tmp/drill/loop.sh /tmp/drill $1 $2 {TRIES} {SECONDS} \"$3\" psql \"$4\" >/dev/null 2>&1 </dev/null &
             }}
             run writer 0.1 \"insert into ledger values (%) returning 'ok'\" 'service={lab}-rw {CLIENT}'
             for host in {servers}; do
               run $host 0.3 \"{ROLE}\" \"service={lab}-rw host=$host target_session_attrs=any {CLIENT}\"
             done
             date +%s.%N",
            ledger::LOOP
        );
        let before = now();
        let clock: f64 = self.lab.exec("client", &script)?.lines().last().unwrap_or_default().parse()?;
        // The answer's way back is the shorter one: connecting took most of the time.
        self.offset = clock - (before + 3.0 * now()) / 4.0;
        thread::sleep(Duration::from_secs(3));
        Ok(())
    }

    /// The present on the client's clock, in seconds.
    pub fn now(&self) -> f64 {
        now() + self.offset
    }

    /// `pgprov ha` with those words and the lab.
    pub fn ha(&self, words: &[&str]) -> Program {
        self.lab.suite.pgprov(["ha"]).args(words).args([self.lab.name])
    }

    fn bridge(&self, rules: &str) -> Program {
        Program::new("nft").args(["-f", "-"]).input(rules)
    }

    /// Cuts links between hosts, `(from, to)`, each in that direction only, as if cables were pulled for it.
    pub fn cut(&self, links: &[(&str, &str)]) -> Result<()> {
        self.cuts.borrow_mut().extend(links.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())));
        self.rewire("drop")
    }

    /// Cuts links between hosts in both directions.
    pub fn part(&self, links: &[(&str, &str)]) -> Result<()> {
        let both: Vec<_> = links.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]).collect();
        self.cut(&both)
    }

    /// Lets a link lose frames: per cent of them.
    pub fn lossy(&self, links: &[(&str, &str)], percent: u32) -> Result<()> {
        let both = links.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]);
        self.cuts.borrow_mut().extend(both.map(|(a, b)| (a.to_owned(), b.to_owned())));
        self.rewire(&format!("numgen random mod 100 < {percent} drop"))
    }

    /// Mends all links.
    pub fn mend(&self) -> Result<()> {
        self.cuts.borrow_mut().clear();
        self.rewire("drop")
    }

    fn rewire(&self, verdict: &str) -> Result<()> {
        let mut rules = "add table bridge drill\nadd chain bridge drill forward { type filter hook forward priority 0; }\n\
                         flush chain bridge drill forward\n"
            .to_owned();
        for (from, to) in self.cuts.borrow().iter() {
            let (from, to) = (&self.macs[from], &self.macs[to]);
            // What is said to everyone does not arrive either.
            rules +=
                &format!("add rule bridge drill forward ether saddr {from} ether daddr {to} {verdict}\n");
        }
        self.bridge(&rules).ok().map(drop)
    }

    /// Pulls or plugs the cable of a host.
    pub fn cable(&self, host: &str, state: &str) -> Result<()> {
        let domain = self.lab.domain(host);
        self.lab.suite.virsh(["domif-setlink", &domain, &self.macs[host], state]).ok().map(drop)
    }

    /// Switches a host off, without a word to it.
    pub fn power_off(&self, host: &str) -> Result<()> {
        self.lab.suite.virsh(["destroy", &self.lab.domain(host)]).ok().map(drop)
    }

    /// Switches it on again.
    pub fn power_on(&self, host: &str) -> Result<()> {
        self.lab.suite.virsh(["start", &self.lab.domain(host)]).ok().map(drop)
    }

    /// What the agent of a host knows.
    pub fn agent(&self, host: &str) -> Result<Value> {
        let text = self.lab.exec(host, "pgagent status")?;
        serde_json::from_str(&text)
            .with_context(|| format!("expected JSON of the agent of {host}, not {text}"))
    }

    /// The phase of a host.
    pub fn phase(&self, host: &str) -> Result<String> {
        Ok(self.agent(host)?["phase"].as_str().unwrap_or_default().to_owned())
    }

    /// Waits until a host is in one of these phases.
    pub fn until(&self, host: &str, phases: &[&str], seconds: u64) -> Result<()> {
        let begun = Instant::now();
        loop {
            let seen = self.agent(host);
            let phase = seen.as_ref().ok().and_then(|seen| seen["phase"].as_str()).unwrap_or_default();
            if phases.contains(&phase) {
                return Ok(());
            }
            if begun.elapsed() > Duration::from_secs(seconds) {
                let log = self.lab.exec(host, "journalctl -q -o cat -n 30 -u pgagent").unwrap_or_default();
                bail!("expected {host} to be {phases:?} within {seconds} s:\n{seen:#?}\n{log}");
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    /// Watches for some time that a host keeps to these phases.
    pub fn stays(&self, host: &str, phases: &[&str], seconds: f64) -> Result<()> {
        let begun = Instant::now();
        while begun.elapsed().as_secs_f64() < seconds {
            let phase = self.phase(host)?;
            ensure!(phases.contains(&phase.as_str()), "expected {host} to stay {phases:?}, it is {phase}");
            thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    }

    /// All is well again: `primary` in sync, the other one its standby.
    pub fn healthy(&self, primary: &str, seconds: u64) -> Result<()> {
        let standby = if primary == "m" { "s" } else { "m" };
        self.until(primary, &["sync"], seconds)?;
        self.until(standby, &["standby"], 15)
    }

    /// Waits until the agent of a standby hears both others.
    pub fn hears(&self, standby: &str, seconds: u64) -> Result<()> {
        let begun = Instant::now();
        loop {
            let said = self.lab.exec(standby, "pgagent explain")?;
            if !said.contains("hears neither") && !said.contains("not heard") && !said.contains("not hear") {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(seconds),
                "expected {standby} to hear the others within {seconds} s: {said}"
            );
            thread::sleep(Duration::from_millis(300));
        }
    }

    /// Waits until all is well, whoever is primary; returns who is.
    pub fn settled(&self, seconds: u64) -> Result<String> {
        let begun = Instant::now();
        loop {
            let phases = ["m", "s"].map(|host| self.phase(host).unwrap_or_default());
            match [phases[0].as_str(), phases[1].as_str()] {
                ["sync", "standby"] => return Ok("m".to_owned()),
                ["standby", "sync"] => return Ok("s".to_owned()),
                _ => {}
            }
            if begun.elapsed() > Duration::from_secs(seconds) {
                let said = self.ha(&["explain"]).run()?;
                bail!("expected a primary and its standby within {seconds} s: {phases:?}\n{said}");
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    /// Waits until the agent of a host that was switched on answers.
    pub fn awake(&self, host: &str, seconds: u64) -> Result<()> {
        let begun = Instant::now();
        while let Err(error) = self.agent(host) {
            let late = begun.elapsed() > Duration::from_secs(seconds);
            ensure!(!late, "expected {host} to be up within {seconds} s: {error:#}");
            thread::sleep(Duration::from_secs(1));
        }
        Ok(())
    }

    /// What a client of [`Drill::load`] was told so far: `writer`, or the observer of a server, by its name.
    pub fn tries(&self, client: &str) -> Result<Vec<Try>> {
        ledger::read(&self.lab.exec("client", &format!("cat /tmp/drill/{client}; echo"))?)
    }

    /// Waits until the writer is told that something is durable, from now on.
    pub fn writes_go_on(&self, seconds: u64) -> Result<()> {
        let (since, begun) = (self.now(), Instant::now());
        loop {
            let last = self.lab.exec("client", "tail -n 3 /tmp/drill/writer; echo")?;
            if ledger::read(&last)?.iter().any(|it| it.answer == "ok" && it.begin > since) {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(seconds),
                "nobody took writes for {seconds} s: {last}"
            );
            thread::sleep(Duration::from_millis(300));
        }
    }

    /// Waits until a new client gets in for writes.
    pub fn connects(&self, seconds: u64) -> Result<()> {
        let begun = Instant::now();
        loop {
            let said = self.lab.exec(
                "client",
                &format!("psql -XAtqw 'service={}-rw {CLIENT}' -c 'select 1' 2>&1 || true", self.lab.name),
            )?;
            if said == "1" {
                return Ok(());
            }
            ensure!(
                begun.elapsed() < Duration::from_secs(seconds),
                "no new client got in for {seconds} s: {said}"
            );
            thread::sleep(Duration::from_secs(1));
        }
    }

    /// Ends the load and looks whether what it was told is true. `changes`: how often another host became primary.
    ///
    /// # Errors
    /// An acknowledged row is lost, or two hosts were open at the same time.
    pub fn end(self, changes: usize) -> Result<Summary> {
        let summary = self.ledger()?;
        let seen = self.servers.iter().map(|host| Ok((host.as_str(), self.tries(host)?)));
        ledger::one_primary_at_a_time(&seen.collect::<Result<Vec<_>>>()?, changes)?;
        Ok(summary)
    }

    /// The same of a lab in which a machine stood still: its port may have been open for what was left of its lease.
    ///
    /// # Errors
    /// An acknowledged row is lost.
    pub fn end_frozen(self) -> Result<Summary> {
        self.ledger()
    }

    fn ledger(&self) -> Result<Summary> {
        let stops: String = self.servers.iter().map(|host| format!(" {host}.stop")).collect();
        self.lab.exec("client", &format!("cd /tmp/drill; touch stop writer.stop{stops}; sleep 2"))?;
        let writer = self.tries("writer")?;
        let select = "select i from ledger";
        let rows = self
            .lab
            .exec("client", &format!("psql -XAtqw 'service={}-rw {CLIENT}' -c '{select}'", self.lab.name))?;
        let rows = rows.lines().map(str::parse).collect::<Result<BTreeSet<u64>, _>>()?;
        ledger::verify(&writer, &rows)?;
        let summary = ledger::summary(&writer);
        ensure!(summary.ok > 20, "expected the writer to get on: {summary:?}");
        Ok(summary)
    }
}

impl Drop for Drill<'_> {
    fn drop(&mut self) {
        // Whoever comes next finds all cables in place.
        let _ = self.bridge("delete table bridge drill").run();
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
