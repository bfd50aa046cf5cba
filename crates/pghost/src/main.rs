//! The hypervisor's hand in a lab host: makes a copy of the image a host of its own, and runs there what the hypervisor sends.
//!
//! It is there before any network is, and it is always there: a login over SSH costs an emulated host a second, of which most is
//! spent on translating programs that it has not run yet, and this one waits in memory.

mod ask;
mod bundle;
mod cluster;
mod identity;
mod port;
mod run;
mod shell;

use std::{
    env,
    ffi::OsString,
    io::{self, BufReader, Write as _},
    os::unix::net::UnixDatagram,
    path::Path,
    process::ExitCode,
};

use pghost::wire::Request;

use self::{port::Port, run::Runner, shell::Script};

/// The name under which the program is a client of PostgreSQL. A name and no argument: one made before has no such name, and would
/// take no notice of an argument.
const ASK: &str = "ask";
/// The name under which it makes a data directory of PostgreSQL one of its own.
const SEED: &str = "seed-cluster";
/// The name under which it installs files.
const BUNDLE: &str = "bundle";

fn main() -> ExitCode {
    let name = env::args_os().next().unwrap_or_default();
    let done = if is_named(&name, ASK) {
        ask::ask().and_then(|rows| io::stdout().write_all(&rows))
    } else if is_named(&name, SEED) {
        cluster::seed_cluster().and_then(|seed| io::stdout().write_all(seed.as_bytes()))
    } else if is_named(&name, BUNDLE) {
        bundle::bundle().and_then(|said| io::stdout().write_all(&said))
    } else {
        work()
    };
    match done {
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

fn is_named(program: &OsString, name: &str) -> bool {
    Path::new(program).file_name().is_some_and(|file| file == name)
}

fn work() -> io::Result<()> {
    let mut port = Port::find()?;
    identity::find_out(port.as_mut())?;
    ready()?;
    // Without a port there is nobody to wait for.
    let Some(mut port) = port else { return Ok(()) };
    Script::remove_from(&Script::folder());
    let mut runner = Runner::new();
    loop {
        port.greet("ready")?;
        let mut requests = BufReader::new(port.reader()?);
        while let Some(request) = Request::read(&mut requests)? {
            runner.serve(&mut port, &request)?;
        }
    }
}

/// Tells systemd that this host knows who it is: services that need it start now.
fn ready() -> io::Result<()> {
    let Some(socket) = env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    UnixDatagram::unbound()?.send_to(b"READY=1", socket).map(drop)
}
