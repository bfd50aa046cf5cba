//! How to connect to a lab from this machine: files in its state directory, and lines to copy.

use pgplan::lab::{Lab, POSTGRES_ROLE};

use crate::{error::Result, secrets::Secrets, state::LabState};

/// Who waits for an answer sends nothing, and would not notice for hours that the host at the other end is gone. The same as
/// in templates/client/pg_service.conf.
const KEEPALIVES: &str =
    "keepalives_idle=5\nkeepalives_interval=2\nkeepalives_count=3\ntcp_user_timeout=10000\n";

/// Writes `ssh_config`, `pg_service.conf`, `pgpass` and `ca.crt` into the state directory.
///
/// # Errors
/// A file cannot be written, or the secrets not be read.
pub fn write_files(state: &LabState, lab: &Lab) -> Result {
    let beside = |name: &str| state.topology().with_file_name(name);
    state.write(&state.ssh_config(), ssh_config(state, lab).as_bytes())?;
    let (secrets, _) = Secrets::load_or_new(&state.secrets(), &lab.name, std::time::SystemTime::now())?;
    state.write(&beside("ca.crt"), secrets.authority().as_bytes())?;
    let names = lab.database_users();
    let lines = secrets.users().iter().filter(|(name, _)| names.contains(*name));
    let pgpass: String =
        lines.map(|(name, user)| format!("*:*:*:{name}:{}\n", user.password.expose())).collect();
    state.write(&beside("pgpass"), pgpass.as_bytes())?;
    state.write(&beside("pg_service.conf"), services(state, lab).as_bytes())?;
    Ok(())
}

/// An OpenSSH configuration with one entry a host: `LAB-HOST`.
pub fn ssh_config(state: &LabState, lab: &Lab) -> String {
    let (key, known) = (state.key(), state.known_hosts());
    let mut text = format!(
        "# Hosts of lab {}. Use with: ssh -F {} {}-HOST\n",
        lab.name,
        state.ssh_config().display(),
        lab.name
    );
    for host in &lab.hosts {
        let (address, port, user, key) = match &host.machine {
            None => (host.mgmt.address.to_string(), 22, "root", key.display().to_string()),
            Some(machine) => {
                let address = machine.ssh.clone().unwrap_or_else(|| machine.address.to_string());
                (address, machine.port, machine.user.as_str(), machine.key.clone())
            }
        };
        text.push_str(&format!(
            "\nHost {domain}\n  HostName {address}\n  Port {port}\n  HostKeyAlias {name}\n  User {user}\n  IdentityFile {key}\n  IdentitiesOnly yes\n  \
             UserKnownHostsFile {known}\n  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  \
             ServerAliveInterval 5\n  ServerAliveCountMax 6\n",
            domain = host.domain,
            name = host.name,
            known = known.display(),
        ));
    }
    text
}

/// Connection services that find the primary (`-rw`), prefer a standby (`-ro`), or are the superuser (`-admin`).
fn services(state: &LabState, lab: &Lab) -> String {
    let servers: Vec<_> = lab.with_role(POSTGRES_ROLE).collect();
    let list = |item: fn(&pgplan::lab::Host) -> String| {
        servers.iter().map(|host| item(host)).collect::<Vec<_>>().join(",")
    };
    let (hosts, addresses) = (list(|host| host.name.clone()), list(|host| host.data.address.to_string()));
    let beside = |name: &str| state.topology().with_file_name(name).display().to_string();
    let tls = match lab.postgres.tls {
        true => format!("sslmode=verify-full\nsslrootcert={}\n", beside("ca.crt")),
        false => "sslmode=prefer\n".to_owned(),
    };
    let first = lab.postgres.databases.first();
    let database = first.map_or("postgres", |database| &database.name);
    let owner = first.map_or("postgres", |database| &database.owner);
    let service = |name: &str, database: &str, user: &str, attributes: &str| {
        format!(
            "[{}-{name}]\nhost={hosts}\nhostaddr={addresses}\nport=5432\ndbname={database}\nuser={user}\npassfile={}\n\
             target_session_attrs={attributes}\nconnect_timeout=3\n{KEEPALIVES}{tls}\n",
            lab.name,
            beside("pgpass"),
        )
    };
    [
        service("rw", database, owner, "read-write"),
        service("ro", database, owner, "prefer-standby"),
        service("admin", "postgres", "postgres", "read-write"),
    ]
    .concat()
}

/// Lines to copy: psql through a service, ssh, and what else one wants first.
pub fn lines(state: &LabState, lab: &Lab) -> String {
    let mut text = "\nConnect:\n".to_owned();
    if lab.primary().is_some() {
        let file = state.topology().with_file_name("pg_service.conf");
        text.push_str(&format!("  export PGSERVICEFILE={}\n", file.display()));
        text.push_str(&format!(
            "  psql service={}-rw        # the primary, whichever host that is\n",
            lab.name
        ));
        text.push_str(&format!("  psql service={}-ro        # a standby, if there is one\n", lab.name));
    }
    if let Some(host) = lab.hosts.first() {
        let name = &host.name;
        text.push_str(&format!(
            "  pgprov psql {name} --lab {}    # on the host itself, as superuser\n",
            lab.name
        ));
        text.push_str(&format!("  pgprov ssh {name} --lab {}\n", lab.name));
    }
    text.push_str(&format!("  pgprov status {}\n", lab.name));
    text
}
