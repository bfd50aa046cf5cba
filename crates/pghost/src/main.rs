//! The hypervisor's hand in a lab host: makes a copy of the image a host of its own, and runs there what the hypervisor sends.
//!
//! It is there before any network is, and it is always there: a login over SSH costs an emulated host a second, of which most is
//! spent on translating programs that it has not run yet, and this one waits in memory.

mod identity;
mod port;
mod run;

use std::{
    env,
    io::{self, BufReader},
    os::unix::net::UnixDatagram,
    process::ExitCode,
};

use pghost::wire::Request;

use self::port::Port;

fn main() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stderr, reason = "a service speaks to the journal")]
fn report(error: &io::Error) {
    eprintln!("pghost: {error}");
}

fn work() -> io::Result<()> {
    let mut port = Port::find()?;
    identity::find_out(port.as_mut())?;
    ready()?;
    // Without a port there is nobody to wait for.
    let Some(mut port) = port else { return Ok(()) };
    loop {
        port.greet("ready")?;
        let mut requests = BufReader::new(port.reader()?);
        while let Some(request) = Request::read(&mut requests)? {
            run::serve(&mut port, &request)?;
        }
    }
}

/// Tells systemd that this host knows who it is: services that need it start now.
fn ready() -> io::Result<()> {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    UnixDatagram::unbound()?.send_to(b"READY=1", socket).map(drop)
}
