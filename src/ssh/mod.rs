//! SSH to the hosts of a lab: wait until one greets, log in with the lab's key, run commands with streamed input.
//!
//! Everything here blocks and is meant for one thread per host. Every call has a limit: a deadline for
//! [`wait_for_banner`] and [`Session::connect`], a duration for [`Session::run`].

mod banner;
mod error;
mod known_hosts;
mod run;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use ssh2::{BlockDirections, MethodType};

use banner::left;
pub use banner::wait_for_banner;
pub use error::Error;
pub use known_hosts::{forget, is_key, is_pinned, pin};
pub use run::{Exit, Output};

/// What is asked for in each negotiation, best first. Elliptic curves keep the handshake cheap on an emulated processor;
/// the ciphers are ordered by how fast a guest without hardware help runs them.
const ALGORITHMS: [(MethodType, &str); 4] = [
    (MethodType::Kex, "curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256"),
    (MethodType::HostKey, "ssh-ed25519,ecdsa-sha2-nistp256,rsa-sha2-512,rsa-sha2-256"),
    (MethodType::CryptCs, CIPHERS),
    (MethodType::CryptSc, CIPHERS),
];
const CIPHERS: &str = "chacha20-poly1305@openssh.com,aes128-gcm@openssh.com,aes128-ctr";

/// When a silent peer is asked for a sign of life by the kernel, how often, and how many times before it counts as gone.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 6);

/// Where to log in and what to trust.
#[derive(Clone, Debug)]
pub struct Target {
    /// The host's name in the lab; its key is pinned under this name.
    pub name: String,
    /// Where its sshd listens.
    pub addr: SocketAddr,
    /// The user to log in as; one other than root runs everything with `sudo`.
    pub user: String,
    /// The lab's private key, in OpenSSH format.
    pub key_file: PathBuf,
    /// The lab's `known_hosts`; made when missing, its directory must exist.
    pub known_hosts: PathBuf,
}

/// Quotes a word for the shell on the other side.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The command that runs `command` by a shell as root, for a user who is not.
pub fn with_sudo(command: &str) -> String {
    format!("sudo -n -- sh -c {}", quote(command))
}

/// A connection to a host, logged in. It runs one command at a time, any number one after the other.
pub struct Session {
    host: String,
    /// Whether commands need `sudo` to be run as root.
    sudo: bool,
    inner: ssh2::Session,
    socket: TcpStream,
    /// Set when a command was given up in the middle: the protocol's state is then not known any more.
    broken: Cell<bool>,
}

impl Session {
    /// Waits until the host greets, then checks its key and logs in.
    ///
    /// The key of a host that is not in `known_hosts` yet is pinned there.
    ///
    /// # Errors
    /// The host does not greet or answer before `deadline`, its key is not the pinned one, or it refuses the login.
    pub fn connect(target: &Target, deadline: Instant) -> Result<Self, Error> {
        let socket = wait_for_banner(&target.name, target.addr, deadline)?;
        let failed = |operation| {
            let (host, addr) = (target.name.clone(), target.addr);
            move |source| Error::Connect { host, addr, operation, source }
        };
        prepare(&socket).map_err(failed("prepare the connection"))?;
        let stream = socket.try_clone().map_err(failed("prepare the connection"))?;
        let inner = negotiate(stream, deadline).map_err(|error| failed("negotiate")(error.into()))?;
        let (key, _) = inner.host_key().ok_or_else(|| {
            failed("negotiate")(io::Error::new(io::ErrorKind::InvalidData, "no host key was offered"))
        })?;
        known_hosts::check_or_pin(&target.known_hosts, &target.name, key)?;
        inner.set_timeout(millis(left(deadline)));
        inner.userauth_pubkey_file(&target.user, None, &target.key_file, None).map_err(|error| {
            match io::Error::from(error) {
                error if error.kind() == io::ErrorKind::TimedOut => failed("log in")(error),
                source => Error::Login {
                    host: target.name.clone(),
                    user: target.user.clone(),
                    key_file: target.key_file.clone(),
                    source,
                },
            }
        })?;
        // From here on `step` does the waiting, so that input and output can move at the same time.
        inner.set_blocking(false);
        let sudo = target.user != "root";
        Ok(Self { host: target.name.clone(), sudo, inner, socket, broken: Cell::new(false) })
    }

    /// Carries one libssh2 call as far as it goes without input from the peer: `None` when it waits for input.
    ///
    /// A call whose packet is only half sent has to be finished before any other call, so that wait happens here. It
    /// cannot dead-lock: sshd reads from its socket whatever its own output does.
    fn step<T, E: Into<io::Error>>(
        &self,
        deadline: Instant,
        mut call: impl FnMut() -> Result<T, E>,
    ) -> io::Result<Option<T>> {
        loop {
            match call().map_err(Into::into) {
                Ok(value) => return Ok(Some(value)),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Err(_) => {}
            }
            match self.inner.block_directions() {
                BlockDirections::Outbound | BlockDirections::Both => self.wait(PollFlags::OUT, deadline)?,
                BlockDirections::Inbound | BlockDirections::None => return Ok(None),
            }
        }
    }

    /// Carries one libssh2 call to its end.
    fn finish<T, E: Into<io::Error>>(
        &self,
        deadline: Instant,
        mut call: impl FnMut() -> Result<T, E>,
    ) -> io::Result<T> {
        loop {
            match self.step(deadline, &mut call)? {
                Some(value) => return Ok(value),
                None => self.wait(PollFlags::IN, deadline)?,
            }
        }
    }

    /// Waits until the socket is ready; `TimedOut` when `deadline` has passed before.
    fn wait(&self, ready: PollFlags, deadline: Instant) -> io::Result<()> {
        let time = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(time).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&self.socket, ready)], Some(&timeout)) {
            Ok(0) => Err(io::ErrorKind::TimedOut.into()),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Small packets leave at once, and a peer that is gone is noticed by the kernel.
fn prepare(socket: &TcpStream) -> io::Result<()> {
    let (idle, interval, count) = KEEPALIVE;
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, idle)?;
    sockopt::set_tcp_keepintvl(socket, interval)?;
    sockopt::set_tcp_keepcnt(socket, count)?;
    Ok(())
}

fn negotiate(stream: TcpStream, deadline: Instant) -> Result<ssh2::Session, ssh2::Error> {
    let mut session = ssh2::Session::new()?;
    for (kind, list) in ALGORITHMS {
        session.method_pref(kind, list)?;
    }
    session.set_tcp_stream(stream);
    session.set_timeout(millis(left(deadline)));
    session.handshake()?;
    Ok(session)
}

/// The duration in milliseconds as libssh2 takes it.
fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}
