//! Talks to the program that every host of our image has, pghost, through a virtio port: no network is needed for that, and on an
//! emulated host a login over SSH costs a second more. `crates/pghost` is the other side.

use std::{
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use pghost::wire::{self, Request};
use pgplan::machine::IDENTITY_PORT;
use ring::rand::{SecureRandom as _, SystemRandom};
use virt::{connect::Connect, stream::Stream};

use super::{Error, Libvirt, Raw, Result, bounded, images::send_all};
use crate::clock;

/// Identifiers are larger than any status or size, which images made before pghost answer in their place.
const ID_MIN: u64 = 1 << 32;

/// What is to be done in a guest.
#[derive(Clone, Debug, Default)]
pub struct Errand {
    /// What `sh` runs there; it may be empty.
    pub script: String,
    /// What it reads.
    pub input: Vec<u8>,
    /// Whether the clock of the guest is set to that of this machine before.
    pub set_clock: bool,
}

/// Why an errand was not done.
#[derive(Debug)]
pub struct Undone {
    /// Whether the guest has begun it, and may go on with it.
    pub begun: bool,
    /// The cause.
    pub error: Error,
}

/// What the thread that speaks with libvirt reports.
enum Heard {
    Begun,
    Output(Vec<u8>),
    Ended(i32),
    BrokenOff,
    Failed(virt::error::Error),
}

impl Libvirt {
    /// Talks to what waits in a guest on its identity port: waits for a line `waiting`, sends `message`, and waits for
    /// `done`. Without a message it only waits for the first.
    ///
    /// # Errors
    /// [`Error::Timeout`] at `limit`; [`Error::Answer`] when the guest reports a failure; [`Error::Call`].
    pub fn talk(&self, domain: &str, message: Option<String>, limit: Duration) -> Result {
        let (operation, connections, name) =
            (format!("tell {domain} who it is"), Arc::clone(&self.connections), domain.to_owned());
        let work = move || conversation(&connections.take()?.connect, &name, message.as_deref());
        let said = bounded(&operation, limit, work)?.map_err(|error| Error::call(&operation, &error))?;
        said.map_err(|message| Error::Answer { operation, message })
    }

    /// Runs a shell script in a guest of our image and returns what it wrote. It need not be reachable over any network.
    ///
    /// # Errors
    /// [`Error::Timeout`] at `limit`; [`Error::Answer`] when the script fails; [`Error::Call`].
    pub fn run_script(&self, domain: &str, script: String, limit: Duration) -> Result<Vec<u8>> {
        let errand = Errand { script, ..Errand::default() };
        let mut said = Vec::new();
        let ended =
            self.run_errand(domain, errand, limit, limit, &mut |output| said.extend_from_slice(output));
        match ended.map_err(|undone| undone.error)? {
            0 => Ok(said),
            status => {
                let message = format!("exit status {status}: {}", String::from_utf8_lossy(&said).trim());
                Err(Error::Answer { operation: operation(domain), message })
            }
        }
    }

    /// Does an errand and returns the status of its script. `on_output` gets what it writes as it arrives. The guest has `reach`
    /// to begin with it, and then `limit` to be done.
    ///
    /// # Errors
    /// It cannot be reached, breaks off, or takes too long.
    pub fn run_errand(
        &self,
        domain: &str,
        errand: Errand,
        reach: Duration,
        limit: Duration,
        on_output: &mut dyn FnMut(&[u8]),
    ) -> std::result::Result<i32, Undone> {
        let (sender, receiver) = sync_channel(16);
        // A connection of its own: a guest that does not answer would hold up what else is said on this one.
        let (uri, name) = (self.uri.clone(), domain.to_owned());
        let work = move || {
            let ended = speak(&uri, &name, errand, &sender);
            // When nobody listens any more the limit has passed: nobody wants to know.
            let _ = sender.send(ended.unwrap_or_else(Heard::Failed));
        };
        let mut begun = false;
        let undone = |begun, error| Undone { begun, error };
        thread::Builder::new().name("port".to_owned()).spawn(work).map_err(|error| {
            let message = format!("no thread for it: {error}");
            undone(false, Error::Answer { operation: operation(domain), message })
        })?;
        let mut wait = reach;
        let mut deadline = Instant::now() + reach;
        loop {
            match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Heard::Begun) => (begun, wait, deadline) = (true, limit, Instant::now() + limit),
                Ok(Heard::Output(output)) => on_output(&output),
                Ok(Heard::Ended(status)) => return Ok(status),
                Ok(Heard::Failed(error)) => {
                    return Err(undone(begun, Error::call(&operation(domain), &error)));
                }
                Ok(Heard::BrokenOff) | Err(RecvTimeoutError::Disconnected) => {
                    let message = "the guest broke off".to_owned();
                    return Err(undone(begun, Error::Answer { operation: operation(domain), message }));
                }
                Err(RecvTimeoutError::Timeout) => {
                    let error = Error::Timeout { operation: operation(domain), limit: wait };
                    return Err(undone(begun, error));
                }
            }
        }
    }
}

