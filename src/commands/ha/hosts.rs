//! Hosts of a lab that have an engine of failover: asking all of them at once, and telling one of them something.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use pgplan::{lab::Host, render::RenderedHost};
use serde_json::Value;

use crate::{
    commands::context::{OpenLab, target},
    every::every,
    ssh::{Session, Target},
    state::LabState,
};

/// How long a host may take to connect; one that does not answer is part of the picture.
const CONNECT: Duration = Duration::from_secs(6);

/// The hosts, and the connections to them.
pub struct Hosts<'a> {
    state: &'a LabState,
    hosts: Vec<&'a Host>,
    sessions: BTreeMap<String, Session>,
}

type Answer = (Session, anyhow::Result<Value>);

impl<'a> Hosts<'a> {
    /// The hosts that have a file, whatever role brought it.
    pub fn with_file(open: &'a OpenLab, rendered: &[RenderedHost], path: &str) -> Self {
        let has_file = |host: &&Host| {
            let files = rendered.iter().find(|it| it.host == host.name).map(|it| it.files.as_slice());
            files.unwrap_or_default().iter().any(|file| file.path == path)
        };
        let hosts = open.lab.hosts.iter().filter(has_file).collect();
        Self { state: &open.state, hosts, sessions: BTreeMap::new() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Runs a command on all of them at once, which answers with JSON.
    pub fn ask(&mut self, command: &str, limit: Duration) -> Vec<(String, anyhow::Result<Value>)> {
        let mut sessions = std::mem::take(&mut self.sessions);
        let asked: Vec<_> = self.hosts.iter().map(|host| (*host, sessions.remove(&host.name))).collect();
        let state = self.state;
        let answers = every(asked, |(host, session)| ask(&target(state, host)?, session, command, limit));
        let keep = |(host, answer): (&&Host, anyhow::Result<Answer>)| {
            let said = answer.and_then(|(session, said)| {
                self.sessions.insert(host.name.clone(), session);
                said
            });
            (host.name.clone(), said)
        };
        self.hosts.iter().zip(answers).map(keep).collect()
    }

    /// Runs a command on one of them; what it says on stdout.
    ///
    /// # Errors
    /// The host does not answer, or the command fails: its words, of stderr or else of stdout.
    pub fn run(&mut self, host: &str, command: &str, limit: Duration) -> anyhow::Result<String> {
        let session = match self.sessions.remove(host) {
            Some(session) => session,
            None => {
                let host = self.hosts.iter().find(|it| it.name == host);
                let host = host.ok_or_else(|| anyhow::anyhow!("it takes no part in the failover"))?;
                Session::connect(&target(self.state, host)?, Instant::now() + CONNECT)?
            }
        };
        let output = session.run(command, b"", &mut |_| {}, limit)?;
        self.sessions.insert(host.to_owned(), session);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        let (said, complaint) = (text(&output.stdout), text(&output.stderr));
        match output.success() {
            true => Ok(said),
            false => Err(anyhow::anyhow!("{}", if complaint.is_empty() { said } else { complaint })),
        }
    }
}

fn ask(target: &Target, session: Option<Session>, command: &str, limit: Duration) -> anyhow::Result<Answer> {
    let session = match session {
        Some(session) => session,
        None => Session::connect(target, Instant::now() + CONNECT)?,
    };
    let output = session.run(command, b"", &mut |_| {}, limit)?;
    let answer = if output.success() {
        serde_json::from_slice(&output.stdout).map_err(anyhow::Error::from)
    } else {
        let said = String::from_utf8_lossy(&output.stderr).trim().trim_start_matches("error: ").to_owned();
        Err(anyhow::anyhow!("{said}"))
    };
    Ok((session, answer))
}
