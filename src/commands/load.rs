//! `pgprov load`: pgload on the host that has it, from outside. What goes on there does not need this program.

mod remote;
mod results;

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

use pgplan::lab::Host;
use serde_json::{Value, json};

use self::{
    remote::{Ended, Remote, State},
    results::Store,
};
use super::context::OpenLab;
use crate::{
    cli::{Global, Load, LoadCompare, LoadHost, LoadInit, LoadRun, LoadStop},
    error::{Error, Kind, Result},
    files,
    ui::{Ui, printable, table},
};

/// The role that a host with pgload has.
const ROLE: &str = "load";
/// Between two looks: on an emulated host each costs a part of what is measured.
const LOOK: Duration = Duration::from_secs(2);
/// Where a run serves metrics for Prometheus, on the management network.
const METRICS_PORT: u16 = 9188;
/// What `pgload verify` exits with when something is lost.
const BAD: i32 = 3;

/// Runs the verb.
///
/// # Errors
/// There is no such lab, host or run; something else is going on there; pgload failed.
pub fn run(ui: &Ui, global: &Global, verb: &Load) -> Result {
    match verb {
        Load::Init(args) => init(ui, global, args),
        Load::Run(args) => start(ui, global, args),
        Load::Status(args) => status(ui, global, args),
        Load::Stop(args) => stop(ui, global, args),
        Load::Compare(args) => compare(ui, global, args),
        Load::Verify(args) => verify(ui, global, args),
    }
}

/// The lab, and its host that pgload runs on.
struct Place {
    open: OpenLab,
    host: Host,
}

impl Place {
    fn find(global: &Global, on: &LoadHost) -> Result<Self> {
        let (open, _) = OpenLab::find(global, on.lab.lab.as_deref())?;
        let host = match &on.host {
            Some(name) => open.host(name)?,
            None => open.lab.with_role(ROLE).next().ok_or_else(|| no_host(&open))?,
        };
        if !host.has_role(ROLE) {
            return Err(no_host(&open));
        }
        Ok(Self { host: host.clone(), open })
    }

    fn connect(&self) -> Result<Remote<'_>> {
        Remote::connect(&self.open, &self.host)
    }

    fn store(&self, out: Option<&Path>) -> Store {
        let default = || self.open.state.topology().with_file_name("load");
        Store::new(out.map_or_else(default, Path::to_owned))
    }
}

fn no_host(open: &OpenLab) -> Error {
    let hosts: Vec<&str> = open.lab.with_role(ROLE).map(|host| host.name.as_str()).collect();
    let error = Error::usage(format!("in lab {} that host has no role `{ROLE}`", open.lab.name));
    match hosts.as_slice() {
        [] => error
            .hint("give one to a host, as in `client: { roles: [client, load] }`, and run `pgprov up` again"),
        hosts => error.hint(format!("hosts with it: {}", hosts.join(", "))),
    }
}

fn init(ui: &Ui, global: &Global, args: &LoadInit) -> Result {
    let place = Place::find(global, &args.on)?;
    let mut remote = place.connect()?;
    let mut words =
        vec!["init".to_owned(), format!("--scale={}", args.scale), format!("--seed={}", args.seed)];
    if args.replace {
        words.push("--replace".to_owned());
    }
    if ui.json() {
        words.push("--output=json".to_owned());
    }
    remote.start(&words)?;
    let line = ui.line(&place.host.name, place.host.name.len());
    line.now(&format!("making a warehouse of scale {}", args.scale));
    let ended = follow(&mut remote, &mut |_| {}).and_then(|ended| ended.fine("pgload init").map(|()| ended));
    match &ended {
        Ok(_) => line.done("the warehouse is there"),
        Err(_) => line.failed("there is no warehouse of this kind"),
    }
    let ended = ended?;
    ui.out(&printable(&ended.said));
    Ok(())
}

