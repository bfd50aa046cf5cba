//! Hosts that go on with their memory: what they are told, and how it is known that all is well with them.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use pgplan::{host::facts, lab::Host, render::RenderedHost};

use crate::{
    execute::{self, World},
    libvirt::Errand,
    ssh::Session,
};

/// How long a host that was restored may take to answer on the port of the hypervisor, before it is asked over SSH.
pub(super) const PORT: Duration = Duration::from_secs(20);
/// How long a host may take to answer over SSH after it was restored.
const ANSWER: Duration = Duration::from_secs(60);
/// How long replication and services may take to be as they were.
const VERIFY: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(300);

/// Tells a host that its clock jumped, after it was set if `clock` says so, and waits until everything on it is as its role says:
/// replication among others. Returns the connection, if it took one.
pub(super) fn verify(world: &World, host: &Host, clock: bool) -> anyhow::Result<Option<Session>> {
    let rendered = world.fleet.rendered(&host.name).context("it has no roles")?;
    // What is on its disk is as it was: what has to be looked at is what lives.
    let rendered = &RenderedHost {
        tasks: rendered.tasks.iter().filter(|task| !task.on_disk).cloned().collect(),
        ..rendered.clone()
    };
    let mut session = None;
    let deadline = Instant::now() + VERIFY;
    let mut clock = clock;
    let mut first = rendered.after_a_jump();
    if first.is_empty() && rendered.tasks.is_empty() {
        // That it answers is all there is to see, and nothing waits for its clock.
        tell(world, host, &mut session, "", false)?;
        return Ok(session);
    }
    loop {
        let said =
            tell(world, host, &mut session, &format!("{first}{}", facts::tasks_script(rendered)), clock)?;
        let facts = facts::parse(&String::from_utf8_lossy(&said)).map_err(anyhow::Error::msg)?;
        clock = false;
        first.clear();
        let undone = |(index, _): &(usize, _)| !facts.done.contains(index);
        let left: Vec<&str> =
            rendered.tasks.iter().enumerate().filter(undone).map(|(_, task)| task.name.as_str()).collect();
        if left.is_empty() {
            return Ok(session);
        }
        ensure!(
            Instant::now() < deadline,
            "after {} s it still has to: {}",
            VERIFY.as_secs(),
            left.join(", ")
        );
        thread::sleep(POLL);
    }
}

/// Runs a script on a host, after its clock was set if `clock` says so: over its connection, or through the hypervisor, which is
/// there at once, or over SSH where nobody listens for that. Returns what it wrote.
pub(super) fn tell(
    world: &World,
    host: &Host,
    session: &mut Option<Session>,
    script: &str,
    clock: bool,
) -> anyhow::Result<Vec<u8>> {
    if let (None, Some(domain)) = (&session, world.listening(&host.name)) {
        let errand = Errand { script: script.to_owned(), set_clock: clock, ..Errand::default() };
        let mut said = Vec::new();
        let mut hear = |output: &[u8]| said.extend_from_slice(output);
        let why = match world.libvirt.run_errand(domain, errand, PORT, PORT, &mut hear) {
            Ok(0) => return Ok(said),
            Ok(status) => format!("exit status {status}"),
            Err(undone) => undone.error.to_string(),
        };
        world
            .fleet
            .ui
            .warn(&format!("{} is told over SSH, because the hypervisor could not: {why}", host.name));
    }
    let session = match session {
        Some(session) => session,
        None => session.insert(connect(world, host)?),
    };
    if clock {
        execute::set_clock(session)?;
    }
    let output = session.run("sh -s", script.as_bytes(), &mut |_| {}, VERIFY)?;
    ensure!(output.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(output.stdout)
}

fn connect(world: &World, host: &Host) -> anyhow::Result<Session> {
    Ok(Session::connect(&world.fleet.targets[&host.name], Instant::now() + ANSWER)?)
}
