//! What is done inside a host, through the hypervisor or over one connection: facts, files, tasks.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use pgplan::{
    host::{
        Facts, HostPlan,
        apply::{self, Bundle, Event},
    },
    plan::Step,
    render::{RenderedHost, Task},
};

use tokio::sync::watch;

use super::{
    Fleet, MadeFrom, NoAnswer, Unreachable, World,
    pipeline::{Progress, Stage, Told},
    step,
};
use crate::{
    clock,
    observe::{self, Answer},
    ssh::{self, Session},
    ui::Line,
};

/// How long a host that runs already may take to answer, from when it was first asked.
const REACH: Duration = Duration::from_secs(30);
/// How long it may take at least, when the others took their time meanwhile.
const AGAIN: Duration = Duration::from_secs(5);
/// How long networks may take to give addresses, in seconds.
const NETWORK: u32 = 65;
/// Waits for a route on both interfaces, without a process as long as there is nothing to wait for.
const ADDRESSES: &str = r#"try=0
while [ $try -lt 300 ]; do
  try=$((try + 1)) eth0=' eth0' eth1=' eth1'
  while read -r interface _; do
    case $interface in eth0) eth0= ;; eth1) eth1= ;; esac
  done </proc/net/route
  [ -n "$eth0$eth1" ] || exit 0
  sleep 0.2
done
echo "after a minute it has no address on$eth0$eth1"
exit 1
"#;
/// How long it may take until all that a jump of the clock broke off has begun anew.
const JUMP: Duration = Duration::from_secs(180);
/// How much of the console is shown when a host does not answer.
const CONSOLE_BYTES: u64 = 2000;

pub(super) fn boot_and_ask(
    fleet: &Fleet,
    world: Option<&World>,
    rendered: usize,
    start: Option<&Step>,
    fresh: bool,
    made_from: &MadeFrom,
    line: &Line,
) -> anyhow::Result<Answer> {
    let rendered = &fleet.hosts[rendered];
    let target = &fleet.targets[&rendered.host];
    if let (Some(start), Some(world)) = (start, world) {
        line.now(if start.copies().is_some() { "waking up" } else { "booting" });
        step(world, start, made_from)?;
    } else {
        line.now("connecting");
    }
    // One that runs already may still be on its way up after a run that was ended.
    let limit = if start.is_some() {
        fleet.boot_limit
    } else {
        let waited = fleet.asked.get().map(Instant::elapsed).unwrap_or_default();
        fleet.boot_limit.min(REACH.saturating_sub(waited).max(AGAIN))
    };
    let deadline = Instant::now() + limit;
    let is_bare = fresh && rendered.packages.is_empty();
    let ask = || -> anyhow::Result<Answer> {
        if let (Some(_), Some(world)) = (start, world)
            && let Some(domain) = world.listening(&rendered.host)
        {
            match observe::started(&world.libvirt, domain, rendered, target, is_bare, limit) {
                Ok(answer) => return Ok(answer),
                // It would have been there long before its SSH server.
                Err(_) if Instant::now() >= deadline => {
                    let (seconds, host) = (limit.as_secs_f64(), &rendered.host);
                    bail!(NoAnswer(format!("waited {seconds:.1} s for host {host} to say who it is")));
                }
                // Whoever logs in learns more of it.
                Err(_) => line.now("connecting"),
            }
        }
        let session = Session::connect(target, deadline)?;
        // One that was suspended is behind by as long as it slept.
        if start.is_some() && !fresh {
            set_clock(&session)?;
        }
        // A host whose disk was made a moment ago has nothing of ours: no need to ask, while it is busy booting.
        let facts = if is_bare {
            Facts::default()
        } else {
            line.now("asking for facts");
            let mut facts = observe::facts_and_details(&session, rendered, None)?;
            // Nobody was asked about what it would lose.
            facts.changes.clear();
            anyhow::ensure!(facts.refusals.is_empty(), "it is not touched: {}", facts.refusals.join("; "));
            facts
        };
        Ok(Answer::new(target, session, facts))
    };
    ask().map_err(|error| {
        let late = error.downcast_ref::<ssh::Error>().is_some_and(ssh::Error::is_timeout);
        let timeout = late || error.is::<NoAnswer>();
        if timeout && start.is_none() {
            return Unreachable(format!("{error:#}")).into();
        }
        let tail = |world: &World| {
            world.libvirt.console_tail(&fleet.lab.name, &rendered.host, CONSOLE_BYTES).ok().flatten()
        };
        match world.and_then(tail) {
            Some(tail) if timeout && !tail.trim().is_empty() => {
                let tail = indent(tail.trim());
                NoAnswer(format!("{error:#}\nthe console of {} ends with:\n{tail}", rendered.host)).into()
            }
            _ => error,
        }
    })
}

/// Tells a host that its clock was set.
pub(super) fn after_a_jump(fleet: &Fleet, rendered: usize, answer: &Answer) -> anyhow::Result<()> {
    match fleet.hosts[rendered].after_a_jump() {
        script if script.is_empty() => Ok(()),
        script => answer.read(&script, JUMP).map(drop),
    }
}

