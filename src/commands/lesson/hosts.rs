//! The hosts of the lab as a lesson works on them: one session a host that stays open, psql, logs, clocks.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use pgplan::{
    lab::{Host, POSTGRES_ROLE, REPLICATION_USER},
    profile::{self, AS_POSTGRES},
    render::RenderedHost,
};

use super::super::context::{OpenLab, target};
use crate::{
    clock,
    lesson::{evidence::LogLine, judge::Seen, logs, read},
    ssh::{Output, Session, quote},
};

/// How long a host may take to connect: one that does not answer is something that a lesson may be about.
const CONNECT: Duration = Duration::from_secs(6);
const LOGS: Duration = Duration::from_secs(30);
/// Lines of a log that are looked at.
const LOG_LINES: u32 = 3000;

/// The hosts.
pub struct Hosts<'a> {
    open: &'a OpenLab,
    rendered: &'a [RenderedHost],
    sessions: BTreeMap<String, Session>,
    ahead: BTreeMap<String, f64>,
}

/// Seconds since 1970.
pub fn now() -> f64 {
    clock::since_1970().as_secs_f64()
}

impl<'a> Hosts<'a> {
    /// The hosts of a lab; none is connected to yet.
    pub fn new(open: &'a OpenLab, rendered: &'a [RenderedHost]) -> Self {
        Self { open, rendered, sessions: BTreeMap::new(), ahead: BTreeMap::new() }
    }

    /// Name of the lab.
    pub fn lab(&self) -> &str {
        &self.open.lab.name
    }