fn start(ui: &Ui, global: &Global, args: &LoadRun) -> Result {
    let place = Place::find(global, &args.on)?;
    let mut remote = place.connect()?;
    let metrics = format!("{}:{METRICS_PORT}", place.host.mgmt.address);
    remote.start(&words(args, &metrics))?;
    let host = &place.host.name;
    // Whatever is wrong with the command line or the connection shows before the first second is over.
    let state = wait_for_start(&mut remote)?;
    if state.running && args.detach {
        ui.say(&format!(
            "{} runs on {host}: `pgprov load status` shows it, `pgprov load stop` ends it",
            args.workload
        ));
        if ui.json() {
            ui.out_json(&describe(host, &state, &place.store(None)));
        }
        return Ok(());
    }
    if state.running {
        ui.say(&format!("{} runs on {host}, and goes on there when this program is ended", args.workload));
    }
    let line = ui.line(host, host.len());
    let ended = follow(&mut remote, &mut |state| line.tick(&state.sentence()));
    line.drop_quietly();
    finish(ui, &mut remote, &ended?, &place.store(args.out.as_deref()))
}

/// The command line of pgload. The user's own options come last, so that they win.
fn words(args: &LoadRun, metrics: &str) -> Vec<String> {
    let mut words: Vec<String> =
        vec!["run".to_owned(), "--results=results".to_owned(), "--live=live.json".to_owned()];
    words.extend([format!("--workload={}", args.workload), format!("--warmup={}", args.warmup)]);
    words.push(format!("--duration={}", args.duration));
    words.extend(args.rate.iter().map(|rate| format!("--rate={rate}")));
    words.extend(args.clients.iter().map(|clients| format!("--clients={clients}")));
    words.extend(args.stage.iter().map(|stage| format!("--stage={stage}")));
    if args.ledger {
        words.push("--ledger=ledger".to_owned());
    }
    words.push("--quiet".to_owned());
    if !args.more.iter().any(|word| word.starts_with("--metrics")) {
        words.push(format!("--metrics={metrics}"));
    }
    words.extend(args.more.iter().cloned());
    words
}

/// Until there is something to see, or it is over.
fn wait_for_start(remote: &mut Remote) -> Result<State> {
    loop {
        let state = remote.state()?;
        if !state.running || !state.live.is_null() {
            return Ok(state);
        }
        thread::sleep(Duration::from_millis(500));
    }
}

/// Looks until it is over. There is no limit: the end was given when it was started.
fn follow(remote: &mut Remote, show: &mut dyn FnMut(&State)) -> Result<Ended> {
    loop {
        let state = remote.state()?;
        if !state.running {
            return remote.ended();
        }
        show(&state);
        thread::sleep(LOOK);
    }
}

/// Brings the results here and prints what pgload said about them.
fn finish(ui: &Ui, remote: &mut Remote, ended: &Ended, store: &Store) -> Result {
    ended.fine("pgload run")?;
    let state = remote.state()?;
    let id = state.live["id"].as_str().unwrap_or_default();
    let folder = store.fetch(remote, id)?;
    if ui.json() {
        ui.out_json(&json!({"folder": folder, "run": results::read(&folder)?}));
        return Ok(());
    }
    // Its last line names the folder on the host.
    let said = ended.said.trim_end().rsplit_once("\nresults: ").map_or(ended.said.as_str(), |(text, _)| text);
    ui.out(&printable(said.trim_end()));
    ui.out(&format!("\nresults: {}", folder.display()));
    Ok(())
}

fn status(ui: &Ui, global: &Global, args: &LoadHost) -> Result {
    let place = Place::find(global, args)?;
    let mut remote = place.connect()?;
    let state = remote.state()?;
    let store = place.store(None);
    // While a run goes on, its host has something better to do.
    if !state.running {
        for id in state.runs.iter().filter(|id| !store.has(id)) {
            store.fetch(&mut remote, id)?;
        }
    }
    if ui.json() {
        ui.out_json(&describe(&place.host.name, &state, &store));
        return Ok(());
    }
    ui.out(&format!("{}: {}", place.host.name, state.sentence()));
    if state.running && !state.live.is_null() {
        ui.out(&state.table());
    }
    let rows: Vec<Vec<String>> = store.known(&state.runs).iter().map(|id| store.row(id)).collect();
    if !rows.is_empty() {
        ui.out("");
        ui.out(&table(&["RUN", "WORKLOAD", "STAGE", "LOAD", "STATEMENTS/S", "FAILED", "OUTAGE"], &rows));
    }
    Ok(())
}

