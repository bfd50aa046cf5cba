//! Speaks with running hosts, through the hypervisor where a host listens there, else over SSH: asks them for their facts, all at
//! once, and runs what changes them.

use std::{
    cell::OnceCell,
    collections::BTreeMap,
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use pgplan::{
    host::{
        Details, Facts, HostPlan,
        facts::{self, RUNNING},
    },
    lab::Lab,
    render::RenderedHost,
    topology::Image,
};

use crate::{
    every::every,
    libvirt::{Errand, Libvirt, Undone},
    ssh::{self, Session, Target},
    ui::Ui,
};

/// How long the facts of one host may take: the lock of another pgprov included.
pub const FACTS: Duration = Duration::from_secs(180);
/// After what time the user hears that a host is waited for.
const SLOW: Duration = Duration::from_secs(5);
/// How long a host that answered through the hypervisor may take to connect.
const CONNECT: Duration = Duration::from_secs(20);

/// How long a host may take to answer through the hypervisor, before it is asked over SSH.
const PORT: Duration = Duration::from_secs(10);
/// How long the management network may take to show that a host is on it.
const PROBE: Duration = Duration::from_secs(2);
/// How often a host is asked whether it can be logged in to.
const POLL: Duration = Duration::from_millis(300);
/// Writes the public host key, on one line.
const KEY: &str = "key=; read -r key </etc/ssh/ssh_host_ed25519_key.pub; echo \"$key\"\n";
/// The port has one way back, on which errors would lie between answers.
const QUIET: &str = "exec 2>/dev/null\n";
/// A port where nothing listens: whoever refuses it is there, and no login is spent on knowing that.
const CLOSED: u16 = 9;

/// A host that answered.
pub struct Answer {
    /// What it said.
    pub facts: Facts,
    target: Target,
    session: OnceCell<Session>,
    /// The port on which it answered, and its domain.
    port: Option<(Libvirt, String)>,
}

/// What came of a change.
pub struct Changed {
    /// Whether all of it was done.
    pub finished: bool,
    /// What was said besides, if that is known apart.
    pub errors: String,
    /// What the script that came after it wrote; perhaps after what the change itself wrote.
    pub said: Vec<u8>,
}

impl Answer {
    /// One that was asked over this connection.
    pub fn new(target: &Target, session: Session, facts: Facts) -> Self {
        Self { facts, target: target.clone(), session: OnceCell::from(session), port: None }
    }

    /// One that was asked through the hypervisor.
    pub fn by_port(target: &Target, libvirt: &Libvirt, domain: &str, facts: Facts) -> Self {
        let port = Some((libvirt.clone(), domain.to_owned()));
        Self { facts, target: target.clone(), session: OnceCell::new(), port }
    }

    /// The connection for what comes next. One that was asked through the hypervisor has none yet.
    ///
    /// # Errors
    /// The host cannot be connected to.
    fn session(&self) -> anyhow::Result<&Session> {
        if self.session.get().is_none() {
            let session = Session::connect(&self.target, Instant::now() + CONNECT)?;
            return Ok(self.session.get_or_init(|| session));
        }
        self.session.get().context("there is no connection")
    }

    /// Where it can be logged in to.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Waits until it can be logged in to, where nobody did so far: one that was told what to do by the hypervisor may not be on
    /// the network yet, or its SSH server may still be starting.
    ///
    /// # Errors
    /// That does not come to pass.
    pub fn wait_for_login(&self) -> anyhow::Result<()> {
        let Some((libvirt, domain)) = self.port() else { return Ok(()) };
        let deadline = Instant::now() + CONNECT;
        while Instant::now() < deadline {
            if read_by_port(libvirt, domain, &self.target, "true\n", PORT).is_some() {
                return Ok(());
            }
            thread::sleep(POLL);
        }
        // It says what is wrong.
        self.session().map(drop)
    }

    /// The port, unless there is a connection, which is the better known way then.
    pub fn port(&self) -> Option<(&Libvirt, &str)> {
        let port = self.port.as_ref().filter(|_| self.session.get().is_none());
        port.map(|(libvirt, domain)| (libvirt, domain.as_str()))
    }

    /// Makes the connection, where the hypervisor is not the way: a host has time for a login while others are at work.
    ///
    /// # Errors
    /// The host cannot be connected to.
    pub fn reach(&self) -> anyhow::Result<()> {
        if self.port().is_none() {
            self.session()?;
        }
        Ok(())
    }

    /// What a script writes there that may be run twice: over the connection if there is one, else the way the host answered.
    ///
    /// # Errors
    /// The host cannot be connected to, or does not answer.
    pub fn read(&self, script: &str, limit: Duration) -> anyhow::Result<Vec<u8>> {
        if let Some((libvirt, domain)) = self.port()
            && let Ok(output) = libvirt.run_script(domain, format!("{QUIET}{script}"), limit)
        {
            return Ok(output);
        }
        Ok(self.session()?.run("sh -s", script.as_bytes(), &mut |_| {}, limit)?.stdout)
    }

    /// Runs a command that changes the host, with its input, and when that succeeded the script `after`, in one exchange where
    /// the hypervisor is the way. `on_line` gets each line as it is written.
    ///
    /// # Errors
    /// The host cannot be connected to, does not answer, or takes longer than `limit`.
    pub fn change(
        &self,
        command: &str,
        input: &[u8],
        after: &str,
        on_line: &mut dyn FnMut(&str),
        limit: Duration,
    ) -> anyhow::Result<Changed> {
        if let Some((libvirt, domain)) = self.port() {
            let script = format!("{command} || exit $?\n{QUIET}{after}");
            let errand = Errand { script, input: input.to_vec(), ..Errand::default() };
            let (mut said, mut shown) = (Vec::new(), 0);
            let ended = libvirt.run_errand(domain, errand, PORT, limit, &mut |output| {
                said.extend_from_slice(output);
                while let Some(end) = said[shown..].iter().position(|byte| *byte == b'\n') {
                    on_line(&String::from_utf8_lossy(&said[shown..shown + end]));
                    shown += end + 1;
                }
            });
            match ended {
                Ok(status) => {
                    let errors = String::from_utf8_lossy(if status == 0 { &[] } else { &said }).into_owned();
                    return Ok(Changed { finished: status == 0, errors, said });
                }
                Err(Undone { begun: true, error }) => return Err(error.into()),
                // Nothing of it was done: it goes the other way.
                Err(Undone { begun: false, .. }) => {}
            }
        }
        let output = self.session()?.run(command, input, on_line, limit)?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let said = match output.success() && !after.is_empty() {
            true => run(self.session()?, after)?,
            false => Vec::new(),
        };
        Ok(Changed { finished: output.success(), errors, said })
    }
}

/// The domain of a host that runs scripts which the hypervisor sends: one of our image, on this machine.
pub fn listening<'a>(libvirt: &Libvirt, lab: &'a Lab, host: &str) -> Option<&'a str> {
    let ours = !matches!(lab.image, Image::Stock(_)) && libvirt.is_local();
    lab.host(host).filter(|_| ours).map(|host| host.domain.as_str())
}

