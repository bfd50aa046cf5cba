//! `pgprov up`: observe, plan, execute, observe again, until there is nothing left to do.

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
    observed::{DomainState, Infra},
    plan::{self, Plan, Restart, Step},
    render::{RenderedHost, Roles},
    topology::Topology,
};

use super::{
    checkpoint,
    context::{self, Assets, CONNECT},
    image,
    plan::Saved,
    secrets, status,
};
use crate::{
    checkpoint::{READY, Store, save as save_checkpoint},
    cli::{self, Global, Up},
    connect,
    error::{Error, Kind, Result},
    execute::{self, MadeFrom, Timing, World},
    fault,
    libvirt::Libvirt,
    observe::{self, Answer, Asked},
    ssh,
    state::{self, LabState, Lock},
    ui::{self, Ui},
};

/// How long another pgprov that works on the same lab may take.
const LOCK: Duration = Duration::from_secs(10);
/// Rounds of plan and execution before giving up: one is enough unless the world moves meanwhile.
const ROUNDS: usize = 3;

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
    /// What was observed.
    infra: Infra,
    world: Arc<World>,
    answers: BTreeMap<String, Answer>,
    made_from: MadeFrom,
    state: Option<(LabState, Lock)>,
    /// Whether this run made the state directory.
    is_new: bool,
    text: String,
    roles: Roles,
}

/// Brings the lab in line with its topology.
///
/// # Errors
/// The topology has errors, something is missing on this machine, a step failed, or consent was not given.
pub fn run(ui: &Ui, global: &Global, args: &Up) -> Result {
    let saved = Saved::read(&args.file)?;
    let (file, restart) = match &saved {
        Some(saved) => (saved.topology.as_path(), saved.restart),
        None => (args.file.as_path(), args.restart),
    };
    if args.dry_run {
        return super::plan::run(ui, global, &cli::Plan { file: file.to_owned(), restart, out: None });
    }
    let begun = Instant::now();
    let mode = Mode::Apply { boot_limit: Duration::from_secs(args.boot_timeout), by_boot: args.boot };
    checkpoint::finish_pending(ui, global, file)?;
    let mut draft = Draft::new(ui, global, file, mode)?.with_restart(restart.into());
    let mut restored = false;
    if saved.is_none() && !args.boot && !args.no_checkpoint && draft.is_put_away()? {
        // Going back needs the lab's lock.
        drop(draft);
        restored = checkpoint::from_ready(ui, global, file)?;
        draft = Draft::new(ui, global, file, mode)?.with_restart(restart.into());
    }
    if let Some(Err(refusal)) = saved.map(|saved| saved.refuse_other(&draft)) {
        draft.abandon()?;
        return Err(refusal);
    }
    draft.warn_of_faults(ui)?;
    let is_fresh = draft.plan.steps.iter().any(|step| step.creates().is_some());
    let mut changes = usize::from(restored);
    let mut timings: Vec<Timing> = Vec::new();
    let mut agreed = BTreeSet::new();
    for round in 0..=ROUNDS {
        for note in draft.plan.notes.iter().filter(|_| round == 0) {
            ui.warn(note);
        }
        if draft.plan.is_empty() {
            break;
        }
        if round == ROUNDS {
            return Err(Error::failed(format!(
                "after {ROUNDS} rounds there is still something to do:\n{}",
                draft.plan
            )));
        }
        // What comes to light only later needs consent as well.
        let disruptive = draft.plan.disruptive();
        if round == 0 || disruptive.iter().any(|what| !agreed.contains(what)) {
            if let Err(refusal) = draft.admit(ui, args.yes) {
                draft.abandon()?;
                return Err(refusal);
            }
            agreed.extend(disruptive);
        }
        let steps = draft.plan.steps.len() + draft.plan.turns.len();
        let done = draft.execute()?;
        changes += steps + done.iter().map(|timing| timing.changes).sum::<usize>();
        timings.extend(done);
        draft.observe_again()?;
    }
    draft.finish()?;
    let elapsed = begun.elapsed();
    if is_fresh && !args.no_checkpoint {
        draft.make_ready(ui);
    }
    report(ui, &mut draft, changes, &timings, elapsed)
}

