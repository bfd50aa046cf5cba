//! The files of a server that does not run.

use std::{fs, io, os::unix::fs::chown, path::Path};

use super::Postgresql;

/// Whose files they are.
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

impl User {
    /// By name, from /etc/passwd.
    pub fn named(name: &str) -> Result<User, String> {
        let text =
            fs::read_to_string("/etc/passwd").map_err(|error| format!("cannot read /etc/passwd: {error}"))?;
        let found = text.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(name)).then_some(())?;
            Some(User { uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
        });
        found.ok_or_else(|| format!("there is no user {name}"))
    }
}

/// Writes a file that is there whole or not at all.
fn write(server: &Postgresql, path: &Path, text: &str) -> io::Result<()> {
    let new = path.with_extension("pgagent");
    let file = {
        fs::write(&new, text)?;
        fs::File::open(&new)?
    };
    file.sync_all()?;
    if let Some(user) = &server.user {
        chown(&new, Some(user.uid), Some(user.gid))?;
    }
    fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    fs::rename(&new, path)
}

/// Makes an empty folder that only the server's user may enter.
pub fn make_folder(server: &Postgresql, path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    match &server.user {
        Some(user) => chown(path, Some(user.uid), Some(user.gid)),
        None => Ok(()),
    }
}

/// Makes the data that of a standby of the other host: what `follow` does with a running server. What an earlier primary
/// left in postgresql.auto.conf (pg_rewind and base backups bring the other host's) does not stay.
pub fn follow(server: &Postgresql) -> Result<(), String> {
    follow_in(server, &server.settings.data)
}

/// The same in another folder.
pub fn follow_in(server: &Postgresql, data: &Path) -> Result<(), String> {
    let path = data.join("postgresql.auto.conf");
    let ours =
        ["synchronous_standby_names", "primary_conninfo", "primary_slot_name", "recovery_target_timeline"];
    let old = fs::read_to_string(&path).unwrap_or_default();
    let kept = old.lines().filter(|line| !ours.iter().any(|name| line.trim_start().starts_with(name)));
    let mut text: String = kept.map(|line| format!("{line}\n")).collect();
    let quoted = server.conninfo().replace('\'', "''");
    text += &format!("primary_conninfo = '{quoted}'\nprimary_slot_name = '{}'\n", server.slot(server.own()));
    text += "recovery_target_timeline = 'latest'\nsynchronous_standby_names = ''\n";
    write(server, &path, &text).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    // The slot that this host kept for the other one, as primary, would hold back the log for ever.
    match fs::remove_dir_all(data.join("pg_replslot").join(server.slot(server.peer()))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(format!("cannot remove the slot of {}: {error}", server.peer().name));
        }
        _ => {}
    }
    let signal = data.join("standby.signal");
    write(server, &signal, "").map_err(|error| format!("cannot write {}: {error}", signal.display()))
}
