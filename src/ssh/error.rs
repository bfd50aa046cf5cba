use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Why a host could not be reached or a command on it not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host did not greet in time.
    #[error("waited {:.1} s for the sshd of host {host} at {addr}; last probe: {last}", waited.as_secs_f32())]
    NoBanner {
        /// The host's name.
        host: String,
        /// Where it was expected.
        addr: SocketAddr,
        /// How long it was waited for.
        waited: Duration,
        /// What the last probe met.
        last: String,
    },
    /// The connection failed after the host had greeted.
    #[error("cannot {operation} with the sshd of host {host} at {addr}")]
    Connect {
        /// The host's name.
        host: String,
        /// Where it is.
        addr: SocketAddr,
        /// What was being done.
        operation: &'static str,
        /// The cause; kind `TimedOut` when the deadline passed.
        source: io::Error,
    },
    /// The lab's `known_hosts` cannot be used.
    #[error("cannot check the host key against {}", file.display())]
    KnownHosts {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The host shows another key than at first contact.
    #[error(
        "the key of host {host} is not the pinned one: pinned {old} at {}:{line}, offered {new}; if the host was made \
         anew on purpose, run `ssh-keygen -R {host} -f {}`; otherwise another machine answers at its address",
        file.display(), file.display()
    )]
    HostKeyChanged {
        /// The host's name.
        host: String,
        /// The fingerprint of the pinned key.
        old: String,
        /// The fingerprint of the key that was offered.
        new: String,
        /// The file the old key is pinned in.
        file: PathBuf,
        /// The line in it, from 1.
        line: usize,
    },
    /// The host does not accept the lab's key.
    #[error(
        "host {host} refuses the login of {user} with {}; is that the key of the lab the host belongs to",
        key_file.display()
    )]
    Login {
        /// The host's name.
        host: String,
        /// The user.
        user: String,
        /// The private key.
        key_file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A command did not end in time.
    #[error("`{program}` on host {host} did not end within {:.1} s; {}", limit.as_secs_f32(), last_output(last_line))]
    CommandTimeout {
        /// The host's name.
        host: String,
        /// The command's first word: the rest may hold more than an error should show.
        program: String,
        /// The limit.
        limit: Duration,
        /// The last line it wrote, shortened; empty when it wrote nothing.
        last_line: String,
    },
    /// A command could not be started, or the connection broke while it ran.
    #[error("cannot run `{program}` on host {host}")]
    Command {
        /// The host's name.
        host: String,
        /// The command's first word.
        program: String,
        /// The cause.
        source: io::Error,
    },
    /// The session was given up by an earlier command.
    #[error("the connection to host {host} was given up when an earlier command failed; connect again")]
    Broken {
        /// The host's name.
        host: String,
    },
}

impl Error {
    /// Whether a limit was reached, as opposed to a refusal or a failure.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::NoBanner { .. } | Self::CommandTimeout { .. } => true,
            Self::Connect { source, .. } | Self::Command { source, .. } | Self::KnownHosts { source, .. } => {
                source.kind() == io::ErrorKind::TimedOut
            }
            Self::HostKeyChanged { .. } | Self::Login { .. } | Self::Broken { .. } => false,
        }
    }
}

fn last_output(line: &str) -> String {
    if line.is_empty() { "it wrote nothing".to_owned() } else { format!("last output: {line}") }
}
