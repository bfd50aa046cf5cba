//! The adapter against a real sshd on loopback.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{Error, Exit, Output, Session, Target, wait_for_banner};

const SSHD: &str = "/usr/sbin/sshd";
const LIMIT: Duration = Duration::from_secs(20);
const MIB: usize = 1 << 20;

/// An sshd of our own in a temporary directory, with one accepted login key.
struct Sshd {
    dir: TempDir,
    addr: SocketAddr,
    child: Child,
}

impl Sshd {
    fn start() -> Self {
        assert!(
            Path::new(SSHD).exists(),
            "{SSHD} is missing: install the package openssh-server (it need not run)"
        );
        let dir = tempfile::tempdir().unwrap();
        keygen(&dir.path().join("host_key"));
        keygen(&dir.path().join("id_ed25519"));
        fs::copy(dir.path().join("id_ed25519.pub"), dir.path().join("authorized_keys")).unwrap();
        // sshd refuses to start as root without this directory, which Debian's unit makes.
        if user() == "root" && !Path::new("/run/sshd").exists() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create("/run/sshd").unwrap();
        }
        let (addr, child) = listen(dir.path());
        Self { dir, addr, child }
    }

    /// The same address with another host key, as a swapped host would look.
    fn swap_host_key(&mut self) {
        self.stop();
        for name in ["host_key", "host_key.pub"] {
            fs::remove_file(self.dir.path().join(name)).unwrap();
        }
        keygen(&self.dir.path().join("host_key"));
        (self.addr, self.child) = listen(self.dir.path());
    }

    fn target(&self) -> Target {
        Target {
            name: "m".to_owned(),
            addr: self.addr,
            user: user(),
            key_file: self.dir.path().join("id_ed25519"),
            known_hosts: self.dir.path().join("known_hosts"),
        }
    }

    fn connect(&self) -> Session {
        Session::connect(&self.target(), Instant::now() + LIMIT).unwrap()
    }

    fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Starts sshd on a free port; another process may take the port in between, so it is tried a few times.
