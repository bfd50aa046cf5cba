//! Runs one script, and sends on what it writes while it runs.

use std::{
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::{self, PipeReader, Read as _, Seek as _, Write as _},
    mem,
    os::unix::{
        fs::OpenOptionsExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::PathBuf,
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use pghost::wire::{Answer, Request};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{MemfdFlags, memfd_create},
    io::ioctl_fionread,
    process::{Pid, setpriority_pgrp},
};

use crate::{identity, port::Port};

/// Nice value of scripts that come after the services of their host, whose own is 0.
const AFTER_SERVICES: i32 = 10;
/// How often it is looked whether the script has ended while a program that it left behind still has its output.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// How long a script that wrote something is silent before that is sent.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
/// How long what it wrote may lie, when it is never silent.
const LATE: Duration = Duration::from_millis(200);
/// How much output is sent at a time.
const CHUNK: usize = 64 << 10;
/// How many shells wait: a host that goes on with its memory is asked twice.
const SHELLS: usize = 2;
/// How long a host that was woken up has other things to do than starting them.
const QUIET: Duration = Duration::from_secs(2);
/// The status of what could not be done.
const FAILED: i32 = 126;

/// Runs what is asked for, one after the other. Shells wait for the next questions: an emulated host that goes on with its memory has
/// translated nothing of what starting one takes, and has something better to do than that.
pub struct Runner {
    waiting: Arc<Mutex<Vec<Shell>>>,
}

impl Runner {
    /// One that has its shells in a while.
    pub fn new() -> Self {
        let runner = Self { waiting: Arc::default() };
        runner.start_later();
        runner
    }

    /// Does what is asked for, and answers. A script whose sender goes is not disturbed: it ends in its time, unheard.
    ///
    /// # Errors
    /// The port fails.
    pub fn serve(&self, port: &mut Port, request: &Request) -> io::Result<()> {
        let shell = self.waiting.lock().ok().and_then(|mut waiting| waiting.pop());
        serve(port, request, shell)?;
        // Whoever is told what time it is was away a moment ago.
        match request.clock {
            Some(_) => self.start_later(),
            None => start(&self.waiting),
        }
        Ok(())
    }

    fn start_later(&self) {
        let waiting = Arc::clone(&self.waiting);
        thread::spawn(move || {
            thread::sleep(QUIET);
            start(&waiting);
        });
    }
}

/// Starts as many shells as are missing.
fn start(waiting: &Mutex<Vec<Shell>>) {
    let Ok(mut waiting) = waiting.lock() else { return };
    while waiting.len() < SHELLS {
        // Whoever has none starts one when it is time, and hears why that fails.
        let Ok(shell) = Shell::new() else { return };
        waiting.push(shell);
    }
}

/// Starts a shell: what it writes comes by one pipe, errors among it.
fn shell(arguments: &[&OsStr], input: Stdio) -> io::Result<(Child, PipeReader)> {
    let (output, writer) = io::pipe()?;
    let mut command = Command::new("/bin/sh");
    command.args(arguments).current_dir("/").process_group(0);
    command.stdin(input).stdout(writer.try_clone()?).stderr(writer);
    Ok((command.spawn()?, output))
}

/// A shell that waits to be told, on its standard input, which script it is to run.
struct Shell {
    process: Child,
    output: PipeReader,
    input: ChildStdin,
}

impl Shell {
    fn new() -> io::Result<Self> {
        let script = "read -r script && exec 8<&0 </dev/null && . \"$script\"";
        let (mut process, output) = shell(&["-c".as_ref(), script.as_ref()], Stdio::piped())?;
        let input = process.stdin.take().ok_or_else(|| io::Error::other("it has no input"))?;
        Ok(Self { process, output, input })
    }

    /// Has it run the script, which comes back when the shell was killed meanwhile.
    fn run(mut self, script: Script) -> Result<Running, Script> {
        let told = writeln!(self.input, "{}", script.0.display());
        match told {
            Ok(()) => {
                Ok(Running { process: self.process, output: self.output, script, ticks: Some(self.input) })
            }
            Err(_) => {
                // It is not there any more: nothing but its status is left of it.
                let _ = self.process.wait();
                Err(script)
            }
        }
    }
}

fn serve(port: &mut Port, request: &Request, waiting: Option<Shell>) -> io::Result<()> {
    port.wait_for_sender()?;
    port.send(Answer::Start(request.id).line().as_bytes())?;
    let mut said = Said { id: request.id, bytes: Vec::new(), since: None };
    match begin(request, waiting) {
        Ok(Some(running)) => follow(port, running, said),
        Ok(None) => said.end(port, 0),
        Err(error) => {
            said.bytes = format!("pghost: {error}\n").into_bytes();
            said.end(port, FAILED)
        }
    }
}

/// A script that runs.
struct Running {
    process: Child,
    output: PipeReader,
    /// Gone when it has ended.
    script: Script,
    /// Its file descriptor 8, on which it gets a line every [`LOOK`]: to read that is to wait without a process, which `sleep` would be.
    ticks: Option<ChildStdin>,
}

impl Running {
    /// Never more than one line that was not waited for.
    fn tick(&mut self) {
        if let Some(ticks) = &mut self.ticks
            && ioctl_fionread(&*ticks) == Ok(0)
        {
            // Who has ended does not wait.
            let _ = ticks.write_all(b"\n");
        }
    }
}

/// The file that a shell reads a script from: in memory, for root alone. It is not in the arguments, which everybody can see.
struct Script(PathBuf);

impl Drop for Script {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn begin(request: &Request, waiting: Option<Shell>) -> io::Result<Option<Running>> {
    if let Some(clock) = request.clock {
        identity::set_clock(clock)?;
    }
    if request.script.is_empty() {
        return Ok(None);
    }
    let mut script = Script(folder().join(format!("pgprov-script.{:016x}", request.id)));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&script.0)?;
    file.write_all(&request.script)?;
    drop(file);
    // What brings something with it is started anew: it gets that, and another priority.
    if let Some(shell) = waiting.filter(|_| request.input.is_empty()) {
        give_priority(request, &shell.process)?;
        match shell.run(script) {
            Ok(running) => return Ok(Some(running)),
            Err(same) => script = same,
        }
    }
    let mut input = fs::File::from(memfd_create("input", MemfdFlags::CLOEXEC)?);
    input.write_all(&request.input)?;
    input.rewind()?;
    let (process, output) = shell(&[script.0.as_os_str()], input.into())?;
    give_priority(request, &process)?;
    Ok(Some(Running { process, output, script, ticks: None }))
}

/// Questions are short, and come before the services here. What brings something with it changes the host, may take long, and is no more
/// than they are. And what is asked of a host that goes on with its memory is how they do, which they have to get to first.
fn give_priority(request: &Request, process: &Child) -> io::Result<()> {
    let nice = match (request.input.is_empty(), request.clock) {
        (false, _) => 0,
        (true, Some(_)) => AFTER_SERVICES,
        (true, None) => return Ok(()),
    };
    Ok(setpriority_pgrp(Some(Pid::from_child(process)), nice)?)
}

/// Memory; only tests run where that is not theirs.
fn folder() -> PathBuf {
    if cfg!(test) { std::env::temp_dir() } else { "/run".into() }
}

enum Event {
    /// It wrote something, or ended.
    Output,
    /// Whoever sent it has gone.
    Deserted,
    Nothing,
}

fn follow(port: &mut Port, mut running: Running, mut said: Said) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        // Before the output is looked at: all that it wrote is in the pipe then.
        let ended = running.process.try_wait()?;
        match wait(port, &running.output, said.patience())? {
            Event::Output => {
                let count = running.output.read(&mut buffer)?;
                if count == 0 {
                    return said.end(port, code(running.process.wait()?));
                }
                said.add(port, &buffer[..count])?;
            }
            Event::Deserted => {
                thread::spawn(move || {
                    let _ = io::copy(&mut running.output, &mut io::sink());
                    let _ = running.process.wait();
                    drop(running.script);
                });
                return Ok(());
            }
            Event::Nothing => match ended {
                Some(status) => return said.end(port, code(status)),
                None => {
                    said.send(port)?;
                    running.tick();
                }
            },
        }
    }
}

