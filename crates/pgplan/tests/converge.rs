//! Whatever a topology was and becomes: after its plan was carried out there is nothing left to do, and nothing is left of
//! what went. The world here is a model: it does what steps, files, tasks and handlers say, and no more.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is the failure")]

mod sources;

use std::collections::{BTreeMap, BTreeSet};

use pgplan::{
    check::check_text,
    digest,
    host::{Facts, HostPlan, facts::Stat},
    lab::Lab,
    machine::{self, Accel, BootImage, Hypervisor, POOL_PATH},
    observed::{DiskSeen, DomainSeen, DomainState, Foreign, HypervisorSeen, Infra, NetworkSeen, PoolSeen},
    plan::{self, Plan, Restart, Step, Wanted},
    render::{RenderedHost, Roles},
    secrets::Secrets,
    size::{Bytes, GIB},
};
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

/// A host as it is.
#[derive(Clone, Debug, Default)]
struct Machine {
    files: BTreeMap<String, (Vec<u8>, Stat)>,
    directories: BTreeMap<String, Stat>,
    installed: Vec<String>,
    /// Checks that succeed.
    done: BTreeSet<String>,
}

/// A hypervisor with the hosts of a lab.
struct World {
    infra: Infra,
    hosts: BTreeMap<String, Machine>,
}

fn stat(owner: &str, group: &str, mode: &str) -> Stat {
    Stat { owner: owner.to_owned(), group: group.to_owned(), mode: mode.trim_start_matches('0').to_owned() }
}

impl Machine {
    fn facts(&self, rendered: &RenderedHost) -> Facts {
        let mut facts = Facts { installed: self.installed.clone(), ..Facts::default() };
        for (path, (bytes, stat)) in &self.files {
            facts.stats.insert(path.clone(), stat.clone());
            facts.sums.insert(path.clone(), digest::hex(bytes));
        }
        facts.stats.extend(self.directories.clone());
        let done = |task: &pgplan::render::Task| self.done.contains(&task.unless);
        facts.done =
            rendered.tasks.iter().enumerate().filter(|(_, task)| done(task)).map(|(i, _)| i).collect();
        let details = HostPlan::new(rendered, Some(&facts)).unknown(rendered);
        for path in details.files {
            let text = String::from_utf8_lossy(&self.files[&path].0).into_owned();
            facts.texts.insert(path, text);
        }
        let leads = self
            .files
            .values()
            .all(|(bytes, _)| !String::from_utf8_lossy(bytes).contains("\nprimary_conninfo = "));
        let rolling =
            rendered.handlers.iter().enumerate().filter(|(_, handler)| handler.rolling.is_some() && leads);
        facts.leads = rolling.map(|(index, _)| index).collect();
        facts
    }

    fn apply(&mut self, rendered: &RenderedHost, plan: &HostPlan) {
        for change in &plan.directories {
            let wanted = &rendered.directories[change.index];
            self.directories.insert(wanted.path.clone(), stat(&wanted.owner, &wanted.group, &wanted.mode));
        }
        for change in &plan.files {
            let wanted = &rendered.files[change.index];
            let content = (wanted.bytes().to_vec(), stat(&wanted.owner, &wanted.group, &wanted.mode));
            self.files.insert(wanted.path.clone(), content);
        }
        for path in &plan.remove {
            self.files.remove(path);
        }
        for change in &plan.tasks {
            self.done.insert(rendered.tasks[change.index].unless.clone());
        }
        let kept = rendered.files.iter().filter(|file| !file.once);
        self.installed = kept.map(|file| file.path.clone()).collect();
    }
}

/// Everything that a plan needs, of one topology.
struct Scene {
    lab: Lab,
    hosts: Vec<RenderedHost>,
    hypervisor: Hypervisor,
    image: BootImage,
    pinned: BTreeSet<String>,
}

impl Scene {
    fn wanted(&self) -> Wanted<'_> {
        Wanted {
            lab: &self.lab,
            hypervisor: &self.hypervisor,
            image: &self.image,
            snapshot: None,
            ssh_public_key: "ssh-ed25519 key",
            pinned: &self.pinned,
            hosts: &self.hosts,
            restart: Restart::Auto,
        }
    }
}