    /// The host of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn host(&self, name: &str) -> anyhow::Result<&'a Host> {
        self.open.lab.host(name).with_context(|| format!("the lab has no host `{name}`"))
    }

    /// Runs a command there.
    ///
    /// # Errors
    /// The host does not answer, or the command does not end in time.
    pub fn run(&mut self, name: &str, command: &str, input: &str, limit: Duration) -> anyhow::Result<Seen> {
        let Output { exit, stdout, stderr } =
            self.session(name, |session| session.run(command, input.as_bytes(), &mut |_| {}, limit))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Seen { ok: exit == crate::ssh::Exit::Status(0), text: text(&stdout), complaint: text(&stderr) })
    }

    /// Works with the session of a host; one that broke is given up, and made anew the next time.
    fn session<T>(
        &mut self,
        name: &str,
        work: impl FnOnce(&Session) -> Result<T, crate::ssh::Error>,
    ) -> anyhow::Result<T> {
        let session = match self.sessions.remove(name) {
            Some(session) => session,
            None => Session::connect(&target(&self.open.state, self.host(name)?)?, Instant::now() + CONNECT)?,
        };
        let done = work(&session)?;
        self.sessions.insert(name.to_owned(), session);
        Ok(done)
    }

    /// The command that runs psql, and how a student would type it. On a database host it is the superuser there; elsewhere
    /// it connects as the owner of the database to what `to` says.
    ///
    /// # Errors
    /// There is no such host.
    pub fn psql(
        &self,
        on: &str,
        to: Option<&str>,
        database: Option<&str>,
    ) -> anyhow::Result<(String, String)> {
        let lab = &self.open.lab;
        let bin = profile::bin(lab.postgres.version);
        let local = self.host(on)?.has_role(POSTGRES_ROLE) && to.is_none();
        if local {
            let first = lab.postgres.databases.first().map_or("postgres", |database| database.name.as_str());
            let database = database.unwrap_or(first);
            let command = format!("cd / && exec env {AS_POSTGRES} {bin}/psql -X -d {}", quote(database));
            return Ok((command, format!("runuser -u postgres -- psql {database}")));
        }
        let mut words = match to.unwrap_or("rw") {
            service @ ("rw" | "ro") => format!("service={}-{service}", lab.name),
            host => format!("service={}-rw host={host} target_session_attrs=any", lab.name),
        };
        if let Some(database) = database {
            words.push_str(&format!(" dbname={database}"));
        }
        let shown = if words.contains(' ') { format!("psql '{words}'") } else { format!("psql {words}") };
        let command = format!("PGSYSCONFDIR=/etc/postgresql-common exec {bin}/psql -X {}", quote(&words));
        Ok((command, shown))
    }

    /// Runs SQL for its value: no header, no alignment.
    ///
    /// # Errors
    /// The host does not answer. That SQL fails is none.
    pub fn value(
        &mut self,
        on: &str,
        to: Option<&str>,
        database: Option<&str>,
        sql: &str,
        limit: Duration,
    ) -> anyhow::Result<Seen> {
        let (command, _) = self.psql(on, to, database)?;
        self.run(on, &format!("{command} -Atqw -v ON_ERROR_STOP=1 -f -"), sql, limit)
    }

    /// Replaces names in braces: see [`read::fill`]. Paths are those of PostgreSQL on any host of the lab.
    pub fn fill(&self, text: &str, on: Option<&str>) -> String {
        let lab = &self.open.lab;
        let host = on.and_then(|name| lab.host(name)).or_else(|| lab.with_role(POSTGRES_ROLE).next());
        let server = host.map(|host| profile::server(lab, host));
        read::fill(text, |name| match (name, &server) {
            ("lab", _) => Some(lab.name.clone()),
            ("bin", Some(server)) => Some(server.bin.clone()),
            ("data", Some(server)) => Some(server.data.clone()),
            ("conf", Some(server)) => Some(server.conf.clone()),
            ("unit", Some(server)) => Some(server.unit.clone()),
            ("replication", Some(server)) => {
                let me = on.unwrap_or_default();
                Some(format!(
                    "port=5432 user={REPLICATION_USER} application_name={me} passfile={}/replication.pgpass {}",
                    server.conf, server.tls
                ))
            }
            _ => None,
        })
    }

    /// Seconds that the clock of a host is ahead of ours; asked once.
    ///
    /// # Errors
    /// The host does not answer.
    pub fn ahead(&mut self, name: &str) -> anyhow::Result<f64> {
        if let Some(ahead) = self.ahead.get(name) {
            return Ok(*ahead);
        }
        // The first command of a session takes longer.
        self.run(name, "true", "", CONNECT)?;
        let before = now();
        let seen = self.run(name, "date +%s.%N", "", CONNECT)?;
        let clock: f64 = seen.text.trim().parse().with_context(|| format!("{name} has no clock"))?;
        let ahead = clock - f64::midpoint(before, now());
        self.ahead.insert(name.to_owned(), ahead);
        Ok(ahead)
    }

    /// The lines of the logs of a host, of all of its roles, since then.
    ///
    /// # Errors
    /// The host does not answer.
    pub fn logs(&mut self, name: &str, since: f64) -> anyhow::Result<Vec<LogLine>> {
        let ahead = self.ahead(name)?;
        let rendered = self.rendered.iter().find(|rendered| rendered.host == name);
        let scripts = rendered.map(|rendered| rendered.logs.as_slice()).unwrap_or_default();
        let mut lines = Vec::new();
        for (role, script) in scripts {
            let script = format!("export LINES={LOG_LINES} FORMAT=short-iso-precise TZ=UTC\n{script}");
            let seen = self.run(name, "sh -s", &script, LOGS)?;
            lines.extend(logs::parse(name, role, &seen.text, ahead));
        }
        lines.retain(|line| line.at >= since);
        Ok(lines)
    }

    /// The names of the hosts with PostgreSQL.
    pub fn servers(&self) -> Vec<String> {
        self.open.lab.with_role(POSTGRES_ROLE).map(|host| host.name.clone()).collect()
    }

    /// The names of all hosts.
    pub fn names(&self) -> Vec<String> {
        self.open.lab.hosts.iter().map(|host| host.name.clone()).collect()
    }
}
