use std::{io, path::PathBuf, time::Duration};

use virt::error::{ErrorDomain, ErrorNumber};

/// Why libvirt did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error("cannot connect to libvirt at {uri}: {message}")]
    Connect {
        /// The URI that was tried.
        uri: String,
        /// What libvirt says.
        message: String,
        /// What to do about it.
        hint: Option<&'static str>,
    },
    /// libvirt refused or failed.
    #[error("cannot {operation}: {message}")]
    Call {
        /// What was to be done.
        operation: String,
        /// What libvirt says.
        message: String,
        /// What kind of failure libvirt says it is.
        code: Option<ErrorNumber>,
    },
    /// libvirt did not answer in time. What was asked for may still happen.
    #[error("cannot {operation}: no answer from libvirt within {} s", limit.as_secs())]
    Timeout {
        /// What was to be done.
        operation: String,
        /// How long it was waited for, since the last sign of progress.
        limit: Duration,
    },
    /// It exists, and is not ours to change.
    #[error("cannot {operation}: {what} exists but was not made by pgprov for this lab")]
    NotOurs {
        /// What was to be done.
        operation: String,
        /// What stands in the way.
        what: String,
    },
    /// libvirt answered with something that cannot be read.
    #[error("cannot {operation}: libvirt's answer is not understood: {message}")]
    Answer {
        /// What was to be done.
        operation: String,
        /// What is wrong with the answer.
        message: String,
    },
    /// An image is still the base of disks.
    #[error("cannot remove image {image}: in use by {}", labs.join(", "))]
    ImageInUse {
        /// Name of the image.
        image: String,
        /// The labs that use it.
        labs: Vec<String>,
    },
    /// A file to upload cannot be read.
    #[error("cannot {operation}: {}", path.display())]
    File {
        /// What was to be done.
        operation: String,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Error {
    /// Whether a limit was reached, as opposed to a refusal or a failure.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout { .. })
    }

    /// What to do about it, if that is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Connect { hint, .. } => *hint,
            Self::Timeout { .. } => {
                Some("look at `journalctl -u libvirtd`, and at the load of the hypervisor")
            }
            Self::NotOurs { .. } => Some("give the lab another name, or remove what is in the way yourself"),
            Self::ImageInUse { .. } => Some("destroy these labs first"),
            Self::Call { code: Some(ErrorNumber::XmlInvalidSchema), .. } => {
                Some("this libvirt is older than pgprov needs (9.0)")
            }
            Self::Call { message, .. } => hint_by_message(message),
            Self::Answer { .. } | Self::File { .. } => None,
        }
    }

    pub(super) fn call(operation: &str, error: &virt::error::Error) -> Self {
        Self::Call {
            operation: operation.to_owned(),
            message: error.message().to_owned(),
            code: known(error),
        }
    }

    pub(super) fn connect(uri: &str, error: &virt::error::Error) -> Self {
        let message = error.message();
        let hint = if message.contains("Permission denied") || code_is(error, ErrorNumber::AuthUnavailable) {
            Some("join the group libvirt (`sudo usermod -aG libvirt $USER`) and log in again, or run as root")
        } else if message.contains("No such file") || message.contains("Connection refused") {
            Some("start it with `sudo systemctl start libvirtd`; `make up` installs and starts it")
        } else if from(error, ErrorDomain::Rpc) && uri.contains("+ssh") {
            Some("`ssh HOST virsh version` has to work without a password")
        } else {
            None
        };
        Self::Connect { uri: uri.to_owned(), message: message.to_owned(), hint }
    }
}

/// Failures of the hypervisor's set-up, for which libvirt has no codes.
fn hint_by_message(message: &str) -> Option<&'static str> {
    if message.contains("virtlogd") {
        Some("start it with `sudo systemctl start virtlogd.socket`")
    } else if message.contains("Permission denied") {
        Some(
            "the user that QEMU runs as (libvirt-qemu) has to be able to enter the folder of the storage pool",
        )
    } else if message.contains("No space left") {
        Some(
            "free space on the file system of the storage pool, or remove labs and images that are not needed",
        )
    } else {
        None
    }
}

/// Whether libvirt says that the thing asked for does not exist.
pub(super) fn is_missing(error: &virt::error::Error) -> bool {
    [
        ErrorNumber::NoDomain,
        ErrorNumber::NoNetwork,
        ErrorNumber::NoStoragePool,
        ErrorNumber::NoStorageVolume,
        ErrorNumber::NoDomainMetadata,
    ]
    .into_iter()
    .any(|number| code_is(error, number))
}

/// Whether libvirt says so with that code.
pub(super) fn code_is(error: &virt::error::Error, number: ErrorNumber) -> bool {
    error.code().is(number)
}

fn from(error: &virt::error::Error, domain: ErrorDomain) -> bool {
    error.domain().is(domain)
}

fn known(error: &virt::error::Error) -> Option<ErrorNumber> {
    match error.code() {
        code if code.is_known() => Some(code.unwrap()),
        _ => None,
    }
}

/// Nothing where the thing asked for does not exist.
pub(super) fn optional<T>(result: Result<T, virt::error::Error>) -> Result<Option<T>, virt::error::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