/// Installs packages and files, and tells how many changes that was. Who reads them is noted on the host, for
/// [`configure`].
pub(super) fn install(fleet: &Fleet, rendered: usize, answer: &Answer, line: &Line) -> anyhow::Result<usize> {
    let rendered = &fleet.hosts[rendered];
    let (static_part, _) = HostPlan::new(rendered, Some(&answer.facts)).split();
    if static_part.is_empty() {
        return Ok(0);
    }
    let only_files = RenderedHost { tasks: Vec::new(), handlers: Vec::new(), ..rendered.clone() };
    let bundle = apply::bundle(&only_files, &static_part);
    apply_bundle(answer, &only_files, &static_part, &bundle, "", None, line)?;
    Ok(static_part.len())
}

/// Does what needs no other host to be ready, with what they gave, and tells how many changes that was. Its files it has by now.
/// It is asked what it has then.
pub(super) fn begin(
    fleet: &Fleet,
    rendered: usize,
    answer: &mut Answer,
    told: &Told,
    progress: &watch::Sender<Progress>,
    line: &Line,
) -> anyhow::Result<(usize, Stage)> {
    let whole = &fleet.hosts[rendered];
    let mut rendered = whole.clone();
    rendered.tasks.retain(|task| !task.waits);
    let waits = usize::from(answer.port().is_some());
    if waits > 0 {
        rendered = with_addresses(&rendered);
    }
    let (_, plan) = HostPlan::new(&rendered, Some(&answer.facts)).split();
    let told = told.iter().map(|(host, name, value)| (host.as_str(), name.as_str(), value.as_str()));
    let bundle = apply::bundle(&rendered, &plan).with_told(told);
    let after = observe::script(whole);
    let said = apply_bundle(answer, &rendered, &plan, &bundle, &after, Some(progress), line)?;
    let (facts, can_log_in) = observe::told(&said, whole, answer.target())?;
    answer.facts = facts;
    Ok((plan.len() - waits, Stage::Begun { can_log_in }))
}

/// A host with one more task before its others: it waits until it has its addresses. One that is told what to do by the hypervisor
/// is at work before it is on its networks, and what comes next may need them.
fn with_addresses(rendered: &RenderedHost) -> RenderedHost {
    let task = Task {
        name: "have an address on each network".to_owned(),
        unless: "test 0 = 1".to_owned(),
        waits: false,
        on_disk: false,
        asks_only: true,
        independent: false,
        changes: None,
        run: ADDRESSES.to_owned(),
        seconds: NETWORK,
        starts: None,
        notify: Vec::new(),
    };
    let mut rendered = rendered.clone();
    rendered.tasks.insert(0, task);
    rendered
}

/// Applies what is to change, and asks again: a host is done when it has nothing left to do. One that was `started` a moment ago may
/// not have its addresses yet.
pub(super) fn configure(
    fleet: &Fleet,
    rendered: usize,
    started: bool,
    mut answer: Answer,
    stage: Stage,
    progress: &watch::Sender<Progress>,
    line: &Line,
) -> anyhow::Result<(Answer, usize)> {
    let rendered = &fleet.hosts[rendered];
    let mut can_log_in = match stage {
        Stage::Begun { can_log_in } => can_log_in,
        Stage::Asked | Stage::Installed => true,
    };
    let begun = matches!(stage, Stage::Begun { .. });
    let mut waits = started && !begun && answer.port().is_some();
    let mut plan = HostPlan::new(rendered, Some(&answer.facts));
    let mut changes = 0;
    // Where only files changed, tasks were not looked at, and may have found something to do in them. And what was done may be
    // undone at once by somebody else: a primary refuses its standby while it still has the connection of before a power cut.
    for round in 0..2 {
        // One that got its files was not asked since.
        if plan.is_empty() && (round > 0 || stage != Stage::Installed) {
            break;
        }
        let waiting = waits.then(|| with_addresses(rendered));
        let applied = waiting.as_ref().unwrap_or(rendered);
        if waits {
            plan = HostPlan::new(applied, Some(&answer.facts));
        }
        if round == 0 && stage == Stage::Installed {
            (_, plan) = plan.split();
        }
        changes += plan.len() - usize::from(waits);
        let bundle = apply::bundle(applied, &plan);
        let after = after(rendered, &plan);
        let said = apply_bundle(&answer, applied, &plan, &bundle, &after, Some(progress), line)?;
        (answer.facts, can_log_in) = observe::told(&said, rendered, answer.target())?;
        plan = HostPlan::new(rendered, Some(&answer.facts));
        waits = false;
    }
    ensure!(plan.is_empty(), "{} did everything and still is not as it should be:\n{plan}", rendered.host);
    if !can_log_in {
        line.now("waiting until it can be logged in to");
        answer.wait_for_login()?;
    }
    Ok((answer, changes))
}

