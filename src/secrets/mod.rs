//! The secrets of a lab: a password per database user, a certificate authority, a certificate per host.
//!
//! All of it is random and made once, then kept in one file of the lab's state directory, so rendering the same lab
//! again gives the same files. No secret value is ever shown: [`Secret`] prints as asterisks.

mod authority;
mod scram;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::durable;

use authority::{Authority, HOST_LIFE};

/// The version of the file; a pgprov that finds another number leaves the file alone.
const FORMAT: u32 = 1;
/// A certificate that ends sooner than this is made anew.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * authority::DAY);

/// Why the secrets cannot be made, read or kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the secrets of the lab from {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot keep the secrets of the lab in {}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file does not hold what it should. The text of the parser is not shown, as it may quote a secret.
    #[error("{}:{line}:{column}: the secrets of the lab cannot be understood; put the file back, or destroy the lab", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where in it, from 1.
        line: usize,
        /// Where in the line, from 1.
        column: usize,
    },
    /// The file is of another version of pgprov.
    #[error("{} has format {found}, this version of pgprov reads {FORMAT}", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// The number in it.
        found: u32,
    },
    /// A certificate cannot be made.
    #[error("cannot make the certificate of {name}")]
    Certificate {
        /// Whose.
        name: String,
        /// The cause.
        source: rcgen::Error,
    },
    /// The system gives no random numbers.
    #[error("cannot make a password: the system gives no random numbers")]
    Random,
}

/// A text that is not to be shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text itself, to be put into a private file and nowhere else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

/// How a database user logs in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct User {
    /// 32 characters that need no quoting in URLs, connection strings and password files.
    pub password: Secret,
    /// What the server keeps instead of the password: `SCRAM-SHA-256$ITERATIONS:SALT$STORED_KEY:SERVER_KEY`.
    pub verifier: Secret,
}

/// What a host proves its name with, as server and as client.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    /// PEM.
    pub certificate: String,
    /// PEM (PKCS #8).
    pub key: Secret,
    /// The addresses the certificate is for, besides the name; sorted.
    ips: Vec<IpAddr>,
    /// When it ends, in seconds since 1970.
    not_after: u64,
}

/// All secrets of a lab.
#[derive(Debug, Serialize, Deserialize)]
pub struct Secrets {
    format: u32,
    authority: Authority,
    users: BTreeMap<String, User>,
    hosts: BTreeMap<String, Host>,
}

impl Secrets {
    /// Reads the secrets of a lab, or makes those of a new one, `lab`, when there is no `file`; says whether they are
    /// new, and have to be saved.
    ///
    /// # Errors
    /// The file cannot be read or understood, or the authority cannot be made.
    pub fn load_or_new(file: &Path, lab: &str, now: SystemTime) -> Result<(Self, bool), Error> {
        let text = match fs::read_to_string(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let authority = Authority::new(lab, now)?;
                let (users, hosts) = (BTreeMap::new(), BTreeMap::new());
                return Ok((Self { format: FORMAT, authority, users, hosts }, true));
            }
            result => result.map_err(|source| Error::Read { file: file.to_owned(), source })?,
        };
        // The number is looked at first: only then can the rest be expected to fit.
        #[derive(Deserialize)]
        struct Header {
            format: u32,
        }
        let damaged = |error: serde_json::Error| {
            let (line, column) = (error.line(), error.column());
            Error::Damaged { file: file.to_owned(), line, column }
        };
        let header: Header = serde_json::from_str(&text).map_err(damaged)?;
        if header.format != FORMAT {
            return Err(Error::Format { file: file.to_owned(), found: header.format });
        }
        Ok((serde_json::from_str(&text).map_err(damaged)?, false))
    }

    /// Replaces `file` in one step, mode 0600.
    ///
    /// # Errors
    /// The file cannot be written; it then has its old content.
    pub fn save(&self, file: &Path) -> Result<(), Error> {
        let failed = |source| Error::Write { file: file.to_owned(), source };
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        durable::write(file, &text).map_err(failed)
    }

    /// The database users by name.
    #[must_use]
    pub fn users(&self) -> &BTreeMap<String, User> {
        &self.users
    }

    /// The hosts by name.
    #[must_use]
    pub fn hosts(&self) -> &BTreeMap<String, Host> {
        &self.hosts
    }

    /// The certificate of the lab's authority, PEM: what servers and clients of the lab are checked against.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority.certificate
    }

    /// Makes a password for the database user `name` unless it has one; says whether it did.
    ///
    /// # Errors
    /// [`Error::Random`]
    pub fn ensure_user(&mut self, name: &str) -> Result<bool, Error> {
        if self.users.contains_key(name) {
            return Ok(false);
        }
        let mut bytes = [0; 24];
        SystemRandom::new().fill(&mut bytes).map_err(|_| Error::Random)?;
        let password = URL_SAFE_NO_PAD.encode(bytes);
        let verifier = scram::verifier(name, &password)?;
        self.users.insert(name.to_owned(), User { password: Secret(password), verifier: Secret(verifier) });
        Ok(true)
    }

    /// Makes a certificate for the host `name` with the addresses `ips`, unless it has one for these very addresses
    /// that lasts for another 30 days; says whether it did.
    ///
    /// An authority that ends within 30 days is replaced too, and then all hosts need new certificates: call this for
    /// each of them.
    ///
    /// # Errors
    /// [`Error::Certificate`], for instance when `name` cannot be in a certificate.
    pub fn ensure_host(&mut self, name: &str, ips: &[IpAddr], now: SystemTime) -> Result<bool, Error> {
        let soon = seconds(now + RENEW_BEFORE);
        if self.authority.not_after <= soon {
            self.authority = Authority::new(&self.authority.lab, now)?;
            self.hosts.clear();
        }
        let mut ips = ips.to_vec();
        ips.sort_unstable();
        ips.dedup();
        if self.hosts.get(name).is_some_and(|host| host.ips == ips && host.not_after > soon) {
            return Ok(false);
        }
        let not_after = seconds(now + HOST_LIFE).min(self.authority.not_after);
        let (certificate, key) = self.authority.issue(name, &ips, now, not_after)?;
        self.hosts.insert(name.to_owned(), Host { certificate, key, ips, not_after });
        Ok(true)
    }
}

/// Seconds since 1970; a clock before that counts as 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
