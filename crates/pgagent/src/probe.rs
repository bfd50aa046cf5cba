//! `select 1` on another host's PostgreSQL.

use std::{io, sync::Arc, time::Duration};

use pgagent_core::{Member, Probe, Time};
use tokio::{net::TcpStream, sync::watch, time::timeout};
use tokio_postgres::{
    Client,
    error::SqlState,
    tls::{MakeTlsConnect, TlsConnect},
};

use crate::{
    clock,
    config::Config,
    link::{self, Identity},
};

/// What a try showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The answer came.
    Answered,
    /// Nobody listens, or the port is closed.
    Refused,
    /// Nothing came back.
    Timeout,
    /// The server starts or stops.
    Starting,
    /// It has no connection left.
    Full,
    /// It does not let this role in.
    Denied,
    /// Something else.
    Other,
}

impl Class {
    /// Whether a living server said this.
    pub fn alive(self) -> bool {
        matches!(self, Class::Answered | Class::Full | Class::Denied)
    }

    /// Its name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Class::Answered => "answered",
            Class::Refused => "refused",
            Class::Timeout => "timeout",
            Class::Starting => "starting",
            Class::Full => "full",
            Class::Denied => "denied",
            Class::Other => "other",
        }
    }
}

/// How many questions go over one connection: a server that takes no new ones is to be noticed too.
const USES: u32 = 10;

/// A connection to another host's PostgreSQL that was good so far: a new one for each question would cost the server more
/// than all its agent does, and fill its log.
#[derive(Default)]
struct Session {
    client: Option<(Client, tokio::task::JoinHandle<()>)>,
    uses: u32,
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some((_, connection)) = self.client.take() {
            connection.abort();
        }
    }
}

/// Tries. Only a connection that is made now can say that nobody answers.
async fn probe(
    config: &Config,
    identity: &Identity,
    of: Member,
    session: &mut Session,
) -> (Probe, Class, Duration) {
    let begin = clock::now();
    let limit = config.times().fence() / 2;
    let kept = session.client.take().filter(|_| session.uses < USES);
    let mut class = Class::Other;
    if let Some((client, connection)) = kept {
        if matches!(timeout(limit / 2, client.simple_query("select 1")).await, Ok(Ok(_))) {
            class = Class::Answered;
            session.uses += 1;
            session.client = Some((client, connection));
        } else {
            connection.abort();
        }
    }
    if session.client.is_none() {
        let fresh = timeout(limit, select_1(config, identity, of)).await;
        (class, session.client) = match fresh {
            Ok(Ok(client)) => (Class::Answered, Some(client)),
            Ok(Err(class)) => (class, None),
            Err(_) => (Class::Timeout, None),
        };
        session.uses = 1;
    }
    let at = clock::now();
    (Probe { at, alive: class.alive() }, class, at.since(begin))
}

type Connected = (Client, tokio::task::JoinHandle<()>);

async fn select_1(config: &Config, identity: &Identity, of: Member) -> Result<Connected, Class> {
    let host = config.host(of);
    let stream = TcpStream::connect((host.address, host.postgres)).await.map_err(|error| io_class(&error))?;
    link::steady(&stream);
    let mut parameters = tokio_postgres::Config::new();
    parameters.user(&config.probe.user).dbname("postgres").application_name("pgagent probe");
    if let Some(password) = password(config) {
        parameters.password(password);
    }
    if config.probe.tls {
        parameters.ssl_mode(tokio_postgres::config::SslMode::Require);
        let mut tls = tokio_postgres_rustls::MakeRustlsConnect::new((*identity.client).clone());
        let tls = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut tls, &host.name);
        run(stream, &parameters, tls.map_err(|_| Class::Other)?).await
    } else {
        run(stream, &parameters, tokio_postgres::NoTls).await
    }
}

