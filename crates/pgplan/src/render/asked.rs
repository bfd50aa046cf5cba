//! What the roles of a lab ask for beyond files and tasks of their hosts: database users and passwords.

use std::collections::BTreeSet;

use super::{RenderError, Roles, Scope, of_host, order::roles_of};
use crate::{
    check::{Known, RoleInfo},
    lab::{self, Lab, Pins},
    role::Manifest,
    topology::Topology,
};

impl Roles {
    /// What a check of topologies needs to know of them.
    pub fn known(&self) -> Known {
        Known { roles: self.manifests.values().map(RoleInfo::from).collect() }
    }

    /// The lab of a topology as [`lab::derive`] has it, with the database users and passwords that roles of its hosts ask for.
    ///
    /// # Errors
    /// A condition of a role that does not parse, or a role that is not there.
    pub fn derive(&self, topology: &Topology, pins: &Pins) -> Result<Lab, RenderError> {
        let mut lab = lab::derive(topology, pins);
        let mut tera = self.tera.clone();
        self.describe(&lab, tera.global_context());
        let (mut users, mut passwords) = (Vec::new(), BTreeSet::new());
        for host in &lab.hosts {
            let context = of_host(&lab, host);
            for manifest in roles_of(&self.manifests, host)?.into_iter().filter(|it| asks(it)) {
                let (role, binaries) = (manifest.role.as_str(), &self.binaries);
                let scope =
                    Scope { tera: &tera, context: &context, lab: &lab, host: &host.name, role, binaries };
                if !scope.holds(manifest.when.as_deref())? {
                    continue;
                }
                users.extend(&manifest.database_users);
                for password in &manifest.passwords {
                    if scope.holds(password.when.as_deref())? {
                        passwords.insert(password.name.clone());
                    }
                }
            }
        }
        for user in users {
            if !lab.postgres.users.iter().any(|other| other.name == user.name) {
                lab.postgres.users.push(user.clone());
            }
        }
        lab.other_passwords = passwords;
        Ok(lab)
    }
}

/// Most roles ask for nothing.
fn asks(manifest: &Manifest) -> bool {
    !manifest.database_users.is_empty() || !manifest.passwords.is_empty()
}
