//! Waiting for a host that boots until its sshd greets.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::Error;

/// Between two probes: short against the time a host takes to boot, long against the work of a probe.
const INTERVAL: Duration = Duration::from_millis(150);
/// A host on a network of this machine answers in milliseconds or is not there yet.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);
/// Once a connection stands, sshd may still be starting on an emulated processor; a new connection would be no faster.
const BANNER_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at a banner of which only a part has come.
const PART_INTERVAL: Duration = Duration::from_millis(10);

/// Probes `addr` until an SSH server greets there, and returns the connection with the greeting still unread, so that
/// the handshake can use it: a second connection would cost a host another start of sshd.
///
/// # Errors
/// [`Error::NoBanner`] with the last probe's outcome when `deadline` passes.
pub fn wait_for_banner(host: &str, addr: SocketAddr, deadline: Instant) -> Result<TcpStream, Error> {
    let start = Instant::now();
    loop {
        let last = match probe(addr, deadline) {
            Ok(stream) => return Ok(stream),
            Err(last) => last,
        };
        if Instant::now() + INTERVAL >= deadline {
            return Err(Error::NoBanner { host: host.to_owned(), addr, waited: start.elapsed(), last });
        }
        thread::sleep(INTERVAL);
    }
}

/// One attempt: connect and look whether the peer greets as an SSH server.
fn probe(addr: SocketAddr, deadline: Instant) -> Result<TcpStream, String> {
    let limit = left(deadline).min(CONNECT_LIMIT);
    let stream = TcpStream::connect_timeout(&addr, limit).map_err(|error| match error.kind() {
        io::ErrorKind::TimedOut => format!("no answer to a connection attempt for {} ms", limit.as_millis()),
        _ => error.to_string(),
    })?;
    let until = deadline.min(Instant::now() + BANNER_LIMIT);
    let mut start = [0; 32];
    loop {
        stream.set_read_timeout(Some(left(until))).map_err(|error| error.to_string())?;
        let seen = match stream.peek(&mut start) {
            Ok(0) => return Err("connection closed before a greeting".to_owned()),
            Ok(length) => &start[..length],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err("connected, but no greeting came".to_owned());
            }
            Err(error) => return Err(error.to_string()),
        };
        if seen.starts_with(b"SSH-") {
            stream.set_read_timeout(None).map_err(|error| error.to_string())?;
            return Ok(stream);
        }
        if !b"SSH-".starts_with(seen) {
            return Err(format!("the greeting is not that of an SSH server: `{}`", seen.escape_ascii()));
        }
        if Instant::now() >= until {
            return Err("connected, but only a part of a greeting came".to_owned());
        }
        thread::sleep(PART_INTERVAL);
    }
}

/// The time until `deadline`, never zero: a zero timeout means "for ever" to the calls that take one.
pub(super) fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(2500)
    }

    #[test]
    fn the_greeting_is_left_for_the_handshake() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut peer, _) = listener.accept().unwrap();
                peer.write_all(b"SS").unwrap();
                thread::sleep(Duration::from_millis(50));
                peer.write_all(b"H-2.0-test\r\n").unwrap();
            });
            let mut text = String::new();
            wait_for_banner("m", addr, soon()).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "SSH-2.0-test\r\n");
        });
    }

    #[test]
    fn each_way_to_be_absent_is_waited_for_and_named() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let web = TcpListener::bind("127.0.0.1:0").unwrap();
        let web_addr = web.local_addr().unwrap();
        thread::spawn(move || {
            for peer in web.incoming() {
                peer.unwrap().write_all(b"HTTP/1.1 200\x1b[31m").unwrap();
            }
        });
        for (addr, cause) in [
            (free, "refused"),
            (silent.local_addr().unwrap(), "no greeting came"),
            (web_addr, r"HTTP/1.1 200\x1b[31m"),
        ] {
            let start = Instant::now();
            let error = wait_for_banner("m", addr, soon()).unwrap_err();
            assert!(error.is_timeout());
            assert!(start.elapsed() >= Duration::from_millis(2000), "gave up early on {addr}");
            let text = error.to_string();
            for part in ["sshd of host m", &addr.to_string(), cause] {
                assert!(text.contains(part), "{part:?} is missing in: {text}");
            }
        }
    }
}