fn report(ui: &Ui, draft: &mut Draft, changes: usize, timings: &[Timing], elapsed: Duration) -> Result {
    let Some((state, _)) = &draft.state else { return Ok(()) };
    let lab = &draft.world.lab;
    let seconds = elapsed.as_secs_f64();
    if ui.json() {
        let hosts: Vec<_> = timings
            .iter()
            .map(|t| serde_json::json!({"host": t.host, "boot_seconds": t.boot.as_secs_f64(), "configure_seconds": t.configure.as_secs_f64()}))
            .collect();
        ui.out_json(
            &serde_json::json!({"lab": lab.name, "changes": changes, "seconds": seconds, "hosts": hosts}),
        );
        return Ok(());
    }
    if changes == 0 {
        ui.out(&format!("lab {} is as its topology says: 0 changes ({seconds:.1} s)", lab.name));
        return Ok(());
    }
    let sessions = std::mem::take(&mut draft.answers)
        .into_iter()
        .filter_map(|(name, answer)| Some((name, answer.into_session()?)))
        .collect();
    let status = status::collect(state, lab, &draft.world.hosts, Some(&draft.infra), sessions);
    ui.out(&format!("\nlab {} is up: {changes} changes in {seconds:.1} s\n", lab.name));
    ui.out(&status::table(ui, &status));
    ui.out(&connect::lines(state, lab));
    Ok(())
}

impl Draft {
    /// Checks the topology, observes and plans.
    ///
    /// # Errors
    /// The topology has errors, libvirt does not answer, the image cannot be had, names clash.
    pub fn new(ui: &Ui, global: &Global, file: &Path, mode: Mode) -> Result<Self> {
        let assets = Assets::load(global)?;
        let wanted = assets.topology(ui, file)?;
        Self::of(ui, global, &assets, wanted, mode, None, &format!("pgprov up {}", file.display()))
    }

