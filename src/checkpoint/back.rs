//! The way back: hosts are switched off, and restored with their memory over new layers of their disks.

use std::{collections::BTreeMap, sync::Mutex, thread};

use anyhow::{Context as _, anyhow, ensure};
use pgplan::{
    lab::{Host, disk_name},
    machine::overlay_volume,
    observed::Infra,
    plan::{self, Plan},
    topology::DiskFormat,
};

use super::{
    Checkpoint, Store, definition, each, memory_of,
    verify::{tell, verify},
};
use crate::{
    execute::{self, MadeFrom, World},
    fault,
    libvirt::{self, Header},
    state::LabState,
    ui::Line,
};

/// Restores hosts; those that run are switched off. `memory` is what that of each begins with.
pub(super) fn go_back(
    world: &World,
    infra: &Infra,
    state: &LabState,
    checkpoint: &Checkpoint,
    memory: &BTreeMap<String, Header>,
    line: &Line,
) -> anyhow::Result<()> {
    let libvirt = &world.libvirt;
    line.now("restoring memory and disks");
    let mut networks = Plan::default();
    plan::networks(&world.fleet.lab, infra, &mut networks);
    for step in &networks.steps {
        execute::step(world, step, &MadeFrom::new())?;
    }
    let hosts: Vec<&Host> = world.fleet.lab.hosts.iter().collect();
    // Before anybody logs in to them.
    let note = || -> anyhow::Result<()> {
        state.write(&state.known_hosts(), checkpoint.known_hosts.as_bytes())?;
        Ok(state.write(&state.topology(), checkpoint.topology.as_bytes())?)
    };
    beside(note, || {
        each(&hosts, |host| {
            prepare(world, infra, host, checkpoint, &memory[&host.name])?;
            restore(world, host, checkpoint, &memory[&host.name])
        })
    })?;
    // All at once: nothing slow comes between the first and the last.
    let start =
        |host: &Host| -> anyhow::Result<()> { Ok(libvirt.start_host(&world.fleet.lab.name, &host.name)?) };
    if !checkpoint.calm {
        each(&hosts, start)?;
        line.now("setting clocks");
        // All have the same time again before the first is told that it jumped.
        each(&hosts, |host| tell(world, host, &mut None, "", true))?;
    }
    line.now("waiting until services and replication are as they should be");
    // Memory, disks and definitions are those of a lab without faults; see save().
    fault::Store::new(state).forget()?;
    let store = Store::new(state);
    let mut swept = Ok(());
    let sweep = || {
        // What hosts ran on before is of no use to anybody any more.
        swept = store.sweep(libvirt, true);
        Ok(())
    };
    let timeouts = |host: &Host| -> anyhow::Result<String> {
        Ok(world.fleet.rendered(&host.name).context("it has no roles")?.timeouts(true))
    };
    let sessions = beside(sweep, || {
        each(&hosts, |host| {
            if checkpoint.calm {
                start(host)?;
            }
            let mut session = verify(world, host, checkpoint.calm)?;
            // The time it was given took as long to arrive as the host needed to wake up.
            if timeouts(host)?.is_empty() {
                tell(world, host, &mut session, "", true)?;
            }
            Ok(session)
        })
    })?;
    let sessions = Mutex::new(sessions);
    // Nobody's clock may matter again before all have heard of each other.
    each(&hosts, |host| {
        let timeouts = timeouts(host)?;
        if timeouts.is_empty() {
            return Ok(());
        }
        let mut session = sessions.lock().ok().and_then(|mut sessions| sessions.remove(&host.name)?);
        tell(world, host, &mut session, &timeouts, true).map(drop)
    })?;
    store.end()?;
    swept
}

/// Does something small beside the main thing.
fn beside<T>(
    small: impl FnOnce() -> anyhow::Result<()> + Send,
    main: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    thread::scope(|scope| {
        let small = scope.spawn(small);
        let done = main();
        small.join().map_err(|_| anyhow!("a thread panicked"))??;
        done
    })
}

/// Switches one host off, if it runs, and makes what its memory is restored with: a new layer of its disk, and its definition.
fn prepare(
    world: &World,
    infra: &Infra,
    host: &Host,
    checkpoint: &Checkpoint,
    header: &Header,
) -> anyhow::Result<()> {
    let (World { libvirt, hypervisor, .. }, lab) = (world, &world.fleet.lab);
    let saved = checkpoint.hosts.get(&host.name).context("it is not in the checkpoint")?;
    let memory = memory_of(world, host, checkpoint)?;
    let path = |volume: &str| format!("{}/{volume}", hypervisor.pool_path);
    let layer = infra.next_layer.get(&host.name).copied().unwrap_or(saved.layer + 1);
    // libvirt lets nobody ask for a machine that it is switching off.
    libvirt.define_host(&lab.name, &host.name, &definition(world, host, saved, layer).xml)?;
    let xml = libvirt.host_xml(&lab.name, &host.name)?;
    ensure!(
        libvirt::hardware(&header.xml) == libvirt::hardware(&xml),
        "the saved machine has other hardware"
    );
    let make = || -> anyhow::Result<()> {
        let (volume, below) =
            (disk_name(&lab.name, &host.name, layer), disk_name(&lab.name, &host.name, saved.layer));
        let disk = overlay_volume(&volume, lab.vm.disk, &path(&below), DiskFormat::Qcow2);
        libvirt.create_disk(&lab.name, &host.name, layer, &disk)?;
        Ok(libvirt.write_saved_header(&memory, header, &xml)?)
    };
    let stop = || match infra.domains.contains_key(&host.name) {
        true => Ok(libvirt.stop_host(&lab.name, &host.name)?),
        false => Ok(()),
    };
    // libvirt looks only every fifth of a second whether QEMU is gone: time for the rest, which the running machine has no part in.
    beside(stop, make)
}

/// Restores the memory of one host, over the disk that was made for it. It does not run after that.
fn restore(world: &World, host: &Host, checkpoint: &Checkpoint, header: &Header) -> anyhow::Result<()> {
    let (World { libvirt, hypervisor, .. }, lab) = (world, &world.fleet.lab);
    let path = format!("{}/{}", hypervisor.pool_path, memory_of(world, host, checkpoint)?);
    libvirt.restore_from(&format!("host {}", host.name), &path, true)?;
    // A cable that was pulled when the checkpoint was made is so for QEMU, which libvirt does not know.
    if header.xml.contains("<link state='down'/>") {
        libvirt.plug_in(&lab.name, &host.name)?;
    }
    Ok(())
}