async fn run<T>(stream: TcpStream, parameters: &tokio_postgres::Config, tls: T) -> Result<Connected, Class>
where
    T: TlsConnect<TcpStream>,
    T::Stream: Send + 'static,
{
    match parameters.connect_raw(stream, tls).await {
        Ok((client, connection)) => {
            let connection = tokio::spawn(async {
                // Its end shows in the client.
                let _ = connection.await;
            });
            match client.simple_query("select 1").await {
                Ok(_) => Ok((client, connection)),
                Err(error) => Err(class(&error)),
            }
        }
        Err(error) => Err(class(&error)),
    }
}

fn class(error: &tokio_postgres::Error) -> Class {
    if let Some(code) = error.code() {
        return match code.code() {
            code if code == SqlState::TOO_MANY_CONNECTIONS.code() => Class::Full,
            "57P03" | "57P01" | "57P02" => Class::Starting,
            code if code.starts_with("28") => Class::Denied,
            _ => Class::Other,
        };
    }
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return io_class(error);
        }
        source = error.source();
    }
    Class::Other
}

fn io_class(error: &io::Error) -> Class {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Class::Refused,
        io::ErrorKind::TimedOut => Class::Timeout,
        _ => Class::Other,
    }
}

fn password(config: &Config) -> Option<String> {
    let text = std::fs::read_to_string(config.probe.passfile.as_ref()?).ok()?;
    let line = text.lines().find(|line| !line.starts_with('#') && !line.is_empty())?;
    Some(line.rsplit(':').next().unwrap_or(line).to_owned())
}

/// Asks another host's PostgreSQL for a sign of life, while anything goes by the answer.
pub struct Watch {
    wanted: watch::Sender<Wish>,
    /// What the last try showed, and how long it took; nothing while nobody asks.
    pub last: Option<(Class, Duration)>,
}

impl Watch {
    /// Whether to ask from now on.
    pub fn want(&mut self, wants: bool) {
        if !wants {
            self.last = None;
        }
        self.wanted.send_if_modified(|wish| std::mem::replace(&mut wish.wants, wants) != wants);
    }

    /// Not to ask before then. What is connected stays so.
    pub fn rest(&mut self, until: Time) {
        self.wanted.send_modify(|wish| wish.rests = until);
    }

    /// Takes in what a try showed, which may have begun when it was still wanted.
    pub fn hear(&mut self, class: Class, took: Duration) {
        self.last = self.wanted.borrow().wants.then_some((class, took));
    }
}

/// Whether to ask, and not before when.
#[derive(Clone, Copy, Default)]
struct Wish {
    wants: bool,
    rests: Time,
}

/// Probes whenever that is wanted, which it is not at first, and says what came out.
pub fn watch<E: Send + 'static>(
    config: Arc<Config>,
    identity: Identity,
    of: Member,
    events: tokio::sync::mpsc::Sender<E>,
    event: impl Fn(Probe, Class, Duration) -> E + Send + 'static,
) -> Watch {
    let (sender, mut wanted) = watch::channel(Wish::default());
    tokio::spawn(async move {
        let mut session = Session::default();
        loop {
            let wish = *wanted.borrow_and_update();
            let rest = wish.rests.since(clock::now());
            if wish.wants && !rest.is_zero() {
                tokio::time::sleep(rest).await;
                continue;
            }
            if !wish.wants {
                session = Session::default();
                if wanted.wait_for(|wish| wish.wants).await.is_err() {
                    return;
                }
                // Nothing goes by the answer before the other one was silent for several of these, and a standby that has just
                // come in sync, and its primary, have enough to do.
                tokio::time::sleep(config.times().heartbeat()).await;
                continue;
            }
            let (probe, class, took) = probe(&config, &identity, of, &mut session).await;
            if events.send(event(probe, class, took)).await.is_err() {
                return;
            }
            tokio::time::sleep(config.times().heartbeat()).await;
        }
    });
    Watch { wanted: sender, last: None }
}
