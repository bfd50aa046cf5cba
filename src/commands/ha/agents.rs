//! The agents of a lab: asking all of them at once, and telling one of them something.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;
use serde_json::Value;

use super::hosts::Hosts;
use crate::{
    commands::context::{Assets, OpenLab},
    error::{Error, Result},
};

/// The file that makes a host one with an agent, whatever role brought it.
const PROGRAM: &str = "/usr/local/sbin/pgagent";
const ANSWER: Duration = Duration::from_secs(15);

/// The hosts with an agent.
pub struct Agents<'a>(Hosts<'a>);

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
        let hosts = Hosts::with_file(open, &open.rendered(assets)?, PROGRAM);
        if hosts.is_empty() {
            return Err(Error::usage(format!("lab {} has no automatic failover", open.lab.name))
                .hint("its topology needs `failover: { engine: pgagent }`: see docs/failover.md"));
        }
        Ok(Self(hosts))
    }

    /// Asks all of them at once.
    pub fn ask(&mut self) -> Vec<View> {
        self.0.ask("pgagent status", ANSWER).into_iter().map(|(host, all)| view(host, all)).collect()
    }

    /// Tells the agent of a host something.
    ///
    /// # Errors
    /// The host does not answer, or its agent refuses: its words.
    pub fn run(&mut self, host: &str, words: &str) -> Result {
        match self.0.run(host, &format!("pgagent {words}"), ANSWER) {
            Ok(_) => Ok(()),
            Err(error) => {
                let said = format!("{error:#}");
                let said = said.trim_start_matches("error: ");
                Err(Error::failed(format!("{host}: pgagent {words}: {said}")).hint("see: pgprov ha explain"))
            }
        }
    }
}

fn view(host: String, all: anyhow::Result<Value>) -> View {
    match all.and_then(|all| Ok((Agent::deserialize(&all)?, all))) {
        Ok((agent, all)) => View { host, agent: Some(agent), all: Some(all), error: None },
        Err(error) => View { host, agent: None, all: None, error: Some(format!("{error:#}")) },
    }
}
