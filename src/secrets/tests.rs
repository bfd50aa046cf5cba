use std::ffi::OsStr;
use std::process::{Command, Output};

use pgplan::lab::REPLICATION_USER;
use tempfile::TempDir;

use super::*;

const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// Secrets of a lab with host m and user app, and a directory with their files.
fn lab() -> (TempDir, Secrets) {
    let dir = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let (mut secrets, new) = Secrets::load_or_new(&dir.path().join("secrets.json"), "lab", now).unwrap();
    assert!(new);
    assert!(secrets.ensure_user("app").unwrap());
    assert!(secrets.ensure_host("m", &[IP], now).unwrap());
    fs::write(dir.path().join("ca.pem"), secrets.authority()).unwrap();
    fs::write(dir.path().join("m.pem"), &secrets.hosts()["m"].certificate).unwrap();
    fs::write(dir.path().join("m.key"), secrets.hosts()["m"].key.expose()).unwrap();
    (dir, secrets)
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn secrets_are_made_once_and_come_back_from_their_file() {
    let (dir, mut secrets) = lab();
    let file = dir.path().join("secrets.json");
    let now = SystemTime::now();
    assert!(!secrets.ensure_user("app").unwrap());
    assert!(!secrets.ensure_host("m", &[IP, IP], now).unwrap());
    secrets.save(&file).unwrap();
    let saved = fs::read_to_string(&file).unwrap();

    let (mut again, new) = Secrets::load_or_new(&file, "lab", now).unwrap();

    assert!(!new && !again.ensure_user("app").unwrap() && !again.ensure_host("m", &[IP], now).unwrap());
    again.save(&file).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), saved);
    let password = again.users()["app"].password.expose();
    assert!(
        password.len() == 32
            && password.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    );
    assert!(again.ensure_user("other").unwrap());
    assert_ne!(again.users()["app"].password, again.users()["other"].password);
}