/// Who is asked.
pub struct Asked<'a> {
    /// Where it answers.
    pub target: Target,
    /// Its domain, if its image answers on the port of the hypervisor.
    pub domain: Option<&'a str>,
    /// What it should have.
    pub rendered: &'a RenderedHost,
    /// What it was last made to have, if that is known: what is there still need not be sent.
    pub before: Option<&'a RenderedHost>,
}

/// Asks a host over a connection.
///
/// # Errors
/// The connection breaks, or the host cannot answer.
pub fn facts(session: &Session, rendered: &RenderedHost) -> anyhow::Result<Facts> {
    let script = facts::script(rendered);
    let output = session.run("sh -s", script.as_bytes(), &mut |_| {}, FACTS)?;
    anyhow::ensure!(
        output.success(),
        "{} cannot say what it has: {}",
        rendered.host,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = String::from_utf8(output.stdout).context("the answer is not UTF-8")?;
    facts::parse(&text).map_err(|error| anyhow::anyhow!("{}: {error}", rendered.host))
}

/// Asks a host for its facts, and for what they mean where it is not as it should be.
///
/// # Errors
/// As [`facts`].
pub fn facts_and_details(
    session: &Session,
    rendered: &RenderedHost,
    before: Option<&RenderedHost>,
) -> anyhow::Result<Facts> {
    let facts = facts(session, rendered)?;
    with_details(rendered, before, facts, |script| run(session, &script))
}

/// What a script writes there.
///
/// # Errors
/// The connection breaks.
pub fn run(session: &Session, script: &str) -> anyhow::Result<Vec<u8>> {
    Ok(session.run("sh -s", script.as_bytes(), &mut |_| {}, FACTS)?.stdout)
}

/// Adds to the facts of a host what they mean where it is not as it should be; `ask` runs a script there.
fn with_details(
    rendered: &RenderedHost,
    before: Option<&RenderedHost>,
    mut facts: Facts,
    ask: impl FnOnce(String) -> anyhow::Result<Vec<u8>>,
) -> anyhow::Result<Facts> {
    let mut details = HostPlan::new(rendered, Some(&facts)).unknown(rendered);
    if let Some(before) = before {
        details.files = facts.recall(before, details.files);
    }
    if details == Details::default() {
        return Ok(facts);
    }
    let output = ask(details.script(rendered))?;
    facts.add(&String::from_utf8_lossy(&output), |line| STANDARD.decode(line).ok());
    Ok(facts)
}

/// The script that asks a host for its facts, and whether a login would succeed.
pub fn script(rendered: &RenderedHost) -> String {
    format!("echo @login\n{}{}", login_script(), facts::script(rendered))
}

/// What a host said of itself, and whether it can be logged in to: its host key is the pinned one, sshd runs or
/// is started for who comes, and it is on the management network.
///
/// # Errors
/// It did not say all of it.
pub fn told(output: &[u8], rendered: &RenderedHost, target: &Target) -> anyhow::Result<(Facts, bool)> {
    let output = String::from_utf8_lossy(output);
    let facts = facts::parse(&output).map_err(|error| anyhow::anyhow!("{}: {error}", rendered.host))?;
    let key = output.lines().skip_while(|line| *line != "@login").nth(1).unwrap_or_default();
    Ok((facts, can_log_in(key, target) && is_there(target)))
}

/// Asks a host through the hypervisor, which costs it a fraction of a login over SSH. That is enough where a login would succeed:
/// else whoever logs in learns what is wrong.
fn by_port(libvirt: &Libvirt, domain: &str, asked: &Asked) -> Option<Facts> {
    let Asked { target, rendered, .. } = asked;
    let output = libvirt.run_script(domain, format!("{QUIET}{}", script(rendered)), PORT).ok()?;
    let (facts, can_log_in) = told(&output, rendered, target).ok()?;
    can_log_in.then_some(facts)
}

/// Waits until a host that was just started says through the hypervisor who it is, which it can before it is on any network, and
/// gives it the time. A key of a host that nobody knows yet is pinned. One that `is_bare` has nothing of ours: it is not asked
/// for what it has.
///
/// # Errors
/// It does not answer within `limit`, has another key, or does not want to be touched.
pub fn started(
    libvirt: &Libvirt,
    domain: &str,
    rendered: &RenderedHost,
    target: &Target,
    is_bare: bool,
    limit: Duration,
) -> anyhow::Result<Answer> {
    let ask = if is_bare { facts::programs_script() } else { facts::script(rendered) };
    let errand = Errand { script: format!("{QUIET}{KEY}{ask}"), set_clock: true, ..Errand::default() };
    let mut said = Vec::new();
    let ended = libvirt
        .run_errand(domain, errand, limit, FACTS, &mut |output| said.extend_from_slice(output))
        .map_err(|undone| undone.error)?;
    ensure!(ended == 0, "it cannot say what it has");
    let said = String::from_utf8_lossy(&said);
    let (key, said) = said.split_once('\n').context("it does not say who it is")?;
    let key = key.split(' ').nth(1).context("it has no host key")?;
    if !ssh::is_pinned(&target.known_hosts, &target.name)? {
        ssh::pin(&target.known_hosts, &target.name, &STANDARD.decode(key)?)?;
    }
    ensure!(ssh::is_key(&target.known_hosts, &target.name, key), "its host key is not the pinned one");
    let mut facts = Facts::default();
    if is_bare {
        facts.programs = said.lines().map(str::to_owned).collect();
    } else {
        let ask = |script| Ok(libvirt.run_script(domain, format!("{QUIET}{script}"), PORT)?);
        let parsed = facts::parse(said).map_err(|error| anyhow::anyhow!("{}: {error}", rendered.host))?;
        facts = with_details(rendered, None, parsed, ask)?;
        // Nobody was asked about what it would lose.
        facts.changes.clear();
        ensure!(facts.refusals.is_empty(), "it is not touched: {}", facts.refusals.join("; "));
    }
    Ok(Answer::by_port(target, libvirt, domain, facts))
}

/// What a script that changes nothing writes on a host that is asked through the hypervisor. None where nobody listens, and
/// where a login would fail: whoever asks over SSH then learns why.
pub fn read_by_port(
    libvirt: &Libvirt,
    domain: &str,
    target: &Target,
    script: &str,
    limit: Duration,
) -> Option<Vec<u8>> {
    if !is_there(target) {
        return None;
    }
    let output = libvirt.run_script(domain, format!("{}{QUIET}{script}", login_script()), limit).ok()?;
    let end = output.iter().position(|byte| *byte == b'\n')?;
    can_log_in(&String::from_utf8_lossy(&output[..end]), target).then(|| output[end + 1..].to_vec())
}

/// Whether somebody listens on the port of SSH (22, here 0016) on all addresses of one kind: state 0A.
const LISTENS: &str = r"listens() {
  while read -r _ local _ state _; do
    case $local/$state in *:0016/0A) return 0 ;; esac
  done
  return 1
}
";