/// What a script wrote and nobody heard yet. A shell writes line by line, and each message costs an emulated host more than many
/// lines do: it waits until the hypervisor has taken it.
struct Said {
    id: u64,
    bytes: Vec<u8>,
    since: Option<Instant>,
}

impl Said {
    /// How long it may be waited for more.
    fn patience(&self) -> Timespec {
        if self.bytes.is_empty() { LOOK } else { PAUSE }
    }

    fn add(&mut self, port: &mut Port, output: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(output);
        let is_old = self.since.get_or_insert_with(Instant::now).elapsed() > LATE;
        if is_old || self.bytes.len() >= CHUNK { self.send(port) } else { Ok(()) }
    }

    fn frame(&mut self) -> Vec<u8> {
        self.since = None;
        let output = mem::take(&mut self.bytes);
        if output.is_empty() {
            return output;
        }
        let mut frame = Answer::Out(self.id, output.len()).line().into_bytes();
        frame.extend(output);
        frame
    }

    fn send(&mut self, port: &mut Port) -> io::Result<()> {
        let frame = self.frame();
        if frame.is_empty() { Ok(()) } else { port.send(&frame).map(drop) }
    }

    fn end(&mut self, port: &mut Port, status: i32) -> io::Result<()> {
        let mut frame = self.frame();
        frame.extend(Answer::Exit(self.id, status).line().into_bytes());
        port.send(&frame).map(drop)
    }
}

