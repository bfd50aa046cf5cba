//! Runs the programs that make an image: with a log, a limit, and an end when pgprov ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::Error;
use super::error::io_error;

const POLL: Duration = Duration::from_millis(50);
const TICK: Duration = Duration::from_secs(1);
/// How long a program may take to clean up after it was told to end.
const GRACE: Duration = Duration::from_secs(10);
const TAIL_LINES: usize = 15;
const TAIL_BYTES: usize = 64 * 1024;

/// Where the programs write, and who hears that they still run.
pub(super) struct Tools<'a> {
    log: PathBuf,
    tick: &'a dyn Fn(),
}

/// How a program is run.
pub(super) struct Run<'a> {
    /// What for: completes "cannot ...".
    pub purpose: &'static str,
    /// How long it may take.
    pub limit: Duration,
    /// It works on a tree of a machine's files: as root, and in namespaces of its own, so that no mount is ever seen,
    /// or removed, from outside, and that all children end with it. An ordinary user is root in a user namespace,
    /// where the other owners of files are the user's subordinate ids.
    pub isolated: bool,
    /// Its output goes to this file instead of the log.
    pub output: Option<&'a Path>,
    /// Variables to set.
    pub environment: &'a [(&'static str, String)],
}

impl Run<'_> {
    /// Ten minutes, output to the log, nothing special.
    pub fn new(purpose: &'static str) -> Self {
        Self { purpose, limit: Duration::from_secs(10 * 60), isolated: false, output: None, environment: &[] }
    }

    /// The same, isolated.
    pub fn isolated(purpose: &'static str) -> Self {
        Self { isolated: true, ..Self::new(purpose) }
    }

    /// In a group of its own, so that all of it can be ended; `setpriv` has the kernel kill it when we are killed.
    pub fn command(&self, tool: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]);
        if self.isolated {
            command.args(["unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"]);
            if !rustix::process::geteuid().is_root() {
                command.args(["--map-root-user", "--map-auto"]);
            }
            command.arg("--");
        }
        command.arg(tool).args(arguments);
        command.stdin(Stdio::null()).process_group(0).env("LC_ALL", "C.UTF-8");
        // mke2fs lies where an ordinary user's PATH does not look.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl<'a> Tools<'a> {
    /// Starts a new log; `tick` is called about once a second while a program runs.
    pub fn new(log: PathBuf, tick: &'a dyn Fn()) -> Result<Self, Error> {
        File::create(&log).map_err(io_error("create", &log))?;
        Ok(Self { log, tick })
    }

    /// Runs a program to its end. It is killed when this process dies.
    ///
    /// # Errors
    /// [`Error::Tool`] when it cannot be started, [`Error::Step`] with the end of its output when it fails.
    pub fn run(&self, run: &Run<'_>, tool: &str, arguments: &[&str]) -> Result<(), Error> {
        let mut log = OpenOptions::new().append(true).open(&self.log).map_err(io_error("open", &self.log))?;
        writeln!(log, "# {tool} {}", arguments.join(" ")).map_err(io_error("write", &self.log))?;
        let begin = fs::metadata(&self.log).map_err(io_error("read", &self.log))?.len();
        let stdout = match run.output {
            Some(path) => File::create(path).map_err(io_error("create", path))?,
            None => log.try_clone().map_err(io_error("open", &self.log))?,
        };
        let purpose = run.purpose;
        let mut child = run
            .command(tool, arguments)
            .stdout(stdout)
            .stderr(log)
            .spawn()
            .map_err(|cause| Error::Tool { tool: "setpriv".to_owned(), purpose, cause })?;
        let limit = run.limit;
        let outcome = match self.wait(&mut child, limit).map_err(io_error("wait for", Path::new(tool)))? {
            Some(status) if status.success() => return Ok(()),
            // setpriv's word for a program that is not there.
            Some(status) if status.code() == Some(127) => {
                let cause = io::Error::from(io::ErrorKind::NotFound);
                return Err(Error::Tool { tool: tool.to_owned(), purpose, cause });
            }
            Some(status) => format!("ended with {status}"),
            None => format!("did not end within {} s", limit.as_secs()),
        };
        let tail = self.tail(begin);
        Err(Error::Step { tool: tool.to_owned(), purpose, outcome, tail, log: self.log.clone() })
    }

    /// `None` when the limit was reached and the program was ended.
    fn wait(&self, child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
        let start = Instant::now();
        let mut ticked = start;
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(Some(status));
            }
            if start.elapsed() > limit {
                end(child)?;
                return Ok(None);
            }
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                (self.tick)();
            }
            thread::sleep(POLL);
        }
    }

    /// The last lines of the log, from the byte where the program began to write.
    fn tail(&self, begin: u64) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        let own = bytes.get(usize::try_from(begin).unwrap_or(0)..).unwrap_or_default();
        let end = String::from_utf8_lossy(&own[own.len().saturating_sub(TAIL_BYTES)..]).into_owned();
        let lines: Vec<&str> = end.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }
}