fn describe(host: &str, state: &State, store: &Store) -> Value {
    let runs: Vec<Value> = store
        .known(&state.runs)
        .iter()
        .map(|id| json!({"id": id, "folder": store.has(id).then(|| store.folder(id)), "on_host": state.runs.contains(id)}))
        .collect();
    json!({
        "host": host,
        "state": state.word(),
        "command": state.command,
        "exit_status": state.exit,
        "live": if state.running { state.live.clone() } else { Value::Null },
        "runs": runs,
    })
}

fn stop(ui: &Ui, global: &Global, args: &LoadStop) -> Result {
    let place = Place::find(global, &args.on)?;
    let mut remote = place.connect()?;
    let state = remote.state()?;
    if !state.running {
        return Err(Error::usage(format!("nothing runs on {}", place.host.name))
            .hint("`pgprov load status` shows the runs that ended"));
    }
    let line = ui.line(&place.host.name, place.host.name.len());
    line.now(&format!("ending {}", state.command));
    let stopped = remote.stop();
    line.drop_quietly();
    stopped?;
    let ended = remote.ended()?;
    if state.command == "run" {
        return finish(ui, &mut remote, &ended, &place.store(args.out.as_deref()));
    }
    ui.say(&format!("{} on {} is ended; `pgprov load {0}` continues it", state.command, place.host.name));
    Ok(())
}

fn compare(ui: &Ui, global: &Global, args: &LoadCompare) -> Result {
    let place = Place::find(global, &args.on)?;
    let store = place.store(None);
    let mut remote = None;
    let (before, after) = match (&args.before, &args.after) {
        (Some(before), Some(after)) => (before.clone(), after.clone()),
        _ => {
            let remote = remote.insert(place.connect()?);
            let runs = store.known(&remote.state()?.runs);
            match runs.as_slice() {
                [.., before, after] => (before.clone(), after.clone()),
                _ => {
                    return Err(Error::usage("there are no two runs to compare")
                        .hint("make them with `pgprov load run`"));
                }
            }
        }
    };
    let mut folders = |side: &str| -> Result<String> {
        let found: Result<Vec<PathBuf>> = side
            .split(',')
            .map(|name| match store.find(name)? {
                Some(folder) => Ok(folder),
                None => {
                    let remote = match &mut remote {
                        Some(remote) => remote,
                        none => none.insert(place.connect()?),
                    };
                    let runs = remote.state()?.runs;
                    let id = results::choose(&runs, name)?;
                    store.fetch(remote, &id)
                }
            })
            .collect();
        Ok(found?.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(","))
    };
    let (before, after) = (folders(&before)?, folders(&after)?);
    let program = files::guest_program("pgload").ok_or_else(|| {
        Error::failed("cannot find the program pgload")
            .hint("`make guest` builds it; PGPROV_GUEST_DIR says where it is")
    })?;
    let mut pgload = Command::new(&program);
    pgload.args(["compare", &before, &after]);
    if ui.json() {
        pgload.arg("--output=json");
    }
    if let Some(html) = &args.html {
        pgload.arg("--html").arg(html);
    }
    let output = pgload
        .output()
        .map_err(|error| Error::failed(format!("cannot run {}: {error}", program.display())))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(Error::failed(said.trim().trim_start_matches("error: ")));
    }
    if !said.trim().is_empty() {
        ui.say(said.trim_end());
    }
    ui.out(&String::from_utf8_lossy(&output.stdout));
    Ok(())
}

fn verify(ui: &Ui, global: &Global, args: &LoadHost) -> Result {
    let place = Place::find(global, args)?;
    let mut remote = place.connect()?;
    if remote.state()?.running {
        return Err(Error::usage(format!(
            "load is running on {}: its last transactions are not decided",
            place.host.name
        ))
        .hint("end it first: pgprov load stop"));
    }
    let ended = remote.verify(ui.json())?;
    if ended.exit == Some(0) || ended.exit == Some(BAD) {
        ui.out(&printable(&ended.said));
    }
    match ended.exit {
        Some(BAD) => Err(Error::new(
            Kind::Failed,
            "something acknowledged is lost, or a check of the data is violated",
        )),
        _ => ended.fine("pgload verify"),
    }
}