fn listen(dir: &Path) -> (SocketAddr, Child) {
    for _ in 0..5 {
        let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let config = format!(
            "ListenAddress {addr}\nHostKey {0}/host_key\nAuthorizedKeysFile {0}/authorized_keys\nStrictModes no\n\
             UsePAM no\nPermitRootLogin prohibit-password\nPasswordAuthentication no\nPidFile none\n",
            dir.display()
        );
        fs::write(dir.join("sshd_config"), config).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let mut child = Command::new(SSHD)
            .args(["-D", "-e", "-f"])
            .arg(dir.join("sshd_config"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        if wait_for_banner("m", addr, Instant::now() + Duration::from_secs(5)).is_ok()
            && child.try_wait().unwrap().is_none()
        {
            return (addr, child);
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    panic!("sshd does not start: {}", fs::read_to_string(dir.join("log")).unwrap());
}

fn keygen(file: &Path) {
    let status = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(file).status();
    assert!(status.unwrap().success());
}

fn user() -> String {
    String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap().trim().to_owned()
}

fn run(session: &Session, command: &str, stdin: &[u8]) -> Output {
    session.run(command, stdin, &mut |_| {}, LIMIT).unwrap()
}

/// Bytes that show a lost, doubled or moved block.
fn pattern(length: usize) -> Vec<u8> {
    (0..length / 8).flat_map(|at| (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect()
}

#[test]
fn commands_run_one_after_the_other_with_their_status_and_streams() {
    let sshd = Sshd::start();
    let session = sshd.connect();
    let mut lines = Vec::new();
    let output = session
        .run(
            "echo one; echo err >&2; printf 'two\\r\\nthr\\303'; exit 3",
            b"not read",
            &mut |line| lines.push(line.to_owned()),
            LIMIT,
        )
        .unwrap();
    assert_eq!(output.exit, Exit::Status(3));
    assert_eq!(output.stdout, b"one\ntwo\r\nthr\xc3");
    assert_eq!(output.stderr, b"err\n");
    assert_eq!(lines, ["one", "two", "thr\u{fffd}"]);

    assert_eq!(run(&session, "kill -TERM $$", b"").exit, Exit::Signal("TERM".to_owned()));
    let output = run(&session, "cat", b"third");
    assert!(output.success());
    assert_eq!(output.stdout, b"third");
}

#[test]
fn lines_arrive_while_the_command_runs() {
    let sshd = Sshd::start();
    let session = sshd.connect();
    let start = Instant::now();
    let mut first = None;
    let mut on_line = |_: &str| {
        first.get_or_insert_with(|| start.elapsed());
    };
    session.run("echo ready; sleep 1; echo done", b"", &mut on_line, LIMIT).unwrap();
    assert!(
        start.elapsed() - first.unwrap() > Duration::from_millis(500),
        "the first line came with the last"
    );
}

#[test]
fn megabytes_go_in_come_out_and_do_both_at_once() {
    let sshd = Sshd::start();
    let session = sshd.connect();
    let data = pattern(8 * MIB);
    assert_eq!(run(&session, "wc -c", &data).stdout.trim_ascii(), b"8388608");
    assert_eq!(run(&session, "head -c 8388608 /dev/zero", b"").stdout, vec![0; 8 * MIB]);
    assert!(run(&session, "cat", &data).stdout == data, "the echo differs from what was sent");
    // Much diagnostics fills the same window as the output.
    let output = run(&session, "cat >&2; echo end", &data);
    assert_eq!(output.stdout, b"end\n");
    assert!(data.ends_with(&output.stderr) && output.stderr.len() == 64 << 10);
}

#[test]
fn input_that_nobody_reads_does_not_block() {
    let sshd = Sshd::start();
    let session = sshd.connect();
    let data = pattern(8 * MIB);
    assert_eq!(run(&session, "exit 4", &data).exit, Exit::Status(4));
    assert_eq!(run(&session, "head -c 8; exit 5", &data).exit, Exit::Status(5));
    // Output closed early, input read to its end.
    assert_eq!(run(&session, "exec >&- 2>&-; wc -c | grep -qx 8388608", &data).exit, Exit::Status(0));
}

#[test]
fn a_command_without_end_is_given_up_and_so_is_its_session() {
    let sshd = Sshd::start();
    for (command, stdin, shown) in [
        ("sh -c 'echo secret-free; echo; exec sleep 30'", &b""[..], "last output: secret-free"),
        ("sleep 30", &pattern(4 * MIB), "it wrote nothing"),
        // Not so fast that it is ended for the amount of its output first.
        ("sh -c 'while :; do echo y; sleep 0.01; done'", b"", "last output: y"),
    ] {
        let session = sshd.connect();
        let start = Instant::now();
        // Long enough for a busy machine to start the command and show its first line.
        let limit = Duration::from_millis(2500);
        let error = session.run(command, stdin, &mut |_| {}, limit).unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(15));
        assert!(error.is_timeout(), "{error:?}");
        let text = error.to_string();
        let program = format!("`{}` on host m did not end within 2.5 s", command.split(' ').next().unwrap());
        assert!(text.starts_with(&program) && text.ends_with(shown), "{text}");
        let again = session.run("true", b"", &mut |_| {}, LIMIT).unwrap_err();
        assert!(matches!(again, Error::Broken { .. }), "{again:?}");
    }
}

#[test]
fn a_host_with_another_key_is_refused() {
    let mut sshd = Sshd::start();
    drop(sshd.connect());
    let pinned = fs::read_to_string(sshd.target().known_hosts).unwrap();
    let fingerprint = |sshd: &Sshd| {
        let key = sshd.dir.path().join("host_key.pub");
        let output = Command::new("ssh-keygen").arg("-lf").arg(key).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split(' ').nth(1).unwrap().to_owned()
    };
    let old_key = fingerprint(&sshd);
    sshd.swap_host_key();

    let Err(Error::HostKeyChanged { host, old, new, file, line }) =
        Session::connect(&sshd.target(), Instant::now() + LIMIT)
    else {
        panic!("a swapped host was accepted");
    };

    assert_eq!((host.as_str(), line), ("m", 1));
    assert_eq!((old, new), (old_key, fingerprint(&sshd)));
    assert_eq!(fs::read_to_string(&file).unwrap(), pinned);
    assert!(super::forget(&file, "m").unwrap());
    drop(sshd.connect());
}

#[test]
fn openssh_accepts_the_known_hosts_we_write() {
    let sshd = Sshd::start();
    drop(sshd.connect());
    let target = sshd.target();
    let status = Command::new("ssh")
        .args([
            "-F",
            "none",
            "-o",
            "BatchMode=yes",
            "-o",
            "StrictHostKeyChecking=yes",
            "-o",
            "HostKeyAlias=m",
        ])
        .args(["-o", &format!("UserKnownHostsFile={}", target.known_hosts.display())])
        .args(["-i", target.key_file.to_str().unwrap(), "-p", &target.addr.port().to_string()])
        .args(["127.0.0.1", "true"])
        .status()
        .unwrap();
    assert!(status.success());
}

#[test]
fn a_key_the_host_does_not_know_is_refused() {
    let sshd = Sshd::start();
    let stranger = sshd.dir.path().join("stranger");
    keygen(&stranger);
    for key_file in [stranger, sshd.dir.path().join("missing")] {
        let target = Target { key_file, ..sshd.target() };
        let Err(error) = Session::connect(&target, Instant::now() + LIMIT) else { panic!("was let in") };
        assert!(matches!(error, Error::Login { .. }) && !error.is_timeout(), "{error:?}");
        assert!(error.to_string().contains(target.key_file.to_str().unwrap()));
    }
}

#[test]
fn a_host_that_dies_under_a_command_is_reported() {
    let sshd = Sshd::start();
    let session = sshd.connect();
    // $PPID is the sshd process that serves this connection.
    let error = session.run("kill -KILL $PPID; sleep 5", b"", &mut |_| {}, LIMIT).unwrap_err();
    assert!(matches!(&error, Error::Command { program, .. } if program == "kill"), "{error:?}");
    assert!(!error.is_timeout());
}

#[test]
fn a_host_that_stops_answering_in_the_handshake_is_a_timeout() {
    use std::io::Write;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let target = Target {
        name: "m".to_owned(),
        addr,
        user: "root".to_owned(),
        key_file: dir.path().join("id_ed25519"),
        known_hosts: dir.path().join("known_hosts"),
    };
    std::thread::scope(|scope| {
        let peer = scope.spawn(|| {
            let (mut peer, _) = listener.accept().unwrap();
            peer.write_all(b"SSH-2.0-frozen\r\n").unwrap();
            peer
        });
        let Err(error) = Session::connect(&target, Instant::now() + Duration::from_millis(500)) else {
            panic!("connected to nothing")
        };
        assert!(error.is_timeout(), "{error:?}");
        drop(peer.join());
    });
}
