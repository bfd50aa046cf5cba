//! What `up` would do, with everything that is needed to do it: the topology checked, the world observed, hosts asked.

mod refuse;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex, OnceLock},
    time::{Duration, Instant},
};

use pgplan::{
    digest,
    host::Facts,
    lab::{self, Lab, Pins},
    machine::{self, Accel, BootImage, POOL_PATH},
    machines::Machines,
    observed::{DomainState, Infra},
    plan::{self, Plan, Restart},
    render::{RenderedHost, Roles},
    secrets::Secrets,
    topology::Topology,
};

use self::refuse::{no_room, refuse_clashes, refuse_orphans};
use super::{
    context::{self, Assets, CONNECT},
    image, secrets, status,
};
use crate::{
    checkpoint::{READY, Store, save as save_checkpoint},
    cli::Global,
    connect,
    error::{Error, Kind, Result},
    execute::{self, Fleet, Look, MadeFrom, Timing, World},
    fault,
    libvirt::Libvirt,
    machines,
    observe::{self, Answer, Asked},
    ssh::{self, Target},
    state::{self, LabState, Lock},
    ui::Ui,
};

/// How long another pgprov that works on the same lab may take.
const LOCK: Duration = Duration::from_secs(10);

/// Whether anything may be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Only look.
    DryRun,
    /// Make what is missing: state directory, secrets, image.
    Apply {
        /// How long a host may take to boot and answer.
        boot_limit: Duration,
        /// Whether new hosts boot, instead of being copied from a boot snapshot.
        by_boot: bool,
    },
    /// Only what checkpoints need: no image is made, no host is asked.
    Restore,
}

/// A plan with everything that is needed to execute it.
pub struct Draft {
    /// What will be done.
    pub plan: Plan,
    /// What becomes of restarts.
    restart: Restart,
    fleet: Arc<Fleet>,
    place: Place,
    answers: BTreeMap<String, Answer>,
    /// What hosts said of themselves when all was done, where that was asked.
    seen: BTreeMap<String, status::Said>,
    state: Option<(LabState, Lock)>,
    /// Whether this run made the state directory.
    is_new: bool,
    text: String,
    roles: Roles,
}

/// What the hosts are.
enum Place {
    /// VMs that pgprov makes.
    Vms(Box<Vms>),
    /// Machines that were there before.
    Machines(Machines),
}

struct Vms {
    world: Arc<World>,
    /// What was observed.
    infra: Infra,
    made_from: MadeFrom,
}

impl Draft {
    /// Checks the topology, observes and plans. `machines` names an inventory, when hosts are machines that are there
    /// already; without one they are what they were at the last `up`.
    ///
    /// # Errors
    /// The topology or the inventory has errors, libvirt does not answer, the image cannot be had, names clash.
    pub fn new(ui: &Ui, global: &Global, file: &Path, machines: Option<&Path>, mode: Mode) -> Result<Self> {
        let assets = Assets::load(global)?;
        let wanted = assets.topology(ui, file)?;
        let what = format!("pgprov up {}", file.display());
        let known = LabState::open(&state::root()?, &wanted.1.lab)?;
        match machines::of(machines, known.as_ref(), &wanted.1)? {
            Some(machines) => Self::on_machines(ui, &assets, wanted, mode, machines, &what),
            None => Self::of(ui, global, &assets, wanted, mode, None, &what),
        }
    }

