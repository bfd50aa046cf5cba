//! What can go wrong, as the user sees it: kind (which decides the exit code), cause, hints.

use std::fmt;

use crate::{libvirt, ssh};

/// Exit code of success.
pub const EXIT_OK: u8 = 0;
/// Exit code when something failed.
pub const EXIT_FAILED: u8 = 1;
/// Exit code of a wrong command line (clap's own).
pub const EXIT_USAGE: u8 = 2;
/// Exit code when the topology has errors.
pub const EXIT_INVALID: u8 = 3;
/// Exit code of `plan` when there is something to do.
pub const EXIT_PENDING: u8 = 4;
/// Exit code when a wait ran into its limit.
pub const EXIT_TIMEOUT: u8 = 5;
/// Exit code of a defect in pgprov.
pub const EXIT_BUG: u8 = 255;

/// What kind of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Something did not work.
    Failed,
    /// The command does not fit what exists.
    Usage,
    /// The topology has errors; the findings are the message.
    Invalid,
    /// There are changes to make.
    Pending,
    /// A wait ran into its limit.
    Timeout,
}

/// A failure with its kind and hints.
#[derive(Debug)]
pub struct Error {
    /// Decides the exit code.
    pub kind: Kind,
    /// What happened, with all causes.
    pub cause: anyhow::Error,
    /// What to do about it, one line each.
    pub hints: Vec<String>,
}

/// Result of a command.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

impl Error {
    /// A failure of that kind.
    pub fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self { kind, cause: anyhow::anyhow!("{message}"), hints: Vec::new() }
    }

    /// The command does not fit what exists.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// Something did not work.
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// The same with one more hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// The exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self.kind {
            Kind::Failed => EXIT_FAILED,
            Kind::Usage => EXIT_USAGE,
            Kind::Invalid => EXIT_INVALID,
            Kind::Pending => EXIT_PENDING,
            Kind::Timeout => EXIT_TIMEOUT,
        }
    }
}

/// Every library error becomes a failure here; those that know better say so: a wait that ran into its limit, a remedy.
impl<E: Into<anyhow::Error>> From<E> for Error {
    fn from(error: E) -> Self {
        let cause: anyhow::Error = error.into();
        let timeout = cause.chain().any(|cause| {
            cause.downcast_ref::<ssh::Error>().is_some_and(ssh::Error::is_timeout)
                || cause.downcast_ref::<libvirt::Error>().is_some_and(libvirt::Error::is_timeout)
        });
        let remedy =
            cause.chain().find_map(|cause| cause.downcast_ref::<libvirt::Error>()?.hint()).map(str::to_owned);
        let kind = if timeout { Kind::Timeout } else { Kind::Failed };
        Self { kind, hints: remedy.into_iter().collect(), cause }
    }
}
