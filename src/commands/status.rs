//! `pgprov status`: the hosts of a lab, asked all at once.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use pgplan::{
    lab::{BASE_ROLE, Host, Lab, POSTGRES_ROLE},
    observed::{DomainState, Infra},
    render::RenderedHost,
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{
    context::{OpenLab, target},
    fault,
};
use crate::{
    cli::{Global, Status},
    error::Result,
    every::every,
    libvirt::Libvirt,
    machines,
    observe::{self, Answer},
    ssh::{Session, Target},
    state::LabState,
    ui::{self, Ui},
};

/// How long a host may take to connect; one that does not answer is part of the picture.
const CONNECT: Duration = Duration::from_secs(6);
const ANSWER: Duration = Duration::from_secs(20);
/// How long it may take to answer through the hypervisor, before it is asked over SSH.
const PORT: Duration = Duration::from_secs(6);

/// One host as it is now.
#[derive(Clone, Debug, Serialize)]
pub struct HostStatus {
    /// Name in the lab.
    pub name: String,
    /// `primary` or `standby` as the server says; else the first role.
    pub role: String,
    /// Roles in the topology.
    pub roles: Vec<String>,
    /// `running`, `paused`, `saved`, `off`, `crashed`, `missing`; `unreachable` when it runs but does not answer.
    pub state: String,
    /// On the data network.
    pub address: String,
    /// On the management network.
    pub mgmt_address: String,
    /// The host it should follow, by the topology.
    pub follows: Option<String>,
    /// Since boot.
    pub uptime_seconds: Option<u64>,
    /// What its PostgreSQL server says.
    pub postgres: Option<Server>,
    /// What the status scripts of other roles say, by role: JSON, or text when it is none.
    pub reports: Map<String, Value>,
    /// Why it could not be asked.
    pub error: Option<String>,
}

/// A PostgreSQL server as it is now.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Server {
    /// Whether it answers queries.
    pub accepting: bool,
    /// As the server says, e.g. `17.6 (Debian 17.6-1)`.
    pub version: Option<String>,
    /// Whether it replays another server's WAL.
    pub in_recovery: Option<bool>,
    /// Timeline of the last checkpoint.
    pub timeline: Option<u64>,
    /// Whether its upstream waits for it: `sync`, `potential`, `quorum`, `async`.
    pub sync_state: Option<String>,
    /// WAL the upstream wrote and this server has not replayed, in bytes.
    pub lag_bytes: Option<u64>,
    /// Age of that WAL, in seconds.
    pub lag_seconds: Option<f64>,
    /// State of its WAL receiver: `streaming` when all is well.
    pub receiver: Option<String>,
    /// The host that its WAL receiver streams from: after a failover another one than the topology says.
    pub upstream: Option<String>,
    /// Standbys that stream from it now.
    pub standbys: Vec<String>,
    /// Settings that wait for a restart.
    pub pending_restart: Vec<String>,
    /// Rows inserted, updated and deleted since its statistics began.
    pub writes: Option<u64>,
}

/// Prints the table, or a list of labs when there is no one lab to show.
///
/// # Errors
/// There is no such lab, or libvirt does not answer.
pub fn run(ui: &Ui, global: &Global, args: &Status) -> Result {
    let wanted = args.lab.name();
    if args.all || wanted.is_none() && crate::state::list(&crate::state::root()?)?.len() != 1 {
        return list(ui, global);
    }
    let (open, assets) = OpenLab::find(global, wanted)?;
    let rendered = open.rendered(&assets)?;
    let vms = open.observe(global)?;
    let vms = vms.as_ref().map(|(libvirt, infra)| (libvirt, infra));
    let hosts = collect(&open.state, &open.lab, &rendered, vms, BTreeMap::new(), BTreeMap::new());
    let faults = crate::fault::Store::new(&open.state).list()?;
    if ui.json() {
        let faults: Vec<_> = faults.iter().map(fault::row).collect();
        ui.out_json(&json!({"lab": open.lab.name, "hosts": hosts, "faults": faults}));
    } else {
        ui.out(&table(ui, &hosts));
        for sentence in faults.iter().map(fault::sentence) {
            ui.out(&ui.style("33", &format!("fault: {sentence}")));
        }
        let primaries: Vec<&str> =
            hosts.iter().filter(|host| host.role == "primary").map(|host| host.name.as_str()).collect();
        if primaries.len() > 1 {
            ui.warn(&format!("{} accept writes: {}", primaries.len(), primaries.join(", ")));
        }
    }
    Ok(())
}

