//! `pgprov fault`: break a host or the network, and heal it again.

use std::{os::unix::process::CommandExt as _, process::Stdio, thread, time::Duration};

use anyhow::Context as _;
use pgplan::fault::{Fault, Record};
use serde_json::json;

use super::context::{OpenLab, target, this_program};
use crate::{
    cli::{self, FaultHeal, FaultHost, Global, LabOption},
    clock,
    error::{Error, Result},
    fault::{Hands, Store},
    libvirt::Libvirt,
    ssh::quote,
    ui::{self, Ui},
};

/// How long another pgprov that works on the same lab may take.
const LOCK: Duration = Duration::from_secs(10);
/// How long a fault that heals by itself waits for its turn: as long as an `up` or a checkpoint may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// Runs the verb.
///
/// # Errors
/// There is no such lab or host, or it cannot be done.
pub fn run(ui: &Ui, global: &Global, verb: &cli::Fault) -> Result {
    match verb {
        cli::Fault::Cause(verb) => {
            let (options, fault) = wanted(verb)?;
            cause(ui, global, options, fault)
        }
        cli::Fault::KillProcess(args) => kill_process(ui, global, args),
        cli::Fault::List(lab) => list(ui, global, lab),
        cli::Fault::Heal(args) => heal(ui, global, args),
    }
}

/// The fault that the words ask for.
fn wanted(verb: &cli::Cause) -> Result<(&cli::FaultOptions, Fault)> {
    let host = |args: &FaultHost| args.host.clone();
    Ok(match verb {
        cli::Cause::Cut(args) => (&args.options, Fault::Cut { host: host(args) }),
        cli::Cause::Isolate(args) => (&args.options, Fault::Isolate { host: host(args) }),
        cli::Cause::Kill(args) => (&args.options, Fault::Kill { host: host(args) }),
        cli::Cause::Pause(args) => (&args.options, Fault::Pause { host: host(args) }),
        cli::Cause::Partition(args) => {
            if let Some(both) = args.hosts.iter().find(|host| args.from.contains(host)) {
                return Err(Error::usage(format!("{both} is on both sides of the partition")));
            }
            let (hosts, from) = (args.hosts.clone(), args.from.clone());
            (&args.options, Fault::Partition { hosts, from, one_way: args.one_way })
        }
        cli::Cause::Delay(args) => {
            let milliseconds = |duration: Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
            let (host, jitter) = (args.host.clone(), milliseconds(args.jitter));
            (&args.options, Fault::Delay { host, milliseconds: milliseconds(args.delay), jitter })
        }
        cli::Cause::Loss(args) => {
            (&args.options, Fault::Loss { host: args.host.clone(), percent: args.percent })
        }
        cli::Cause::Rate(args) => (&args.options, Fault::Rate { host: args.host.clone(), kbit: args.rate }),
        cli::Cause::StopService(args) => {
            (&args.options, Fault::StopService { host: args.host.clone(), unit: args.unit.clone() })
        }
        cli::Cause::FillDisk(args) => {
            let path = args.path.trim_end_matches('/').to_owned();
            (&args.options, Fault::FillDisk { host: args.host.clone(), path })
        }
        cli::Cause::SlowDisk(args) => {
            (&args.options, Fault::SlowDisk { host: args.host.clone(), kib: args.kib })
        }
        cli::Cause::Clock(args) => {
            (&args.options, Fault::Clock { host: args.host.clone(), seconds: args.offset })
        }
    })
}

fn cause(ui: &Ui, global: &Global, options: &cli::FaultOptions, fault: Fault) -> Result {
    let (open, _) = OpenLab::find(global, options.lab.lab.as_deref())?;
    for host in fault.hosts() {
        open.host(host)?;
    }
    let libvirt = open.hypervisor(global, "faults")?;
    let record = {
        let _lock = open.state.lock(&format!("pgprov fault {}", fault.verb()), LOCK)?;
        hands(&open, &libvirt)?.cause(fault, options.lasting)?
    };
    if options.lasting.is_some() {
        heal_later(global, &open.lab.name, &record)?;
    }
    if ui.json() {
        ui.out_json(&row(&record));
        return Ok(());
    }
    let how = match options.lasting {
        Some(lasting) => format!("heals by itself after {}", humantime::format_duration(lasting)),
        None => format!(
            "heal it with: pgprov fault heal {} --lab {}",
            record.fault.hosts().first().copied().unwrap_or_default(),
            open.lab.name
        ),
    };
    ui.out(&format!("{}; {how}", record.fault));
    Ok(())
}

fn hands<'a>(open: &'a OpenLab, libvirt: &'a Libvirt) -> Result<Hands<'a>> {
    let targets = open.lab.hosts.iter().map(|host| Ok((host.name.clone(), target(&open.state, host)?)));
    Ok(Hands { libvirt, lab: &open.lab, state: &open.state, targets: targets.collect::<Result<_>>()? })
}