    /// The same for a topology that was read already. Its hosts get the places in `places` before any others; `what` is
    /// told to those who wait for the lab.
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
        let (state, lock) = match mode {
            Mode::DryRun => (known, None),
            Mode::Apply { .. } | Mode::Restore => {
                let state = LabState::create(&root, &topology.lab)?;
                let lock = state.lock(what, LOCK)?;
                (Some(state), Some(lock))
            }
        };
        // Another pgprov may have changed the lab while we waited for our turn.
        let infra = libvirt.observe(&topology.lab)?;
        refuse_orphans(&infra, state.as_ref(), &topology.lab)?;
        let mut pins = state.as_ref().map(context::pins).transpose()?.unwrap_or_default();
        pins.extend(infra.pins());
        pins.extend(places.cloned().unwrap_or_default());
        let lab = lab::derive(&topology, &pins);
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
        let (secrets, public_key) = match (&state, mode) {
            (Some(state), Mode::Apply { .. } | Mode::Restore) => {
                (secrets::keep(state, &lab)?, state.ensure_key()?)
            }
            (Some(state), Mode::DryRun) if state.secrets().exists() => {
                (secrets::look_at(state, &lab)?, state.ensure_key()?)
            }
            _ => (context::masked(&lab), "ssh-ed25519 (made by up)".to_owned()),
        };
        let hosts = assets.roles.render(&lab, &secrets)?;
        let targets = match &state {
            Some(state) => {
                lab.hosts.iter().map(|host| (host.name.clone(), context::target(state, host))).collect()
            }
            None => BTreeMap::new(),
        };
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
        let world = World {
            ui: ui.clone(),
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
            hosts,
            targets,
            boot_limit,
            boots: std::thread::available_parallelism().map_or(2, usize::from).max(2),
            lab,
        };
        let mut draft = Self {
            plan: Plan::default(),
            restart: Restart::default(),
            infra,
            world: Arc::new(world),
            answers: BTreeMap::new(),
            made_from: BTreeMap::new(),
            state: state.zip(lock),
            is_new,
            text,
            roles: assets.roles.clone(),
        };
        if mode != Mode::Restore {
            draft.ask_and_plan();
        }
        Ok(draft)
    }

    /// What a host should have, and what it has if it could be asked.
    pub fn seen(&self, host: &str) -> (Option<&RenderedHost>, Option<&Facts>) {
        let rendered = self.world.hosts.iter().find(|rendered| rendered.host == host);
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
        let lab = &self.world.lab;
        let hosts = self.roles.render(lab, &context::masked(lab))?;
        Ok(digest::hex(&serde_json::to_vec(&hosts)?))
    }

    /// What there is to work with: the world, what was observed, the state directory, the topology's text.
    ///
    /// # Errors
    /// The lab has no state directory.
    pub fn parts(&self) -> Result<(&World, &Infra, &LabState, &str)> {
        let (state, _) =
            self.state.as_ref().ok_or_else(|| Error::failed("the lab has no state directory"))?;
        Ok((&self.world, &self.infra, state, &self.text))
    }

    /// Whether nothing is left of the lab but its checkpoint `ready`. Whatever else there is, even switched off, has data
    /// that going back would throw away.
    fn is_put_away(&self) -> Result<bool> {
        let Some((state, _)) = &self.state else { return Ok(false) };
        let nothing = self.infra.domains.is_empty() && self.infra.disks.is_empty();
        Ok(nothing && Store::new(state).find(READY)?.is_some())
    }

    /// Observes the hypervisor anew, not the hosts.
    ///
    /// # Errors
    /// libvirt does not answer.
    pub fn look_again(mut self) -> Result<Self> {
        self.infra = self.world.libvirt.observe(&self.world.lab.name)?;
        Ok(self)
    }

    /// Makes the checkpoint that `reset` goes back to. That there is no room for it is no reason for `up` to fail.
    fn make_ready(&self, ui: &Ui) {
        let made = self
            .parts()
            .map_err(|error| error.cause)
            .and_then(|(world, infra, state, text)| save_checkpoint(world, infra, state, READY, text));
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

    /// Asks the hosts that run, and plans.
    fn ask_and_plan(&mut self) {
        let running = |host: &&RenderedHost| {
            self.infra
                .domains
                .get(&host.host)
                .is_some_and(|domain| domain.state == DomainState::Running && !domain.unplugged)
        };
        let asked: Vec<_> = self
            .world
            .hosts
            .iter()
            .filter(running)
            .filter(|host| !self.answers.contains_key(&host.host))
            .filter_map(|rendered| {
                let target = self.world.targets.get(&rendered.host)?.clone();
                Some(Asked { target, domain: self.world.listening(&rendered.host), rendered })
            })
            .collect();
        // A host that does not answer may still be booting: the plan then has everything for it, and execution waits.
        let answers = observe::all(&self.world.libvirt, &asked, CONNECT);
        self.answers.extend(answers.into_iter().filter_map(|(name, answer)| Some((name, answer.ok()?))));
        self.make_plan();
    }

    fn make_plan(&mut self) {
        let facts: BTreeMap<String, Facts> =
            self.answers.iter().map(|(name, answer)| (name.clone(), answer.facts.clone())).collect();
        self.made_from = self
            .infra
            .disks
            .iter()
            .filter_map(|(host, disk)| Some((host.clone(), (disk.image.clone()?, disk.layer))))
            .collect();
        let world = &self.world;
        let wanted = world.wanted(self.restart);
        self.plan = plan::plan(&wanted, &self.infra, &facts);
    }

    /// What a user broke on purpose is not brought in line, but for hosts that are off or stand still: they are started.
    fn warn_of_faults(&self, ui: &Ui) -> Result {
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
    fn admit(&self, ui: &Ui, yes: bool) -> Result {
        let world = &self.world;
        let wanted = world.wanted(self.restart);
        let shortages = plan::shortages(&self.plan, &wanted, &self.infra, world.image_size);
        if !shortages.is_empty() {
            let rows: Vec<Vec<String>> = shortages
                .iter()
                .map(|s| vec![s.what.to_owned(), s.needed.clone(), s.available.clone(), s.remedy.to_owned()])
                .collect();
            let table = ui::table(&["", "needed", "available", "remedy"], &rows);
            return Err(Error::failed(format!(
                "there is not enough room for lab {}\n{table}",
                world.lab.name
            )));
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
    fn abandon(self) -> Result {
        match self.state {
            Some((state, lock)) if self.is_new => Ok(state.remove(lock)?),
            _ => Ok(()),
        }
    }

    /// Does what the plan says.
    fn execute(&mut self) -> Result<Vec<Timing>> {
        let Some((state, _)) = &self.state else { return Ok(Vec::new()) };
        // From here on the lab exists: keep what other commands need, even if the rest fails.
        state.write(&state.topology(), self.text.as_bytes())?;
        context::keep_pins(state, &self.world.lab)?;
        connect::write_files(state, &self.world.lab)?;
        for step in &self.plan.steps {
            // Hosts are started one by one as their turn comes; see execute::hosts.
            if step.starts().is_none() {
                execute::step(&self.world, step, &self.made_from)?;
            }
            if let Step::StopHost { host } | Step::RemoveHost { host } = step {
                self.answers.remove(host);
            }
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let (plan, answers, made_from) =
            (&self.plan, std::mem::take(&mut self.answers), Arc::new(self.made_from.clone()));
        let world = Arc::clone(&self.world);
        let done = runtime.block_on(execute::hosts(Arc::clone(&world), plan, answers, made_from))?;
        self.answers = done.answers;
        let mut failures = done.failures;
        if let Err(error) = execute::turns(&world, &self.plan.turns, &mut self.answers) {
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
    fn observe_again(&mut self) -> Result {
        if self.restart == Restart::Rolling {
            // All had their turn.
            self.restart = Restart::Auto;
        }
        self.infra = self.world.libvirt.observe(&self.world.lab.name)?;
        self.ask_and_plan();
        Ok(())
    }

    /// Keeps what was applied.
    fn finish(&self) -> Result {
        if let Some((state, _)) = &self.state {
            let state_of = |host: &str| self.infra.domains.get(host).map(|domain| domain.state);
            fault::Store::new(state).settle(|host| state_of(host) == Some(DomainState::Running))?;
            let same = std::fs::read_to_string(state.topology()).is_ok_and(|old| old == self.text);
            if !same {
                state.write(&state.topology(), self.text.as_bytes())?;
                context::keep_pins(state, &self.world.lab)?;
            }
        }
        Ok(())
    }
}

fn refuse_clashes(infra: &Infra, lab: &Lab) -> Result {
    let clashes = infra.clashes(lab);
    if clashes.is_empty() {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = clashes
        .iter()
        .map(|clash| vec![clash.what.to_owned(), clash.name.clone(), clash.owner.clone()])
        .collect();
    let table = ui::table(&["what", "name", "belongs to"], &rows);
    Err(Error::failed(format!("lab {} would take what is not its own\n{table}", lab.name))
        .hint("choose another `lab` name, or other subnets with `network` and `management_network`"))
}

/// Hosts without their secrets cannot be managed: their passwords and keys are gone.
fn refuse_orphans(infra: &Infra, state: Option<&LabState>, lab: &str) -> Result {
    let known = state.is_some_and(|state| state.secrets().exists());
    if known || (infra.domains.is_empty() && infra.disks.is_empty()) {
        return Ok(());
    }
    let message = format!("lab {lab} exists on this hypervisor, but its state directory is not here");
    let hint =
        format!("set PGPROV_STATE_DIR to where it was made, or take the lab away: pgprov destroy {lab}");
    Err(Error::failed(message).hint(hint))
}