fn list(ui: &Ui, global: &Global) -> Result {
    let labs = Libvirt::connect(global.connect.as_deref())?.inventory()?.labs();
    let machines = machines::labs(&crate::state::root()?)?;
    let machines = machines.iter().map(|(state, machines)| {
        (state.lab().to_owned(), machines.hosts.keys().cloned().collect::<Vec<String>>())
    });
    let machines: BTreeMap<String, Vec<String>> = machines.collect();
    if ui.json() {
        ui.out_json(&json!({"labs": labs, "machines": machines}));
        return Ok(());
    }
    if labs.is_empty() && machines.is_empty() {
        ui.out("no labs; make one: pgprov up topologies/lab.yaml");
        return Ok(());
    }
    let mut rows: Vec<Vec<String>> = labs
        .values()
        .map(|lab| {
            let running = lab.hosts.values().filter(|host| host.state == DomainState::Running).count();
            let hosts: Vec<&str> = lab.hosts.keys().map(String::as_str).collect();
            vec![lab.name.clone(), format!("{running} of {} running", lab.hosts.len()), hosts.join(", ")]
        })
        .collect();
    let were_there = |(lab, hosts): (&String, &Vec<String>)| {
        vec![lab.clone(), "machines that were there before".to_owned(), hosts.join(", ")]
    };
    rows.extend(machines.iter().map(were_there));
    ui.out(&ui::table(&["LAB", "STATE", "HOSTS"], &rows));
    Ok(())
}

/// What the status scripts of a host said, by role.
pub type Said = Map<String, Value>;

/// The same of each host; or why it could not be asked.
pub type Answers = BTreeMap<String, anyhow::Result<Said>>;

/// What the status scripts of a host say now, asked the way it answered before.
///
/// # Errors
/// It does not answer.
pub fn look(rendered: &[RenderedHost], host: &str, answer: &Answer) -> anyhow::Result<Said> {
    let scripts = scripts(rendered, host);
    Ok(parts(&answer.read(&script(scripts), ANSWER)?, scripts))
}

/// Asks all hosts at once that were not `seen` a moment ago: the way they answered before, else through the hypervisor, which spares an emulated host a login,
/// else over connections that are made.
pub fn collect(
    state: &LabState,
    lab: &Lab,
    rendered: &[RenderedHost],
    vms: Option<(&Libvirt, &Infra)>,
    mut answered: BTreeMap<String, Answer>,
    mut seen: BTreeMap<String, Said>,
) -> Vec<HostStatus> {
    let infra = vms.map(|(_, infra)| infra);
    let runs = |host: &&Host| infra.is_none() || domain_state(infra, host) == Some(DomainState::Running);
    let asked: Vec<&Host> = lab.hosts.iter().filter(runs).collect();
    let ways = asked.iter().map(|host| (*host, answered.remove(&host.name), seen.remove(&host.name)));
    let said = every(ways, |(host, answer, seen)| {
        if let Some(seen) = seen {
            return Ok(seen);
        }
        if let Some(answer) = answer {
            return look(rendered, &host.name, &answer);
        }
        let scripts = scripts(rendered, &host.name);
        let target = target(state, host)?;
        let by_port = vms.and_then(|(libvirt, _)| {
            let domain = observe::listening(libvirt, lab, &host.name)?;
            observe::read_by_port(libvirt, domain, &target, &script(scripts), PORT)
        });
        match by_port {
            Some(output) => Ok(parts(&output, scripts)),
            None => ask(&target, &mut None, scripts),
        }
    });
    let answers: Answers = asked.iter().map(|host| host.name.clone()).zip(said).collect();
    of_hosts(lab, infra, &answers)
}

