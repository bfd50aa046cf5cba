//! Asks running hosts for their facts, all at once.

use std::{
    cell::OnceCell,
    collections::BTreeMap,
    io::ErrorKind,
    net::{SocketAddr, TcpStream},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
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
    libvirt::Libvirt,
    ssh::{self, Session, Target},
    ui::Ui,
};

/// How long the facts of one host may take: the lock of another pgprov included.
const FACTS: Duration = Duration::from_secs(180);
/// After what time the user hears that a host is waited for.
const SLOW: Duration = Duration::from_secs(5);
/// How long a host that answered through the hypervisor may take to connect.
const CONNECT: Duration = Duration::from_secs(20);

/// How long a host may take to answer through the hypervisor, before it is asked over SSH.
const PORT: Duration = Duration::from_secs(10);
/// How long the management network may take to show that a host is on it.
const PROBE: Duration = Duration::from_secs(2);
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

impl Answer {
    /// One that was asked over this connection.
    pub fn new(target: &Target, session: Session, facts: Facts) -> Self {
        Self { facts, target: target.clone(), session: OnceCell::from(session), port: None }
    }

    /// The connection for what comes next. One that was asked through the hypervisor has none yet.
    ///
    /// # Errors
    /// The host cannot be connected to.
    pub fn session(&self) -> anyhow::Result<&Session> {
        if self.session.get().is_none() {
            let session = Session::connect(&self.target, Instant::now() + CONNECT)?;
            return Ok(self.session.get_or_init(|| session));
        }
        self.session.get().context("there is no connection")
    }

    /// What a script that changes nothing writes there: over the connection if there is one, else the way the host answered.
    ///
    /// # Errors
    /// The host cannot be connected to, or does not answer.
    pub fn read(&self, script: &str, limit: Duration) -> anyhow::Result<Vec<u8>> {
        let port = self.port.as_ref().filter(|_| self.session.get().is_none());
        if let Some((libvirt, domain)) = port
            && let Ok(output) = libvirt.run_script(domain, format!("{QUIET}{script}"), PORT)
        {
            return Ok(output);
        }
        Ok(self.session()?.run("sh -s", script.as_bytes(), &mut |_| {}, limit)?.stdout)
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
pub fn facts_and_details(session: &Session, rendered: &RenderedHost) -> anyhow::Result<Facts> {
    let facts = facts(session, rendered)?;
    with_details(rendered, facts, |script| run(session, &script))
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
    mut facts: Facts,
    ask: impl FnOnce(String) -> anyhow::Result<Vec<u8>>,
) -> anyhow::Result<Facts> {
    let details = HostPlan::new(rendered, Some(&facts)).unknown(rendered);
    if details == Details::default() {
        return Ok(facts);
    }
    let output = ask(details.script(rendered))?;
    facts.add(&String::from_utf8_lossy(&output), |line| STANDARD.decode(line).ok());
    Ok(facts)
}

/// What a host said through the hypervisor.
struct Told {
    facts: Facts,
    /// Nothing is to be done, and a login would succeed: the host key is the pinned one, sshd runs, and the host is on the
    /// management network.
    fine: bool,
}

/// Asks a host through the hypervisor, which costs it a fraction of a login over SSH.
fn by_port(libvirt: &Libvirt, domain: &str, asked: &Asked) -> Option<Told> {
    let Asked { target, rendered, .. } = asked;
    let script = format!("{}{}", login_script(), facts::script(rendered));
    let output = libvirt.run_script(domain, script, PORT).ok()?;
    let output = String::from_utf8_lossy(&output);
    let (login, said) = output.split_once('\n')?;
    let facts = facts::parse(said).ok()?;
    let plan = HostPlan::new(rendered, Some(&facts));
    let done = plan.is_empty() && plan.unknown(rendered) == Details::default();
    Some(Told { fine: done && can_log_in(login, target) && is_there(target), facts })
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

/// Writes one line: the host key, when sshd runs.
fn login_script() -> String {
    format!(
        "{RUNNING}key=; ! running ssh.service || read -r key </etc/ssh/ssh_host_ed25519_key.pub; echo \"$key\"\n"
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
        let Asked { target, domain, rendered } = asked;
        let port = libvirt.zip(*domain).map(|(libvirt, domain)| (libvirt.clone(), domain.to_owned()));
        let told = port.as_ref().and_then(|(libvirt, domain)| by_port(libvirt, domain, asked));
        if let Some(Told { facts, fine: true }) = told {
            return Ok(Answer { facts, target: target.clone(), session: OnceCell::new(), port });
        }
        let connect = || Session::connect(target, Instant::now() + limit).map_err(anyhow::Error::from);
        let (session, facts) = match (told, &port) {
            // It tells more while it is logged in to.
            (Some(Told { facts, .. }), Some((libvirt, domain))) => thread::scope(|scope| {
                let login = scope.spawn(connect);
                let ask = |script| Ok(libvirt.run_script(domain, script, PORT)?);
                let more = with_details(rendered, facts.clone(), ask);
                let session = login.join().unwrap_or_else(|_| Err(anyhow::anyhow!("its thread panicked")))?;
                let facts =
                    more.or_else(|_| with_details(rendered, facts, |script| run(&session, &script)))?;
                anyhow::Ok((session, facts))
            })?,
            _ => {
                let session = connect()?;
                let facts = facts_and_details(&session, rendered)?;
                (session, facts)
            }
        };
        Ok(Answer { port, ..Answer::new(target, session, facts) })
    };
    let answers = every(hosts, |asked| waited_for(ui, &asked.rendered.host, || ask(asked)));
    hosts.iter().map(|asked| asked.rendered.host.clone()).zip(answers).collect()
}