fn end(child: &mut Child) -> io::Result<()> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let signal = |signal| group.map_or(Ok(()), |group| kill_process_group(group, signal));
    // It may have ended by itself meanwhile.
    let _ = signal(Signal::TERM);
    let told = Instant::now();
    while told.elapsed() < GRACE {
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        thread::sleep(POLL);
    }
    let _ = signal(Signal::KILL);
    child.wait().map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools(dir: &Path) -> Tools<'static> {
        Tools::new(dir.join("build.log"), &|| ()).unwrap()
    }

    #[test]
    fn a_failure_shows_the_end_of_the_programs_own_output() {
        let dir = tempfile::tempdir().unwrap();
        let tools = tools(dir.path());
        tools.run(&Run::new("warm up"), "sh", &["-c", "echo earlier"]).unwrap();
        let script = "seq 100; echo why >&2; exit 3";
        let error = tools.run(&Run::new("count"), "sh", &["-c", script]).unwrap_err();
        let Error::Step { outcome, tail, .. } = &error else { panic!("{error}") };
        assert_eq!(outcome, "ended with exit status: 3");
        assert!(tail.starts_with("87\n") && tail.ends_with("100\nwhy"), "{tail}");
        assert!(
            error
                .to_string()
                .starts_with("cannot count: sh ended with exit status: 3; its last words:\n87\n")
        );
    }

    #[test]
    fn a_program_that_is_not_there_names_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let error =
            tools(dir.path()).run(&Run::new("make an image"), "pgprov-no-such-tool", &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot run pgprov-no-such-tool, which is needed to make an image: entity not found; scripts/setup installs it"
        );
    }

    #[test]
    fn a_program_is_ended_with_its_children_at_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let run = Run { limit: Duration::from_millis(300), ..Run::new("wait") };
        let error = tools(dir.path()).run(&run, "sh", &["-c", "echo begun; sleep 60 & wait"]).unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
        assert!(error.to_string().contains("did not end within 0 s; its last words:\nbegun"), "{error}");
    }

    #[test]
    fn output_can_go_to_a_file_and_variables_are_set() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let environment = [("WORD", "b".to_owned())];
        let run = Run { output: Some(&path), environment: &environment, ..Run::new("print") };
        tools(dir.path()).run(&run, "sh", &["-c", "printf \"a\\\\0$WORD\""]).unwrap();
        assert_eq!(fs::read(path).unwrap(), b"a\0b");
    }

    #[test]
    fn an_isolated_program_is_root_and_takes_its_children_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let run = Run { output: Some(&path), ..Run::isolated("leave a child behind") };
        let script = "sleep 86399.25 >/dev/null & mount -t tmpfs none /mnt && id -u && cat /proc/1/comm";
        tools(dir.path()).run(&run, "sh", &["-c", script]).unwrap();
        assert_eq!(fs::read_to_string(path).unwrap(), "0\nsh\n");
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.lines().any(|line| line.split(' ').nth(1) == Some("/mnt")), "{mounts}");
        let left = fs::read_dir("/proc").unwrap().any(|entry| {
            let command = fs::read(entry.unwrap().path().join("cmdline")).unwrap_or_default();
            command.starts_with(b"sleep\x0086399.25")
        });
        assert!(!left, "the child runs on");
    }
}