fn wait(port: &Port, output: &PipeReader, patience: Timespec) -> io::Result<Event> {
    let mut asked = [PollFd::new(output, PollFlags::IN), PollFd::new(port, PollFlags::empty())];
    poll(&mut asked, Some(&patience))?;
    let [output, port] = asked.map(|asked| asked.revents());
    Ok(match () {
        () if port.contains(PollFlags::HUP) => Event::Deserted,
        () if output.is_empty() => Event::Nothing,
        () => Event::Output,
    })
}

/// As the shell counts.
fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        os::{fd::OwnedFd, unix::net::UnixStream},
        path::Path,
    };

    use super::*;

    /// The host's side of a connection in a thread of its own, and the hypervisor's.
    fn connected() -> UnixStream {
        let (host, hypervisor) = UnixStream::pair().unwrap();
        let mut port = Port::from(fs::File::from(OwnedFd::from(host)));
        thread::spawn(move || {
            let mut requests = BufReader::new(port.reader().unwrap());
            let runner = Runner::new();
            while let Some(request) = Request::read(&mut requests).unwrap() {
                runner.serve(&mut port, &request).unwrap();
            }
        });
        hypervisor
    }

    fn request(id: u64, script: &str, input: &[u8]) -> Request {
        Request { id, clock: None, script: script.as_bytes().to_vec(), input: input.to_vec() }
    }

    /// What one errand writes, and its status.
    fn ask(hypervisor: &mut UnixStream, request: &Request) -> (Vec<u8>, i32) {
        request.write(hypervisor).unwrap();
        let mut lines = BufReader::new(hypervisor);
        let mut output = Vec::new();
        loop {
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            match Answer::parse(line.trim_end()).unwrap() {
                Answer::Start(id) => assert_eq!(id, request.id),
                Answer::Out(_, length) => {
                    let mut part = vec![0; length];
                    lines.read_exact(&mut part).unwrap();
                    output.extend(part);
                }
                Answer::Exit(_, status) => return (output, status),
            }
        }
    }

    #[test]
    fn output_errors_and_status_come_back_and_input_arrives() {
        let mut hypervisor = connected();
        let input: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        assert_eq!(ask(&mut hypervisor, &request(1, "cat", &input)), (input, 0));
        let (output, status) = ask(&mut hypervisor, &request(2, "echo out; echo err >&2; exit 7", b""));
        assert_eq!((output.as_slice(), status), (&b"out\nerr\n"[..], 7));
        assert_eq!(ask(&mut hypervisor, &request(3, "kill -9 $$", b"")).1, 137);
        assert_eq!(ask(&mut hypervisor, &request(4, "", b"")), (Vec::new(), 0));
    }

    #[test]
    fn a_script_is_in_a_file_that_only_its_user_may_read_and_that_goes() {
        let mut hypervisor = connected();
        for (id, input) in [(5, &b""[..]), (6, b"input")] {
            let name = format!("{id:016x}");
            let script =
                format!("for file in {}/*.{name}; do echo $file; stat -c %a $file; done", folder().display());
            let (output, _) = ask(&mut hypervisor, &request(id, &script, input));
            let output = String::from_utf8(output).unwrap();
            let (path, mode) = output.trim().split_once('\n').unwrap();
            assert_eq!(mode, "600");
            assert_eq!(ask(&mut hypervisor, &request(7, ":", b"")).1, 0);
            assert!(!Path::new(path).exists());
        }
    }

    /// They wait before they are asked for; one that was killed meanwhile is missed by nobody.
    #[test]
    fn shells_wait_for_questions() {
        let runner = Runner::new();
        let (host, mut hypervisor) = UnixStream::pair().unwrap();
        let mut port = Port::from(fs::File::from(OwnedFd::from(host)));
        let mut ask = |id, script: &str| {
            runner.serve(&mut port, &request(id, script, b"")).unwrap();
            let mut said = vec![0; 200];
            let count = io::Read::read(&mut hypervisor, &mut said).unwrap();
            String::from_utf8_lossy(&said[..count]).into_owned()
        };
        start(&runner.waiting);
        let waiting =
            || runner.waiting.lock().unwrap().iter().map(|shell| shell.process.id()).collect::<Vec<_>>();
        for id in [20, 21] {
            let last = waiting()[1];
            let said = ask(id, "read -r line; echo \"$$ $line\"; exit 3");
            let text = format!("{last} \n");
            assert_eq!(said, format!("start {id}\nout {id} {}\n{text}exit {id} 3\n", text.len()));
            assert!(waiting().len() == 2 && !waiting().contains(&last));
        }
        runner.waiting.lock().unwrap().iter_mut().for_each(|shell| shell.process.kill().unwrap());
        thread::sleep(Duration::from_millis(100));
        assert_eq!(ask(22, "echo here"), "start 22\nout 22 5\nhere\nexit 22 0\n");
    }

    /// One that waits for nothing, and one that was busy before, wait as long as others.
    #[test]
    fn scripts_can_wait_without_a_process() {
        let mut hypervisor = connected();
        thread::sleep(QUIET + Duration::from_millis(500));
        let begun = Instant::now();
        let script = "sleep 0.5; for _ in 1 2 3 4 5 6; do read -r line <&8 || exit 1; done; read -r line; echo \"$line\"";
        assert_eq!(ask(&mut hypervisor, &request(30, script, b"")), (b"\n".to_vec(), 0));
        let took = begun.elapsed();
        assert!(took > Duration::from_millis(700) && took < Duration::from_secs(3), "{took:?}");
    }

    #[test]
    fn what_a_script_leaves_running_keeps_nobody() {
        let begun = Instant::now();
        assert_eq!(ask(&mut connected(), &request(7, "sleep 5 & echo $!", b"")).1, 0);
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_script_goes_on_to_its_end_when_its_sender_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let done = dir.path().join("done");
        let mut hypervisor = connected();
        let script = format!("sleep 0.3; echo noise; sleep 0.3; : >{}", done.display());
        request(8, &script, b"").write(&mut hypervisor).unwrap();
        drop(hypervisor);
        let begun = Instant::now();
        while !done.exists() {
            assert!(begun.elapsed() < Duration::from_secs(20));
            thread::sleep(Duration::from_millis(50));
        }
    }
}
