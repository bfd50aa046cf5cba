//! What a server is doing.

use std::{
    fs,
    path::{Path, PathBuf},
};

use pgagent_core::{
    Lsn,
    node::{Receiver, Server, Standby, Up},
};

use super::{Postgresql, Row, STATEMENT, execute};

/// What is asked at every look, in one message; the first column says what a row is about. Simple statements, of functions and not of
/// the views over them, that join nothing but a sender with what its session is called: a server that was just started, or goes on with its
/// memory, has a cold processor, on which planning and running one large statement takes three times as long. What the standby has
/// comes after what there is: it may only seem to have more.
const STATEMENTS: [(&str, &str); 3] = [
    (
        "state",
        "system_identifier, (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint,
  pg_is_in_recovery()::int, case when not pg_is_in_recovery() then pg_walfile_name(pg_current_wal_lsn()) end,
  current_setting('synchronous_standby_names'),
  case when pg_is_in_recovery() then greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn()) - '0/0'::pg_lsn
    else pg_current_wal_insert_lsn() - '0/0'::pg_lsn end,
  current_setting('primary_conninfo') <> ''
from pg_control_system()",
    ),
    (
        "standby",
        "sync_state, flush_lsn - '0/0'::pg_lsn, replay_lsn - '0/0'::pg_lsn
from pg_stat_get_wal_senders() sender, pg_stat_get_activity(pid) session
where sender.state = 'streaming' and application_name = 'PEER'",
    ),
    ("receiver", "status, received_tli from pg_stat_get_wal_receiver() where pid is not null"),
];

/// A standby that has stopped receiving knows the timeline it followed by its files only: the control file tells it after the next
/// restart point.
const TIMELINES: &str = "select min_recovery_end_timeline from pg_control_recovery(); select timeline_id from pg_control_checkpoint();
  select name from pg_ls_waldir()";

/// What a session is told before it is asked to look: planning costs three times as much as looking, and is done twice a second
/// otherwise.
pub fn prepare(peer: &str) -> String {
    let statement = |(what, query): &(&str, &str)| format!("prepare {what} as select '{what}', {query};");
    STATEMENTS.iter().map(statement).collect::<String>().replace("PEER", peer)
}

