//! Runs programs with a limit, and keeps what they wrote for whoever has to find out what went wrong.

use std::{
    ffi::OsStr,
    fmt,
    fs::OpenOptions,
    io::{BufRead as _, BufReader, Read, Write as _},
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// Set when the suite was told to stop: running commands are ended, cleaning up is not.
pub static STOP: AtomicBool = AtomicBool::new(false);

/// A program to run.
pub struct Program {
    command: Command,
    input: Vec<u8>,
    /// Whether its stdin stays open, for what is typed while it runs.
    keyboard: bool,
    limit: Duration,
    /// Runs even when the suite was told to stop.
    always: bool,
}

/// A program that runs.
pub struct Running {
    child: Child,
    keyboard: Option<ChildStdin>,
    shown: String,
    begun: Instant,
    deadline: Instant,
    always: bool,
    stdout: JoinHandle<Vec<u8>>,
    stderr: JoinHandle<()>,
    lines: Arc<Mutex<Vec<u8>>>,
}

/// What a program did.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command as one would type it.
    pub shown: String,
    /// Exit code, or nothing when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What it wrote on stdout.
    pub stdout: String,
    /// What it wrote on stderr.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Program {
    /// That program; one minute is its limit.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        // A group of its own, so that a limit ends its children too, and Ctrl-C reaches only the suite.
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        Self { command, input: Vec::new(), keyboard: false, limit: Duration::from_secs(60), always: false }
    }

    /// With those arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.command.args(args);
        self
    }

    /// With that environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Without those environment variables.
    pub fn without(mut self, names: &[&str]) -> Self {
        for name in names {
            self.command.env_remove(name);
        }
        self
    }

    /// With that text on stdin.
    pub fn input(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.input = text.into();
        self.command.stdin(Stdio::piped());
        self
    }

    /// With somebody at the keyboard: see [`Running::types`].
    pub fn keyboard(mut self) -> Self {
        self.keyboard = true;
        self.command.stdin(Stdio::piped());
        self
    }

    /// With that many seconds to end.
    pub fn limit(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// Also when the suite was told to stop.
    pub fn always(mut self) -> Self {
        self.always = true;
        self
    }

    /// Starts it.
    pub fn start(mut self) -> Result<Running> {
        let shown = shown(&self.command);
        let begun = Instant::now();
        let mut child = self.command.spawn().with_context(|| format!("cannot run {shown}"))?;
        let keyboard = if self.keyboard { child.stdin.take() } else { None };
        if let Some(mut stdin) = child.stdin.take() {
            let input = std::mem::take(&mut self.input);
            // A program may end without reading all of it.
            thread::spawn(move || drop(stdin.write_all(&input)));
        }
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (mut stdout, stderr) = child.stdout.take().zip(child.stderr.take()).context("no pipes")?;
        let stdout = thread::spawn(move || {
            let mut all = Vec::new();
            let _ = stdout.read_to_end(&mut all);
            all
        });
        let sink = Arc::clone(&lines);
        let stderr = thread::spawn(move || {
            let mut reader = BufReader::new(stderr);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
                sink.lock().unwrap_or_else(PoisonError::into_inner).append(&mut line);
            }
        });
        Ok(Running {
            child,
            keyboard,
            shown,
            begun,
            deadline: begun + self.limit,
            always: self.always,
            stdout,
            stderr,
            lines,
        })
    }

    /// Runs it to its end, whatever that is.
    pub fn run(self) -> Result<Output> {
        self.start()?.wait()
    }

    /// Runs it; its exit code has to be 0.
    pub fn ok(self) -> Result<Output> {
        self.run()?.exits(0)
    }
}

impl Running {
    /// What it wrote on stderr so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.lines.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// Types a line; a program that has ended does not hear it.
    pub fn types(&mut self, line: &str) {
        if let Some(keyboard) = &mut self.keyboard {
            let _ = writeln!(keyboard, "{line}");
        }
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Waits until `seen` is true of it; false when the program ended before.
    pub fn wait_until(&mut self, mut seen: impl FnMut(&Self) -> bool) -> Result<bool> {
        while self.runs()? {
            if seen(self) {
                return Ok(true);
            }
            self.check_limit()?;
            thread::sleep(Duration::from_millis(2));
        }
        Ok(seen(self))
    }

    /// Ends it as the kernel would for want of memory: at once, without a chance to clean up.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.shown))
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Result<Output> {
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            self.check_limit()?;
            thread::sleep(Duration::from_millis(5));
        };
        Ok(self.output(status))
    }

    fn check_limit(&mut self) -> Result<()> {
        let stopped = STOP.load(Ordering::Relaxed) && !self.always;
        if !stopped && Instant::now() < self.deadline {
            return Ok(());
        }
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
        if stopped {
            bail!("stopped while running {}", self.shown);
        }
        let so_far = indent(&self.stderr(), "stderr");
        bail!(
            "expected an end within {} s of\n$ {}\n{so_far}",
            (self.deadline - self.begun).as_secs(),
            self.shown
        )
    }

    fn output(self, status: ExitStatus) -> Output {
        let took = self.begun.elapsed();
        note_time(&self.shown, took);
        let stdout = self.stdout.join().unwrap_or_default();
        let _ = self.stderr.join();
        let stderr = std::mem::take(&mut *self.lines.lock().unwrap_or_else(PoisonError::into_inner));
        Output {
            shown: self.shown,
            code: status.code(),
            signal: status.signal(),
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
            took,
        }
    }
}

/// With PGPROV_E2E_TIMES, the file of that name gets a line for each command: where the time of a suite goes.
fn note_time(shown: &str, took: Duration) {
    let Some(file) = std::env::var_os("PGPROV_E2E_TIMES") else { return };
    let line = format!("{:.2}\t{}\n", took.as_secs_f64(), shown.lines().next().unwrap_or_default());
    let _ = OpenOptions::new()
        .append(true)
        .create(true)
        .open(file)
        .and_then(|mut file| file.write_all(line.as_bytes()));
}

impl Output {
    /// The same, if that was its exit code.
    pub fn exits(self, code: i32) -> Result<Self> {
        if self.code == Some(code) { Ok(self) } else { bail!("expected exit code {code} of\n{self}") }
    }

    /// The same, if its output contains that text.
    pub fn says(self, text: &str) -> Result<Self> {
        if self.stdout.contains(text) || self.stderr.contains(text) {
            return Ok(self);
        }
        bail!("expected {text:?} in the output of\n{self}")
    }

    /// Its stdout as JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("expected JSON on stdout of\n{self}"))
    }

    /// Its stdout without white space at the ends.
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }

    /// The same, if its stdout is that text, but for white space at the ends.
    pub fn prints(self, text: &str) -> Result<Self> {
        if self.text() == text { Ok(self) } else { bail!("expected {text:?} on stdout of\n{self}") }
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = match (self.code, self.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, signal) => format!("signal {}", signal.unwrap_or_default()),
        };
        writeln!(f, "$ {}\n({end} after {:.1} s)", self.shown, self.took.as_secs_f64())?;
        write!(f, "{}{}", indent(&self.stdout, "stdout"), indent(&self.stderr, "stderr"))
    }
}

fn indent(text: &str, name: &str) -> String {
    text.lines().map(|line| format!("{name} | {line}\n")).collect()
}

fn shown(command: &Command) -> String {
    let plain = |word: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || "-_./=:@,%+".contains(c))
    };
    let word = |word: &OsStr| {
        let word = word.to_string_lossy();
        if plain(&word) { word.into_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
    };
    let mut words = vec![word(command.get_program())];
    words.extend(command.get_args().map(word));
    words.join(" ")
}
