//! What goes on in the background of a lesson, on the hosts: the writer, the watch over roles, pgbench. All of it ends by
//! itself after a while, also when nobody stops it.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context as _, bail};

use super::hosts::{Hosts, now};
use crate::{
    lesson::{
        Load,
        evidence::{self, Fate, RoleFrom, Write},
    },
    ssh::quote,
};

const LOOP: &str = include_str!("loop.sh");
const FOLDER: &str = "/var/tmp/pgprov-lesson";
const LIMIT: Duration = Duration::from_secs(30);
/// Seconds after which writer and watch end, and the rows that the writer makes at most.
const SECONDS_MAX: u32 = 3600;
const ROWS_MAX: u32 = 10_000;
/// Ends pgbench, if it works: the shell that starts it, and all that belongs to it.
const END_LOAD: &str = "if read pid </var/tmp/pgprov-lesson/load.pid; then rm -f /var/tmp/pgprov-lesson/load.pid; kill -- -$pid; fi 2>/dev/null";
/// How writer and pgbench connect: nothing may take longer to notice than a failover. A session that waits for the answer to
/// what has arrived already sends nothing, so that only keepalives notice.
const PATIENCE: &str =
    "connect_timeout=2 tcp_user_timeout=3000 keepalives_idle=1 keepalives_interval=1 keepalives_count=3";
const TABLE: &str = "create table if not exists lesson_writes \
                     (n bigint primary key, at timestamptz not null default clock_timestamp())";
const ROLE: &str = "select case when pg_is_in_recovery() then 'standby' else 'primary' end";

/// The loops of one run.
#[derive(Default)]
pub struct Loops {
    /// Where the writer runs.
    writer: Option<String>,
    /// What it wrote so far, and how much of that was read.
    text: String,
    watched: Vec<String>,
    /// Where pgbench works.
    loaded: Vec<String>,
}

impl Loops {
    /// Watches what the database hosts are.
    ///
    /// # Errors
    /// A host does not answer.
    pub fn watch(&mut self, hosts: &mut Hosts<'_>) -> anyhow::Result<()> {
        for name in hosts.servers() {
            let psql = hosts.psql(&name, None, Some("postgres"))?.0;
            let psql = psql.split_once("exec ").map_or(psql.as_str(), |(_, psql)| psql).to_owned();
            begin(hosts, &name, "roles", "0.4", ROLE, &psql)?;
            self.watched.push(name);
        }
        Ok(())
    }

    /// Starts the writer.
    ///
    /// # Errors
    /// It runs already, its table cannot be made, or the host does not answer.
    pub fn start_writer(&mut self, hosts: &mut Hosts<'_>, on: &str) -> anyhow::Result<()> {
        if self.writer.is_some() {
            bail!("the writer was started before");
        }
        let made = hosts.value(on, Some("rw"), None, &format!("{TABLE}; truncate lesson_writes"), LIMIT)?;
        if !made.ok {
            bail!("cannot make table lesson_writes: {}", made.complaint.trim());
        }
        let psql = format!("psql 'service={}-rw {PATIENCE}'", hosts.lab());
        begin(hosts, on, "writer", "0.2", "insert into lesson_writes(n) values (%) returning 'ok'", &psql)?;
        self.writer = Some(on.to_owned());
        Ok(())
    }

    /// Stops the writer.
    ///
    /// # Errors
    /// It was not started, or the host does not answer.
    pub fn stop_writer(&mut self, hosts: &mut Hosts<'_>) -> anyhow::Result<()> {
        let on = self.writer.clone().context("the writer was not started")?;
        // It may be waiting for an answer.
        let script = format!("touch {FOLDER}/writer.stop; sleep 0.5");
        hosts.run(&on, &script, "", LIMIT).map(drop)
    }

    /// What the writer was told so far.
    ///
    /// # Errors
    /// The host does not answer.
    pub fn writes(&mut self, hosts: &mut Hosts<'_>) -> anyhow::Result<Vec<Write>> {
        let Some(on) = self.writer.clone() else { return Ok(Vec::new()) };
        let ahead = hosts.ahead(&on)?;
        let script = format!("tail -c +{} {FOLDER}/writer", self.text.len() + 1);
        let seen = hosts.run(&on, &script, "", LIMIT)?;
        // A character may be half written.
        let whole = seen.text.rsplit_once('\n').map_or(String::new(), |(whole, _)| format!("{whole}\n"));
        self.text.push_str(&whole);
        Ok(evidence::writes(&self.text, ahead))
    }

    /// Numbers of acknowledged rows that are not there; nothing when there was no writer.
    ///
    /// # Errors
    /// A host does not answer, or the table cannot be read.
    pub fn lost(&mut self, hosts: &mut Hosts<'_>) -> anyhow::Result<Option<Vec<u64>>> {
        let Some(on) = self.writer.clone() else { return Ok(None) };
        // What is acknowledged later may be missing in the answer.
        let writes = self.writes(hosts)?;
        let seen = hosts.value(&on, Some("rw"), None, "select n from lesson_writes", LIMIT)?;
        if !seen.ok {
            bail!("cannot read table lesson_writes: {}", seen.complaint.trim());
        }
        let there: BTreeSet<u64> = seen.text.lines().filter_map(|line| line.parse().ok()).collect();
        Ok(Some(evidence::lost(&writes, &there)))
    }

