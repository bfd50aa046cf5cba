//! Connections: several hosts, deadlines, TLS, and notices that belong to a transaction.
//!
//! The driver's own `connect_timeout` ends with the TCP handshake, so that a host that accepts and stays silent would hold
//! it forever; and it knows neither `primary` nor `standby`. So each host is tried here, under one deadline.

use std::{
    cell::Cell,
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio::time::timeout;
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, Socket, config, error::SqlState, tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::target::{Host, SessionAttrs, SslMode, Target};

/// An error of the server, or of the way to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Five characters when the server said so; `08006` when the connection is gone, `deadline` when we gave up waiting.
    pub code: String,
    /// What was said.
    pub message: String,
    /// Whether the server itself said it, so that what it means for the transaction is known.
    pub from_server: bool,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for Failure {}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            Some(said) => Self {
                code: said.code().code().to_owned(),
                message: said.message().to_owned(),
                from_server: true,
            },
            None => Self::connection(causes(&error)),
        }
    }
}

impl Failure {
    /// The connection is gone, or was never there.
    pub fn connection(message: String) -> Self {
        Self { code: "08006".to_owned(), message, from_server: false }
    }

    /// We stopped waiting.
    pub fn deadline(what: &str, limit: Duration) -> Self {
        let message = format!("no answer in {:.1} s: {what}", limit.as_secs_f64());
        Self { code: "deadline".to_owned(), message, from_server: false }
    }
}

/// An error and what caused it, without saying anything twice.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}

/// What the server said besides answers.
#[derive(Debug, Default)]
pub struct Heard {
    /// Warnings of class 01: at COMMIT, that a wait for synchronous replication was cancelled.
    warnings: AtomicU32,
    /// How the connection ended.
    end: Mutex<Option<Failure>>,
}

/// An open connection.
pub struct Session {
    /// To send statements with.
    pub client: Client,
    /// Index in the target's hosts.
    pub host: usize,
    /// Of the server, as 150018.
    pub version: i32,
    /// Of the server when the connection was made; 0 on a standby.
    pub timeline: u32,
    heard: Arc<Heard>,
    driver: tokio::task::JoinHandle<()>,
}

impl Session {
    /// How many warnings came so far.
    pub fn warnings(&self) -> u32 {
        self.heard.warnings.load(Ordering::Relaxed)
    }

