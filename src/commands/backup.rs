//! `pgprov backup`: the backup script on the host that has it, from outside. What it does stands in
//! templates/backup/pgbackup.

use std::time::Duration;

use pgplan::{lab::Host, size::Bytes};
use serde_json::Value;

use super::context::OpenLab;
use crate::{
    cli::{Backup, BackupHost, BackupRestore, BackupVerify, Global},
    error::{Error, Result},
    ssh::{Exit, quote},
    ui::{Ui, printable, table},
};

/// The role of hosts that make backups.
const ROLE: &str = "backup";
/// A dump or restore takes as long as the database is large.
const LIMIT: Duration = Duration::from_secs(4 * 3600);

/// Runs the verb.
///
/// # Errors
/// There is no such lab, host or backup; or the script failed, in its words.
pub fn run(ui: &Ui, global: &Global, verb: &Backup) -> Result {
    match verb {
        Backup::Now(on) => {
            let backup = script(ui, global, on, "saving", &["now"])?;
            show(ui, &backup, saved);
        }
        Backup::List(on) => {
            let all = script(ui, global, on, "asking", &["list"])?;
            show(ui, &all, list);
        }
        Backup::Verify(BackupVerify { on, id }) => {
            let words: Vec<&str> = ["verify"].into_iter().chain(id.as_deref()).collect();
            let backup = script(ui, global, on, "reading", &words)?;
            show(ui, &backup, |backup| {
                format!("backup {} can be read to its end: {}", text(&backup["id"]), contents(backup))
            });
        }
        Backup::Restore(args) => restore(ui, global, args)?,
    }
    Ok(())
}

fn restore(ui: &Ui, global: &Global, args: &BackupRestore) -> Result {
    let mut words = vec!["restore"];
    words.extend(args.id.as_deref());
    words.extend(args.database.iter().flat_map(|name| ["--database", name.as_str()]));
    words.extend(args.table.iter().flat_map(|name| ["--table", name.as_str()]));
    words.extend(args.keep.then_some("--keep"));
    let done = script(ui, global, &args.on, "restoring", &words)?;
    show(ui, &done, restored);
    Ok(())
}

/// Runs the script on its host; its answer is JSON.
fn script(ui: &Ui, global: &Global, on: &BackupHost, doing: &str, words: &[&str]) -> Result<Value> {
    let (open, _) = OpenLab::find(global, on.lab.lab.as_deref())?;
    let host = host(&open, on)?;
    let session = open.connect(host)?;
    let line = ui.line(&host.name, host.name.len());
    line.now(doing);
    let quoted: Vec<String> = words.iter().map(|word| quote(word)).collect();
    let command = format!("exec /usr/local/sbin/pgbackup {}", quoted.join(" "));
    let output = session.run("sh -s", command.as_bytes(), &mut |_| {}, LIMIT);
    line.drop_quietly();
    let output = output?;
    if let Exit::Status(0) = output.exit {
        let said = String::from_utf8_lossy(&output.stdout);
        return serde_json::from_str(&said).map_err(|error| {
            Error::failed(format!("cannot read what pgbackup on {} says: {error}: {said}", host.name))
        });
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let (before, last) = said.trim().rsplit_once('\n').unwrap_or(("", said.trim()));
    let last = last.trim_start_matches("pgbackup: ").to_owned();
    let log = format!("its log: pgprov logs {} --role {ROLE}", host.name);
    Err(match output.exit {
        Exit::Status(2) => Error::usage(last).hint("`pgprov backup list` shows what there is"),
        Exit::Status(127) => Error::failed(format!("pgbackup is not installed on {}", host.name))
            .hint("`pgprov up` installs it"),
        _ => {
            let error = Error::failed(format!("{} failed on {}: {}", words[0], host.name, printable(&last)));
            // What psql or pg_restore said.
            let causes = before.lines().rev().take(3).collect::<Vec<_>>().into_iter().rev();
            causes.fold(error, |error, line| error.hint(printable(line))).hint(log)
        }
    })
}

/// The host that is meant.
fn host<'a>(open: &'a OpenLab, on: &BackupHost) -> Result<&'a Host> {
    let found = match &on.host {
        Some(name) => Some(open.host(name)?),
        None => open.lab.with_role(ROLE).next(),
    };
    found.filter(|host| host.has_role(ROLE)).ok_or_else(|| {
        let hosts: Vec<&str> = open.lab.with_role(ROLE).map(|host| host.name.as_str()).collect();
        let error = Error::usage(format!("in lab {} that host has no role `{ROLE}`", open.lab.name));
        error.hint(match hosts.as_slice() {
            [] => "add `backup: {}` and the role, as in `client: { roles: [client, backup] }`, and run `pgprov up` again".to_owned(),
            hosts => format!("hosts with it: {}", hosts.join(", ")),
        })
    })
}

