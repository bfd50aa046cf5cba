//! Shells that wait for scripts, and what scripts leave behind.

use std::{
    ffi::OsStr,
    fs::{self, OpenOptions},
    io::{self, PipeReader, Read as _, Write as _},
    os::unix::{
        fs::OpenOptionsExt as _,
        process::{CommandExt as _, ExitStatusExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::ioctl_fionread,
    process::{Pid, setpriority_process},
};

/// How many shells wait: a host that goes on with its memory is asked twice.
const SHELLS: usize = 2;
/// Nice value of systemd on a host that was away; its own is 0.
const LAST: i32 = 19;
/// How often it is looked whether a script has ended while a program that it left behind still has its output.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// The same when that may take long.
const LOOK_LATER: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// How long a script runs until it is one that takes long: somebody waits for those that do not.
const SHORT: Duration = Duration::from_secs(1);
/// How long a host that was woken up has other things to do than tidying up here, or than what systemd does when the clock was set.
pub const QUIET: Duration = Duration::from_secs(2);

/// Shells that wait for the next scripts: an emulated host that goes on with its memory has translated nothing of what starting one
/// takes, or ending one, and has something better to do than that. So both come later then.
pub struct Shells {
    waiting: Arc<Mutex<Vec<Shell>>>,
    later: mpsc::Sender<Chore>,
    quiet: Instant,
}

/// What is tidied up, and when.
struct Chore {
    due: Instant,
    left: Option<Running>,
}

impl Shells {
    /// As they are in a while.
    pub fn new() -> Self {
        let (later, chores) = mpsc::channel::<Chore>();
        let waiting = Arc::default();
        let shells = Arc::clone(&waiting);
        // There from the beginning: to start a thread is more than many scripts are.
        thread::spawn(move || {
            for chore in chores {
                thread::sleep(chore.due.saturating_duration_since(Instant::now()));
                // See `woke_up`; also for one that was ended before it came to this.
                let _ = setpriority_process(Some(Pid::INIT), 0);
                drop(chore.left);
                start(&shells);
            }
        });
        let quiet = Instant::now() + QUIET;
        let _ = later.send(Chore { due: quiet, left: None });
        Self { waiting, later, quiet }
    }

    /// This host has other things to do for a while. If it `was_away`, so has systemd, which looks at all its timers when the clock is set.
    pub fn woke_up(&mut self, was_away: bool) {
        self.quiet = Instant::now() + QUIET;
        if was_away {
            // Who may not do that may not set the clock either.
            let _ = setpriority_process(Some(Pid::INIT), LAST);
        }
    }

    /// One that waits, if there is one.
    pub fn next(&self) -> Option<Shell> {
        self.waiting.lock().ok()?.pop()
    }

    /// Does what is to do after a script, when it is time.
    pub fn tidy_up(&self, left: Option<Running>) {
        if Instant::now() < self.quiet {
            let _ = self.later.send(Chore { due: self.quiet, left });
            return;
        }
        drop(left);
        start(&self.waiting);
    }

    /// As if this host had nothing else to do any more.
    #[cfg(test)]
    pub fn end_quiet(&mut self) {
        self.quiet = Instant::now();
        start(&self.waiting);
    }

    #[cfg(test)]
    pub fn waiting(&self) -> Vec<Pid> {
        self.waiting.lock().unwrap().iter().map(|shell| Pid::from_child(&shell.process)).collect()
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

fn command(arguments: &[&OsStr], input: Stdio, output: Stdio, errors: Stdio) -> io::Result<Child> {
    let mut command = Command::new("/bin/sh");
    command.args(arguments).current_dir("/").process_group(0);
    command.stdin(input).stdout(output).stderr(errors).spawn()
}

/// A shell that waits to be told, on its standard input, which script it is to run.
pub struct Shell {
    pub process: Child,
    input: ChildStdin,
    output: PipeReader,
    status: PipeReader,
}

impl Shell {
    /// After the script it says with which status that ended, and waits until it is let go.
    const SCRIPT: &str =
        "exec 7>&2 2>&1; read -r script && exec 8<&0 </dev/null && . \"$script\"; echo $? >&7
        exec >&- 2>&-; while read -r _ <&8; do :; done";

    fn new() -> io::Result<Self> {
        let ((output, writer), (status, ends)) = (io::pipe()?, io::pipe()?);
        let arguments = ["-c".as_ref(), Self::SCRIPT.as_ref()];
        let mut process = command(&arguments, Stdio::piped(), writer.into(), ends.into())?;
        let input = process.stdin.take().ok_or_else(|| io::Error::other("it has no input"))?;
        Ok(Self { process, input, output, status })
    }

    /// Has it run the script, which comes back when the shell was killed meanwhile.
    pub fn run(mut self, script: Script) -> Result<Running, Script> {
        match writeln!(self.input, "{}", script.0.display()) {
            Ok(()) => Ok(Running {
                process: self.process,
                output: self.output,
                status: Some(self.status),
                ticks: Some(self.input),
                begun: Instant::now(),
                _script: script,
            }),
            Err(_) => {
                // It is not there any more: nothing but its status is left of it.
                let _ = self.process.wait();
                Err(script)
            }
        }
    }
}

/// The file that a shell reads a script from: in memory, for root alone. It is not in the arguments, which everybody can see.
pub struct Script(PathBuf);

impl Script {
    const PREFIX: &str = "pgprov-script.";

    pub fn new(id: u64, text: &[u8]) -> io::Result<Self> {
        let script = Self(Self::folder().join(format!("{}{id:016x}", Self::PREFIX)));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&script.0)?;
        file.write_all(text)?;
        Ok(script)
    }

    /// Has it run by a shell of its own, with this input.
    pub fn run(self, input: Stdio) -> io::Result<Running> {
        let (output, writer) = io::pipe()?;
        let process = command(&[self.0.as_os_str()], input, writer.try_clone()?.into(), writer.into())?;
        Ok(Running { process, output, status: None, ticks: None, begun: Instant::now(), _script: self })
    }

    /// Removes those of a pghost that was ended before it came to that.
    pub fn remove_from(folder: &Path) {
        for file in fs::read_dir(folder).into_iter().flatten().flatten() {
            if file.file_name().as_encoded_bytes().starts_with(Self::PREFIX.as_bytes()) {
                let _ = fs::remove_file(file.path());
            }
        }
    }

    /// Memory.
    #[cfg(not(test))]
    pub fn folder() -> PathBuf {
        "/run".into()
    }

    /// Of this run of the tests, beside its program: they end before everything is tidied up.
    #[cfg(test)]
    pub fn folder() -> PathBuf {
        let folder = std::env::current_exe().unwrap().with_extension(std::process::id().to_string());
        fs::create_dir_all(&folder).unwrap();
        folder
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A script that runs, or what it leaves behind: a shell that waits to be let go.
pub struct Running {
    pub process: Child,
    /// What it writes, errors among it.
    pub output: PipeReader,
    /// Where a shell that waited says how the script ended.
    pub status: Option<PipeReader>,
    /// Its file descriptor 8, on which it gets a line every now and then: to read that is to wait without a process, which `sleep` would be.
    ticks: Option<ChildStdin>,
    begun: Instant,
    /// Gone with it.
    _script: Script,
}

impl Running {
    /// How soon it is looked at again.
    pub fn patience(&self) -> Timespec {
        if self.begun.elapsed() < SHORT { LOOK } else { LOOK_LATER }
    }

    /// Never more than one line that was not waited for.
    pub fn tick(&mut self) {
        if let Some(ticks) = &mut self.ticks
            && ioctl_fionread(&*ticks) == Ok(0)
        {
            // Who has ended does not wait.
            let _ = ticks.write_all(b"\n");
        }
    }

    /// The status of a script that has ended, whose shell may wait. One that was ended by the script, or killed, says nothing.
    pub fn ends(&mut self) -> io::Result<i32> {
        while let Some(status) = &mut self.status {
            let mut asked = [PollFd::new(&*status, PollFlags::IN)];
            if poll(&mut asked, Some(&LOOK))? > 0 {
                let mut said = [0; 8];
                let count = status.read(&mut said)?;
                match str::from_utf8(&said[..count]).ok().and_then(|said| said.trim_end().parse().ok()) {
                    Some(status) => return Ok(status),
                    None => break,
                }
            }
            // What it left behind may keep the pipe.
            if let Some(status) = self.process.try_wait()? {
                return Ok(code(status));
            }
        }
        Ok(code(self.process.wait()?))
    }

    /// Waits until it has ended, of which nobody wants to know.
    pub fn end_unheard(mut self) {
        let _ = io::copy(&mut self.output, &mut io::sink());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.ticks = None;
        let _ = self.process.wait();
    }
}

/// As the shell counts.
pub fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}
