//! Connections to the other agents: TLS in which both sides prove who they are.
//!
//! Each agent connects to each other and only sends there; what it receives comes over connections of the others. So a
//! direction that is cut fails for itself, and what cannot be sent now is dropped: a beat that is late is worth nothing.

use std::{sync::Arc, time::Duration};

use pgagent_core::{Member, Message};
use rustls::{
    ClientConfig, NamedGroup, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::WebPkiClientVerifier,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::{config::Config, log, wire};

/// What TLS needs, read once.
#[derive(Clone)]
pub struct Identity {
    /// For connections to others.
    pub client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

impl Identity {
    /// Reads authority, certificate and key.
    pub fn read(config: &Config) -> Result<Identity, String> {
        let tls = &config.tls;
        let bad = |path: &std::path::Path, error: &dyn std::fmt::Display| {
            format!("cannot use {}: {error}", path.display())
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(&tls.ca).map_err(|error| bad(&tls.ca, &error))? {
            let certificate = certificate.map_err(|error| bad(&tls.ca, &error))?;
            roots.add(certificate).map_err(|error| bad(&tls.ca, &error))?;
        }
        let chain: Vec<_> = CertificateDer::pem_file_iter(&tls.certificate)
            .and_then(Iterator::collect)
            .map_err(|error| bad(&tls.certificate, &error))?;
        let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| bad(&tls.key, &error))?;
        let roots = Arc::new(roots);
        let provider = Arc::new(provider());
        let versions = |error: rustls::Error| format!("no TLS: {error}");
        let client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(versions)?
            .with_root_certificates(roots.clone())
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(|error| bad(&tls.key, &error))?;
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
        let verifier = verifier.build().map_err(|error| bad(&tls.ca, &error))?;
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(versions)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|error| bad(&tls.key, &error))?;
        Ok(Identity { client: Arc::new(client), server: Arc::new(server) })
    }
}

/// Keys are agreed on over the curve that certificates are on, too, and that PostgreSQL asks for unless told otherwise
/// (`ssl_ecdh_curve`): another one first would cost each connection to it one way there and back more.
fn provider() -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.kx_groups.sort_by_key(|group| group.name() != NamedGroup::secp256r1);
    provider
}

/// What came, from whom, and a checksum of the sender's settings.
pub struct Heard {
    /// The sender, as its certificate says.
    pub from: Member,
    /// [`Config::shared`] there.
    pub settings: u32,
    /// What it says.
    pub message: Message,
}

/// The way to another agent.
#[derive(Clone)]
pub struct Link(mpsc::Sender<Message>);

impl Link {
    /// Sends, or drops what cannot be sent.
    pub fn send(&self, message: Message) {
        let _ = self.0.try_send(message);
    }

    /// Keeps a connection to `to`.
    pub fn open(config: Arc<Config>, identity: Identity, to: Member) -> Link {
        let (sender, mut messages) = mpsc::channel(8);
        tokio::spawn(async move {
            let mut last = String::new();
            loop {
                let error = match talk(&config, &identity, to, &mut messages).await {
                    Ok(()) => return,
                    Err(error) => error,
                };
                if error != last {
                    log::line("warn", "link", &[("to", &config.host(to).name), ("error", &error)]);
                    last = error;
                }
                // What waited meanwhile is of the past.
                while messages.try_recv().is_ok() {}
                tokio::time::sleep(config.times().heartbeat() / 4).await;
            }
        });
        Link(sender)
    }
}

/// Prepares a connection on which little is said, but in time: nothing waits to be sent with more, and what was lost is
/// sent again at the same pace each time. Twice as late each time, as usual, is for networks that are full; with a fifth
/// of all packets lost it makes a living host silent for longer than the promote time, every few minutes.
pub fn steady(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = rustix::net::sockopt::set_tcp_thin_linear_timeouts(stream, true);
}