    /// Hosts that are machines which are there already: nothing is made, only what is in them is brought in line.
    fn on_machines(
        ui: &Ui,
        assets: &Assets,
        (text, topology): (String, Topology),
        mode: Mode,
        machines: Machines,
        what: &str,
    ) -> Result<Self> {
        let root = state::root()?;
        let known = LabState::open(&root, &topology.lab)?;
        let is_new = known.is_none();
        if let Some(state) = &known
            && state.topology().exists()
            && machines::kept(state)?.is_none()
        {
            let message = format!("lab {} stands, and is made of VMs", topology.lab);
            return Err(Error::usage(message)
                .hint("choose another `lab` name, or take it away before: pgprov destroy"));
        }
        let (state, lock) = taken(known, &root, &topology.lab, mode, what)?;
        let mut lab = assets.roles.derive(&topology, &Pins::new())?;
        lab.settle_on(&machines);
        let (secrets, _) = identity(state.as_ref(), mode, &lab)?;
        let hosts = assets.roles.render(&lab, &secrets)?;
        let targets = state.as_ref().map(|state| targets(state, &lab)).transpose()?.unwrap_or_default();
        for target in targets.values() {
            machines::pin(target, &machines)?;
        }
        let fleet = Arc::new(Fleet {
            ui: ui.clone(),
            lab,
            hosts,
            targets,
            boot_limit: CONNECT,
            // Each has cores of its own.
            boots: usize::MAX >> 4,
            asked: OnceLock::new(),
        });
        let place = Place::Machines(machines);
        Ok(Self::bare(fleet, place, state.zip(lock), is_new, text, assets).asked())
    }

    /// Hosts that are VMs, for a topology that was read already. They get the places in `places` before any others; `what`
    /// is told to those who wait for the lab.
    ///
    /// # Errors
    /// As [`Draft::new`].
    pub fn of(
        ui: &Ui,
        global: &Global,
        assets: &Assets,
        (text, topology): (String, Topology),
        mode: Mode,
        places: Option<&Pins>,
        what: &str,
    ) -> Result<Self> {
        let root = state::root()?;
        let known = LabState::open(&root, &topology.lab)?;
        let libvirt = Libvirt::connect(global.connect.as_deref())?;
        let is_new = known.is_none();
        // A lab that is new is looked at before anything is made for it: one that is refused leaves no trace.
        if is_new && mode != Mode::DryRun {
            let infra = libvirt.observe(&topology.lab)?;
            refuse_orphans(&infra, None, &topology.lab)?;
            refuse_clashes(&infra, &lab::derive(&topology, &infra.pins()))?;
        }
        let (state, lock) = taken(known, &root, &topology.lab, mode, what)?;
        // Another pgprov may have changed the lab while we waited for our turn.
        let infra = libvirt.observe(&topology.lab)?;
        refuse_orphans(&infra, state.as_ref(), &topology.lab)?;
        let mut pins = state.as_ref().map(context::pins).transpose()?.unwrap_or_default();
        pins.extend(infra.pins());
        pins.extend(places.cloned().unwrap_or_default());
        let lab = assets.roles.derive(&topology, &pins)?;
        refuse_clashes(&infra, &lab)?;
        if matches!(mode, Mode::Apply { .. }) && infra.hypervisor.accel == Accel::Emulated {
            let reason = infra.hypervisor.accel_reason.as_deref().unwrap_or("the CPU offers none");
            ui.say(&format!(
                "No hardware acceleration ({reason}): hosts are emulated, which is about ten times slower."
            ));
        }
        let hypervisor = infra.hypervisor(global.pool_path.as_deref().unwrap_or(POOL_PATH));
        let image = match image::provide(ui, assets, &lab, &infra, !matches!(mode, Mode::Apply { .. })) {
            Ok(image) => image,
            Err(error) => {
                if let (true, Some(state), Some(lock)) = (is_new, state, lock) {
                    state.remove(lock)?;
                }
                return Err(error);
            }
        };
        let boot = BootImage::in_pool(&hypervisor.pool_path, &image.name, &lab.image, &image.cmdline);
        let (secrets, public_key) = identity(state.as_ref(), mode, &lab)?;
        let hosts = assets.roles.render(&lab, &secrets)?;
        let targets = state.as_ref().map(|state| targets(state, &lab)).transpose()?.unwrap_or_default();
        let mut pinned = BTreeSet::new();
        for (host, target) in &targets {
            if ssh::is_pinned(&target.known_hosts, host)? {
                pinned.insert(host.clone());
            }
        }
        let (boot_limit, by_boot) = match mode {
            Mode::Apply { boot_limit, by_boot } => (boot_limit, by_boot),
            Mode::DryRun | Mode::Restore => (CONNECT, false),
        };
        let template = match by_boot {
            true => None,
            false => machine::template(&lab.vm, &hypervisor, &boot, &infra.hypervisor.software()),
        };
        let fleet = Arc::new(Fleet {
            ui: ui.clone(),
            lab,
            hosts,
            targets,
            boot_limit,
            boots: std::thread::available_parallelism().map_or(2, usize::from).max(2),
            asked: OnceLock::new(),
        });
        let world = Arc::new(World {
            fleet: Arc::clone(&fleet),
            libvirt,
            hypervisor,
            template,
            boot_reason: OnceLock::new(),
            next_layer: infra.next_layer.clone(),
            copying: Mutex::new(()),
            state_root: root,
            image: boot,
            image_size: image.size,
            image_files: image.files,
            ssh_public_key: public_key,
            pinned,
        });
        let place = Place::Vms(Box::new(Vms { world, infra, made_from: BTreeMap::new() }));
        let draft = Self::bare(fleet, place, state.zip(lock), is_new, text, assets);
        Ok(if mode == Mode::Restore { draft } else { draft.asked() })
    }