/// Writes one line: the host key, when sshd runs, or is started for who comes.
fn login_script() -> String {
    format!(
        "{RUNNING}{LISTENS}if running ssh.service || listens </proc/net/tcp6 || listens </proc/net/tcp; then\n{KEY}else echo; fi\n"
    )
}

fn can_log_in(key: &str, target: &Target) -> bool {
    key.split(' ').nth(1).is_some_and(|key| ssh::is_key(&target.known_hosts, &target.name, key))
}

fn is_there(target: &Target) -> bool {
    let closed = SocketAddr::new(target.addr.ip(), CLOSED);
    match TcpStream::connect_timeout(&closed, PROBE) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionRefused,
    }
}

/// Says that a host does not answer, should that take long.
fn waited_for<T>(ui: &Ui, host: &str, ask: impl FnOnce() -> T) -> T {
    thread::scope(|scope| {
        let (answered, wait) = mpsc::channel::<()>();
        scope.spawn(move || {
            if wait.recv_timeout(SLOW) == Err(RecvTimeoutError::Timeout) {
                let line = ui.line(host, host.len());
                line.now("is asked what it has, and does not answer yet");
                let _ = wait.recv();
                line.drop_quietly();
            }
        });
        let answer = ask();
        drop(answered);
        answer
    })
}

/// Asks all hosts at once; each has that long to accept a connection.
pub fn all(
    ui: &Ui,
    libvirt: Option<&Libvirt>,
    hosts: &[Asked],
    limit: Duration,
) -> BTreeMap<String, anyhow::Result<Answer>> {
    let ask = |asked: &Asked| {
        let Asked { target, domain, rendered, before } = asked;
        if let Some((libvirt, domain)) = libvirt.zip(*domain)
            && let Some(facts) = by_port(libvirt, domain, asked)
        {
            let ask = |script| Ok(libvirt.run_script(domain, format!("{QUIET}{script}"), PORT)?);
            if let Ok(facts) = with_details(rendered, *before, facts, ask) {
                return Ok(Answer::by_port(target, libvirt, domain, facts));
            }
        }
        let session = Session::connect(target, Instant::now() + limit)?;
        let facts = facts_and_details(&session, rendered, *before)?;
        Ok(Answer::new(target, session, facts))
    };
    let answers = every(hosts, |asked| waited_for(ui, &asked.rendered.host, || ask(asked)));
    hosts.iter().map(|asked| asked.rendered.host.clone()).zip(answers).collect()
}