#[test]
fn no_secret_is_shown() {
    let (dir, secrets) = lab();
    let user = &secrets.users()["app"];
    let shown = format!("{secrets:?} {user:?} {} {:#?}", user.password, secrets.hosts());
    assert!(!shown.contains(user.password.expose()) && !shown.contains(user.verifier.expose()));
    assert!(!shown.contains("PRIVATE KEY"));

    // Nor by the error about a damaged file.
    let file = dir.path().join("secrets.json");
    secrets.save(&file).unwrap();
    let saved = fs::read_to_string(&file).unwrap();
    fs::write(&file, saved.replace("\"not_after\": ", "\"not_after\": \"hunter2\", \"x\": ")).unwrap();
    let error = Secrets::load_or_new(&file, "lab", SystemTime::now()).unwrap_err();
    assert!(matches!(error, Error::Damaged { line: 2.., .. }), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[test]
fn a_file_of_another_version_or_cut_short_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("secrets.json");
    let load = |text: &str| {
        fs::write(&file, text).unwrap();
        Secrets::load_or_new(&file, "lab", SystemTime::now()).unwrap_err()
    };
    assert!(matches!(load(r#"{"format": 2, "new": []}"#), Error::Format { found: 2, .. }));
    assert!(matches!(load(r#"{"format": 1}"#), Error::Damaged { .. }));
    assert!(matches!(load(r#"{"form"#), Error::Damaged { .. }));
    assert!(matches!(load(""), Error::Damaged { .. }));
}

#[test]
fn a_certificate_is_made_anew_only_for_new_addresses_or_near_its_end() {
    let (_dir, mut secrets) = lab();
    let now = SystemTime::now();
    let after = |days: u64| now + Duration::from_secs(days * authority::DAY);
    let second: IpAddr = "10.77.10.11".parse().unwrap();
    let (authority, first) = (secrets.authority().to_owned(), secrets.hosts()["m"].certificate.clone());

    assert!(secrets.ensure_host("m", &[second, IP], now).unwrap());
    assert!(!secrets.ensure_host("m", &[IP, second], after(360)).unwrap());
    assert!(secrets.ensure_host("m", &[IP, second], after(369)).unwrap());
    assert_ne!(secrets.hosts()["m"].certificate, first);
    assert_eq!(secrets.authority(), authority);

    // Near the end of the authority all certificates are replaced, and the new ones last.
    assert!(secrets.ensure_host("s", &[], after(3600)).unwrap());
    assert!(secrets.ensure_host("s", &[], after(3630)).unwrap());
    assert_ne!(secrets.authority(), authority);
    assert!(!secrets.hosts().contains_key("m"), "a certificate of the old authority is of no use");
    assert!(!secrets.ensure_host("s", &[], after(3640)).unwrap());
}

#[test]
fn a_name_that_no_certificate_can_have_is_refused() {
    let (_dir, mut secrets) = lab();
    let error = secrets.ensure_host("ü", &[], SystemTime::now()).unwrap_err();
    assert!(error.to_string().contains('ü'));
}

#[test]
fn openssl_accepts_the_certificates_for_their_host_and_both_purposes_only() {
    let (dir, _) = lab();
    let verify = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        command.current_dir(dir.path()).args(["verify", "-x509_strict", "-CAfile", "ca.pem"]).args(arguments);
        let output = command.arg("m.pem").output().unwrap();
        (output.status.success(), text(&output))
    };
    for good in [
        ["-verify_hostname", "m"],
        ["-verify_ip", "127.0.0.1"],
        ["-purpose", "sslserver"],
        ["-purpose", "sslclient"],
    ] {
        let (accepted, said) = verify(&good);
        assert!(accepted, "{good:?}: {said}");
    }
    for bad in [["-verify_hostname", "s"], ["-verify_ip", "127.0.0.2"], ["-purpose", "smimesign"]] {
        assert!(!verify(&bad).0, "{bad:?} was accepted");
    }
    let text = text(
        &Command::new("openssl")
            .args(["x509", "-noout", "-subject", "-in"])
            .arg(dir.path().join("ca.pem"))
            .output()
            .unwrap(),
    );
    assert!(text.contains("pgprov lab lab CA"), "{text}");
}

/// A PostgreSQL server of our own in `dir`, reachable on loopback with TLS and by its socket.
struct Server {
    dir: TempDir,
    port: u16,
}

impl Server {
    fn start(dir: TempDir) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self { dir, port };
        let path = |name: &str| server.dir.path().join(name).display().to_string();
        // The server refuses to run as root.
        if is_root() {
            let owned =
                Command::new("chown").args(["-R", "postgres"]).arg(server.dir.path()).status().unwrap();
            assert!(owned.success());
        }
        server.run("initdb", ["-D", &path("data"), "-U", "postgres", "-A", "trust", "-N"]);
        fs::write(path("data/pg_hba.conf"), "local all all trust\nhostssl all all all scram-sha-256\n")
            .unwrap();
        server.run("chmod", ["600", &path("m.key")]);
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={0} -c fsync=off -c ssl=on \
             -c ssl_cert_file={0}/m.pem -c ssl_key_file={0}/m.key",
            server.dir.path().display()
        );
        server.run(
            "pg_ctl",
            ["start", "-w", "-t", "60", "-D", &path("data"), "-l", &path("log"), "-o", &options],
        );
        server
    }

    /// Runs a program of PostgreSQL as a user it accepts.
    fn output<S: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = S>) -> Output {
        let mut command = if is_root() { Command::new("runuser") } else { Command::new("env") };
        if is_root() {
            command.args(["-u", "postgres", "--"]);
        }
        let path = format!("{}:{}", binaries().display(), std::env::var("PATH").unwrap());
        command.current_dir("/").env("PATH", path).arg(program).args(arguments).output().unwrap()
    }

    fn run<S: AsRef<OsStr>>(&self, program: &str, arguments: impl IntoIterator<Item = S>) -> String {
        let output = self.output(program, arguments);
        let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        assert!(output.status.success(), "{program}: {}\n{log}", text(&output));
        text(&output)
    }

    fn admin(&self, sql: &str) -> String {
        let (host, port) = (self.dir.path().display().to_string(), self.port.to_string());
        self.run("psql", ["-XAtq", "-h", &host, "-p", &port, "-U", "postgres", "-c", sql])
    }

    /// Logs in as user app over TLS with all checks, as the host called `name`.
    fn log_in(&self, name: &str, user: &str, password: &str) -> (bool, String) {
        let target = format!(
            "host={name} hostaddr=127.0.0.1 port={} user={user} dbname=postgres sslmode=verify-full sslrootcert={}",
            self.port,
            self.dir.path().join("ca.pem").display()
        );
        let query = "SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        let mut psql = Command::new(binaries().join("psql"));
        psql.env("PGPASSWORD", password)
            .env("PGCONNECT_TIMEOUT", "10")
            .args(["-XAtqw", "-c", query, &target]);
        let output = psql.output().unwrap();
        (output.status.success(), text(&output))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.dir.path().join("data").display().to_string();
        // No check: the test may be failing because the server never started.
        self.output("pg_ctl", ["stop", "-m", "immediate", "-t", "30", "-D", &data]);
    }
}

fn is_root() -> bool {
    text(&Command::new("id").arg("-u").output().unwrap()).trim() == "0"
}

/// The programs of the newest PostgreSQL on this machine, where Debian puts them.
fn binaries() -> PathBuf {
    let majors = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let servers = majors.map(|major| major.path().join("bin")).filter(|bin| bin.join("initdb").exists());
    servers.max().expect("no PostgreSQL server is installed: install the package postgresql")
}

#[test]
fn postgresql_lets_the_password_in_by_its_verifier_and_the_server_proves_its_name() {
    let (dir, mut secrets) = lab();
    assert!(secrets.ensure_user(REPLICATION_USER).unwrap());
    let server = Server::start(dir);
    // Programs log in often, with passwords that nobody guesses: theirs are not hashed thousands of times.
    for (name, iterations) in [("app", "$4096:"), (REPLICATION_USER, "$16:")] {
        let user = &secrets.users()[name];
        let verifier = user.verifier.expose();
        assert!(verifier.contains(iterations), "{verifier}");
        server.admin(&format!("CREATE ROLE {name} LOGIN PASSWORD '{verifier}'"));
        // Stored as it is, so a second run sees that nothing changed.
        let stored = server.admin(&format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{name}'"));
        assert_eq!(stored.trim(), verifier);

        assert_eq!(server.log_in("m", name, user.password.expose()), (true, format!("{name}|t\n")));
        let (accepted, said) = server.log_in("m", name, "wrong");
        assert!(!accepted && said.contains("password authentication failed"), "{said}");
        let (accepted, said) = server.log_in("s", name, user.password.expose());
        assert!(!accepted && said.contains("does not match host name"), "{said}");
    }
}