fn show(ui: &Ui, value: &Value, human: impl Fn(&Value) -> String) {
    if ui.json() {
        ui.out_json(value);
    } else {
        ui.out(&printable(&human(value)));
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

/// `wms (12 tables, 3400 rows)`, of each database.
fn contents(backup: &Value) -> String {
    let one = |database: &Value| {
        format!("{} ({} tables, {} rows)", text(&database["name"]), database["tables"], database["rows"])
    };
    backup["databases"].as_array().into_iter().flatten().map(one).collect::<Vec<_>>().join(", ")
}

fn size(value: &Value) -> String {
    let bytes = number(value);
    // Whole units: nobody compares the last digits.
    let unit = [1 << 30, 1 << 20, 1 << 10].into_iter().find(|unit| bytes >= 8 * unit).unwrap_or(1 << 10);
    Bytes(bytes.div_ceil(unit) * unit).to_string()
}

fn server(backup: &Value) -> String {
    let role = if backup["standby"] == true { "standby" } else { "primary" };
    format!("{} ({role})", text(&backup["server"]))
}

fn saved(backup: &Value) -> String {
    format!(
        "backup {} from {}: {}, {} in {} s; {} kept",
        text(&backup["id"]),
        server(backup),
        contents(backup),
        size(&backup["bytes"]),
        backup["seconds"],
        backup["kept"]
    )
}

fn list(all: &Value) -> String {
    let row = |backup: &Value| {
        vec![
            text(&backup["id"]).to_owned(),
            server(backup),
            format!("{} s", backup["seconds"]),
            size(&backup["bytes"]),
            contents(backup),
        ]
    };
    let rows: Vec<Vec<String>> = all["backups"].as_array().into_iter().flatten().map(row).collect();
    let shown = if rows.is_empty() {
        "no backup yet\n".to_owned()
    } else {
        table(&["BACKUP", "READ FROM", "TOOK", "SIZE", "DATABASES"], &rows)
    };
    let (started, finished) = (text(&all["last_started"]), text(&all["last_finished"]));
    let last = match number(&all["last_exit_code"]) {
        _ if started.is_empty() => "none was begun yet".to_owned(),
        _ if all["running"] == true => format!("one was begun at {started} and runs, or was killed"),
        0 => format!("the last one ended well at {finished}"),
        exit => format!("the last one FAILED with status {exit} at {finished}"),
    };
    format!(
        "{shown}\n{} of {} kept, at times `{}`; {last}; {} failed in all",
        rows.len(),
        all["retention_count"],
        text(&all["interval_cron"]),
        all["failures"]
    )
}

fn restored(done: &Value) -> String {
    let tables = done["tables"].as_array().map_or(&[][..], Vec::as_slice);
    let rows: u64 = tables.iter().map(|table| number(&table["rows"])).sum();
    let mut shown = format!(
        "backup {}: database {} restored in {} s, {} tables with {rows} rows, as many as were saved",
        text(&done["id"]),
        text(&done["database"]),
        done["seconds"],
        tables.len()
    );
    if !text(&done["table"]).is_empty() {
        shown.push_str(&format!("; table {} is back", text(&done["table"])));
    }
    if !text(&done["kept_as"]).is_empty() {
        shown.push_str(&format!("; kept as database {}", text(&done["kept_as"])));
    }
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn backups_are_listed_with_how_the_last_one_ended() {
        let backup = json!({"id": "20260102T030405Z", "server": "s", "standby": true, "seconds": 3, "bytes": 70_000,
                            "databases": [{"name": "wms", "bytes": 60_000, "tables": 2, "rows": 17}]});
        let mut all = json!({"interval_cron": "* * * * *", "retention_count": 2, "last_started": "2026-01-02T03:04:05Z",
                             "last_finished": "2026-01-02T03:04:08Z", "last_exit_code": 11, "failures": 4, "backups": [backup]});
        let shown = list(&all);
        assert!(
            shown.contains("20260102T030405Z  s (standby)  3 s   69KiB  wms (2 tables, 17 rows)"),
            "{shown}"
        );
        assert!(
            shown.ends_with("the last one FAILED with status 11 at 2026-01-02T03:04:08Z; 4 failed in all"),
            "{shown}"
        );
        all["running"] = true.into();
        assert!(list(&all).contains("one was begun at 2026-01-02T03:04:05Z and runs, or was killed"));
    }
}