/// The hosts of a lab, from what they said.
pub fn of_hosts(lab: &Lab, infra: Option<&Infra>, answers: &Answers) -> Vec<HostStatus> {
    let status = |host| host_status(host, domain_state(infra, host), infra.is_some(), answers);
    lab.hosts.iter().map(status).collect()
}

/// The status scripts of a host, by role.
pub fn scripts<'a>(rendered: &'a [RenderedHost], host: &str) -> &'a [(String, String)] {
    rendered.iter().find(|rendered| rendered.host == host).map_or(&[], |rendered| &rendered.status)
}

fn domain_state(infra: Option<&Infra>, host: &Host) -> Option<DomainState> {
    infra?.domains.get(&host.name).map(|domain| domain.state)
}

/// Runs the status scripts of all roles and merges what they print. The connection is made when there is none.
///
/// # Errors
/// The host cannot be reached, or does not answer.
pub fn ask(
    target: &Target,
    session: &mut Option<Session>,
    scripts: &[(String, String)],
) -> anyhow::Result<Map<String, Value>> {
    let session = match session {
        Some(session) => session,
        None => session.insert(Session::connect(target, Instant::now() + CONNECT)?),
    };
    let output = session.run("sh -s", script(scripts).as_bytes(), &mut |_| {}, ANSWER)?;
    Ok(parts(&output.stdout, scripts))
}

/// All status scripts as one. That the last of them fails is not the failure of all.
fn script(scripts: &[(String, String)]) -> String {
    let parts = scripts.iter().map(|(role, text)| format!("echo '@{role}'\n(\n{text}\n)\n"));
    parts.chain(["true\n".to_owned()]).collect()
}

/// What each role said: all its lines as JSON, or as text. A line with `@` and the name of a role begins its part.
fn parts(output: &[u8], scripts: &[(String, String)]) -> Map<String, Value> {
    let roles: Vec<&str> = scripts.iter().map(|(role, _)| role.as_str()).collect();
    let output = String::from_utf8_lossy(output);
    let mut texts: Vec<(&str, String)> = Vec::new();
    for line in output.lines() {
        match (line.strip_prefix('@').filter(|name| roles.contains(name)), texts.last_mut()) {
            (Some(role), _) => texts.push((role, String::new())),
            (None, Some((_, text))) => text.push_str(&format!("{line}\n")),
            (None, None) => {}
        }
    }
    let spoke = texts.into_iter().filter(|(_, text)| !text.trim().is_empty());
    let value = |text: String| serde_json::from_str(&text).unwrap_or_else(|_| text.trim().into());
    spoke.map(|(role, text)| (role.to_owned(), value(text))).collect()
}

/// What a role of the user said, on one line: the keys and values of an object, else as it is.
fn report(value: &Value) -> String {
    let plain = |value: &Value| match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.trim().is_empty() => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let text = match value {
        Value::Object(map) => {
            map.iter().map(|(key, value)| format!("{key} {}", plain(value))).collect::<Vec<_>>().join(", ")
        }
        other => plain(other),
    };
    ui::printable(&text).lines().collect::<Vec<_>>().join("; ")
}

fn host_status(host: &Host, domain: Option<DomainState>, observed: bool, answers: &Answers) -> HostStatus {
    let answer = answers.get(&host.name);
    let parts = answer.and_then(|answer| answer.as_ref().ok());
    let postgres = host.has_role(POSTGRES_ROLE).then(|| server(host, answers)).flatten();
    let state = match domain {
        None if observed => "missing".to_owned(),
        Some(DomainState::Running) | None if parts.is_none() => "unreachable".to_owned(),
        Some(state) => format!("{state:?}").to_lowercase(),
        None => "running".to_owned(),
    };
    let own = host.roles.get(1).or(host.roles.first()).cloned().unwrap_or_default();
    let role = match postgres.as_ref().and_then(|server| server.in_recovery) {
        Some(true) => "standby".to_owned(),
        Some(false) => "primary".to_owned(),
        None => own,
    };
    let known = |role: &str| role == BASE_ROLE || role == POSTGRES_ROLE;
    let reports = parts.into_iter().flatten().filter(|(role, _)| !known(role));
    HostStatus {
        reports: reports.map(|(role, value)| (role.clone(), value.clone())).collect(),
        name: host.name.clone(),
        role,
        roles: host.roles.clone(),
        state,
        address: host.data.address.to_string(),
        mgmt_address: host.mgmt.address.to_string(),
        follows: host.follows.clone(),
        uptime_seconds: parts.and_then(|parts| parts.get(BASE_ROLE)?.get("uptime_seconds")?.as_u64()),
        postgres,
        error: answer.and_then(|answer| answer.as_ref().err()).map(|error| format!("{error:#}")),
    }
}