    /// What [`Self::load`] does, as a student would type it.
    pub fn load_shown(lab: &str, load: Load) -> String {
        let Load { clients, rate, seconds } = load;
        format!(
            "pgbench -i -q -s 1 service={lab}-rw\n\
             timeout {seconds} sh -c \"until pgbench -n -c {clients} -R {rate} -T {seconds} \
             'service={lab}-rw {PATIENCE}'; do sleep 0.5; done\" >/dev/null 2>&1 &"
        )
    }

    /// Puts pgbench to work, which goes on after a failover.
    ///
    /// # Errors
    /// Its tables cannot be made, or the host does not answer.
    pub fn load(&mut self, hosts: &mut Hosts<'_>, on: &str, load: Load) -> anyhow::Result<String> {
        let service = format!("service={}-rw", hosts.lab());
        let Load { clients, rate, seconds } = load;
        self.loaded.push(on.to_owned());
        let script = format!(
            "export PGSYSCONFDIR=/etc/postgresql-common
             mkdir -p {FOLDER} && {END_LOAD}; pgbench -i -q -s 1 '{service}' 2>&1 || exit 1
             setsid sh -c 'echo $$ >{FOLDER}/load.pid; end=$(($(date +%s) + {seconds}))
               while [ $(date +%s) -lt $end ]; do
                 timeout --foreground {seconds} pgbench -n -c {clients} -R {rate} -T {seconds} \"{service} {PATIENCE}\"
                 sleep 0.5
               done' >{FOLDER}/load 2>&1 </dev/null &"
        );
        let seen = hosts.run(on, "sh -s", &script, Duration::from_secs(180))?;
        if !seen.ok {
            bail!("pgbench cannot make its tables: {}", [seen.text, seen.complaint].concat().trim());
        }
        Ok(seen.text)
    }

    /// What the database hosts were.
    pub fn roles(&self, hosts: &mut Hosts<'_>) -> Vec<RoleFrom> {
        let mut roles = Vec::new();
        for name in &self.watched {
            let read = |hosts: &mut Hosts<'_>| {
                let ahead = hosts.ahead(name)?;
                let seen = hosts.run(name, &format!("cat {FOLDER}/roles"), "", LIMIT)?;
                anyhow::Ok(evidence::roles(name, &seen.text, ahead))
            };
            // A host that is off has nothing to tell.
            roles.extend(read(hosts).unwrap_or_default());
        }
        roles
    }

    /// Ends everything.
    pub fn end(&mut self, hosts: &mut Hosts<'_>) {
        let writer = self.writer.iter().cloned();
        let names: BTreeSet<String> =
            self.watched.iter().chain(&self.loaded).cloned().chain(writer).collect();
        for name in names {
            let script = format!("touch {FOLDER}/roles.stop {FOLDER}/writer.stop; {END_LOAD}");
            // What cannot be stopped ends by itself.
            let _ = hosts.run(&name, &script, "", LIMIT);
        }
    }
}

/// Starts the loop on a host, in place of one of an earlier run.
fn begin(
    hosts: &mut Hosts<'_>,
    on: &str,
    name: &str,
    pause: &str,
    sql: &str,
    psql: &str,
) -> anyhow::Result<()> {
    let script = format!(
        "mkdir -p {FOLDER} && touch {FOLDER}/{name}.stop
         for try in 1 2 3 4 5; do pgrep -f '^bash {FOLDER}/{name}.sh' >/dev/null || break; sleep 0.5; done
         pkill -f '^bash {FOLDER}/{name}.sh'
         rm -f {FOLDER}/{name} {FOLDER}/{name}.never {FOLDER}/{name}.stop
         cat >{FOLDER}/{name}.sh <<'END-OF-LOOP'\n{LOOP}END-OF-LOOP
         setsid bash {FOLDER}/{name}.sh {FOLDER} {name} {pause} {ROWS_MAX} {SECONDS_MAX} {} {psql} >/dev/null 2>&1 </dev/null &
         for try in $(seq 50); do [ -s {FOLDER}/{name} ] && exit 0; sleep 0.1; done
         exit 1",
        quote(sql)
    );
    let seen = hosts.run(on, "sh -s", &script, LIMIT)?;
    if !seen.ok {
        bail!("the loop `{name}` on {on} does not begin: {}", seen.complaint.trim());
    }
    Ok(())
}

/// Whether the writer gets on: acknowledgements of rows that were sent after `since`.
pub fn acknowledged_since(writes: &[Write], since: f64) -> usize {
    writes.iter().filter(|write| write.fate == Fate::Ok && write.begin >= since).count()
}

/// Seconds since the last acknowledgement.
pub fn silent_for(writes: &[Write]) -> f64 {
    let last = writes.iter().rev().find(|write| write.fate == Fate::Ok);
    last.map_or(f64::INFINITY, |write| now() - write.end)
}
