//! PostgreSQL on this host: what it is doing, and doing something with it.

mod files;
mod look;
mod rejoin;

use std::{path::PathBuf, sync::Arc, time::Duration};

use pgagent_core::{
    Site,
    node::{Op, Server},
};
use tokio::{process::Command, sync::Mutex, time::timeout};
use tokio_postgres::{Client, NoTls};

use crate::config::{Config, Host, Postgres};

/// How long one statement may take.
const STATEMENT: Duration = Duration::from_secs(5);
/// Writes WAL that says nothing.
const STIR: &str =
    "prepare stir as select from pg_logical_emit_message(true, 'pgagent', 'the clock was set');";
/// What the session is called that settings are changed in: there is one at a time.
const AGENT: &str = "pgagent";
/// How long a server may take to start before it counts as failed.
const START: Duration = Duration::from_secs(60);
/// How long sessions get to end before the server is stopped the hard way. A walsender waits for a standby that is gone
/// as long as `wal_sender_timeout`.
const FAST_STOP: Duration = Duration::from_secs(4);

/// The columns of a row, as text.
type Row = Vec<Option<String>>;

/// The server of a data host.
pub struct Postgresql {
    pub(crate) settings: Postgres,
    config: Arc<Config>,
    me: Site,
    client: Mutex<Option<Client>>,
    user: Option<files::User>,
}

impl Postgresql {
    /// The server that the settings name.
    pub fn new(config: Arc<Config>, me: Site) -> Result<Postgresql, String> {
        let settings = config.postgres.clone().ok_or("there is no section `postgres`")?;
        let user = settings.user.as_deref().map(files::User::named).transpose()?;
        Ok(Postgresql { settings, config, me, client: Mutex::new(None), user })
    }

    /// What is free where the data lies, in bytes.
    pub fn free(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.settings.data).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    fn own(&self) -> &Host {
        &self.config.hosts[self.me.index()]
    }

    fn peer(&self) -> &Host {
        &self.config.hosts[self.me.other().index()]
    }

    /// The slot that the primary keeps for `host`.
    fn slot(&self, host: &Host) -> String {
        let plain = || {
            format!("pgagent_{}", host.name.replace(|c: char| !c.is_ascii_alphanumeric(), "_").to_lowercase())
        };
        self.settings.slots.get(&host.name).cloned().unwrap_or_else(plain)
    }

    /// Looks.
    pub async fn look(&self) -> Result<Server, String> {
        look::look(self).await
    }

    /// Does something, however long it takes within its limits.
    pub async fn operate(&self, op: Op) -> Result<(), String> {
        match op {
            Op::Start => self.start().await,
            Op::Stop => self.stop().await,
            Op::SetSync(on) => self.set_sync(on).await,
            Op::StopReceiver => self.stop_receiver().await,
            Op::Follow => self.follow().await,
            Op::Promote => self.promote().await,
            Op::Rejoin => rejoin::rejoin(self).await,
            Op::Copy => rejoin::anew(self).await,
        }
    }

    /// Runs statements that give back nothing.
    async fn run(&self, statements: &str) -> Result<(), String> {
        self.ask(statements).await.map(|_| ())
    }

    /// Runs a query; the columns of its first row as text.
    async fn ask(&self, query: &str) -> Result<Row, String> {
        Ok(self.rows(query).await?.into_iter().next().unwrap_or_default())
    }

