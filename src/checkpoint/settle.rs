//! What a run that was killed has left to do.

use std::collections::BTreeMap;

use anyhow::Context as _;
use pgplan::{lab::Host, machine::memory_name};

use super::{Checkpoint, Pending, Store, finish_save, reset, write_memory};
use crate::{execute::World, state::LabState};

/// Finishes what a run that was killed has left: the checkpoint that was being made, or the way back to one. Tells what
/// it was.
///
/// # Errors
/// As [`super::save`] and [`super::reset`].
pub fn settle(world: &World, state: &LabState, text: &str) -> anyhow::Result<Option<String>> {
    let store = Store::new(state);
    match store.pending()? {
        None => Ok(None),
        Some(Pending::Reset { name }) => {
            let checkpoint = store.find(&name)?.with_context(|| format!("there is no checkpoint {name}"))?;
            reset(world, &world.libvirt.observe(state.lab())?, state, &checkpoint)?;
            Ok(Some(format!("finished going back to checkpoint {name}")))
        }
        Some(Pending::Save { name, layers }) => {
            let written =
                |checkpoint: &Checkpoint| layers.iter().all(|(host, layer)| checkpoint.has(host, *layer));
            if !store.find(&name)?.is_some_and(|checkpoint| written(&checkpoint)) {
                let hosts: Vec<&Host> =
                    world.fleet.lab.hosts.iter().filter(|host| layers.contains_key(&host.name)).collect();
                if let Err(error) = write_memory(world, &hosts, &name, &layers) {
                    return abandon(world, state, &name, &layers, &error).map(Some);
                }
                finish_save(world, state, &name, text, &layers, None, false)?;
            }
            let checkpoint = store.find(&name)?.context("the checkpoint was not written")?;
            reset(world, &world.libvirt.observe(state.lab())?, state, &checkpoint)?;
            Ok(Some(format!("finished checkpoint {name}")))
        }
    }
}

/// A checkpoint that cannot be completed: hosts go on from their disks, which have everything they wrote.
fn abandon(
    world: &World,
    state: &LabState,
    name: &str,
    layers: &BTreeMap<String, u32>,
    error: &anyhow::Error,
) -> anyhow::Result<String> {
    let lab = state.lab();
    let memory = layers.iter().map(|(host, layer)| memory_name(lab, host, *layer, name)).collect();
    world.libvirt.remove_named(lab, memory)?;
    Store::new(state).end()?;
    Ok(format!("gave up checkpoint {name}, which was never complete ({error:#}): its hosts boot"))
}
