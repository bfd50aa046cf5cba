//! A PostgreSQL server of our own, on loopback, in a folder that goes with it.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use pgload::{
    session::{Connector, Session},
    target::{Process, Target},
};
use tempfile::TempDir;

/// A running server; stopped when it goes out of scope.
pub struct Server {
    dir: TempDir,
    pub port: u16,
    _template: Arc<TempDir>,
}

// Weak, because nothing drops what is in a static: the last test that uses them takes them away.
static TEMPLATE: Mutex<Weak<TempDir>> = Mutex::new(Weak::new());
static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
static DATABASES: AtomicU32 = AtomicU32::new(0);

/// What `place` holds, or a new one.
fn share<T>(place: &Mutex<Weak<T>>, make: impl FnOnce() -> T) -> Arc<T> {
    let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
    place.upgrade().unwrap_or_else(|| {
        let made = Arc::new(make());
        *place = Arc::downgrade(&made);
        made
    })
}

/// One data directory for all servers: initdb takes seconds, a copy does not.
fn template() -> TempDir {
    let dir = folder();
    let data = dir.path().join("data").display().to_string();
    let output = as_postgres("initdb", ["-D", &data, "-U", "postgres", "-A", "trust", "-N"]);
    assert!(output.status.success(), "initdb: {}", text(&output));
    dir
}

/// The server of all tests that leave it running as it is.
pub fn shared() -> Arc<Server> {
    share(&SHARED, || Server::start(&[]))
}

impl Server {
    /// A new server with these settings besides ours.
    pub fn start(settings: &[&str]) -> Self {
        Self::start_with(settings, &[])
    }

    /// The same with files of its own in the data directory.
    pub fn start_with(settings: &[&str], files: &[(&str, &str)]) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let template = share(&TEMPLATE, template);
        let from = template.path().join("data").display().to_string();
        let server = Self { dir: folder(), port, _template: template };
        let copied = as_postgres("cp", ["-a", &from, &server.path("data")]);
        assert!(copied.status.success(), "{}", text(&copied));
        let mut conf = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\nfsync = off\n\
             max_connections = 60\nautovacuum_naptime = 2s\nshared_buffers = 64MB\n",
            server.dir.path().display()
        );
        for setting in settings {
            conf.push_str(setting);
            conf.push('\n');
        }
        fs::write(server.path("data/postgresql.auto.conf"), conf).unwrap();
        for (name, content) in files {
            let path = server.path(&format!("data/{name}"));
            fs::write(&path, content).unwrap();
            // A key that others could read is refused.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            if is_root() {
                assert!(Command::new("chown").args(["postgres", &path]).status().unwrap().success());
            }
        }
        server.up();
        server
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Starts the server, which was stopped.
    pub fn up(&self) {
        let data = self.path("data");
        let output = as_postgres("pg_ctl", ["start", "-w", "-t", "60", "-D", &data, "-l", &self.path("log")]);
        let log = fs::read_to_string(self.path("log")).unwrap_or_default();
        assert!(output.status.success(), "pg_ctl: {}\n{log}", text(&output));
    }

    /// Stops the server: `fast`, or `immediate` as a crash would.
    pub fn down(&self, mode: &str) {
        as_postgres("pg_ctl", ["stop", "-w", "-m", mode, "-t", "30", "-D", &self.path("data")]);
    }

    /// A new empty database; its connection string.
    pub fn database(&self) -> String {
        let name = format!("test{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
        self.dsn(&name)
    }

    /// The same on a server that waits for a standby it does not have.
    pub fn database_async(&self) -> String {
        let name = format!("test{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let (host, port) = ("127.0.0.1", self.port);
        let local = format!(
            "host={host} port={port} user=postgres dbname=postgres options='-c synchronous_commit=local'"
        );
        psql(&local, &format!("CREATE DATABASE {name}"));
        self.dsn(&name)
    }

    pub fn dsn(&self, database: &str) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname={database}", self.port)
    }

    /// Runs SQL in a database, returns what psql prints.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        psql(&self.dsn(database), sql)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // No check: the test may be failing because the server never started.
        self.down("immediate");
    }
}

pub fn psql(dsn: &str, sql: &str) -> String {
    let output = Command::new(binaries().join("psql"))
        .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-d", dsn, "-c", sql])
        .output()
        .unwrap();
    assert!(output.status.success(), "{sql}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// Parses a connection string without anything from outside.
pub fn target(dsn: &str) -> Target {
    Target::parse(Some(dsn), &Process).unwrap()
}

pub async fn connect(dsn: &str) -> Session {
    Connector::new(target(dsn), String::new()).unwrap().connect().await.unwrap()
}

/// Waits until something is so.
pub fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(30), "waited 30 s for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A folder that PostgreSQL's user can enter.
fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    if is_root() {
        assert!(Command::new("chown").arg("postgres").arg(dir.path()).status().unwrap().success());
    }
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Runs a program as a user that PostgreSQL accepts.
fn as_postgres<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Output {
    let mut command = if is_root() { Command::new("runuser") } else { Command::new("env") };
    if is_root() {
        command.args(["-u", "postgres", "--"]);
    }
    let path = format!("{}:{}", binaries().display(), std::env::var("PATH").unwrap());
    command.current_dir("/").env("PATH", path).arg(program).args(arguments).output().unwrap()
}

fn is_root() -> bool {
    text(&Command::new("id").arg("-u").output().unwrap()).trim() == "0"
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The programs of the newest PostgreSQL on this machine, where Debian puts them.
pub fn binaries() -> PathBuf {
    let majors = fs::read_dir(Path::new("/usr/lib/postgresql")).into_iter().flatten().flatten();
    let servers = majors.map(|major| major.path().join("bin")).filter(|bin| bin.join("initdb").exists());
    servers.max().expect("no PostgreSQL server is installed: install the package postgresql")
}
