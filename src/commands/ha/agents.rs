//! The agents of a lab: asking all of them at once, and telling one of them something.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use pgplan::lab::Host;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    commands::context::{Assets, OpenLab, target},
    error::{Error, Result},
    ssh::{Session, Target},
    state::LabState,
};

/// The file that makes a host one with an agent, whatever role brought it.
const PROGRAM: &str = "/usr/local/sbin/pgagent";
/// How long a host may take to connect; one that does not answer is part of the picture.
const CONNECT: Duration = Duration::from_secs(6);
const ANSWER: Duration = Duration::from_secs(15);

/// The hosts with an agent, and the connections to them.
pub struct Agents<'a> {
    state: &'a LabState,
    hosts: Vec<&'a Host>,
    sessions: BTreeMap<String, Session>,
}

/// What one host said.
pub struct View {
    /// Its name.
    pub host: String,
    /// What its agent knows, as far as pgprov looks at it.
    pub agent: Option<Agent>,
    /// All that its agent knows.
    pub all: Option<Value>,
    /// Why it could not be asked.
    pub error: Option<String>,
}

/// The parts of `pgagent status` that pgprov looks at.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Agent {
    /// What it is doing; `arbiter` on the arbiter.
    pub phase: String,
    /// Clients may write there.
    pub open: bool,
    /// The newest record it knows.
    pub record: Option<Record>,
    /// The record's primary, by name.
    pub primary: Option<String>,
    /// The operator works on the cluster.
    pub maintenance: bool,
    /// Milliseconds for which leases still run, by who granted them.
    pub lease_ms: BTreeMap<String, u64>,
    /// Milliseconds since something came, by host.
    pub heard_ms_ago: BTreeMap<String, u64>,
    /// What tries to reach the other hosts' PostgreSQL showed, by host.
    pub probe: BTreeMap<String, Option<String>>,
    /// A sentence.
    pub why: String,
    /// A command that helps.
    pub next: Option<String>,
}

/// The parts of the arbiter's record that pgprov looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Record {
    /// Which of two is newer.
    pub stamp: Stamp,
    /// Counts primaries.
    pub epoch: u32,
    /// The standby may be promoted.
    pub in_sync: bool,
    /// The primary may be open.
    pub confirmed: bool,
    /// Promotions that accepted the loss of data.
    pub lossy: u32,
}

/// Orders records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(default)]
pub struct Stamp {
    /// How many times the arbiter began without memory.
    pub incarnation: u64,
    /// How many times the record changed.
    pub version: u64,
}

impl View {
    /// Whether its agent is in that phase.
    pub fn is(&self, phase: &str) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.phase == phase)
    }

    /// Whether it answers and is not the arbiter.
    pub fn holds_data(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| agent.phase != "arbiter")
    }

    /// The newest record it knows.
    pub fn record(&self) -> Option<&Record> {
        self.agent.as_ref()?.record.as_ref()
    }
}

/// The newest record that anyone knows.
pub fn newest(views: &[View]) -> Option<Record> {
    views.iter().filter_map(View::record).max_by_key(|record| record.stamp).cloned()
}

impl<'a> Agents<'a> {
    /// The agents of a lab.
    ///
    /// # Errors
    /// It has none.
    pub fn of(open: &'a OpenLab, assets: &Assets) -> Result<Self> {
        let rendered = open.rendered(assets)?;
        let has_agent = |host: &&Host| {
            let files = rendered.iter().find(|it| it.host == host.name).map(|it| it.files.as_slice());
            files.unwrap_or_default().iter().any(|file| file.path == PROGRAM)
        };
        let hosts: Vec<&Host> = open.lab.hosts.iter().filter(has_agent).collect();
        if hosts.is_empty() {
            return Err(Error::usage(format!("lab {} has no automatic failover", open.lab.name))
                .hint("its topology needs `failover: { engine: pgagent }`: see docs/failover.md"));
        }
        Ok(Self { state: &open.state, hosts, sessions: BTreeMap::new() })
    }

    /// Asks all of them at once.
    pub fn ask(&mut self) -> Vec<View> {
        let mut sessions = std::mem::take(&mut self.sessions);
        let answers: Vec<(View, Option<Session>)> = thread::scope(|scope| {
            let threads: Vec<_> = self
                .hosts
                .iter()
                .map(|host| {
                    let target = target(self.state, host);
                    let session = sessions.remove(&host.name);
                    (host.name.clone(), scope.spawn(move || ask(&target?, session)))
                })
                .collect();
            let join = |(host, thread): (String, thread::ScopedJoinHandle<'_, anyhow::Result<Answer>>)| {
                let answer = thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("its thread panicked")));
                view(host, answer)
            };
            threads.into_iter().map(join).collect()
        });
        let mut views = Vec::new();
        for (view, session) in answers {
            self.sessions.extend(session.map(|session| (view.host.clone(), session)));
            views.push(view);
        }
        views
    }

    /// Tells the agent of a host something.
    ///
    /// # Errors
    /// The host does not answer, or its agent refuses: its words.
    pub fn run(&mut self, host: &str, words: &str) -> Result {
        let session = match self.sessions.remove(host) {
            Some(session) => session,
            None => {
                let host = self.hosts.iter().find(|it| it.name == host);
                let host = host.ok_or_else(|| Error::usage("that host has no agent"))?;
                Session::connect(&target(self.state, host)?, Instant::now() + CONNECT)?
            }
        };
        let output = session.run(&format!("pgagent {words}"), b"", &mut |_| {}, ANSWER)?;
        self.sessions.insert(host.to_owned(), session);
        if output.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().trim_start_matches("error: ");
        Err(Error::failed(format!("{host}: pgagent {words}: {said}")).hint("see: pgprov ha explain"))
    }
}

type Answer = (Session, anyhow::Result<Value>);

fn ask(target: &Target, session: Option<Session>) -> anyhow::Result<Answer> {
    let session = match session {
        Some(session) => session,
        None => Session::connect(target, Instant::now() + CONNECT)?,
    };
    let output = session.run("pgagent status", b"", &mut |_| {}, ANSWER)?;
    let answer = if output.success() {
        Ok(serde_json::from_slice(&output.stdout)?)
    } else {
        let said = String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("error: ").to_owned();
        Err(anyhow::anyhow!("{said}"))
    };
    Ok((session, answer))
}

fn view(host: String, answer: anyhow::Result<Answer>) -> (View, Option<Session>) {
    let (session, all) = match answer {
        Ok((session, all)) => (Some(session), all),
        Err(error) => (None, Err(error)),
    };
    let parsed = all.and_then(|all| Ok((Agent::deserialize(&all)?, all)));
    let view = match parsed {
        Ok((agent, all)) => View { host, agent: Some(agent), all: Some(all), error: None },
        Err(error) => View { host, agent: None, all: None, error: Some(format!("{error:#}")) },
    };
    (view, session)
}
