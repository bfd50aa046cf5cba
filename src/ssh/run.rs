//! Running one command: its input goes in while its output comes out.

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use ssh2::Channel;

use super::{Error, Session, with_sudo};

/// The most output that is kept; commands of ours write far less, and a command gone mad must not fill the memory.
const STDOUT_MAX: usize = 64 << 20;
/// The end of the diagnostics says what went wrong.
const STDERR_TAIL: usize = 64 << 10;
/// The longest line shown in an error, in characters.
const LAST_LINE_MAX: usize = 200;
/// How much input is sent before it is the output's turn, and the size of one read.
const TURN: usize = 256 << 10;

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Status(i32),
    /// By a signal, named without `SIG`.
    Signal(String),
}

/// What a command left.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub exit: Exit,
    /// All it wrote to its standard output.
    pub stdout: Vec<u8>,
    /// The last 64 KiB it wrote to its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// Whether the command ended by itself with status 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.exit == Exit::Status(0)
    }
}

impl Session {
    /// Runs `command` as root by a shell, feeds it `stdin` and collects its output.
    ///
    /// `on_line` gets each line of the standard output as it arrives, without its end; bytes that are not UTF-8 are
    /// replaced. What the command does not read of `stdin` is dropped. A status other than 0 is no error.
    ///
    /// # Errors
    /// The command does not end within `limit`, writes more than 64 MiB, or the connection breaks. The session is then
    /// of no further use, and whether the command still runs on the host is not known.
    pub fn run(
        &self,
        command: &str,
        stdin: &[u8],
        on_line: &mut dyn FnMut(&str),
        limit: Duration,
    ) -> Result<Output, Error> {
        let host = || self.host.clone();
        if self.broken.replace(true) {
            return Err(Error::Broken { host: host() });
        }
        let deadline = Instant::now() + limit;
        let mut got = Received::default();
        match self.converse(command, stdin, on_line, deadline, &mut got) {
            Ok(exit) => {
                self.broken.set(false);
                Ok(Output { exit, stdout: got.stdout, stderr: got.stderr })
            }
            Err(source) => {
                // The host's side ends with the connection; that this fails too would tell nothing new.
                let _ = self.socket.shutdown(Shutdown::Both);
                let program = command.split_whitespace().next().unwrap_or_default().to_owned();
                Err(match source.kind() {
                    io::ErrorKind::TimedOut => {
                        Error::CommandTimeout { host: host(), program, limit, last_line: got.last_line() }
                    }
                    _ => Error::Command { host: host(), program, source },
                })
            }
        }
    }

    /// Starts the command and moves bytes in both directions until the host closes the channel.
    fn converse(
        &self,
        command: &str,
        mut stdin: &[u8],
        on_line: &mut dyn FnMut(&str),
        deadline: Instant,
        got: &mut Received,
    ) -> io::Result<Exit> {
        let mut channel = self.finish(deadline, || self.inner.channel_session())?;
        let command = if self.sudo { Cow::from(with_sudo(command)) } else { Cow::from(command) };
        self.finish(deadline, || channel.exec(&command))?;
        let mut input_open = true;
        loop {
            let mut moved = false;
            if input_open {
                moved |= self.send(&mut channel, &mut stdin, deadline)?;
                if stdin.is_empty() && self.step(deadline, || channel.send_eof())?.is_some() {
                    input_open = false;
                }
            }
            moved |= self.receive(&mut channel, on_line, deadline, got)?;
            if channel.eof() && self.step(deadline, || channel.wait_close())?.is_some() {
                break;
            }
            if Instant::now() >= deadline {
                return Err(io::ErrorKind::TimedOut.into());
            }
            if !moved {
                self.wait(PollFlags::IN, deadline)?;
            }
        }
        got.finish(on_line);
        let exit = match channel.exit_signal()?.exit_signal {
            Some(signal) => Exit::Signal(signal),
            None => Exit::Status(channel.exit_status()?),
        };
        self.finish(deadline, || channel.close())?;
        Ok(exit)
    }

    /// Sends a part of the input, as the host's window allows; says whether any was sent.
    fn send(&self, channel: &mut Channel, stdin: &mut &[u8], deadline: Instant) -> io::Result<bool> {
        let before = stdin.len();
        while !stdin.is_empty() && before - stdin.len() < TURN {
            match self.step(deadline, || channel.write(stdin))? {
                Some(0) | None => break,
                Some(sent) => *stdin = &stdin[sent..],
            }
        }
        Ok(stdin.len() < before)
    }

    /// Takes the output that has arrived; says whether there was any.
    fn receive(
        &self,
        channel: &mut Channel,
        on_line: &mut dyn FnMut(&str),
        deadline: Instant,
        got: &mut Received,
    ) -> io::Result<bool> {
        let mut buffer = vec![0; TURN];
        let mut moved = false;
        // Both streams share one window, so the diagnostics have to be taken as well.
        if let Some(length @ 1..) = self.step(deadline, || channel.read(&mut buffer))? {
            got.add_stdout(&buffer[..length], on_line)?;
            moved = true;
        }
        if let Some(length @ 1..) = self.step(deadline, || channel.stderr().read(&mut buffer))? {
            got.add_stderr(&buffer[..length]);
            moved = true;
        }
        Ok(moved)
    }
}

/// The output so far.
#[derive(Default)]
struct Received {
    stdout: Vec<u8>,
    /// Where in `stdout` the line begins that has not been handed on yet.
    line_start: usize,
    stderr: Vec<u8>,
}

impl Received {
    fn add_stdout(&mut self, bytes: &[u8], on_line: &mut dyn FnMut(&str)) -> io::Result<()> {
        if self.stdout.len() + bytes.len() > STDOUT_MAX {
            let text = format!("it wrote more than {} MiB", STDOUT_MAX >> 20);
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, text));
        }
        let mut search = self.stdout.len();
        self.stdout.extend_from_slice(bytes);
        while let Some(length) = self.stdout[search..].iter().position(|&byte| byte == b'\n') {
            let end = search + length;
            on_line(&text(&self.stdout[self.line_start..end]));
            self.line_start = end + 1;
            search = end + 1;
        }
        Ok(())
    }

    fn add_stderr(&mut self, bytes: &[u8]) {
        self.stderr.extend_from_slice(bytes);
        let excess = self.stderr.len().saturating_sub(STDERR_TAIL);
        self.stderr.drain(..excess);
    }

    /// Hands on a last line that has no end.
    fn finish(&mut self, on_line: &mut dyn FnMut(&str)) {
        if self.line_start < self.stdout.len() {
            on_line(&text(&self.stdout[self.line_start..]));
            self.line_start = self.stdout.len();
        }
    }

    /// The last line with any text in it, of the output or else of the diagnostics, fit for an error message.
    fn last_line(&self) -> String {
        let last = |bytes: &[u8]| {
            let line = bytes
                .rsplit(|&byte| byte == b'\n')
                .map(|line| line.trim_ascii())
                .find(|line| !line.is_empty());
            line.map(|line| {
                text(line).chars().filter(|char| !char.is_control()).take(LAST_LINE_MAX).collect::<String>()
            })
        };
        last(&self.stdout).or_else(|| last(&self.stderr)).unwrap_or_default()
    }
}

/// A line as text, without the carriage return some programs add.
fn text(line: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line))
}