    fn bare(
        fleet: Arc<Fleet>,
        place: Place,
        state: Option<(LabState, Lock)>,
        is_new: bool,
        text: String,
        assets: &Assets,
    ) -> Self {
        let (plan, restart, answers) = (Plan::default(), Restart::default(), BTreeMap::new());
        let (seen, roles) = (BTreeMap::new(), assets.roles.clone());
        Self { plan, restart, fleet, place, answers, seen, state, is_new, text, roles }
    }

    /// Asks the hosts, and plans.
    fn asked(mut self) -> Self {
        self.ask_and_plan();
        self
    }

    /// What a host should have, and what it has if it could be asked.
    pub fn seen(&self, host: &str) -> (Option<&RenderedHost>, Option<&Facts>) {
        let rendered = self.fleet.rendered(host);
        (rendered, self.answers.get(host).map(|answer| &answer.facts))
    }

    /// The topology's text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// SHA-256 of what roles and templates make of the topology, secrets masked.
    ///
    /// # Errors
    /// A template that cannot be rendered.
    pub fn rendered(&self) -> Result<String> {
        let lab = &self.fleet.lab;
        let hosts = self.roles.render(lab, &context::masked(lab))?;
        Ok(digest::hex(&serde_json::to_vec(&hosts)?))
    }

    /// SHA-256 of what the hosts should have, if they are VMs.
    ///
    /// # Errors
    /// A defect.
    pub fn digest_of_hosts(&self) -> Result<String> {
        Ok(self.vms().map(|vms| vms.world.digest_of_hosts()).transpose()?.unwrap_or_default())
    }

    /// What there is to work with: the world, what was observed, the state directory, the topology's text.
    ///
    /// # Errors
    /// The lab has no state directory.
    pub fn parts(&self) -> Result<(&World, &Infra, &LabState, &str)> {
        let (state, _) =
            self.state.as_ref().ok_or_else(|| Error::failed("the lab has no state directory"))?;
        let vms = self.vms().ok_or_else(|| machines::has_none(state.lab(), "checkpoints"))?;
        Ok((&vms.world, &vms.infra, state, &self.text))
    }

    /// Whether no VM and no disk of the lab is there. Whatever is, even switched off, has data that going back to a checkpoint
    /// would throw away.
    pub fn is_bare(&self) -> bool {
        self.vms().is_some_and(|Vms { infra, .. }| infra.domains.is_empty() && infra.disks.is_empty())
    }