impl World {
    fn new() -> Self {
        let hypervisor = HypervisorSeen {
            uri: "test:///".to_owned(),
            hostname: "here".to_owned(),
            arch: "x86_64".to_owned(),
            cpu: "any".to_owned(),
            libvirt_version: "9.0.0".to_owned(),
            qemu_version: "10.0.2".to_owned(),
            accel: Accel::Kvm,
            accel_reason: None,
            cpus: 8,
            memory: Bytes(64 * GIB),
            memory_available: Bytes(64 * GIB),
        };
        let infra = Infra {
            hypervisor,
            pool: PoolSeen::Missing,
            images: BTreeSet::new(),
            snapshots: BTreeSet::new(),
            networks: BTreeMap::new(),
            domains: BTreeMap::new(),
            disks: BTreeMap::new(),
            next_layer: BTreeMap::new(),
            foreign: Foreign::default(),
        };
        Self { infra, hosts: BTreeMap::new() }
    }

    fn scene(&self, roles: &Roles, text: &str) -> Scene {
        let checked = check_text(text, &roles.known());
        let topology = checked.topology.unwrap_or_else(|| panic!("{text}\n{:#?}", checked.findings));
        let lab = roles.derive(&topology, &self.infra.pins()).unwrap();
        let secrets = Secrets::masked(lab.passwords(), lab.hosts.iter().map(|host| host.name.clone()));
        let hosts = roles.render(&lab, &secrets).unwrap();
        let hypervisor = Hypervisor { accel: Accel::Kvm, pool_path: POOL_PATH.to_owned() };
        let image = BootImage::in_pool(POOL_PATH, &format!("{}-x", lab.release), &lab.image, "quiet");
        Scene { lab, hosts, hypervisor, image, pinned: BTreeSet::new() }
    }

    fn plan(&self, scene: &Scene) -> Plan {
        let facts = scene.hosts.iter().filter_map(|rendered| {
            Some((rendered.host.clone(), self.hosts.get(&rendered.host)?.facts(rendered)))
        });
        plan::plan(&scene.wanted(), &self.infra, &facts.collect())
    }

    fn apply(&mut self, scene: &Scene, plan: &Plan) {
        for step in &plan.steps {
            self.step(scene, step);
        }
        for host in &plan.hosts {
            let rendered = scene.hosts.iter().find(|rendered| rendered.host == host.host).unwrap();
            self.hosts.get_mut(&host.host).unwrap().apply(rendered, host);
        }
    }

    fn step(&mut self, scene: &Scene, step: &Step) {
        let Scene { lab, hypervisor, image, .. } = scene;
        let network = |kind: &str| if kind == "data" { &lab.data } else { &lab.mgmt };
        let address = |host: &str, kind: &str| machine::nic(lab.host(host).unwrap(), network(kind)).address;
        let infra = &mut self.infra;
        match step {
            Step::CreatePool => {
                let free = Bytes(100 * GIB);
                infra.pool = PoolSeen::Ours { active: true, path: POOL_PATH.to_owned(), free };
            }
            Step::UploadImage { image } => {
                infra.images.insert(image.clone());
            }
            Step::CreateNetwork { network: kind } => {
                let seen = NetworkSeen {
                    spec: machine::network(lab, network(kind)).spec,
                    active: true,
                    subnet: Some(network(kind).subnet),
                    reservations: lab
                        .hosts
                        .iter()
                        .map(|h| (h.name.clone(), address(&h.name, kind)))
                        .collect(),
                };
                infra.networks.insert(kind.clone(), seen);
            }
            Step::Reserve { network: kind, host } => {
                let address = address(host, kind);
                infra.networks.get_mut(kind).unwrap().reservations.insert(host.clone(), address);
            }
            Step::Unreserve { network: kind, host } => {
                infra.networks.get_mut(kind).unwrap().reservations.remove(host);
            }
            Step::CreateDisk { host } => {
                let (capacity, image) = (lab.vm.disk, Some(image.name.clone()));
                infra
                    .disks
                    .insert(host.clone(), DiskSeen { capacity, allocation: Bytes(0), image, layer: 0 });
                self.hosts.insert(host.clone(), Machine::default());
            }
            Step::DefineHost { host: name } => {
                let host = lab.host(name).unwrap();
                let spec = machine::domain(lab, host, 0, hypervisor, image, "ssh-ed25519 key").spec;
                let (image, uuid) = (image.name.clone(), host.uuid.clone());
                let state = DomainState::Off;
                infra.domains.insert(name.clone(), DomainSeen { spec, image, state, unplugged: false, uuid });
            }
            Step::StopHost { host } => infra.domains.get_mut(host).unwrap().state = DomainState::Off,
            Step::StartHost { host } => infra.domains.get_mut(host).unwrap().state = DomainState::Running,
            Step::RemoveHost { host } | Step::ReplaceHost { host, .. } => {
                infra.domains.remove(host);
                infra.disks.remove(host);
                self.hosts.remove(host);
            }
            other => panic!("a step that this world does not know: {other}"),
        }
    }
}

