//! `pgprov destroy`: takes a lab away by its marks, whether its topology still exists or not.

use std::time::Duration;

use pgplan::machines::Machines;

use super::context::{Assets, lab_name};
use crate::{
    checkpoint::Store,
    cli::{Destroy, Global},
    error::{Error, Result},
    fault,
    libvirt::Libvirt,
    machines,
    state::{self, LabState},
    ui::Ui,
};

const LOCK: Duration = Duration::from_secs(10);

/// Shows what will go, asks, and removes it.
///
/// # Errors
/// Consent was not given, or libvirt refuses.
pub fn run(ui: &Ui, global: &Global, args: &Destroy) -> Result {
    let root = state::root()?;
    if let Some(lab) = args.name() {
        let name = lab_name(&Assets::load(global)?, lab)?;
        if let Some(state) = LabState::open(&root, &name)?
            && let Some(machines) = machines::kept(&state)?
        {
            return forget(ui, state, &machines, args.yes);
        }
    }
    if args.name().is_none() {
        for (state, machines) in machines::labs(&root)? {
            forget(ui, state, &machines, args.yes)?;
        }
    }
    let libvirt = Libvirt::connect(global.connect.as_deref())?;
    let seen = libvirt.inventory()?.labs();
    let labs: Vec<String> = match args.name() {
        Some(lab) => vec![lab_name(&Assets::load(global)?, lab)?],
        None => {
            let mut all: Vec<String> = seen.keys().cloned().chain(state::list(&root)?).collect();
            all.sort();
            all.dedup();
            all
        }
    };
    let exists = |lab: &String| {
        seen.contains_key(lab) || LabState::open(&root, lab).is_ok_and(|state| state.is_some())
    };
    let (there, gone): (Vec<String>, Vec<String>) = labs.into_iter().partition(exists);
    for lab in &gone {
        ui.out(&format!("there is no lab {lab}: nothing to destroy"));
    }
    if there.is_empty() {
        return Ok(());
    }
    for lab in &there {
        let hosts =
            seen.get(lab).map(|lab| lab.hosts.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
        let what = match hosts.as_slice() {
            [] => "no hosts".to_owned(),
            [one] => format!("1 host with its disk ({one})"),
            all => format!("{} hosts with their disks ({})", all.len(), all.join(", ")),
        };
        ui.say(&format!("lab {lab}: {what}, its networks and secrets"));
    }
    if !args.yes && !ui.confirm("Destroy?") {
        return Err(Error::usage("not confirmed").hint("add --yes to do it without asking"));
    }
    for lab in &there {
        destroy(ui, &libvirt, &root, lab, args.keep_checkpoints)?;
    }
    Ok(())
}

/// Machines that were there before stay as they are, with all that is on them.
fn forget(ui: &Ui, state: LabState, machines: &Machines, yes: bool) -> Result {
    let hosts: Vec<&str> = machines.hosts.keys().map(String::as_str).collect();
    let lab = state.lab().to_owned();
    ui.say(&format!(
        "lab {lab}: {} are machines that were there before; they stay as they are, with their data. Its secrets here go.",
        hosts.join(", ")
    ));
    if !yes && !ui.confirm("Forget the lab?") {
        return Err(Error::usage("not confirmed").hint("add --yes to do it without asking"));
    }
    let lock = state.lock("pgprov destroy", LOCK)?;
    state.remove(lock)?;
    ui.out(&format!("lab {lab} is forgotten"));
    Ok(())
}

/// The state goes last: while anything is left, the lab can still be found and destroyed.
fn destroy(ui: &Ui, libvirt: &Libvirt, root: &std::path::Path, lab: &str, keep: bool) -> Result {
    let state = LabState::open(root, lab)?;
    let lock = state.as_ref().map(|state| state.lock("pgprov destroy", LOCK)).transpose()?;
    let line = ui.line(lab, lab.len());
    line.now("destroying");
    if let (Some(state), true) = (&state, keep) {
        // Domains with their saved memory and networks; of the volumes only what checkpoints do not need.
        libvirt.remove_machines(lab)?;
        fault::Store::new(state).forget()?;
        Store::new(state).sweep(libvirt, false)?;
        line.drop_quietly();
        ui.out(&format!("lab {lab} is put away, its checkpoints are kept"));
        return Ok(());
    }
    libvirt.remove_lab(lab)?;
    if let (Some(state), Some(lock)) = (state, lock) {
        state.remove(lock)?;
    }
    line.drop_quietly();
    ui.out(&format!("lab {lab} is destroyed"));
    Ok(())
}