    /// Whether nothing is left of the lab but its checkpoint `ready`.
    pub fn is_put_away(&self) -> Result<bool> {
        let Some((state, _)) = &self.state else { return Ok(false) };
        Ok(self.is_bare() && Store::new(state).find(READY)?.is_some())
    }

    /// Observes the hypervisor anew, not the hosts.
    ///
    /// # Errors
    /// libvirt does not answer.
    pub fn look_again(mut self) -> Result<Self> {
        self.observe()?;
        Ok(self)
    }

    /// Makes the checkpoint that `reset` goes back to. That there is no room for it is no reason for `up` to fail.
    pub fn make_ready(&self, ui: &Ui) {
        // What restarts was perhaps left for later.
        let in_line = self.restart != Restart::Never;
        let made = self.parts().map_err(|error| error.cause).and_then(|(world, infra, state, text)| {
            save_checkpoint(world, infra, state, READY, text, in_line)
        });
        if let Err(error) = made {
            ui.warn(&format!("no checkpoint `{READY}` was made: {error:#}"));
        }
    }

    /// Plans anew with another wish for restarts.
    pub fn with_restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self.make_plan();
        self
    }

    fn vms(&self) -> Option<&Vms> {
        match &self.place {
            Place::Vms(vms) => Some(vms),
            Place::Machines(_) => None,
        }
    }

    /// Asks the hosts that run, and plans.
    fn ask_and_plan(&mut self) {
        let vms = self.vms();
        let running = |host: &str| {
            vms.is_none_or(|vms| {
                let domain = vms.infra.domains.get(host);
                domain.is_some_and(|domain| domain.state == DomainState::Running && !domain.unplugged)
            })
        };
        let state = self.state.as_ref().map(|(state, _)| state);
        let before =
            state.map(|state| context::rendered_before(&self.roles, state, &self.text)).unwrap_or_default();
        let asked: Vec<_> = self
            .fleet
            .hosts
            .iter()
            .filter(|host| running(&host.host) && !self.answers.contains_key(&host.host))
            .filter_map(|rendered| {
                let target = self.fleet.targets.get(&rendered.host)?.clone();
                let domain = vms.and_then(|vms| vms.world.listening(&rendered.host));
                let before = before.iter().find(|before| before.host == rendered.host);
                Some(Asked { target, domain, rendered, before })
            })
            .collect();
        // A host that does not answer may still be booting: the plan then has everything for it, and execution waits.
        self.fleet.asked.get_or_init(Instant::now);
        let answers = observe::all(&self.fleet.ui, vms.map(|vms| &vms.world.libvirt), &asked, CONNECT);
        self.answers.extend(answers.into_iter().filter_map(|(name, answer)| Some((name, answer.ok()?))));
        self.make_plan();
    }

    fn make_plan(&mut self) {
        let facts: BTreeMap<String, Facts> =
            self.answers.iter().map(|(name, answer)| (name.clone(), answer.facts.clone())).collect();
        match &mut self.place {
            Place::Vms(vms) => {
                self.plan = plan::plan(&vms.world.wanted(self.restart), &vms.infra, &facts);
                let goes = |host: &str| self.plan.steps.iter().any(|step| step.destroys() == Some(host));
                let disks = vms.infra.disks.iter().filter(|(host, _)| !goes(host));
                vms.made_from = disks
                    .filter_map(|(host, disk)| Some((host.clone(), (disk.image.clone()?, disk.layer))))
                    .collect();
            }
            Place::Machines(_) => {
                let (lab, hosts) = (&self.fleet.lab, &self.fleet.hosts);
                self.plan = plan::machines(lab, hosts, self.restart, &facts);
            }
        }
    }

    /// Why roles do not want hosts touched.
    fn refusals(&self) -> Vec<String> {
        let answers = self.answers.iter();
        answers
            .flat_map(|(host, answer)| answer.facts.refusals.iter().map(move |why| format!("{host}: {why}")))
            .collect()
    }

    /// What a user broke on purpose is not brought in line, but for hosts that are off or stand still: they are started.
    pub fn warn_of_faults(&self, ui: &Ui) -> Result {
        let Some((state, _)) = &self.state else { return Ok(()) };
        for record in fault::Store::new(state).list()? {
            ui.warn(&format!(
                "{}; heal it with: pgprov fault heal --all --lab {}",
                record.fault,
                state.lab()
            ));
        }
        Ok(())
    }

    /// Refuses what cannot work, and asks for consent to what interrupts.
    pub fn admit(&self, ui: &Ui, yes: bool) -> Result {
        let refusals = self.refusals();
        if !refusals.is_empty() {
            let lab = &self.fleet.lab.name;
            return Err(Error::failed(format!("lab {lab} cannot have these hosts\n{}", refusals.join("\n")))
                .hint("nothing was changed on any of them"));
        }
        if let Some(Vms { world, infra, .. }) = self.vms() {
            let wanted = world.wanted(self.restart);
            let shortages = plan::shortages(&self.plan, &wanted, infra, world.image_size);
            if !shortages.is_empty() {
                return Err(no_room(&self.fleet.lab.name, &shortages));
            }
        }
        let disruptive = self.plan.disruptive();
        if disruptive.is_empty() || yes {
            return Ok(());
        }
        ui.out(&self.plan.to_string());
        let what: Vec<String> = disruptive.iter().map(ToString::to_string).collect();
        if ui.confirm(&format!("This will {}. Go on?", what.join(", and "))) {
            Ok(())
        } else {
            Err(Error::usage(format!("not confirmed: {}", what.join(", ")))
                .hint("add --yes to do it without asking"))
        }
    }

    /// Forgets a lab of which there is nothing yet but its state directory.
    pub fn abandon(self) -> Result {
        match self.state {
            Some((state, lock)) if self.is_new => Ok(state.remove(lock)?),
            _ => Ok(()),
        }
    }

    /// Does what the plan says. What [`Draft::status`] would ask is asked on the way, if it is wanted and nothing comes after.
    pub fn execute(&mut self, is_shown: bool) -> Result<Vec<Timing>> {
        let Some((state, _)) = &self.state else { return Ok(Vec::new()) };
        // From here on the lab exists: keep what other commands need, even if the rest fails.
        state.write(&state.topology(), self.text.as_bytes())?;
        match &self.place {
            Place::Vms(_) => context::keep_pins(state, &self.fleet.lab)?,
            Place::Machines(machines) => machines::keep(state, machines)?,
        }
        connect::write_files(state, &self.fleet.lab)?;
        if let Place::Vms(vms) = &self.place {
            execute::shut_down(&vms.world, &self.plan, &self.answers);
            // Hosts are started one by one as their turn comes; see execute::hosts.
            execute::steps(&vms.world, &self.plan.steps, &vms.made_from)?;
            for host in self.plan.steps.iter().filter_map(plan::Step::stops) {
                self.answers.remove(host);
            }
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answers = std::mem::take(&mut self.answers);
        let vms = self.vms();
        let world = vms.map(|vms| Arc::clone(&vms.world));
        let made_from = Arc::new(vms.map(|vms| vms.made_from.clone()).unwrap_or_default());
        let fleet = Arc::clone(&self.fleet);
        let look: Look<_> = Arc::new(move |host, answer| status::look(&fleet.hosts, host, answer).ok());
        let look = Some(look).filter(|_| is_shown && self.plan.turns.is_empty());
        let hosts = execute::hosts(&self.fleet, world, &self.plan, answers, made_from, look);
        let done = runtime.block_on(hosts)?;
        (self.answers, self.seen) = (done.answers, done.seen);
        let mut failures = done.failures;
        if let Err(error) = execute::turns(&self.fleet, &self.plan.turns, &mut self.answers) {
            failures = Some(execute::Failures::with(failures, &error));
        }
        match failures {
            None => Ok(done.timings),
            Some(failures) => {
                let kind = if failures.timeout { Kind::Timeout } else { Kind::Failed };
                Err(Error::new(kind, failures)
                    .hint("nothing was destroyed: look around with `pgprov ssh` or `pgprov logs HOST --console`, then run `pgprov up` again"))
            }
        }
    }

    /// Observes the hypervisor anew; the hosts that changed were asked right after, and those that did not, before.
    pub fn observe_again(&mut self) -> Result {
        if self.restart == Restart::Rolling {
            // All had their turn.
            self.restart = Restart::Auto;
        }
        self.observe()?;
        self.ask_and_plan();
        Ok(())
    }

    /// Observes the hypervisor anew, where there is one.
    fn observe(&mut self) -> Result {
        if let Place::Vms(vms) = &mut self.place {
            vms.infra = vms.world.libvirt.observe(&self.fleet.lab.name)?;
        }
        Ok(())
    }

    /// Keeps what was applied.
    pub fn finish(&self) -> Result {
        if let Some((state, _)) = &self.state {
            if let Some(vms) = self.vms() {
                let state_of = |host: &str| vms.infra.domains.get(host).map(|domain| domain.state);
                fault::Store::new(state).settle(|host| state_of(host) == Some(DomainState::Running))?;
            }
            let same = std::fs::read_to_string(state.topology()).is_ok_and(|old| old == self.text);
            if !same {
                state.write(&state.topology(), self.text.as_bytes())?;
            }
            match &self.place {
                Place::Vms(_) if same => {}
                Place::Vms(_) => context::keep_pins(state, &self.fleet.lab)?,
                Place::Machines(machines) => machines::keep(state, machines)?,
            }
        }
        Ok(())
    }

    /// Lines to connect with.
    pub fn connect_lines(&self) -> String {
        self.state.as_ref().map(|(state, _)| connect::lines(state, self.lab())).unwrap_or_default()
    }

    /// The lab as the topology says.
    pub fn lab(&self) -> &Lab {
        &self.fleet.lab
    }

    /// What `status` shows of the lab as it is now, the way hosts answered.
    pub fn status(&mut self) -> Vec<status::HostStatus> {
        let Some((state, _)) = &self.state else { return Vec::new() };
        let (answers, seen) = (std::mem::take(&mut self.answers), std::mem::take(&mut self.seen));
        let vms = self.vms().map(|vms| (&vms.world.libvirt, &vms.infra));
        status::collect(state, &self.fleet.lab, &self.fleet.hosts, vms, answers, seen)
    }
}