    /// Runs queries; the columns of all their rows as text.
    async fn rows(&self, queries: &str) -> Result<Vec<Row>, String> {
        let mut slot = self.client.lock().await;
        if slot.as_ref().is_none_or(Client::is_closed) {
            let client = self.connect(AGENT).await?;
            end_former_sessions(&client).await?;
            prepare(&client, &format!("{}{STIR}", look::prepare(&self.peer().name))).await?;
            *slot = Some(client);
        }
        let Some(client) = slot.as_ref() else { return Err("not connected".to_owned()) };
        let answer = timeout(STATEMENT, client.simple_query(queries)).await;
        let messages = match answer {
            Ok(Ok(rows)) => rows,
            Ok(Err(error)) => {
                if client.is_closed() {
                    *slot = None;
                }
                return Err(describe(&error));
            }
            Err(_) => {
                *slot = None;
                return Err(format!("PostgreSQL did not answer within {} s", STATEMENT.as_secs()));
            }
        };
        let row = |message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => {
                Some((0..row.len()).map(|at| row.get(at).map(str::to_owned)).collect())
            }
            _ => None,
        };
        Ok(messages.into_iter().filter_map(row).collect())
    }

    /// Whether the server takes a new connection: sessions that are there live on without a postmaster.
    pub async fn greets(&self) -> bool {
        match self.connect("pgagent greeting").await {
            Ok(_) => true,
            // It said so itself.
            Err(error) => error.contains("53300") || error.contains("57P03"),
        }
    }

    /// Ends a server that does not even hear that it should stop.
    pub async fn kill(&self) -> Result<(), String> {
        self.client.lock().await.take();
        let unit = self.settings.unit.as_deref().ok_or("only a server that systemd runs can be killed")?;
        let mut command = Command::new("systemctl");
        execute(command.args(["kill", "--signal=KILL", unit]), STATEMENT).await.map(|_| ())
    }

    async fn connect(&self, name: &str) -> Result<Client, String> {
        let mut parameters = tokio_postgres::Config::new();
        parameters
            .host_path(&self.settings.socket)
            .port(self.own().postgres)
            .user(&self.settings.superuser)
            .dbname("postgres")
            .application_name(name)
            .connect_timeout(STATEMENT)
            // Nothing the agent does may wait for a standby, or for a lock for long.
            .options(
                "-c synchronous_commit=local -c lock_timeout=3s -c statement_timeout=0 -c log_statement=none",
            );
        let connected = timeout(STATEMENT, parameters.connect(NoTls)).await;
        let (client, connection) = connected
            .map_err(|_| format!("PostgreSQL took no connection within {} s", STATEMENT.as_secs()))?
            .map_err(|error| describe(&error))?;
        tokio::spawn(async move {
            // Its end shows in the client.
            let _ = connection.await;
        });
        Ok(client)
    }

    /// A program of PostgreSQL's, as the user whose files it works on.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.settings.bin.join(name));
        command.current_dir("/").env("LC_ALL", "C").kill_on_drop(true);
        if let Some(user) = &self.user {
            command.uid(user.uid).gid(user.gid);
        }
        command
    }

    async fn start(&self) -> Result<(), String> {
        self.client.lock().await.take();
        if let Some(unit) = &self.settings.unit {
            let start = || async {
                execute(Command::new("systemctl").args(["start", unit]), START).await.map(|_| ())
            };
            match start().await {
                Err(error) if error.contains("too often") || error.contains("reset-failed") => {}
                started => return started,
            }
            // What failed often lately is tried again all the same.
            let _ = execute(Command::new("systemctl").args(["reset-failed", unit]), STATEMENT).await;
            return start().await;
        }
        let mut command = self.program("pg_ctl");
        command
            .args(["start", "-w", "-s", "-t", &START.as_secs().to_string(), "-D"])
            .arg(&self.settings.data);
        command.arg("-l").arg(self.settings.data.join("pgagent-start.log"));
        if let Some(file) = &self.settings.config_file {
            command.args(["-o", &format!("-c config_file={}", file.display())]);
        }
        execute(&mut command, START + STATEMENT).await.map(|_| ())
    }

    async fn stop(&self) -> Result<(), String> {
        self.client.lock().await.take();
        // After a power cut its pid file is there, and names whatever has that number now.
        if !look::runs(self) {
            return self.ended().await;
        }
        let mut fast = self.program("pg_ctl");
        fast.args(["stop", "-s", "-w", "-m", "fast", "-t", &FAST_STOP.as_secs().to_string(), "-D"])
            .arg(&self.settings.data);
        if execute(&mut fast, FAST_STOP * 2).await.is_ok() {
            return Ok(());
        }
        let mut immediate = self.program("pg_ctl");
        immediate.args(["stop", "-s", "-w", "-m", "immediate", "-t", "20", "-D"]).arg(&self.settings.data);
        execute(&mut immediate, Duration::from_secs(30)).await.map(|_| ())
    }

    /// Waits until nothing is left of a server whose postmaster is gone.
    async fn ended(&self) -> Result<(), String> {
        let gone = async {
            while look::has_processes(self) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let left = || "the postmaster is gone, and other processes of the server are not".to_owned();
        timeout(FAST_STOP, gone).await.map_err(|_| left())
    }

    fn pid_file(&self) -> PathBuf {
        self.settings.data.join("postmaster.pid")
    }

    async fn set_sync(&self, on: bool) -> Result<(), String> {
        let value = if on { format!("\"{}\"", self.peer().name) } else { String::new() };
        self.run(&format!("alter system set synchronous_standby_names = '{value}'")).await?;
        self.reload("current_setting('synchronous_standby_names')", &value).await
    }

    /// Reloads and waits until `expression` is `value`.
    async fn reload(&self, expression: &str, value: &str) -> Result<(), String> {
        self.run("select pg_reload_conf()").await?;
        let mut last = None;
        for _ in 0..100 {
            last = self.ask(&format!("select {expression}")).await?.into_iter().next().flatten();
            if last.as_deref() == Some(value) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Err(format!("{expression} is still {last:?} 2 s after a reload, not `{value}`"))
    }

    async fn stop_receiver(&self) -> Result<(), String> {
        self.run("alter system set primary_conninfo = ''").await?;
        self.reload(
            "(select count(*) from pg_stat_wal_receiver) + length(current_setting('primary_conninfo'))",
            "0",
        )
        .await
    }

    /// The connection string to the other host.
    fn conninfo(&self) -> String {
        let peer = self.peer();
        format!(
            "{} host={} hostaddr={} port={} application_name={} connect_timeout={} keepalives_idle=2 keepalives_interval=1 \
             keepalives_count=3 tcp_user_timeout=5000",
            self.settings.replication,
            peer.name,
            peer.address,
            peer.postgres,
            self.own().name,
            self.config.times().fence().as_secs().max(2)
        )
    }

    async fn follow(&self) -> Result<(), String> {
        if !look::runs(self) {
            return files::follow(self);
        }
        // That of the other host is of the time when this one was primary, and would hold back the log for ever.
        let theirs = self.slot(self.peer());
        let drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active";
        self.run(&format!("{drop} and slot_name = '{theirs}'")).await?;
        let slot = self.slot(self.own());
        let conninfo = self.conninfo().replace('\'', "''");
        self.run(&format!("alter system set primary_slot_name = '{slot}'")).await?;
        self.run(&format!("alter system set primary_conninfo = '{conninfo}'")).await?;
        self.run("alter system set recovery_target_timeline = 'latest'").await?;
        self.reload("(current_setting('primary_conninfo') <> '')::int", "1").await
    }

    async fn promote(&self) -> Result<(), String> {
        let slot = self.slot(self.peer());
        // An old one would hold back the log from long ago.
        let drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active";
        self.run(&format!("{drop} and slot_name = '{slot}'")).await?;
        let make = format!(
            "select pg_create_physical_replication_slot('{slot}', true)
             where not exists (select from pg_replication_slots where slot_name = '{slot}')"
        );
        self.run(&make).await?;
        self.run("select pg_promote(false)").await?;
        let mut waited = Duration::ZERO;
        while self.ask("select pg_is_in_recovery()").await?.first().cloned().flatten().as_deref() != Some("f")
        {
            if waited > START {
                return Err(format!(
                    "PostgreSQL is still a standby {} s after it was promoted",
                    START.as_secs()
                ));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            waited += Duration::from_millis(20);
        }
        Ok(())
    }

    /// Writes some WAL that nobody reads, for standbys to receive.
    pub async fn stir(&self) {
        let _ = self.run("execute stir").await;
    }

    /// Plans what it takes to stir, without doing it: the session remembers that, and the processor of a host that goes on with its
    /// memory is cold.
    pub async fn get_ready_to_stir(&self) {
        let _ = self.run("explain execute stir").await;
    }

    /// So that pg_rewind finds the new timeline in the control file. Takes as long as the disk needs, and nobody waits.
    pub async fn checkpoint(&self) {
        if let Ok(client) = self.connect("pgagent checkpoint").await {
            let _ = client.simple_query("checkpoint").await;
        }
    }
}

/// What a session of a former agent was told would otherwise be done at any time: `synchronous_standby_names` cleared after
/// the standby became one that may be promoted.
async fn end_former_sessions(client: &Client) -> Result<(), String> {
    let end = format!(
        "select pg_terminate_backend(pid) from pg_stat_get_activity(null)
         where application_name = '{AGENT}' and usesysid = current_user::regrole and pid <> pg_backend_pid()"
    );
    let gone = async {
        loop {
            let rows = client.simple_query(&end).await.map_err(|error| describe(&error))?;
            if !rows.iter().any(|message| matches!(message, tokio_postgres::SimpleQueryMessage::Row(_))) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let late = || format!("a session of a former agent did not end within {} s", STATEMENT.as_secs());
    timeout(STATEMENT, gone).await.map_err(|_| late())?
}

/// Has statements planned, for as long as the session lasts.
async fn prepare(client: &Client, statements: &str) -> Result<(), String> {
    let late = || format!("PostgreSQL planned nothing within {} s", STATEMENT.as_secs());
    let done = timeout(STATEMENT, client.simple_query(statements)).await.map_err(|_| late())?;
    done.map(drop).map_err(|error| describe(&error))
}

/// Runs a program to its end; what it said when it fails.
async fn execute(command: &mut Command, limit: Duration) -> Result<String, String> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let output = timeout(limit, command.stdin(std::process::Stdio::null()).output())
        .await
        .map_err(|_| format!("{name} took longer than {} s", limit.as_secs()))?
        .map_err(|error| format!("cannot run {name}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said =
        String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let last: Vec<&str> = said.lines().rev().take(4).collect();
    Err(format!(
        "{name} failed ({}): {}",
        output.status,
        last.into_iter().rev().collect::<Vec<_>>().join(" / ")
    ))
}

/// What the server says, with its code.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => {
            let source = std::error::Error::source(error).map(|source| format!(": {source}"));
            format!("{error}{}", source.unwrap_or_default())
        }
    }
}
