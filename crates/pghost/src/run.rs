//! Runs one script, and sends on what it writes while it runs.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _, Write as _},
    mem,
    process::Child,
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

use crate::{
    identity,
    port::Port,
    shell::{Running, Script, Shells, code},
};

/// Nice value of scripts that come after the services of their host, whose own is 0.
const AFTER_SERVICES: i32 = 10;
/// How long a script that wrote something is silent before that is sent.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
/// How long what it wrote may lie, when it is never silent.
const LATE: Duration = Duration::from_millis(200);
/// How much output is sent at a time: as much as a pipe holds.
const CHUNK: usize = 64 << 10;
/// The status of what could not be done.
const FAILED: i32 = 126;

/// Runs what is asked for, one after the other.
pub struct Runner {
    shells: Shells,
}

impl Runner {
    /// One that has its shells in a while.
    pub fn new() -> Self {
        Self { shells: Shells::new() }
    }

    /// Does what is asked for, and answers. A script whose sender goes is not disturbed: it ends in its time, unheard.
    ///
    /// # Errors
    /// The port fails.
    pub fn serve(&mut self, port: &mut Port, request: &Request) -> io::Result<()> {
        // Whoever is told what time it is was away a moment ago, or has just started.
        if let Some(clock) = request.clock {
            self.shells.woke_up(identity::jumps(clock));
        }
        let mut left = None;
        let served = serve(port, request, &self.shells).map(|done| left = done);
        self.shells.tidy_up(left);
        served
    }
}

/// What the script leaves behind, if there is one that has ended.
fn serve(port: &mut Port, request: &Request, shells: &Shells) -> io::Result<Option<Running>> {
    port.wait_for_sender()?;
    port.send(Answer::Start(request.id).line().as_bytes())?;
    let mut said = Said { id: request.id, bytes: Vec::new(), since: None };
    match begin(request, shells) {
        Ok(Some(running)) => return follow(port, running, said),
        Ok(None) => said.end(port, 0)?,
        Err(error) => {
            said.bytes = format!("pghost: {error}\n").into_bytes();
            said.end(port, FAILED)?;
        }
    }
    Ok(None)
}

