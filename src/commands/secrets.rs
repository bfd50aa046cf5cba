//! The secrets of a lab as rendering wants them: passwords with their verifiers, certificates with their keys.

use std::{net::IpAddr, time::SystemTime};

use pgplan::{
    lab::Lab,
    secrets::{Credential, HostCertificate, Secrets},
};

use super::context;
use crate::{error::Result, secrets as vault, state::LabState};

/// The secrets of the lab; what is missing is made and kept.
///
/// # Errors
/// The file of the lab's state is damaged, or cannot be written.
pub fn keep(state: &LabState, lab: &Lab) -> Result<Secrets> {
    let now = SystemTime::now();
    let (mut secrets, mut changed) = vault::Secrets::load_or_new(&state.secrets(), &lab.name, now)?;
    for user in lab.passwords() {
        changed |= secrets.ensure_user(&user)?;
    }
    for host in &lab.hosts {
        let ips = [IpAddr::from(host.data.address), IpAddr::from(host.mgmt.address)];
        changed |= secrets.ensure_host(&host.name, &ips, now)?;
    }
    if changed {
        secrets.save(&state.secrets())?;
    }
    Ok(for_rendering(&secrets))
}

/// The secrets there are; what is missing is masked, since `plan` changes nothing.
///
/// # Errors
/// The file of the lab's state is damaged.
pub fn look_at(state: &LabState, lab: &Lab) -> Result<Secrets> {
    let (secrets, _) = vault::Secrets::load_or_new(&state.secrets(), &lab.name, SystemTime::now())?;
    let mut all = context::masked(lab);
    let known = for_rendering(&secrets);
    all.users.extend(known.users);
    all.hosts.extend(known.hosts);
    all.ca_certificate = known.ca_certificate;
    Ok(all)
}

fn for_rendering(secrets: &vault::Secrets) -> Secrets {
    let user = |(name, user): (&String, &vault::User)| {
        let credential = Credential {
            password: user.password.expose().to_owned(),
            verifier: user.verifier.expose().to_owned(),
        };
        (name.clone(), credential)
    };
    let host = |(name, host): (&String, &vault::Host)| {
        let certificate =
            HostCertificate { certificate: host.certificate.clone(), key: host.key.expose().to_owned() };
        (name.clone(), certificate)
    };
    Secrets {
        users: secrets.users().iter().map(user).collect(),
        ca_certificate: secrets.authority().to_owned(),
        hosts: secrets.hosts().iter().map(host).collect(),
    }
}