/// Starts a program of ours that outlives this one, and the terminal, until the fault is due.
fn heal_later(global: &Global, lab: &str, record: &Record) -> Result {
    let mut command = this_program(global)?;
    command.args(["fault", "heal", "--quiet", "--lab", lab, "--due", &record.id.to_string()]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().context("cannot start what heals the fault when its time has come")?;
    Ok(())
}

fn heal(ui: &Ui, global: &Global, args: &FaultHeal) -> Result {
    let (open, _) = OpenLab::find(global, args.lab.lab.as_deref())?;
    if let Some(id) = args.due {
        return heal_due(global, &open, id);
    }
    if let Some(host) = &args.host {
        open.host(host)?;
    }
    let _lock = open.state.lock("pgprov fault heal", LOCK)?;
    let libvirt = open.hypervisor(global, "faults")?;
    let hands = hands(&open, &libvirt)?;
    let is_meant = |record: &Record| match &args.host {
        Some(host) => record.fault.hosts().contains(&host.as_str()),
        None => true,
    };
    let meant: Vec<Record> = Store::new(&open.state).list()?.into_iter().filter(is_meant).collect();
    if meant.is_empty() {
        ui.out("no fault is in force there: nothing to heal");
        return Ok(());
    }
    let line = ui.line(&open.lab.name, open.lab.name.len());
    let mut failed = Vec::new();
    // The last one first: a host that lost its power after its disk was filled has to boot before that is undone.
    for record in meant.iter().rev() {
        line.now(&format!("healing: {}", record.fault));
        match hands.heal(record.id) {
            Ok(()) => ui.out(&format!("healed: {}", record.fault)),
            Err(error) => failed.push(format!("{}: {error:#}", record.fault)),
        }
    }
    line.drop_quietly();
    match failed.as_slice() {
        [] => Ok(()),
        failed => Err(Error::failed(format!("not healed:\n{}", failed.join("\n")))
            .hint("what is not healed stays in `pgprov fault list`: try again")),
    }
}

/// Waits until the fault is due and heals it, unless it was healed before.
fn heal_due(global: &Global, open: &OpenLab, id: u32) -> Result {
    let find = || -> anyhow::Result<Option<Record>> {
        Ok(Store::new(&open.state).list()?.into_iter().find(|record| record.id == id))
    };
    let Some(until) = find()?.and_then(|record| record.until) else { return Ok(()) };
    thread::sleep(Duration::from_secs(until.saturating_sub(seconds_now())));
    let _lock = open.state.lock("pgprov fault heal", PATIENCE)?;
    // Another fault may have the number by now.
    if find()?.is_some_and(|record| record.until == Some(until)) {
        let libvirt = open.hypervisor(global, "faults")?;
        hands(open, &libvirt)?.heal(id)?;
    }
    Ok(())
}

/// Nothing to heal: what keeps the process running, if anything, starts it again.
fn kill_process(ui: &Ui, global: &Global, args: &cli::FaultKillProcess) -> Result {
    let (open, _) = OpenLab::find(global, args.lab.lab.as_deref())?;
    let session = open.connect(open.host(&args.host)?)?;
    // The oldest of that name is the one that started the others.
    let command = format!("pkill -KILL -o -x -- {}", quote(&args.name));
    let output = session.run(&command, b"", &mut |_| {}, Duration::from_secs(20))?;
    if !output.success() {
        return Err(Error::failed(format!("no process is called {} on {}", args.name, args.host)));
    }
    ui.out(&format!("killed the oldest process called {} on {}", args.name, args.host));
    Ok(())
}

fn list(ui: &Ui, global: &Global, args: &LabOption) -> Result {
    let (open, _) = OpenLab::find(global, args.lab.as_deref())?;
    let records = Store::new(&open.state).list()?;
    if ui.json() {
        let rows: Vec<_> = records.iter().map(row).collect();
        ui.out_json(&json!({"lab": open.lab.name, "faults": rows}));
        return Ok(());
    }
    if records.is_empty() {
        ui.out(&format!("no fault is in force in lab {}", open.lab.name));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = records
        .iter()
        .map(|record| {
            vec![
                record.fault.verb().to_owned(),
                record.fault.hosts().join(", "),
                record.fault.to_string(),
                short(seconds_now().saturating_sub(record.since)),
                record.until.map_or_else(|| "-".to_owned(), ends),
            ]
        })
        .collect();
    ui.out(&ui::titled(ui, &["FAULT", "HOSTS", "WHAT IS BROKEN", "FOR", "HEALS"], &rows));
    Ok(())
}

/// A fault as programs read it.
pub fn row(record: &Record) -> serde_json::Value {
    let mut value = serde_json::to_value(record).unwrap_or_default();
    value["sentence"] = record.fault.to_string().into();
    value
}

/// A fault as people read it, with its age.
pub fn sentence(record: &Record) -> String {
    let age = short(seconds_now().saturating_sub(record.since));
    match record.until {
        Some(until) => format!("{}, for {age}, heals {}", record.fault, ends(until)),
        None => format!("{}, for {age}", record.fault),
    }
}

fn ends(until: u64) -> String {
    match until.saturating_sub(seconds_now()) {
        0 => "now".to_owned(),
        left => format!("in {}", short(left)),
    }
}

/// A duration with its two largest units.
fn short(seconds: u64) -> String {
    let all = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    all.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

fn seconds_now() -> u64 {
    clock::since_1970().as_secs()
}