/// What the server says, with what its upstream says about it: lag and sync state are known only there.
fn server(host: &Host, answers: &Answers) -> Option<Server> {
    let said = |name: &str| answers.get(name)?.as_ref().ok()?.get(POSTGRES_ROLE);
    let own = said(&host.name)?;
    let text = |key: &str| own.get(key).and_then(Value::as_str).map(str::to_owned);
    let names = |key: &str| own.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
    let as_upstream = answers.keys().filter_map(|name| {
        said(name)?
            .get("standbys")?
            .as_array()?
            .iter()
            .find(|standby| standby.get("name").and_then(Value::as_str) == Some(&host.name))
    });
    let upstream = as_upstream.into_iter().next();
    let from_upstream = |key: &str| upstream.and_then(|standby| standby.get(key));
    let in_recovery = own.get("in_recovery").and_then(Value::as_bool);
    Some(Server {
        accepting: own.get("accepting").and_then(Value::as_bool).unwrap_or(false),
        version: text("version"),
        in_recovery,
        timeline: own.get("timeline").and_then(Value::as_u64),
        sync_state: from_upstream("sync_state").and_then(Value::as_str).map(str::to_owned),
        lag_bytes: from_upstream("lag_bytes").and_then(Value::as_f64).map(|bytes| bytes.max(0.0) as u64),
        lag_seconds: from_upstream("lag_seconds").or(own.get("replay_lag_seconds")).and_then(Value::as_f64),
        receiver: own.pointer("/receiver/status").and_then(Value::as_str).map(str::to_owned),
        upstream: own.pointer("/receiver/upstream").and_then(Value::as_str).map(str::to_owned),
        standbys: names("standbys")
            .iter()
            .filter_map(|s| Some(s.get("name")?.as_str()?.to_owned()))
            .collect(),
        pending_restart: names("pending_restart")
            .iter()
            .filter_map(|name| Some(name.as_str()?.to_owned()))
            .collect(),
        writes: own.get("writes").and_then(Value::as_u64),
    })
}

/// The status as a table, one line a host.
pub fn table(ui: &Ui, hosts: &[HostStatus]) -> String {
    let rows: Vec<Vec<String>> = hosts.iter().map(row).collect();
    let header = ["HOST", "ROLE", "STATE", "ADDRESS", "MGMT", "POSTGRES", "SYNC", "LAG", "UPTIME"];
    let mut text = ui::titled(ui, &header, &rows);
    for host in hosts {
        if let Some(error) = &host.error {
            text.push_str(&format!("{}: {}\n", host.name, ui::printable(error)));
        }
        let upstream = host.postgres.as_ref().and_then(|server| server.upstream.as_ref());
        if let Some(upstream) = upstream.filter(|name| host.follows.as_ref() != Some(name)) {
            let topology = host.follows.as_deref().unwrap_or("nobody");
            let upstream = ui::printable(upstream);
            text.push_str(&format!(
                "{}: streams from {upstream}; in the topology it follows {topology}\n",
                host.name
            ));
        }
        for (role, value) in &host.reports {
            text.push_str(&format!("{}: {role}: {}\n", host.name, report(value)));
        }
        for name in host.postgres.iter().flat_map(|server| &server.pending_restart) {
            text.push_str(&format!("{}: {name} waits for a restart\n", host.name));
        }
    }
    text
}

