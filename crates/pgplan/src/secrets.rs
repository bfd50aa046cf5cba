//! The secrets of a lab, as input of rendering. How they are made and kept is the caller's business.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

/// Everything secret (or signed) that files of a lab contain.
#[derive(Clone, Default, Serialize)]
pub struct Secrets {
    /// Database roles by name.
    pub users: BTreeMap<String, Credential>,
    /// Certificate of the lab's certificate authority, PEM.
    pub ca_certificate: String,
    /// Certificates by host name.
    pub hosts: BTreeMap<String, HostCertificate>,
}

/// How a database role logs in.
#[derive(Clone, Default, Serialize)]
pub struct Credential {
    /// In clear, for password files of clients.
    pub password: String,
    /// What PostgreSQL keeps: `SCRAM-SHA-256$...`.
    pub verifier: String,
}

/// Certificate and key of a host, PEM.
#[derive(Clone, Default, Serialize)]
pub struct HostCertificate {
    /// Signed by the authority of the lab.
    pub certificate: String,
    /// Private key.
    pub key: String,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secrets({} users, {} hosts)", self.users.len(), self.hosts.len())
    }
}

impl Secrets {
    /// Values of the right shape that are no secret, for rendering without a lab.
    pub fn masked(users: impl IntoIterator<Item = String>, hosts: impl IntoIterator<Item = String>) -> Self {
        let masked = || "********".to_owned();
        let pem = |what: &str| format!("-----BEGIN {what}-----\n********\n-----END {what}-----\n");
        Self {
            users: users
                .into_iter()
                .map(|name| (name, Credential { password: masked(), verifier: masked() }))
                .collect(),
            ca_certificate: pem("CERTIFICATE"),
            hosts: hosts
                .into_iter()
                .map(|name| {
                    (name, HostCertificate { certificate: pem("CERTIFICATE"), key: pem("PRIVATE KEY") })
                })
                .collect(),
        }
    }
}
