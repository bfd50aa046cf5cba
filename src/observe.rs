//! Asks running hosts for their facts, all at once.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use pgplan::{
    host::{Details, Facts, HostPlan, facts},
    render::RenderedHost,
};

use crate::ssh::{Session, Target};

/// How long the facts of one host may take: the lock of another pgprov included.
const FACTS: Duration = Duration::from_secs(180);

/// A host that answered.
pub struct Answer {
    /// Still connected, for what comes next.
    pub session: Session,
    /// What it said.
    pub facts: Facts,
}

/// Asks a host over a connection.
///
/// # Errors
/// The connection breaks, or the host cannot answer.
pub fn facts(session: &Session, rendered: &RenderedHost) -> anyhow::Result<Facts> {
    let script = facts::script(rendered);
    let output = session.run("sh -s", script.as_bytes(), &mut |_| {}, FACTS)?;
    anyhow::ensure!(
        output.success(),
        "{} cannot say what it has: {}",
        rendered.host,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = String::from_utf8(output.stdout).context("the answer is not UTF-8")?;
    facts::parse(&text).map_err(|error| anyhow::anyhow!("{}: {error}", rendered.host))
}

/// Asks a host for its facts, and for what they mean where it is not as it should be.
///
/// # Errors
/// As [`facts`].
pub fn facts_and_details(session: &Session, rendered: &RenderedHost) -> anyhow::Result<Facts> {
    let mut facts = facts(session, rendered)?;
    let details = HostPlan::new(rendered, Some(&facts)).unknown(rendered);
    if details == Details::default() {
        return Ok(facts);
    }
    let script = details.script(rendered);
    let output = session.run("sh -s", script.as_bytes(), &mut |_| {}, FACTS)?;
    facts.add(&String::from_utf8_lossy(&output.stdout), |line| STANDARD.decode(line).ok());
    Ok(facts)
}

/// Asks all hosts at once; each has until `deadline` to accept the connection.
pub fn all(hosts: &[(Target, &RenderedHost)], deadline: Instant) -> BTreeMap<String, anyhow::Result<Answer>> {
    std::thread::scope(|scope| {
        let asking: Vec<_> = hosts
            .iter()
            .map(|(target, rendered)| {
                let ask = move || {
                    let session = Session::connect(target, deadline)?;
                    let facts = facts_and_details(&session, rendered)?;
                    anyhow::Ok(Answer { session, facts })
                };
                (rendered.host.clone(), scope.spawn(ask))
            })
            .collect();
        let answer = |thread: std::thread::ScopedJoinHandle<'_, anyhow::Result<Answer>>| {
            thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("asking the host panicked")))
        };
        asking.into_iter().map(|(name, thread)| (name, answer(thread))).collect()
    })
}
