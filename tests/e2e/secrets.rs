//! Secrets are in the state directory and in the files of hosts that need them, and nowhere else.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::suite::{Lab, MAIN, MAIN_HOSTS, Suite};

/// Notes the arguments of all processes of this machine, VMs and the program among them, until it is asked for them.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeSet<String>>,
}

impl Watch {
    /// Starts to look.
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !end.load(Ordering::Relaxed) {
                seen.extend(command_lines());
                thread::sleep(Duration::from_millis(50));
            }
            seen
        });
        Self { stop, thread }
    }

    /// Everything that was seen, one process a line.
    pub fn seen(self) -> String {
        self.stop.store(true, Ordering::Relaxed);
        let seen = self.thread.join().unwrap_or_default();
        seen.into_iter().collect::<Vec<_>>().join("\n")
    }
}

fn command_lines() -> Vec<String> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let numbers = processes.filter_map(Result::ok).map(|entry| entry.path().join("cmdline"));
    // A process may end while we look.
    let lines = numbers.filter_map(|path| fs::read(path).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).collect()
}

/// Notes the arguments of all processes of a host in a file there, for as long as an `up` takes: it lives on in the
/// checkpoint that is made meanwhile.
pub const WATCH_INSIDE: &str = "rm -f /run/e2e-stop; setsid sh -c 'for n in $(seq 300); do [ ! -e /run/e2e-stop ] || break; cat /proc/[0-9]*/cmdline; sleep 0.1; done' \
    >/run/e2e-seen 2>/dev/null </dev/null &";

/// Ends [`WATCH_INSIDE`] and prints what it saw.
const SEEN_INSIDE: &str = "touch /run/e2e-stop; sleep 0.5; tr '\\0' '\\n' </run/e2e-seen | sort -u";

/// Every secret of a lab: passwords, verifiers, lines of private keys.
fn secrets(lab: &Lab) -> Result<Vec<String>> {
    let text = fs::read_to_string(lab.state_file("secrets.json"))?;
    let mut found = Vec::new();
    collect(&serde_json::from_str(&text)?, "", &mut found);
    let key = fs::read_to_string(lab.state_file("id_ed25519"))?;
    // The last lines of the body hold the private half; the first ones are the same in every key of that kind.
    found.extend(key.lines().filter(|line| !line.starts_with("-----")).skip(2).map(str::to_owned));
    ensure!(
        found.len() >= 10,
        "expected passwords, verifiers and keys in the state directory, found {}",
        found.len()
    );
    Ok(found)
}

fn collect(value: &Value, name: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| collect(value, key, found)),
        Value::Array(items) => items.iter().for_each(|item| collect(item, name, found)),
        Value::String(text) if matches!(name, "password" | "verifier") => found.push(text.clone()),
        Value::String(text) if name == "key" => {
            let body = text.lines().filter(|line| !line.starts_with("-----"));
            found.extend(body.filter(|line| line.len() >= 20).map(str::to_owned));
        }
        _ => {}
    }
}

fn ensure_none(secrets: &[String], text: &str, place: &str) -> Result<()> {
    for secret in secrets {
        let leak = text.lines().find(|line| line.contains(secret.as_str()));
        if let Some(line) = leak {
            let line = line.replace(secret.as_str(), "<THE SECRET>");
            anyhow::bail!("expected no secret in {place}, found one in\n{line}");
        }
    }
    Ok(())
}

/// No process, neither here nor on hosts, had a secret among its arguments while the lab was made.
pub fn no_secret_in_arguments(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let secrets = secrets(&lab)?;
    let outside = suite.arguments_seen()?;
    ensure!(outside.contains("guest=lab-m"), "expected to have seen the QEMU process of m among\n{outside}");
    ensure_none(&secrets, &outside, "the arguments of processes of this machine")?;
    let inside = lab.exec_everywhere(SEEN_INSIDE)?;
    ensure!(inside.len() == MAIN_HOSTS.len(), "expected to have watched all hosts, got {:?}", inside.keys());
    for (host, seen) in &inside {
        ensure!(seen.contains("sshd"), "expected to have seen processes of {host}, got\n{seen}");
        ensure_none(&secrets, seen, &format!("the arguments of processes of {host}"))?;
    }
    for (host, program) in [("m", "psql"), ("s", "systemctl")] {
        let seen = &inside[host];
        ensure!(
            seen.contains(program) && seen.contains("apply.sh"),
            "expected to have seen {program} on {host} among\n{seen}"
        );
    }
    Ok(())
}

/// Definitions of VMs and networks, consoles and logs have no secret.
pub fn no_secret_in_definitions_and_logs(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    let secrets = secrets(&lab)?;
    for host in ["m", "s", "arbiter", "client"] {
        let xml = suite.virsh(["dumpxml", "--security-info", &lab.domain(host)]).ok()?.stdout;
        ensure!(xml.contains("ssh.authorized_keys.root=ssh-ed25519"), "expected the public key in\n{xml}");
        ensure_none(&secrets, &xml, &format!("the definition of {host}"))?;
        let console = fs::read(suite.pool().join(format!("lab--{host}.console")))?;
        ensure_none(&secrets, &String::from_utf8_lossy(&console), &format!("the console of {host}"))?;
    }
    let logs =
        lab.exec_everywhere("cat /var/log/postgresql/*.log 2>/dev/null; journalctl -q --no-pager -o cat")?;
    for (host, text) in &logs {
        ensure_none(&secrets, text, &format!("the logs of {host}"))?;
    }
    ensure!(logs["m"].contains("ready to accept connections"), "expected the server's log among those of m");
    ensure_none(&secrets, &(lab.made.stdout.clone() + &lab.made.stderr), "the output of `up`")
}

/// The state directory and everything in it belongs to its user alone; files on hosts are as private.
pub fn secret_files_are_private(suite: &Suite) -> Result<()> {
    let lab = suite.lab(&MAIN)?;
    private(&suite.state())?;
    let listed = lab.exec_everywhere(
        "for file in /etc/postgresql/*/*/server.key /etc/postgresql/*/*/replication.pgpass /root/.pgpass /etc/pgagent/host.key /etc/pgagent/probe.pass; \
         do test ! -e $file || stat -c '%a %n' $file; done; ls -d /run/pgprov/stage 2>/dev/null; true",
    )?;
    for (host, text) in &listed {
        let private = text.lines().all(|line| line.starts_with("600 "));
        ensure!(private, "expected mode 600 of secret files and no staged files on {host}, got\n{text}");
    }
    ensure!(
        listed["m"].lines().count() == 4 && listed["client"].lines().count() == 1,
        "expected secret files: {listed:#?}"
    );
    Ok(())
}

fn private(path: &Path) -> Result<()> {
    let metadata =
        fs::symlink_metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    let (mode, wanted) =
        (metadata.permissions().mode() & 0o777, if metadata.is_dir() { 0o700 } else { 0o600 });
    ensure!(mode == wanted, "expected mode {wanted:o} of {}, it has {mode:o}", path.display());
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            private(&entry?.path())?;
        }
    }
    Ok(())
}