/// The state directory of a lab: made and locked where something may be made, as it is where nothing may.
fn taken(
    known: Option<LabState>,
    root: &Path,
    lab: &str,
    mode: Mode,
    what: &str,
) -> Result<(Option<LabState>, Option<Lock>)> {
    if mode == Mode::DryRun {
        return Ok((known, None));
    }
    let state = LabState::create(root, lab)?;
    let lock = state.lock(what, LOCK)?;
    Ok((Some(state), Some(lock)))
}

/// Secrets and the login key of a lab: kept where something may be made, looked at where nothing may.
fn identity(state: Option<&LabState>, mode: Mode, lab: &Lab) -> Result<(Secrets, String)> {
    Ok(match (state, mode) {
        (Some(state), Mode::Apply { .. } | Mode::Restore) => {
            (secrets::keep(state, lab)?, state.ensure_key()?)
        }
        (Some(state), Mode::DryRun) if state.secrets().exists() => {
            (secrets::look_at(state, lab)?, state.ensure_key()?)
        }
        _ => (context::masked(lab), "ssh-ed25519 (made by up)".to_owned()),
    })
}

/// How to reach each host.
fn targets(state: &LabState, lab: &Lab) -> Result<BTreeMap<String, Target>> {
    lab.hosts.iter().map(|host| Ok((host.name.clone(), context::target(state, host)?))).collect()
}
