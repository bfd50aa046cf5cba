//! `pgprov checkpoint` and `pgprov reset`: a lab at one moment, and back to it.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use pgplan::{lab::Pins, topology::Topology};
use serde_json::json;

use super::{
    context::{Assets, OpenLab, lab_name},
    draft::{Draft, Mode},
};
use crate::{
    checkpoint::{self, Checkpoint, READY, Store},
    cli::{self, CheckpointRemove, CheckpointSave, Global, LabOption, Reset},
    clock,
    error::{Error, Kind, Result},
    state::{self, LabState},
    ui::{self, Ui},
};

/// How long another pgprov that works on the same lab may take.
const LOCK: Duration = Duration::from_secs(10);

/// Runs the verb.
///
/// # Errors
/// There is no such lab or checkpoint, a host does not run, or libvirt refuses.
pub fn run(ui: &Ui, global: &Global, args: &cli::Checkpoint) -> Result {
    match args {
        cli::Checkpoint::Save(args) => save(ui, global, args),
        cli::Checkpoint::List(args) => list(ui, global, args),
        cli::Checkpoint::Remove(args) => remove(ui, global, args),
    }
}

fn save(ui: &Ui, global: &Global, args: &CheckpointSave) -> Result {
    checkpoint::check_name(&args.name).map_err(Error::usage)?;
    let (open, assets) = OpenLab::find(global, args.lab.lab.as_deref())?;
    let exists = Store::new(&open.state).find(&args.name)?.is_some();
    if exists && !args.replace {
        return Err(Error::usage(format!("checkpoint {} exists", args.name))
            .hint("take another name, or add --replace to make it anew"));
    }
    let begun = Instant::now();
    let draft = applied(ui, global, &assets, &open.state, "pgprov checkpoint save")?;
    settle(ui, &draft)?;
    let draft = draft.look_again()?;
    let (world, infra, state, text) = draft.parts()?;
    checkpoint::save(world, infra, state, &args.name, text, false)?;
    ui.out(&format!(
        "checkpoint {} of lab {} is made ({:.1} s); go back to it with: pgprov reset {0}",
        args.name,
        open.lab.name,
        begun.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn list(ui: &Ui, global: &Global, args: &LabOption) -> Result {
    let (open, _) = OpenLab::find(global, args.lab.as_deref())?;
    let inventory = open.hypervisor(global, "checkpoints")?.inventory()?;
    let software = inventory.hypervisor.software();
    let all = Store::new(&open.state).list()?;
    let mut rows = Vec::new();
    let mut values = Vec::new();
    for one in &all {
        let (memory, disk) = one.cost(&open.lab.name, &inventory.volumes);
        let usable = one.software == software;
        rows.push(vec![
            one.name.clone(),
            age(one.created),
            one.hosts.len().to_string(),
            format!("{} MiB", memory.0 >> 20),
            format!("{} MiB", disk.0 >> 20),
            if usable { "yes".to_owned() } else { format!("no: made with {}", one.software) },
        ]);
        values.push(
            json!({"name": one.name, "created": one.created, "hosts": one.hosts.keys().collect::<Vec<_>>(),
            "memory_bytes": memory.0, "disk_bytes": disk.0, "usable": usable}),
        );
    }
    if ui.json() {
        ui.out_json(&json!({"lab": open.lab.name, "checkpoints": values}));
    } else if rows.is_empty() {
        ui.out(&format!("lab {} has no checkpoints; make one: pgprov checkpoint save NAME", open.lab.name));
    } else {
        ui.out(&ui::table(&["NAME", "AGE", "HOSTS", "MEMORY", "DISK", "USABLE"], &rows));
    }
    Ok(())
}

fn age(created: u64) -> String {
    match clock::since_1970().as_secs().saturating_sub(created) {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

fn remove(ui: &Ui, global: &Global, args: &CheckpointRemove) -> Result {
    let (open, _) = OpenLab::find(global, args.lab.lab.as_deref())?;
    let _lock = open.state.lock("pgprov checkpoint remove", LOCK)?;
    let store = Store::new(&open.state);
    if store.find(&args.name)?.is_none() {
        return Err(missing(&store, &open.lab.name, &args.name)?);
    }
    let libvirt = open.hypervisor(global, "checkpoints")?;
    store.forget(&args.name)?;
    // What is under way needs volumes that no checkpoint has yet.
    if store.pending()?.is_none() {
        store.sweep(&libvirt, true)?;
    }
    ui.out(&format!("checkpoint {} of lab {} is removed", args.name, open.lab.name));
    Ok(())
}

/// Takes a lab back to a checkpoint.
///
/// # Errors
/// There is no such lab or checkpoint, it does not fit any more, or a host does not come back.
pub fn reset(ui: &Ui, global: &Global, args: &Reset) -> Result {
    let assets = Assets::load(global)?;
    let root = state::root()?;
    let name = match &args.lab.lab {
        Some(lab) => lab_name(&assets, lab)?,
        None => super::context::only_lab(&root)?,
    };
    let state = LabState::open(&root, &name)?
        .ok_or_else(|| Error::usage(format!("there is no lab `{name}`")).hint("pgprov up makes one"))?;
    let store = Store::new(&state);
    let wanted = args.name.as_deref().unwrap_or(READY);
    let Some(checkpoint) = store.find(wanted)? else { return Err(missing(&store, &name, wanted)?) };
    let begun = Instant::now();
    go_back(ui, global, &assets, &checkpoint, "pgprov reset", args.yes)?;
    ui.out(&format!(
        "lab {name} is as it was at checkpoint {wanted}, {} ago ({:.1} s)",
        age(checkpoint.created),
        begun.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn missing(store: &Store, lab: &str, name: &str) -> Result<Error> {
    let names: Vec<String> = store.list()?.into_iter().map(|checkpoint| checkpoint.name).collect();
    let hint = match names.is_empty() {
        true => "make one: pgprov checkpoint save NAME".to_owned(),
        false => format!("checkpoints: {}", names.join(", ")),
    };
    Ok(Error::usage(format!("lab {lab} has no checkpoint `{name}`")).hint(hint))
}

/// Hosts that were added since are destroyed only with consent.
fn go_back(
    ui: &Ui,
    global: &Global,
    assets: &Assets,
    checkpoint: &Checkpoint,
    what: &str,
    yes: bool,
) -> Result {
    let topology = parse(assets, &checkpoint.topology, &format!("checkpoint {}", checkpoint.name))?;
    let text = checkpoint.topology.clone();
    let draft = Draft::of(ui, global, assets, (text, topology), Mode::Restore, Some(&checkpoint.pins), what)?;
    let (world, infra, state, _) = draft.parts()?;
    let lost: Vec<&str> = infra
        .domains
        .keys()
        .filter(|host| world.fleet.lab.host(host).is_none())
        .map(String::as_str)
        .collect();
    if !lost.is_empty() && !yes {
        let loss = format!(
            "destroy {} with all data: checkpoint {} does not have it",
            lost.join(", "),
            checkpoint.name
        );
        if !ui.confirm(&format!("This will {loss}. Go on?")) {
            return Err(
                Error::usage(format!("not confirmed: {loss}")).hint("add --yes to do it without asking")
            );
        }
    }
    checkpoint::reset(world, infra, state, checkpoint)?;
    super::context::keep_pins(state, &world.fleet.lab)
}

/// The lab as it was last applied.
fn applied(ui: &Ui, global: &Global, assets: &Assets, state: &LabState, what: &str) -> Result<Draft> {
    let file = state.topology();
    let text = fs::read_to_string(&file).map_err(|error| {
        Error::failed(format!("cannot read {}: {error}", file.display()))
            .hint("finish the lab with `pgprov up`")
    })?;
    let topology = parse(assets, &text, &file.display().to_string())?;
    Draft::of(ui, global, assets, (text, topology), Mode::Restore, None::<&Pins>, what)
}

fn parse(assets: &Assets, text: &str, what: &str) -> Result<Topology> {
    let checked = assets.check(text);
    checked.topology.ok_or_else(|| {
        let shown = pgplan::excerpt::render(&checked.findings, what, text);
        Error::new(Kind::Invalid, format!("{what} has errors\n{}", shown.trim_end()))
    })
}

fn settle(ui: &Ui, draft: &Draft) -> Result {
    let (world, _, state, text) = draft.parts()?;
    if let Some(done) = checkpoint::settle(world, state, text)? {
        ui.say(&done);
    }
    Ok(())
}

/// Finishes what a run that was killed has left of the lab of that topology.
///
/// # Errors
/// As [`reset`].
pub fn finish_pending(ui: &Ui, global: &Global, file: &Path) -> Result {
    let assets = Assets::load(global)?;
    let (_, topology) = assets.topology(ui, file)?;
    let Some(state) = LabState::open(&state::root()?, &topology.lab)? else { return Ok(()) };
    if Store::new(&state).pending()?.is_none() {
        return Ok(());
    }
    let draft = applied(ui, global, &assets, &state, "pgprov up")?;
    settle(ui, &draft)
}

/// Restores a lab of which only its checkpoint `ready` is left. Returns the checkpoint, if it fits the topology.
///
/// # Errors
/// As [`reset`].
pub fn from_ready(ui: &Ui, global: &Global, file: &Path) -> Result<Option<Checkpoint>> {
    let assets = Assets::load(global)?;
    let (_, topology) = assets.topology(ui, file)?;
    let Some((state, ready)) = ready_for(&assets, &topology)? else { return Ok(None) };
    match go_back(ui, global, &assets, &ready, "pgprov up", false) {
        Ok(()) => Ok(Some(ready)),
        Err(error) if Store::new(&state).pending()?.is_none() => {
            ui.warn(&format!("the lab is made anew: {:#}", error.cause));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The checkpoint `ready` of a lab, if it fits the topology.
///
/// # Errors
/// The folder of checkpoints cannot be listed.
pub fn ready_for(assets: &Assets, topology: &Topology) -> Result<Option<(LabState, Checkpoint)>> {
    let Some(state) = LabState::open(&state::root()?, &topology.lab)? else { return Ok(None) };
    let ready = Store::new(&state).find(READY)?.filter(|ready| matches(assets, ready, topology));
    Ok(ready.map(|ready| (state, ready)))
}

/// Whether the topology wants the same machines: what is inside them is brought in line afterwards.
fn matches(assets: &Assets, ready: &Checkpoint, topology: &Topology) -> bool {
    assets.check(&ready.topology).topology.is_some_and(|saved| {
        saved.hosts.keys().eq(topology.hosts.keys())
            && saved.vm == topology.vm
            && saved.image == topology.image
            && saved.network == topology.network
            && saved.management_network == topology.management_network
    })
}
