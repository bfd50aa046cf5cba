//! What a server is doing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pgagent_core::{
    Lsn,
    node::{Receiver, Server, Standby, Up},
};

use super::{Postgresql, STATEMENT, execute};

/// All of it in one statement. A standby that has stopped receiving knows the timeline it followed by its files only: the
/// control file tells it after the next restart point. Functions and not the views over them: what a view is has to be read and taken
/// apart by each new session, and a server that was just started has a cold processor.
const QUERY: &str = "
select (select system_identifier from pg_control_system()),
  (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint,
  pg_is_in_recovery()::int,
  case when pg_is_in_recovery()
    then coalesce((select received_tli from pg_stat_get_wal_receiver() where received_tli > 0),
      greatest((select min_recovery_end_timeline from pg_control_recovery()), (select timeline_id from pg_control_checkpoint()),
        (select max(('x' || substr(name, 1, 8))::bit(32)::int) from pg_ls_waldir() where name ~ '^[0-9A-F]{24}$')))
    else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int end,
  current_setting('synchronous_standby_names'),
  case when pg_is_in_recovery() then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'::pg_lsn
    else pg_current_wal_insert_lsn() - '0/0'::pg_lsn end,
  current_setting('primary_conninfo') <> '',
  (select status from pg_stat_get_wal_receiver() where pid is not null),
  s.sync_state, s.flush_lsn - '0/0'::pg_lsn, s.replay_lsn - '0/0'::pg_lsn
from (select 1) one left join
  (select sender.* from pg_stat_get_wal_senders() sender join pg_stat_get_activity(null) activity using (pid)
    where application_name = 'PEER' and sender.state = 'streaming' order by flush_lsn desc limit 1) s on true";

/// What a session is told before it is asked to look: planning costs three times as much as looking, and is done twice a second
/// otherwise.
pub fn prepare(peer: &str) -> String {
    format!("prepare look as {}", QUERY.replace("PEER", peer))
}

/// Looks at the server, through its socket when it runs and through its control file when it does not.
pub async fn look(server: &Postgresql) -> Result<Server, String> {
    if !server.settings.data.join("PG_VERSION").exists() {
        return Ok(Server::Absent);
    }
    match server.ask("execute look").await {
        Ok(row) => read(&row).map(Server::Up).ok_or_else(|| format!("cannot read {row:?}")),
        Err(error) if runs(server) => {
            // A server that starts, or has no connection left, is not down.
            if error.contains("57P03")
                || error.contains("closed")
                || error.contains("refused")
                || error.contains("No such file")
            {
                Ok(Server::Busy)
            } else {
                Err(error)
            }
        }
        Err(_) => down(server).await,
    }
}

fn read(row: &[Option<String>]) -> Option<Up> {
    let text = |at: usize| row.get(at)?.as_deref();
    let recovery = text(2)? == "1";
    let receiver = match (text(6)?, text(7)) {
        ("f", None) => Receiver::Off,
        (_, Some("streaming")) => Receiver::Streaming,
        _ => Receiver::Waiting,
    };
    let lsn = |at| Some(Lsn(text(at)?.parse().ok()?));
    let standby = match (text(8), lsn(9), lsn(10)) {
        (Some(state), Some(flush), Some(replay)) => {
            Some(Standby { sync: state == "sync" || state == "quorum", flush, replay })
        }
        _ => None,
    };
    Some(Up {
        system: text(0)?.parse().ok()?,
        started: text(1)?.parse().ok()?,
        recovery,
        timeline: text(3)?.parse().ok()?,
        sync: !text(4)?.is_empty(),
        wal: lsn(5)?,
        receiver,
        standby,
    })
}

/// Whether the postmaster's process is there.
pub fn runs(server: &Postgresql) -> bool {
    let Ok(text) = fs::read_to_string(server.pid_file()) else { return false };
    let Some(pid) = text.lines().next().and_then(|line| line.trim().parse::<u32>().ok()) else {
        return false;
    };
    is_postgres(&PathBuf::from(format!("/proc/{pid}")))
}

/// Whether any process is there that works in the server's data.
pub fn has_processes(server: &Postgresql) -> bool {
    let Ok(data) = server.settings.data.canonicalize() else { return false };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.map(|entry| entry.path()).any(|process| {
        fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == data) && is_postgres(&process)
    })
}

fn is_postgres(process: &Path) -> bool {
    fs::read_to_string(process.join("comm")).is_ok_and(|name| name.trim().starts_with("postgres"))
}

/// What the control file says of a server that does not run.
pub async fn down(server: &Postgresql) -> Result<Server, String> {
    let mut command = server.program("pg_controldata");
    let text = execute(command.arg("-D").arg(&server.settings.data), STATEMENT).await?;
    control(&text, server.settings.data.join("standby.signal").exists())
        .ok_or_else(|| "cannot read what pg_controldata says".to_owned())
}

/// The record of a shutdown's checkpoint, in bytes: a standby that has the end of the log has received this much more
/// than where it begins.
const CHECKPOINT_RECORD: u64 = 114;

fn control(text: &str, standby: bool) -> Option<Server> {
    let field =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let lsn = field("Latest checkpoint location")?;
    let (high, low) = lsn.split_once('/')?;
    let begin = u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?;
    let state = field("Database cluster state")?;
    Some(Server::Down {
        standby,
        clean: state == "shut down" || state == "shut down in recovery",
        system: field("Database system identifier")?.parse().ok()?,
        timeline: field("Latest checkpoint's TimeLineID")?.parse().ok()?,
        wal: Lsn(begin + CHECKPOINT_RECORD),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_control_file_tells_a_clean_stop_from_a_crash() {
        let text = "Database system identifier:           7301\nDatabase cluster state:               shut down\n\
                    Latest checkpoint location:           1/20\nLatest checkpoint's TimeLineID:       3\n";
        let down = |clean| Server::Down {
            standby: false,
            clean,
            system: 7301,
            timeline: 3,
            wal: Lsn((1 << 32) + 0x20 + 114),
        };
        assert_eq!(control(text, false), Some(down(true)));
        assert_eq!(control(&text.replace("shut down", "in production"), false), Some(down(false)));
        assert_eq!(control("", false), None);
    }
}
