//! The data of an old primary becomes that of a standby.

use std::{fs, path::PathBuf, time::Duration};

use pgagent_core::node::Server;

use super::{Postgresql, execute, files, look};
use crate::log;

/// How long copying may take.
const COPY: Duration = Duration::from_secs(6 * 3600);
const REWIND: Duration = Duration::from_secs(3600);

/// pg_rewind, which copies what differs; when it cannot, a base backup beside the old data, which stays until the copy is
/// complete.
pub async fn rejoin(server: &Postgresql) -> Result<(), String> {
    server.stop().await?;
    nobody_started(server)?;
    let data = &server.settings.data;
    if data.join("PG_VERSION").exists() {
        match rewind(server).await {
            Ok(()) => {
                nobody_started(server)?;
                files::follow(server)?;
                return server.start().await;
            }
            Err(error) => log::line("warn", "rewind", &[("error", &error)]),
        }
    }
    copy(server).await?;
    server.start().await
}

/// A base backup, whatever there is.
pub async fn anew(server: &Postgresql) -> Result<(), String> {
    server.stop().await?;
    copy(server).await?;
    server.start().await
}

async fn rewind(server: &Postgresql) -> Result<(), String> {
    // pg_rewind ends the recovery of a server that was not shut down by itself, and with it that of a standby: its log would get
    // records that the primary never wrote, on the primary's timeline, where pg_rewind finds nothing to rewind.
    let is_standby = server.settings.data.join("standby.signal").exists();
    if is_standby && !matches!(look::down(server).await?, Server::Down { clean: true, .. }) {
        return Err("this is a standby's data, and it was not shut down".to_owned());
    }
    let mut command = server.program("pg_rewind");
    command.arg("--target-pgdata").arg(&server.settings.data);
    command.arg(format!("--source-server={}", source(server)));
    if let Some(file) = &server.settings.config_file {
        command.arg(format!("--config-file={}", file.display()));
    }
    let said = execute(&mut command, REWIND).await?;
    log::line("info", "rewind", &[("result", said.lines().last().unwrap_or("done"))]);
    Ok(())
}

/// Where pg_rewind reads. The planner takes its list of files for so dear that it compiles it, which takes longer than to run
/// it: 15 of 17 seconds on an emulated host.
fn source(server: &Postgresql) -> String {
    format!("{} dbname=postgres options='-c jit=off'", server.conninfo())
}

async fn copy(server: &Postgresql) -> Result<(), String> {
    let data = &server.settings.data;
    let (new, old) = (beside(data, "new"), beside(data, "old"));
    let gone = |path: &PathBuf| match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("cannot remove {}: {error}", path.display()))
        }
        _ => Ok(()),
    };
    gone(&new)?;
    // Above it the folder may be root's.
    files::make_folder(server, &new).map_err(|error| format!("cannot make {}: {error}", new.display()))?;
    let mut command = server.program("pg_basebackup");
    command.args(["--checkpoint=fast", "--wal-method=stream", "--no-password", "-D"]).arg(&new);
    command.args(["-d", &server.conninfo()]);
    execute(&mut command, COPY).await?;
    files::follow_in(server, &new)?;
    nobody_started(server)?;
    gone(&old)?;
    if data.exists() {
        fs::rename(data, &old).map_err(|error| format!("cannot move {} aside: {error}", data.display()))?;
    }
    fs::rename(&new, data).map_err(|error| format!("cannot move {} into place: {error}", new.display()))?;
    log::line("info", "basebackup", &[("result", "complete"), ("old", &old.display().to_string())]);
    Ok(())
}

/// An operator may start the server at any time; its data is not touched then.
fn nobody_started(server: &Postgresql) -> Result<(), String> {
    match look::has_processes(server) {
        true => Err("PostgreSQL was started by somebody else meanwhile".to_owned()),
        false => Ok(()),
    }
}

fn beside(data: &std::path::Path, suffix: &str) -> PathBuf {
    let mut name = data.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}