/// What is asked after a change. Tasks to which files give nothing to do are as they were, where only files changed.
fn after(rendered: &RenderedHost, plan: &HostPlan) -> String {
    let mut asked = rendered.clone();
    if plan.is_local(rendered) {
        asked
            .tasks
            .iter_mut()
            .filter(|task| task.independent)
            .for_each(|task| "true".clone_into(&mut task.unless));
    }
    observe::script(&asked)
}

fn apply_bundle(
    answer: &Answer,
    rendered: &RenderedHost,
    plan: &HostPlan,
    bundle: &Bundle,
    after: &str,
    progress: Option<&watch::Sender<Progress>>,
    line: &Line,
) -> anyhow::Result<Vec<u8>> {
    line.now(&format!("applying {} changes", plan.len()));
    let seconds = plan.tasks.iter().map(|task| u64::from(rendered.tasks[task.index].seconds)).sum();
    run_bundle(answer, rendered, bundle, after, seconds, progress, line)
}

/// Runs a bundle on a host, and then the script `after`, whose output is returned: tasks and handlers may take that many seconds.
pub(super) fn run_bundle(
    answer: &Answer,
    rendered: &RenderedHost,
    bundle: &Bundle,
    after: &str,
    seconds: u64,
    progress: Option<&watch::Sender<Progress>>,
    line: &Line,
) -> anyhow::Result<Vec<u8>> {
    let mut outcome = Outcome::default();
    let mut on_line = |text: &str| match outcome.hear(text) {
        Some(event) if event.event == "start" => line.now(&describe(rendered, &event)),
        Some(Event { event, kind, item, .. }) if event == "gives" => {
            if let Some(progress) = progress {
                progress.send_modify(|progress| drop(progress.given.insert(kind, item)));
            }
        }
        _ => {}
    };
    // Packages, and what handlers take.
    let limit = Duration::from_secs(seconds + 1800);
    let changed = answer.change(&Bundle::command(), &tar(bundle)?, after, &mut on_line, limit)?;
    outcome.finished &= changed.finished;
    outcome.judge(rendered, &changed.errors)?;
    Ok(changed.said)
}

/// What became of a script that changes a host.
#[derive(Default)]
struct Outcome {
    failed: Option<Event>,
    finished: bool,
}

impl Outcome {
    /// Takes a line of what the script prints, and returns an event that is no outcome.
    fn hear(&mut self, line: &str) -> Option<Event> {
        let event = serde_json::from_str::<Event>(line).ok()?;
        match (event.event.as_str(), event.kind.as_str()) {
            ("failed", _) => self.failed = Some(event),
            ("done", "all") => self.finished = true,
            _ => return Some(event),
        }
        None
    }

    /// Fails where it did; `errors` is what it wrote besides.
    fn judge(self, rendered: &RenderedHost, errors: &str) -> anyhow::Result<()> {
        if let Some(event) = self.failed {
            let log = STANDARD.decode(&event.output).unwrap_or_default();
            let log = String::from_utf8_lossy(&log).trim().to_owned();
            bail!("could not {}:\n{}", describe(rendered, &event), indent(&log));
        }
        ensure!(self.finished, "the script on {} ended early: {}", rendered.host, errors.trim());
        Ok(())
    }
}

/// What an event is about, as an imperative phrase.
fn describe(rendered: &RenderedHost, event: &Event) -> String {
    let index = event.item.parse::<usize>().ok();
    let name = match event.kind.as_str() {
        "task" => index.and_then(|i| rendered.tasks.get(i)).map(|task| task.name.clone()),
        "handler" => index.and_then(|i| rendered.handlers.get(i)).map(|handler| handler.name.clone()),
        "packages" => Some(format!("install packages {}", event.item)),
        "validate" => Some(format!("accept the new {}", event.item)),
        "stop" => Some(format!("stop {}, which no role wants any more", event.item)),
        "files" => Some("install its files".to_owned()),
        "folders" => Some("make its directories".to_owned()),
        "lock" => Some("get the lock: another pgprov is at work on this host".to_owned()),
        _ => None,
    };
    name.unwrap_or_else(|| format!("install {} {}", event.kind, event.item))
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect::<String>().trim_end().to_owned()
}

fn tar(bundle: &Bundle) -> anyhow::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in &bundle.parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        archive.append_data(&mut header, name, content.as_slice())?;
    }
    Ok(archive.into_inner()?)
}

/// Sets the clock of a host to that of this machine: after a pause it is behind by as long as the pause was.
///
/// # Errors
/// The host does not answer or refuses.
pub fn set_clock(session: &Session) -> anyhow::Result<()> {
    let now = clock::since_1970();
    let command = format!("date -u -s @{}.{:03} >/dev/null", now.as_secs(), now.subsec_millis());
    let output = session.run(&command, b"", &mut |_| {}, Duration::from_secs(20))?;
    anyhow::ensure!(
        output.success(),
        "cannot set the clock: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