async fn talk(
    config: &Config,
    identity: &Identity,
    to: Member,
    messages: &mut mpsc::Receiver<Message>,
) -> Result<(), String> {
    let host = config.host(to);
    let limit = config.times().fence() / 2;
    let slow = |what: &str| format!("{what} took longer than {} ms", limit.as_millis());
    let connect = TcpStream::connect((host.address, host.port));
    let stream =
        timeout(limit, connect).await.map_err(|_| slow("connecting"))?.map_err(|error| error.to_string())?;
    steady(&stream);
    // What is not acknowledged for that long is given up, and with it the connection: the kernel waits twice as long from one try to
    // the next, so that one which was cut for twenty seconds might say nothing for twenty more after the network is back.
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, config.times().fence().as_millis() as u32);
    let name = ServerName::try_from(host.name.clone()).map_err(|error| error.to_string())?;
    let handshake = TlsConnector::from(identity.client.clone()).connect(name, stream);
    let mut stream = timeout(limit, handshake)
        .await
        .map_err(|_| slow("the TLS handshake"))?
        .map_err(|error| error.to_string())?;
    let from = config.member().ok_or("this host is not a member")?;
    let settings = config.shared();
    log::line("info", "link", &[("to", &host.name), ("state", "connected")]);
    while let Some(message) = messages.recv().await {
        let envelope = wire::Envelope { cluster: config.cluster.clone(), from, settings, message };
        let sent = timeout(limit, wire::write(&mut stream, &envelope)).await;
        sent.map_err(|_| slow("sending"))?.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Takes connections of the others and hands on what they say.
pub async fn listen(
    config: Arc<Config>,
    identity: Identity,
    messages: mpsc::Sender<Heard>,
) -> Result<(), String> {
    let me = config.member().ok_or("this host is not a member")?;
    let host = config.host(me);
    let listener = TcpListener::bind((host.address, host.port))
        .await
        .map_err(|error| format!("cannot listen on {}:{}: {error}", host.address, host.port))?;
    tokio::spawn(async move {
        // A stranger that opens connections must not keep the others out.
        let places = Arc::new(tokio::sync::Semaphore::new(32));
        loop {
            let Ok((stream, from)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Ok(place) = places.clone().try_acquire_owned() else { continue };
            let (config, identity, messages) = (config.clone(), identity.clone(), messages.clone());
            tokio::spawn(async move {
                if let Err(error) = hear(&config, &identity, stream, &messages).await {
                    log::line("info", "link", &[("from", &from.ip().to_string()), ("error", &error)]);
                }
                drop(place);
            });
        }
    });
    Ok(())
}

async fn hear(
    config: &Config,
    identity: &Identity,
    stream: TcpStream,
    messages: &mpsc::Sender<Heard>,
) -> Result<(), String> {
    // A connection on which nothing came for that long is dead, or somebody's who has nothing to say.
    let limit = config.times().promote() * 2;
    let handshake = TlsAcceptor::from(identity.server.clone()).accept(stream);
    let mut stream = timeout(limit, handshake)
        .await
        .map_err(|_| "the TLS handshake took too long".to_owned())?
        .map_err(|error| error.to_string())?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
    let certificate = certificate.ok_or("there is no certificate")?;
    loop {
        let read = timeout(limit, wire::read(&mut stream)).await;
        let envelope =
            read.map_err(|_| "nothing came for too long".to_owned())?.map_err(|error| error.to_string())?;
        if envelope.cluster != config.cluster {
            return Err(format!(
                "this is an agent of cluster `{}`, not `{}`",
                envelope.cluster, config.cluster
            ));
        }
        let name = &config.host(envelope.from).name;
        let wanted = ServerName::try_from(name.as_str()).map_err(|error| error.to_string())?;
        webpki::EndEntityCert::try_from(&certificate)
            .and_then(|certificate| certificate.verify_is_valid_for_subject_name(&wanted))
            .map_err(|_| format!("a message says it is from {name}, but the certificate is not {name}'s"))?;
        let wire::Envelope { from, settings, message, .. } = envelope;
        if messages.send(Heard { from, settings, message }).await.is_err() {
            return Ok(());
        }
    }
}