fn begin(request: &Request, shells: &Shells) -> io::Result<Option<Running>> {
    if let Some(clock) = request.clock {
        identity::set_clock(clock)?;
    }
    if request.script.is_empty() {
        return Ok(None);
    }
    let mut script = Script::new(request.id, &request.script)?;
    // What brings something with it is started anew: it gets that, and another priority.
    if request.input.is_empty()
        && let Some(shell) = shells.next()
    {
        give_priority(request, &shell.process)?;
        match shell.run(script) {
            Ok(running) => return Ok(Some(running)),
            Err(same) => script = same,
        }
    }
    let mut input = File::from(memfd_create("input", MemfdFlags::CLOEXEC)?);
    input.write_all(&request.input)?;
    input.rewind()?;
    let running = script.run(input.into())?;
    give_priority(request, &running.process)?;
    Ok(Some(running))
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

enum Event {
    /// It wrote something, or all who could have gone.
    Output,
    /// It has ended, or says so.
    Ended,
    /// Whoever sent it has gone.
    Deserted,
    Nothing,
}

/// Sends what it writes until it has ended, and what it leaves behind is returned; none when its sender has gone.
fn follow(port: &mut Port, mut running: Running, mut said: Said) -> io::Result<Option<Running>> {
    let mut buffer = vec![0; CHUNK];
    loop {
        // Before the output is looked at: all that it wrote is in the pipe then.
        let ended = running.process.try_wait()?;
        let status = match wait(port, &running, said.patience(&running))? {
            Event::Output => {
                let count = running.output.read(&mut buffer)?;
                if count > 0 {
                    said.add(port, &buffer[..count])?;
                    continue;
                }
                running.ends()?
            }
            Event::Ended => {
                let status = running.ends()?;
                // No more than a pipe holds: what a program that it left behind goes on to write is nobody's.
                if ioctl_fionread(&running.output)? > 0 {
                    let count = running.output.read(&mut buffer)?;
                    said.add(port, &buffer[..count])?;
                }
                status
            }
            Event::Deserted => {
                thread::spawn(move || running.end_unheard());
                return Ok(None);
            }
            Event::Nothing => match ended {
                Some(status) => code(status),
                None => {
                    said.send(port)?;
                    running.tick();
                    continue;
                }
            },
        };
        said.end(port, status)?;
        return Ok(Some(running));
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
    fn patience(&self, running: &Running) -> Timespec {
        if self.bytes.is_empty() { running.patience() } else { PAUSE }
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

fn wait(port: &Port, running: &Running, patience: Timespec) -> io::Result<Event> {
    let mut asked = vec![PollFd::new(&running.output, PollFlags::IN), PollFd::new(port, PollFlags::empty())];
    asked.extend(running.status.as_ref().map(|status| PollFd::new(status, PollFlags::IN)));
    poll(&mut asked, Some(&patience))?;
    let [output, port] = [&asked[0], &asked[1]].map(PollFd::revents);
    Ok(match () {
        () if port.contains(PollFlags::HUP) => Event::Deserted,
        () if !output.is_empty() => Event::Output,
        () if asked.get(2).is_some_and(|status| !status.revents().is_empty()) => Event::Ended,
        () => Event::Nothing,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader},
        os::{fd::OwnedFd, unix::net::UnixStream},
        path::Path,
    };

    use rustix::process::{Signal, kill_process};

    use super::*;
    use crate::shell::QUIET;

    /// The host's side of a connection in a thread of its own, and the hypervisor's.
    fn connected() -> UnixStream {
        let (host, hypervisor) = UnixStream::pair().unwrap();
        let mut port = Port::from(File::from(OwnedFd::from(host)));
        thread::spawn(move || {
            let mut requests = BufReader::new(port.reader().unwrap());
            let mut runner = Runner::new();
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
        answer(hypervisor, request.id)
    }

    fn answer(hypervisor: &UnixStream, asked: u64) -> (Vec<u8>, i32) {
        let mut lines = BufReader::new(hypervisor);
        let mut output = Vec::new();
        loop {
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            match Answer::parse(line.trim_end()).unwrap() {
                Answer::Start(id) => assert_eq!(id, asked),
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
            let script = format!(
                "for file in {}/*.{name}; do echo $file; stat -c %a $file; done",
                Script::folder().display()
            );
            let (output, _) = ask(&mut hypervisor, &request(id, &script, input));
            let output = String::from_utf8(output).unwrap();
            let (path, mode) = output.trim().split_once('\n').unwrap();
            assert_eq!(mode, "600");
            assert_eq!(ask(&mut hypervisor, &request(id + 1_000, ":", b"")).1, 0);
            let until = Instant::now() + QUIET * 2;
            while Path::new(path).exists() {
                assert!(Instant::now() < until);
                thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// They wait before they are asked for; one that was killed meanwhile is missed by nobody.
    #[test]
    fn shells_wait_for_questions() {
        let mut runner = Runner::new();
        runner.shells.end_quiet();
        let (host, mut hypervisor) = UnixStream::pair().unwrap();
        let mut port = Port::from(File::from(OwnedFd::from(host)));
        let mut ask = |runner: &mut Runner, id, script: &str| {
            runner.serve(&mut port, &request(id, script, b"")).unwrap();
            let mut said = vec![0; 200];
            let count = io::Read::read(&mut hypervisor, &mut said).unwrap();
            String::from_utf8_lossy(&said[..count]).into_owned()
        };
        for id in [20, 21] {
            let last = runner.shells.waiting()[1];
            let said = ask(&mut runner, id, "read -r line; echo \"$$ $line\"; exit 3");
            let text = format!("{} \n", last.as_raw_nonzero());
            assert_eq!(said, format!("start {id}\nout {id} {}\n{text}exit {id} 3\n", text.len()));
            let waiting = runner.shells.waiting();
            assert!(waiting.len() == 2 && !waiting.contains(&last));
        }
        for shell in runner.shells.waiting() {
            kill_process(shell, Signal::KILL).unwrap();
        }
        thread::sleep(Duration::from_millis(100));
        assert_eq!(ask(&mut runner, 22, "echo here"), "start 22\nout 22 5\nhere\nexit 22 0\n");
    }

    #[test]
    fn what_an_earlier_run_left_is_removed() {
        // In a folder of its own: the other tests have scripts in theirs.
        let folder = tempfile::tempdir().unwrap();
        let files = ["pgprov-script.0000000000000001", "pgprov"].map(|name| folder.path().join(name));
        files.iter().for_each(|file| std::fs::write(file, "").unwrap());
        Script::remove_from(folder.path());
        assert_eq!(files.map(|file| file.exists()), [false, true]);
    }

    /// Neither is waited for: that the shell of a script ends, and what a script left behind with all that it had of its shell.
    #[test]
    fn a_script_has_ended_when_it_says_so() {
        let mut runner = Runner::new();
        let (host, hypervisor) = UnixStream::pair().unwrap();
        let mut port = Port::from(File::from(OwnedFd::from(host)));
        for (number, is_quiet) in [(40, false), (50, true)] {
            runner.shells.end_quiet();
            if is_quiet {
                runner.shells.woke_up(false);
            }
            for (at, script) in ["echo out; false", "sleep 5 >/dev/null 2>&1 & exit 7", "sleep 5 & echo out"]
                .iter()
                .enumerate()
            {
                let begun = Instant::now();
                let id = number + at as u64;
                runner.serve(&mut port, &request(id, script, b"")).unwrap();
                let (output, status) = [(&b"out\n"[..], 1), (b"", 7), (b"out\n", 0)][at];
                assert_eq!(answer(&hypervisor, id), (output.to_vec(), status), "{script}");
                assert!(begun.elapsed() < Duration::from_secs(4), "{script}");
            }
        }
    }

    /// One that waits for nothing, and one that was busy before, wait as long as others.
    #[test]
    fn scripts_can_wait_without_a_process() {
        let mut hypervisor = connected();
        thread::sleep(QUIET + Duration::from_millis(500));
        let begun = Instant::now();
        let script = "sleep 0.5; for _ in 1 2 3 4 5 6 7 8 9 10 11 12; do read -r line <&8 || exit 1; done; read -r line; echo \"$line\"";
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
