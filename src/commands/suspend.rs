//! `pgprov suspend` and `resume`: a lab to disk with its memory, and back.

use super::context::OpenLab;
use crate::{
    cli::{Global, LabArg},
    error::{Error, Result},
    every::every,
    execute, observe,
    ui::Ui,
};
use pgplan::{observed::DomainState, render::RenderedHost};
use std::time::Duration;

const LOCK: Duration = Duration::from_secs(10);

/// Pauses all hosts, then saves them: none of them sees another one vanish.
///
/// # Errors
/// There is no such lab, or libvirt refuses.
pub fn suspend(ui: &Ui, global: &Global, args: &LabArg) -> Result {
    let (open, _) = OpenLab::find(global, args.name())?;
    let _lock = open.state.lock("pgprov suspend", LOCK)?;
    let libvirt = open.hypervisor(global, "memory that could be saved")?;
    let name = open.lab.name.as_str();
    let infra = libvirt.observe(name)?;
    let awake: Vec<&str> = infra
        .domains
        .iter()
        .filter(|(_, domain)| matches!(domain.state, DomainState::Running | DomainState::Paused))
        .map(|(host, _)| host.as_str())
        .collect();
    let line = ui.line(name, name.len());
    line.now(&format!("saving {} hosts", awake.len()));
    for host in &awake {
        libvirt.pause_host(name, host)?;
    }
    each(&awake, |host| libvirt.save_host(name, host).map_err(Error::from))?;
    line.done(&format!("{} hosts suspended", awake.len()));
    ui.out(&format!("lab {name} is suspended; wake it with: pgprov resume {name}"));
    Ok(())
}

/// Wakes all hosts at once, and sets their clocks.
///
/// # Errors
/// There is no such lab, libvirt refuses, or a host does not answer.
pub fn resume(ui: &Ui, global: &Global, args: &LabArg) -> Result {
    let (open, assets) = OpenLab::find(global, args.name())?;
    let _lock = open.state.lock("pgprov resume", LOCK)?;
    let libvirt = open.hypervisor(global, "memory that could be saved")?;
    let name = open.lab.name.as_str();
    let infra = libvirt.observe(name)?;
    let asleep: Vec<&str> = infra
        .domains
        .iter()
        .filter(|(_, domain)| domain.state != DomainState::Running)
        .map(|(host, _)| host.as_str())
        .collect();
    let rendered = open.rendered(&assets)?;
    let line = ui.line(name, name.len());
    for (kind, network) in &infra.networks {
        if !network.active {
            libvirt.start_network(name, kind)?;
        }
    }
    line.now(&format!("waking {} hosts", asleep.len()));
    each(&asleep, |host| libvirt.start_host(name, host).map_err(Error::from))?;
    line.now("setting clocks");
    let sessions = every(&asleep, |host| -> Result<_> {
        let session = open.connect(open.host(host)?)?;
        execute::set_clock(&session)?;
        Ok(session)
    });
    // All have the same time again before the first is told that it jumped.
    let told = every(asleep.iter().zip(sessions), |(name, session)| -> Result {
        let session = session?;
        match rendered.iter().find(|host| host.host == **name).map(RenderedHost::after_a_jump) {
            Some(script) if !script.is_empty() => Ok(observe::run(&session, &script).map(drop)?),
            _ => Ok(()),
        }
    });
    told.into_iter().collect::<Result>()?;
    line.done(&format!("{} hosts awake", asleep.len()));
    ui.out(&format!("lab {name} is awake"));
    Ok(())
}

/// Does the same with every host at once; the first failure is the result.
fn each(hosts: &[&str], action: impl Fn(&str) -> Result + Sync) -> Result {
    every(hosts, |host| action(host)).into_iter().collect()
}