fn operation(domain: &str) -> String {
    format!("run a script in {domain}")
}

fn speak(uri: &str, domain: &str, errand: Errand, heard: &SyncSender<Heard>) -> Raw<Heard> {
    let stream = open_port(&Connect::open(Some(uri))?, domain)?;
    let ended = ask(&stream, errand, heard);
    let _ = stream.abort();
    ended
}

fn ask(stream: &Stream, errand: Errand, heard: &SyncSender<Heard>) -> Raw<Heard> {
    let mut bytes = [0; 8];
    // Not random, it would be the time: enough to tell one who is here from one who was.
    if SystemRandom::new().fill(&mut bytes).is_err() {
        bytes = (clock::since_1970().as_nanos() as u64).to_le_bytes();
    }
    let id = u64::from_le_bytes(bytes) | ID_MIN;
    let clock = errand.set_clock.then(clock::since_1970);
    let request = Request { id, clock, script: errand.script.into_bytes(), input: errand.input };
    let mut message = Vec::new();
    if request.write(&mut message).is_err() {
        return Ok(Heard::BrokenOff);
    }
    // It says `ready` when it noticed that somebody came; not when we are back before it noticed that we had gone.
    send_all(stream, &message)?;
    let mut lines = Lines { stream, text: Vec::new() };
    while let Some(line) = lines.next()? {
        let said = match wire::Answer::parse(&line) {
            Some(wire::Answer::Start(other)) if other == id => Heard::Begun,
            Some(wire::Answer::Exit(other, status)) if other == id => return Ok(Heard::Ended(status)),
            // Of an image made before pghost.
            Some(wire::Answer::Exit(other, _)) if other < ID_MIN => break,
            Some(wire::Answer::Out(other, length)) => match lines.bytes(length)? {
                Some(output) if other == id => Heard::Output(output),
                Some(_) => continue,
                None => break,
            },
            _ => continue,
        };
        if heard.send(said).is_err() {
            break;
        }
    }
    Ok(Heard::BrokenOff)
}

fn open_port(connect: &Connect, domain: &str) -> Raw<Stream> {
    let stream = Stream::new(connect, 0)?;
    connect.lookup_domain_by_name(domain)?.open_channel(Some(IDENTITY_PORT), &stream, 0)?;
    Ok(stream)
}

/// A machine that was restored a moment ago may not have its port connected yet: the guest repeats itself.
fn conversation(
    connect: &Connect,
    domain: &str,
    message: Option<&str>,
) -> Raw<std::result::Result<(), String>> {
    let stream = open_port(connect, domain)?;
    let mut lines = Lines { stream: &stream, text: Vec::new() };
    let mut failed = Vec::new();
    while let Some(line) = lines.next()? {
        match (line.as_str(), message) {
            ("waiting", None) => break,
            ("waiting", Some(message)) => send_all(&stream, message.as_bytes())?,
            ("done", _) => break,
            (other, _) => failed.push(other.to_owned()),
        }
    }
    let _ = stream.abort();
    Ok(if failed.is_empty() { Ok(()) } else { Err(format!("the guest says: {}", failed.join(", "))) })
}

struct Lines<'a> {
    stream: &'a Stream,
    text: Vec<u8>,
}

impl Lines<'_> {
    /// The next line; nothing when the other side is gone.
    fn next(&mut self) -> Raw<Option<String>> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                return Ok(Some(String::from_utf8_lossy(&line).trim().to_owned()));
            }
            if !self.more()? {
                return Ok(None);
            }
        }
    }

    /// So many bytes; nothing when the other side is gone before.
    fn bytes(&mut self, length: usize) -> Raw<Option<Vec<u8>>> {
        while self.text.len() < length {
            if !self.more()? {
                return Ok(None);
            }
        }
        Ok(Some(self.text.drain(..length).collect()))
    }

    fn more(&mut self) -> Raw<bool> {
        let mut buffer = [0; 4096];
        let count = usize::try_from(self.stream.recv(&mut buffer)?).unwrap_or_default();
        self.text.extend_from_slice(&buffer[..count]);
        Ok(count > 0)
    }
}