    /// How the connection ended, if it did: what the server said last is more than "connection closed".
    pub fn end(&self) -> Option<Failure> {
        self.heard.end.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An error, with what is known about the end of the connection when that is its reason.
    pub fn explain(&self, error: tokio_postgres::Error) -> Failure {
        let failure = Failure::from(error);
        if failure.from_server {
            return failure;
        }
        match self.end() {
            // That the server gave a reason for the end does not make known what became of the last statement.
            Some(end) => Failure { from_server: false, ..end },
            None => failure,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // A connection to a dead host would otherwise stay until the kernel gives up.
        self.driver.abort();
    }
}

/// Tries hosts until one will do.
pub struct Connector {
    target: Target,
    tls: Option<MakeRustlsConnect>,
    /// Statements for each new connection.
    setup: String,
    /// Where the last attempt succeeded: tried first.
    last: Cell<usize>,
}

impl Connector {
    /// For a target; `setup` is run on each new connection.
    ///
    /// # Errors
    /// A root certificate that cannot be read.
    pub fn new(target: Target, setup: String) -> Result<Self, String> {
        let tls = match target.ssl {
            SslMode::Disable => None,
            _ => Some(MakeRustlsConnect::new(tls_config(&target)?)),
        };
        Ok(Self { target, tls, setup, last: Cell::new(0) })
    }

    /// What is connected to.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Tries each host once, the one that was right last time first.
    ///
    /// # Errors
    /// Why the last host would not do; those before are in the message.
    pub async fn connect(&self) -> Result<Session, Failure> {
        let count = self.target.hosts.len();
        let mut failures: Vec<(usize, Failure)> = Vec::new();
        let wanted: &[SessionAttrs] = match self.target.session {
            SessionAttrs::PreferStandby => &[SessionAttrs::Standby, SessionAttrs::Any],
            _ => &[self.target.session],
        };
        for wanted in wanted {
            for index in (0..count).map(|step| (self.last.get() + step) % count) {
                let limit = self.target.connect_timeout;
                match timeout(limit, self.try_host(index, *wanted)).await {
                    Ok(Ok(session)) => {
                        self.last.set(index);
                        return Ok(session);
                    }
                    Ok(Err(failure)) => failures.push((index, failure)),
                    Err(_) => failures.push((index, Failure::deadline("connecting", limit))),
                }
            }
        }
        let text: Vec<String> = failures
            .iter()
            .map(|(index, failure)| format!("{}: {}", self.target.hosts[*index], failure.message))
            .collect();
        let last = failures.pop().map(|(_, failure)| failure);
        let last = last.unwrap_or_else(|| Failure::connection("there are no hosts".to_owned()));
        Err(Failure { message: text.join("; "), ..last })
    }

    async fn try_host(&self, index: usize, wanted: SessionAttrs) -> Result<Session, Failure> {
        let config = self.config(&self.target.hosts[index]);
        let heard = Arc::new(Heard::default());
        let (client, driver) = match &self.tls {
            Some(tls) => drive(config.connect(tls.clone()).await?, heard.clone()),
            None => drive(config.connect(tokio_postgres::NoTls).await?, heard.clone()),
        };
        let mut session = Session { client, host: index, version: 0, timeline: 0, heard, driver };
        let row = session
            .client
            .query_one(
                "SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on', \
                 current_setting('server_version_num')::int, \
                 CASE WHEN pg_is_in_recovery() THEN '0' ELSE substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END",
                &[],
            )
            .await?;
        let (recovery, read_only): (bool, bool) = (row.get(0), row.get(1));
        let fits = match wanted {
            SessionAttrs::Any | SessionAttrs::PreferStandby => true,
            SessionAttrs::ReadWrite => !read_only,
            SessionAttrs::ReadOnly => read_only,
            SessionAttrs::Primary => !recovery,
            SessionAttrs::Standby => recovery,
        };
        if !fits {
            let is = if recovery { "a standby" } else { "a primary" };
            let mode = if read_only { "read-only" } else { "read-write" };
            let message = format!("is {is}, {mode}, and {wanted:?} is asked for");
            return Err(Failure { code: "25006".to_owned(), message, from_server: true });
        }
        session.version = row.get(2);
        session.timeline = u32::from_str_radix(row.get(3), 16).unwrap_or(0);
        if !self.setup.is_empty() {
            session.client.batch_execute(&self.setup).await?;
        }
        Ok(session)
    }

    fn config(&self, host: &Host) -> Config {
        let target = &self.target;
        let mut config = Config::new();
        config.user(&target.user).dbname(&target.database).application_name(&target.application_name);
        config.host(&host.name).port(host.port).connect_timeout(target.connect_timeout);
        if let Some(address) = host.address {
            config.hostaddr(address);
        }
        if let Some(password) = &host.password {
            config.password(password);
        }
        if let Some(options) = &target.options {
            config.options(options);
        }
        // A peer that vanished is noticed in about ten seconds, not in two hours.
        config
            .keepalives_idle(Duration::from_secs(5))
            .keepalives_interval(Duration::from_secs(2))
            .keepalives_retries(3);
        config.tcp_user_timeout(Duration::from_secs(10));
        config.ssl_mode(match target.ssl {
            SslMode::Disable => config::SslMode::Disable,
            SslMode::Prefer => config::SslMode::Prefer,
            _ => config::SslMode::Require,
        });
        config
    }
}

/// Runs a connection in a task that keeps what the server says besides answers. A notice comes before the answer it
/// belongs to, so it is counted when the answer arrives.
fn drive<S>(
    (client, mut connection): (Client, Connection<Socket, S>),
    heard: Arc<Heard>,
) -> (Client, tokio::task::JoinHandle<()>)
where
    S: tokio_postgres::tls::TlsStream + Unpin + Send + 'static,
{
    let driver = tokio::spawn(async move {
        loop {
            match std::future::poll_fn(|context| connection.poll_message(context)).await {
                Some(Ok(AsyncMessage::Notice(notice))) if *notice.code() == SqlState::WARNING => {
                    heard.warnings.fetch_add(1, Ordering::Relaxed);
                }
                Some(Ok(_)) => {}
                // After an error this would return errors forever.
                Some(Err(error)) => {
                    let mut end = heard.end.lock().unwrap_or_else(PoisonError::into_inner);
                    *end = Some(Failure::from(error));
                    break;
                }
                None => break,
            }
        }
    });
    (client, driver)
}

/// Asks the server to stop what a session is doing, as well as can be: the answer is not waited for long.
pub async fn cancel<T>(token: tokio_postgres::CancelToken, tls: T)
where
    T: MakeTlsConnect<Socket>,
{
    let _ = timeout(Duration::from_secs(1), token.cancel_query(tls)).await;
}

impl Connector {
    /// Asks the server to stop what the session is doing, then forgets the session.
    pub async fn abandon(&self, session: Session) {
        let token = session.client.cancel_token();
        match &self.tls {
            Some(tls) => cancel(token, tls.clone()).await,
            None => cancel(token, tokio_postgres::NoTls).await,
        }
    }
}

fn tls_config(target: &Target) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("cannot set up TLS: {error}"))?;
    let mut roots = RootCertStore::empty();
    if let Some(path) = &target.root_certificate {
        let failed =
            |error: &dyn fmt::Display| format!("cannot read certificates from {}: {error}", path.display());
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| failed(&error))? {
            let certificate = certificate.map_err(|error| failed(&error))?;
            roots.add(certificate).map_err(|error| failed(&error))?;
        }
    }
    if target.ssl >= SslMode::VerifyCa && roots.is_empty() {
        return Err("sslmode verify-ca and verify-full need sslrootcert, a file of certificates".to_owned());
    }
    Ok(match target.ssl {
        SslMode::VerifyFull => builder.with_root_certificates(roots).with_no_client_auth(),
        mode => {
            let inner = match mode {
                // As libpq does: an authority that is given counts for `require`, too.
                SslMode::VerifyCa | SslMode::Require if !roots.is_empty() => Some(
                    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                        .build()
                        .map_err(|error| format!("cannot set up TLS: {error}"))?,
                ),
                _ => None,
            };
            let verifier = Lenient { inner, provider };
            builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)).with_no_client_auth()
        }
    })
}

/// What libpq does for `require` (any certificate) and `verify-ca` (any name).
#[derive(Debug)]
struct Lenient {
    inner: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        use rustls::{CertificateError, Error::InvalidCertificate};
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        match inner.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