/// Any lab of up to five hosts: a chain or tree of servers and clients, or a pair with agents.
fn topology() -> impl Strategy<Value = Value> {
    let others = prop::collection::vec((0..4u8, any::<prop::sample::Index>()), 0..4);
    let settings = (
        select(vec![None, Some("8MB"), Some("12MB")]),
        select(vec![None, Some("80MB"), Some("96MB")]),
        select(vec![None, Some(40), Some(80)]),
    );
    let users = prop::sample::subsequence(vec!["anna", "ben", "carl"], 0..3);
    let machine = (select(vec!["1GiB", "2GiB"]), select(vec!["debian-12", "debian-13", "debian-13"]));
    (others, settings, users, any::<[bool; 3]>(), machine).prop_map(
        |(others, (work, shared, connections), users, [agents, tls, database], (memory, image))| {
            let mut settings = serde_json::Map::new();
            settings.extend(work.map(|value| ("work_mem".to_owned(), json!(value))));
            settings.extend(shared.map(|value| ("shared_buffers".to_owned(), json!(value))));
            settings.extend(connections.map(|value| ("max_connections".to_owned(), json!(value))));
            let users: Vec<Value> = users.into_iter().map(|name| json!({"name": name})).collect();
            let databases = if database { json!([{"name": "app", "owner": "app"}]) } else { json!([]) };
            let mut topology = json!({
                "lab": "any", "image": image, "vm": {"memory": memory},
                "postgres": {"settings": settings, "users": users, "databases": databases, "tls": tls},
            });
            topology["hosts"] = if agents {
                topology["failover"] = json!({"engine": "pgagent"});
                topology["replication"] = json!({"mode": "synchronous"});
                json!({"a": {"roles": ["postgres"]}, "b": {"roles": ["postgres"], "follows": "a"}, "z": {"roles": ["arbiter"]}})
            } else {
                tree(others)
            };
            topology
        },
    )
}

/// Host `a` is the primary; each of the others follows one before it, or is a client, or is not there.
fn tree(others: Vec<(u8, prop::sample::Index)>) -> Value {
    let mut hosts = json!({"a": {"roles": ["postgres"]}});
    let mut servers = vec!["a"];
    for (name, (kind, upstream)) in ["b", "c", "d", "e"].into_iter().zip(others) {
        match kind {
            0 => {}
            1 => hosts[name] = json!({"roles": ["client"]}),
            _ => {
                hosts[name] = json!({"roles": ["postgres"], "follows": upstream.get(&servers)});
                servers.push(name);
            }
        }
    }
    hosts
}

/// Followers come before those that they follow, unless something gets smaller: then after them.
fn turns_are_in_order(lab: &Lab, plan: &Plan) -> Result<(), TestCaseError> {
    let depths: Vec<u32> = plan.turns.iter().map(|turn| lab.host(&turn.host).unwrap().depth).collect();
    let smaller = ["max_connections", "max_wal_senders", "max_worker_processes"];
    let shrinks = plan.hosts.iter().flat_map(|host| &host.files).flat_map(|file| file.edits.iter().flatten());
    let shrinks = shrinks.into_iter().any(|edit| edit.may_shrink() && smaller.contains(&edit.name.as_str()));
    let mut sorted = depths.clone();
    sorted.sort_by_key(|depth| if shrinks { i64::from(*depth) } else { -i64::from(*depth) });
    prop_assert_eq!(depths, sorted, "{}", plan);
    Ok(())
}