/// Looks at the server, through its socket when it runs and through its control file when it does not.
pub async fn look(server: &Postgresql) -> Result<Server, String> {
    if !server.settings.data.join("PG_VERSION").exists() {
        return Ok(Server::Absent);
    }
    match ask(server).await {
        Ok(up) => Ok(Server::Up(up)),
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

async fn ask(server: &Postgresql) -> Result<Up, String> {
    let query: String = STATEMENTS.iter().map(|(what, _)| format!("execute {what};")).collect();
    let rows = server.rows(&query).await?;
    let cannot_read = || format!("cannot read {rows:?}");
    let mut up = read(&rows).ok_or_else(cannot_read)?;
    if up.timeline == 0 {
        let rows = server.rows(TIMELINES).await?;
        let known = rows.iter().filter_map(|row| timeline(row.first()?.as_deref()?));
        up.timeline = known.max().ok_or_else(|| format!("cannot read {rows:?}"))?;
    }
    Ok(up)
}

/// A timeline as it is, or that of a WAL file by its name.
fn timeline(text: &str) -> Option<u32> {
    let is_file = text.len() == 24 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_file { u32::from_str_radix(&text[..8], 16).ok() } else { text.parse().ok() }
}

/// What the rows say; the timeline is 0 when they do not say it.
fn read(rows: &[Row]) -> Option<Up> {
    fn about<'a>(rows: &'a [Row], what: &'a str) -> impl Iterator<Item = &'a Row> {
        rows.iter().filter(move |row| row.first().is_some_and(|it| it.as_deref() == Some(what)))
    }
    let text = |row: &Row, at: usize| row.get(at).cloned().flatten();
    let state = about(rows, "state").next()?;
    let receiver = about(rows, "receiver").next();
    let recovery = text(state, 3)? == "1";
    let is_told = text(state, 7)? != "f";
    let status = receiver.and_then(|row| text(row, 1));
    let lsn = |row: &Row, at| Some(Lsn(text(row, at)?.parse().ok()?));
    let timeline = match text(state, 4) {
        // Of the name of the file that is written to.
        Some(file) => timeline(&file)?,
        None => receiver.and_then(|row| text(row, 2)?.parse().ok()).unwrap_or(0),
    };
    Some(Up {
        system: text(state, 1)?.parse().ok()?,
        started: text(state, 2)?.parse().ok()?,
        recovery,
        timeline,
        sync: !text(state, 5)?.is_empty(),
        wal: lsn(state, 6)?,
        receiver: match status.as_deref() {
            None if !is_told => Receiver::Off,
            Some("streaming") => Receiver::Streaming,
            _ => Receiver::Waiting,
        },
        standby: standby(about(rows, "standby").map(|row| Some((text(row, 1)?, lsn(row, 2)?, lsn(row, 3)?)))),
    })
}

/// Of several connections the one that has most. One that has not said what it has may be the one that counts.
fn standby(connections: impl Iterator<Item = Option<(String, Lsn, Lsn)>>) -> Option<Standby> {
    let all: Vec<_> = connections.collect::<Option<_>>()?;
    let (state, flush, replay) = all.into_iter().max_by_key(|(_, flush, _)| *flush)?;
    Some(Standby { sync: state == "sync" || state == "quorum", flush, replay })
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

    fn row(text: &str) -> Row {
        text.split(' ').map(|word| (word != "-").then(|| word.to_owned())).collect()
    }

    #[test]
    fn a_primary_says_what_it_wrote_and_what_its_standby_has() {
        let state = row("state 7301 17 0 0000000A000000010000000F s 300 f");
        let up = read(&[state.clone(), row("standby sync 200 100")]).unwrap();
        let standby = Standby { sync: true, flush: Lsn(200), replay: Lsn(100) };
        assert_eq!((up.system, up.started, up.recovery, up.timeline, up.sync), (7301, 17, false, 10, true));
        assert_eq!((up.wal, up.receiver, up.standby), (Lsn(300), Receiver::Off, Some(standby)));
        // A connection that is about to be given up may still be there beside the new one.
        let old = row("standby sync 150 150");
        let both = [state.clone(), old.clone(), row("standby async 200 100")];
        assert_eq!(read(&both).unwrap().standby, Some(Standby { sync: false, ..standby }));
        assert_eq!(read(&[state.clone(), old, row("standby async - -")]).unwrap().standby, None);
        assert_eq!(read(&[state]).unwrap().standby, None);
        assert_eq!(read(&[row("standby sync 200 100")]), None);
    }

    #[test]
    fn a_standby_says_what_it_receives() {
        let state = |told: &str| row(&format!("state 7301 17 1 - - 300 {told}")).into_iter();
        let state =
            |told| state(told).enumerate().map(|(at, it)| if at == 5 { Some(String::new()) } else { it });
        let up = |told, rest: &[Row]| read(&[&[state(told).collect()], rest].concat()).unwrap();
        let streaming = up("t", &[row("receiver streaming 3")]);
        assert_eq!((streaming.recovery, streaming.timeline, streaming.sync), (true, 3, false));
        assert_eq!(streaming.receiver, Receiver::Streaming);
        for (told, receiver) in
            [("t", "receiver starting 0"), ("f", "receiver stopping -"), ("t", "other - -")]
        {
            let up = up(told, &[row(receiver)]);
            assert_eq!((up.receiver, up.timeline), (Receiver::Waiting, 0));
        }
        assert_eq!(up("f", &[]).receiver, Receiver::Off);
    }

    #[test]
    fn timelines_are_numbers_or_names_of_files() {
        assert_eq!(timeline("7"), Some(7));
        assert_eq!(timeline("0000001B0000000000000001"), Some(27));
        for other in ["0000000A.history", "xlogtemp.17", "000000010000000000000001.partial"] {
            assert_eq!(timeline(other), None);
        }
    }

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
