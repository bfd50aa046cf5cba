//! pgload on its host: a transient systemd unit, and the files beside it that say what it does.
//!
//! ```text
//! /var/lib/pgload/
//!   command        what was started last, a shell script
//!   live.json      the live view of a run, renewed by pgload once a second
//!   said           what it printed
//!   exit           its exit status, when it has ended
//!   results/ID/    results of each run
//!   ledger/        ledgers
//! ```

use std::{
    thread,
    time::{Duration, Instant},
};

use pgplan::lab::Host;
use serde_json::Value;

use crate::{
    commands::context::OpenLab,
    error::{Error, Result},
    ssh::{Exit, Output, Session, quote},
    ui::table,
};

/// How long one look may take on a host that is busy.
const LIMIT: Duration = Duration::from_secs(60);
/// A run is given this long to end by itself, and then some for what is unfinished and for plans.
const STOP: Duration = Duration::from_secs(240);
/// Checks read every table.
const VERIFY: Duration = Duration::from_secs(900);
/// How long a host may be out of reach while it is looked at.
const AWAY: Duration = Duration::from_secs(120);

/// Status of the script that starts it: something is running already, pgload is not there.
const BUSY: i32 = 11;
const MISSING: i32 = 12;

const STATE: &str = r#"
cd /var/lib/pgload 2>/dev/null || exit 12
active=$(systemctl is-active pgload)
first=
runs=
for run in results/*/run.json; do
  test -e "$run" || continue
  run=${run#results/}
  runs="$runs$first\"${run%/run.json}\""
  first=,
done
command=$(sed -n '1s/^#//p' command 2>/dev/null)
printf '{"active": "%s", "command": "%s", "exit": %s, "runs": [%s], "live": %s}\n' \
  "$active" "$command" "$(cat exit 2>/dev/null || echo null)" "$runs" "$(cat live.json 2>/dev/null || echo null)"
"#;

/// What is going on.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// Whether pgload runs, maybe on its way to an end.
    pub running: bool,
    stopping: bool,
    /// Its first word: `run`, `init`.
    pub command: String,
    /// Of the last one.
    pub exit: Option<i32>,
    /// Runs on the host, in order.
    pub runs: Vec<String>,
    /// The live view of the run, or of the last one.
    pub live: Value,
}

impl State {
    fn parse(text: &str) -> Option<Self> {
        let all: Value = serde_json::from_str(text).ok()?;
        let active = all["active"].as_str()?;
        let mut runs: Vec<String> =
            all["runs"].as_array()?.iter().filter_map(|run| Some(run.as_str()?.to_owned())).collect();
        runs.sort();
        Some(Self {
            running: matches!(active, "active" | "activating" | "deactivating" | "reloading"),
            stopping: active == "deactivating",
            command: all["command"].as_str()?.to_owned(),
            exit: all["exit"].as_i64().map(|exit| exit as i32),
            runs,
            live: all["live"].clone(),
        })
    }

    /// In one word.
    pub fn word(&self) -> &'static str {
        match (self.running, self.stopping) {
            (true, true) => "stopping",
            (true, false) => "running",
            _ => "idle",
        }
    }

    /// In one sentence.
    pub fn sentence(&self) -> String {
        let live = &self.live;
        if !self.running {
            return match (self.command.as_str(), self.exit) {
                ("", _) => "nothing has run yet".to_owned(),
                (command, Some(0)) => format!("nothing runs; the last {command} ended well"),
                (command, Some(exit)) => {
                    format!("nothing runs; the last {command} failed with status {exit}")
                }
                (command, None) => format!("nothing runs; the last {command} did not come to an end"),
            };
        }
        let (Some(second), Some(all)) = (live["seconds"].as_u64(), live["of_seconds"].as_u64()) else {
            return format!("{} goes on", self.command);
        };
        let number = |key: &str| live[key].as_u64().unwrap_or_default();
        let text = |key: &str| live[key].as_str().unwrap_or_default();
        let warmup = if second < number("warmup_seconds") { ", warm-up" } else { "" };
        let quiet = live["without_success_seconds"].as_f64().unwrap_or_default();
        let quiet = if quiet >= 2.0 { format!(", no success for {quiet:.1} s") } else { String::new() };
        let connected = live["connected"].as_object().into_iter().flatten();
        let connected: Vec<String> = connected
            .filter(|(_, count)| count.as_u64() > Some(0))
            .map(|(host, count)| format!("{host} x{count}"))
            .collect();
        let connected = if connected.is_empty() { "not connected".to_owned() } else { connected.join(", ") };
        format!(
            "{} {}, second {second} of {all}{warmup}: {}/s, {} ok, {} failed, {} in doubt, {} retries{quiet}; {connected}",
            text("workload"),
            self.word(),
            number("rate"),
            number("ok"),
            number("failed"),
            number("in_doubt"),
            number("retries"),
        )
    }

    /// The live view, a row a statement.
    pub fn table(&self) -> String {
        let cell = |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string());
        let millis = |value: &Value| {
            value.as_u64().map_or_else(|| "-".to_owned(), |micros| format!("{:.1} ms", micros as f64 / 1e3))
        };
        let row = |statement: &Value| {
            let (now, total) = (&statement["last_second"], &statement["total"]);
            let latency = &statement["latency"];
            vec![
                statement["name"].as_str().unwrap_or_default().to_owned(),
                cell(&now["ok"]),
                millis(&latency["p50"]),
                millis(&latency["p99"]),
                millis(&latency["max"]),
                cell(&total["ok"]),
                cell(&total["retries"]),
                cell(&total["aborted"]),
                cell(&total["indeterminate"]),
            ]
        };
        let rows: Vec<Vec<String>> =
            self.live["statements"].as_array().into_iter().flatten().map(row).collect();
        table(&["STATEMENT", "/S", "P50", "P99", "MAX", "OK", "RETRIES", "FAILED", "IN DOUBT"], &rows)
    }
}

/// How something ended.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    /// None: it did not come to an end, as when the host was switched off.
    pub exit: Option<i32>,
    /// What it printed.
    pub said: String,
    /// The last lines of its diagnostics.
    complaint: String,
    host: String,
}

impl Ended {
    /// Fails unless it ended well.
    pub fn fine(&self, what: &str) -> Result {
        let complaint = self.complaint.trim().trim_start_matches("error: ");
        match self.exit {
            Some(0) => Ok(()),
            Some(exit) => {
                Err(Error::failed(format!("{what} failed on {} with status {exit}: {complaint}", self.host)))
            }
            None => {
                Err(Error::failed(format!("{what} did not come to an end on {}: {complaint}", self.host))
                    .hint("was the host switched off or taken back to a checkpoint?"))
            }
        }
    }
}

/// The way to the host.
pub(super) struct Remote<'a> {
    open: &'a OpenLab,
    host: &'a Host,
    session: Session,
}

impl<'a> Remote<'a> {
    /// Logs in.
    ///
    /// # Errors
    /// The host does not answer.
    pub fn connect(open: &'a OpenLab, host: &'a Host) -> Result<Self> {
        Ok(Self { open, host, session: open.connect(host)? })
    }

    /// Runs a script, for at most `limit`.
    fn shell(&self, script: &str, limit: Duration) -> Result<Output> {
        Ok(self.session.run("sh -s", script.as_bytes(), &mut |_| {}, limit)?)
    }

    fn fails(&self, what: &str, output: &Output) -> Error {
        if output.exit == Exit::Status(MISSING) {
            return Error::failed(format!("pgload is not installed on {}", self.host.name))
                .hint("`pgprov up` installs it");
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Error::failed(format!("cannot {what} on {}: {}", self.host.name, said.trim()))
    }

    /// What goes on. A host that is out of reach for a while is asked again: faults are what labs are for.
    pub fn state(&mut self) -> Result<State> {
        let begun = Instant::now();
        loop {
            match self.shell(STATE, LIMIT) {
                Ok(output) if output.success() => {
                    let text = String::from_utf8_lossy(&output.stdout);
                    return State::parse(&text).ok_or_else(|| {
                        Error::failed(format!(
                            "cannot read the state of pgload on {}: {text}",
                            self.host.name
                        ))
                    });
                }
                Ok(output) => return Err(self.fails("look at pgload", &output)),
                Err(error) if begun.elapsed() > AWAY => return Err(error),
                Err(_) => {
                    thread::sleep(Duration::from_secs(1));
                    if let Ok(session) = self.open.connect(self.host) {
                        self.session = session;
                    }
                }
            }
        }
    }

    /// Starts pgload with these words, in a unit that does not need us.
    pub fn start(&mut self, words: &[String]) -> Result {
        let output = self.shell(&start_script(words), LIMIT)?;
        match output.exit {
            Exit::Status(0) => Ok(()),
            Exit::Status(BUSY) => Err(Error::usage(format!("load is running on {} already", self.host.name))
                .hint("`pgprov load status` shows it, `pgprov load stop` ends it")),
            _ => Err(self.fails("start pgload", &output)),
        }
    }

    /// Ends it, as Ctrl-C would, and waits for that.
    pub fn stop(&mut self) -> Result {
        let output = self.shell("systemctl stop pgload", STOP)?;
        if output.success() { Ok(()) } else { Err(self.fails("stop pgload", &output)) }
    }

    /// How the last one ended.
    pub fn ended(&mut self) -> Result<Ended> {
        let exit = self.state()?.exit;
        let output = self.shell("cat /var/lib/pgload/said 2>/dev/null", LIMIT)?;
        let complaint = match exit {
            Some(0) => String::new(),
            _ => {
                // Of this one only, not of those before.
                let journal = "journalctl --no-pager -q -o cat -n 5 -t pgload --since \"@$(stat -c %Y /var/lib/pgload/command)\"";
                String::from_utf8_lossy(&self.shell(journal, LIMIT)?.stdout).into_owned()
            }
        };
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok(Ended { exit, said, complaint, host: self.host.name.clone() })
    }

    /// Runs `pgload verify` to its end.
    pub fn verify(&mut self, json: bool) -> Result<Ended> {
        let format = if json { "json" } else { "human" };
        let script = format!(
            "cd /var/lib/pgload || exit 12\nset -a; . /etc/pgload/environment; set +a\n\
             exec pgload verify --ledger=ledger --output={format}"
        );
        let output = self.shell(&script, VERIFY)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Ended {
            exit: if let Exit::Status(status) = output.exit { Some(status) } else { None },
            said: text(&output.stdout),
            complaint: text(&output.stderr),
            host: self.host.name.clone(),
        })
    }

    /// The folder of a run as a tar archive.
    pub fn results(&mut self, id: &str) -> Result<Vec<u8>> {
        let output = self.shell(&format!("tar -C /var/lib/pgload/results -cf - {}", quote(id)), LIMIT)?;
        if output.success() { Ok(output.stdout) } else { Err(self.fails("fetch results", &output)) }
    }
}

/// Writes the command into a file, so that no character of it means anything to systemd, and starts it.
fn start_script(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| quote(word)).collect();
    let name = words.first().map_or("", String::as_str);
    format!(
        r#"set -e
cd /var/lib/pgload && test -x /usr/local/bin/pgload || exit {MISSING}
! systemctl is-active -q pgload || exit {BUSY}
rm -f live.json said exit
cat >command <<'END-OF-COMMAND'
#{name}
# The shell outlives the signal that ends pgload, to note how it ended.
trap : TERM
/usr/local/bin/pgload {command}
echo $? >exit.new
mv exit.new exit
END-OF-COMMAND
exec systemd-run --quiet --collect --unit=pgload --description='pgload {name}' \
  --property=WorkingDirectory=/var/lib/pgload --property=EnvironmentFile=/etc/pgload/environment \
  --property=StandardOutput=truncate:/var/lib/pgload/said --property=StandardError=journal --property=SyslogIdentifier=pgload \
  --property=TimeoutStopSec=200 --property=NoNewPrivileges=yes --property=ProtectSystem=full \
  /bin/sh /var/lib/pgload/command
"#,
        command = quoted.join(" "),
    )
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn scripts_are_valid_shell_whatever_the_words() {
        let words = ["run", "--stage=it's $HOME `id` %n", "--workload=a b"].map(str::to_owned);
        for script in [STATE, &start_script(&words)] {
            let output = Command::new("sh").args(["-n", "-c", script]).output().unwrap();
            assert!(output.status.success(), "{}\n{script}", String::from_utf8_lossy(&output.stderr));
        }
    }

    #[test]
    fn the_state_is_what_the_host_says() {
        let state = State::parse(
            r#"{"active": "active", "command": "run", "exit": null, "runs": ["b", "a"], "live": {"id": "x", "workload": "mixed",
                "seconds": 3, "of_seconds": 65, "warmup_seconds": 5, "rate": 7, "ok": 20, "failed": 1, "in_doubt": 0, "retries": 2,
                "without_success_seconds": 2.5, "connected": {"m:5432": 4, "s:5432": 0},
                "statements": [{"name": "pick", "last_second": {"ok": 7}, "latency": {"p50": 1500, "p99": 2500, "max": 3000},
                                "total": {"ok": 20, "retries": 2, "aborted": 1, "indeterminate": 0}}]}}"#,
        )
        .unwrap();
        assert_eq!(
            (state.word(), state.runs.as_slice()),
            ("running", ["a", "b"].map(str::to_owned).as_slice())
        );
        assert_eq!(
            state.sentence(),
            "mixed running, second 3 of 65, warm-up: 7/s, 20 ok, 1 failed, 0 in doubt, 2 retries, no success for 2.5 s; m:5432 x4"
        );
        assert_eq!(
            state.table(),
            "STATEMENT  /S  P50     P99     MAX     OK  RETRIES  FAILED  IN DOUBT\n\
             pick       7   1.5 ms  2.5 ms  3.0 ms  20  2        1       0\n"
        );
        let idle = r#"{"active": "inactive", "command": "init", "exit": 3, "runs": [], "live": null}"#;
        assert_eq!(
            State::parse(idle).unwrap().sentence(),
            "nothing runs; the last init failed with status 3"
        );
        assert!(State::parse("nonsense").is_none());
    }
}