/// What people read before the first `up` of each topology that we ship, and before one that changes settings.
#[test]
fn plans_of_shipped_topologies() {
    let roles = sources::roles();
    let mut texts = BTreeMap::new();
    sources::read(&sources::repository().join("topologies"), "", &mut texts);
    for (name, text) in texts {
        let mut world = World::new();
        let scene = world.scene(&roles, &text);
        let first = world.plan(&scene);
        world.apply(&scene, &first);
        let settings = "  settings: { work_mem: 9MB, max_connections: 30 }";
        let edited = match text.contains("  settings:\n") {
            true => {
                text.replace("  settings:\n", "  settings:\n    work_mem: 9MB\n    max_connections: 30\n")
            }
            false if text.contains("\npostgres:\n") => {
                text.replace("\npostgres:\n", &format!("\npostgres:\n{settings}\n"))
            }
            false => format!("{text}\npostgres:\n{settings}\n"),
        };
        let second = world.plan(&world.scene(&roles, &edited));
        insta::assert_snapshot!(
            format!("plan_{}", name.trim_end_matches(".yaml")),
            format!("{first}\nthen\n{second}")
        );
    }
}

/// Another release is another machine, whose data is lost; a newer image of the same release is a remark.
#[test]
fn another_release_replaces_hosts() {
    let roles = sources::roles();
    let text = |image: &str| format!("lab: any\nimage: {image}\nhosts: {{ m: {{ roles: [postgres] }} }}\n");
    let mut world = World::new();
    let scene = world.scene(&roles, &text("debian-13"));
    let first = world.plan(&scene);
    world.apply(&scene, &first);
    let other = world.scene(&roles, &text("debian-12"));
    let plan = world.plan(&other);
    let loss = "destroy m and its disk, which is of image debian-13-x, to make it from debian-12-x";
    assert_eq!(plan.disruptive(), [loss]);
    world.apply(&other, &plan);
    assert!(world.plan(&other).is_empty());
    world.infra.disks.get_mut("m").unwrap().image = Some("debian-12-older".to_owned());
    let newer = world.plan(&other);
    assert!(newer.notes[0].contains("debian-12-older"), "{newer}");
    assert!(newer.steps.iter().all(|step| step.destroys().is_none()), "{newer}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_left_to_do_after_any_edit(topologies in prop::collection::vec(topology(), 1..4)) {
        let roles = sources::roles();
        let mut world = World::new();
        for topology in &topologies {
            let scene = world.scene(&roles, &topology.to_string());
            let plan = world.plan(&scene);
            turns_are_in_order(&scene.lab, &plan)?;
            world.apply(&scene, &plan);
            let left = world.plan(&scene);
            prop_assert!(left.is_empty(), "{topology}\nafter\n{plan}\nis left\n{left}");
            // Nothing of an earlier topology stays, but the user's own files.
            let names: Vec<&String> = world.hosts.keys().collect();
            let mut wanted: Vec<&String> = scene.hosts.iter().map(|host| &host.host).collect();
            wanted.sort();
            prop_assert_eq!(names, wanted);
            for rendered in &scene.hosts {
                let once: BTreeSet<String> = roles.manifests()["postgres"].files.iter().chain(&roles.manifests()["client"].files)
                    .filter(|file| file.once).map(|file| file.path.rsplit('/').next().unwrap().to_owned()).collect();
                let own = |path: &&String| !once.contains(path.rsplit('/').next().unwrap());
                let there: Vec<&String> = world.hosts[&rendered.host].files.keys().filter(own).collect();
                let mut wanted: Vec<&String> = rendered.files.iter().map(|file| &file.path).filter(own).collect();
                wanted.sort();
                prop_assert_eq!(there, wanted);
            }
        }
    }
}