/// The cells of the table that are about a host.
pub fn row(host: &HostStatus) -> Vec<String> {
    let dash = || "-".to_owned();
    let server = host.postgres.as_ref();
    let version =
        server.and_then(|s| s.version.as_deref()).and_then(|v| v.split(' ').next()).map(str::to_owned);
    let postgres = match server {
        Some(server) if !server.accepting => "not accepting".to_owned(),
        _ => version.unwrap_or_else(dash),
    };
    let standby = host.role == "standby";
    let sync = server.and_then(|s| s.sync_state.clone()).filter(|_| standby);
    let sync = sync.or_else(|| {
        server.filter(|_| standby).map(|s| s.receiver.clone().unwrap_or_else(|| "not streaming".into()))
    });
    let lag = server.filter(|_| standby).map(|s| {
        let bytes = s.lag_bytes.map(bytes);
        let seconds = s.lag_seconds.map(|seconds| format!("{seconds:.1} s"));
        [bytes, seconds].into_iter().flatten().collect::<Vec<_>>().join(", ")
    });
    vec![
        host.name.clone(),
        host.role.clone(),
        host.state.clone(),
        host.address.clone(),
        host.mgmt_address.clone(),
        postgres,
        sync.unwrap_or_else(dash),
        lag.filter(|lag| !lag.is_empty()).unwrap_or_else(dash),
        host.uptime_seconds.map_or_else(dash, uptime),
    ]
}

fn bytes(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} B"),
        10_000..=9_999_999 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}

fn uptime(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_say_json_or_text_on_any_number_of_lines() {
        let output = "@base\n{\"uptime_seconds\": 7}\n@own\n{\n\"beats\": 12,\n\"last\": \"now\"\n}\n@lines\none\n@two\n@mute\n";
        let scripts = ["base", "own", "lines", "mute"].map(|role| (role.to_owned(), String::new()));
        let parts = parts(output.as_bytes(), &scripts);
        assert_eq!(parts["base"], json!({"uptime_seconds": 7}));
        assert_eq!(report(&parts["own"]), "beats 12, last now");
        assert_eq!(report(&parts["lines"]), "one; @two");
        assert_eq!(report(&json!({"kept": 0, "last": "", "next": null})), "kept 0, last -, next -");
        assert!(!parts.contains_key("mute"));
    }

    #[test]
    fn who_streams_from_another_host_than_in_the_topology_is_named() {
        let hosts = json!({"m": {"roles": ["postgres"]}, "s": {"roles": ["postgres"], "follows": "m"}});
        let topology = serde_json::from_value(json!({"lab": "x", "hosts": hosts})).unwrap();
        let lab = pgplan::lab::derive(&topology, &Default::default());
        let shown = |host: usize, upstream: &str| {
            let said = json!({"postgres": {"accepting": true, "in_recovery": true,
                                           "receiver": {"status": "streaming", "upstream": upstream}}});
            let answers =
                BTreeMap::from([(lab.hosts[host].name.clone(), Ok(said.as_object().unwrap().clone()))]);
            let status = host_status(&lab.hosts[host], Some(DomainState::Running), true, &answers);
            assert_eq!(serde_json::to_value(&status).unwrap()["postgres"]["upstream"], upstream);
            table(&Ui::new(ui::Format::Human, ui::Color::Never, true, true), &[status])
        };
        assert!(!shown(1, "m").contains("streams from"));
        assert!(shown(0, "s").ends_with("\nm: streams from s; in the topology it follows nobody\n"));
    }

    #[test]
    fn reports_of_own_roles_are_below_the_table_and_in_json() {
        let topology =
            serde_json::from_value(json!({"lab": "x", "hosts": {"m": {"roles": ["own"]}}})).unwrap();
        let lab = pgplan::lab::derive(&topology, &Default::default());
        let said = json!({"base": {"uptime_seconds": 7}, "own": {"beats": 12}});
        let answers = BTreeMap::from([("m".to_owned(), Ok(said.as_object().unwrap().clone()))]);
        let status = host_status(&lab.hosts[0], Some(DomainState::Running), true, &answers);
        assert_eq!(serde_json::to_value(&status).unwrap()["reports"], json!({"own": {"beats": 12}}));
        let ui = Ui::new(ui::Format::Human, ui::Color::Never, true, true);
        assert!(table(&ui, &[status]).ends_with("\nm: own: beats 12\n"));
    }
}
