//! Runs the program as a user would, in a place where nothing else can matter.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use pgprov::state::LabState;

/// The repository.
pub const REPO: &str = env!("CARGO_MANIFEST_DIR");
/// libvirt's own driver for tests: a hypervisor that exists in memory only, a new one for every process.
const LIBVIRT: &str = "test:///default";

/// An empty folder that is the user's home, and an environment without anything from outside.
pub struct Home {
    dir: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

/// What a run left behind.
#[must_use]
pub struct Run {
    /// What it printed on standard output.
    pub stdout: String,
    /// What it printed on standard error.
    pub stderr: String,
    /// Its exit status.
    pub exit: i32,
}

impl Home {
    /// A new one.
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), environment: Vec::new() }
    }

    /// The same with one more variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file in it.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    /// The text of a file in it.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    /// Makes the state of a lab as `up` leaves it, without the lab.
    pub fn make_lab(&self, topology: &str) -> LabState {
        let lab = topology.lines().find_map(|line| line.strip_prefix("lab: ")).unwrap();
        let state = LabState::create(&self.path("state"), lab).unwrap();
        state.write(&state.topology(), topology.as_bytes()).unwrap();
        state
    }

    /// The program with these arguments, not started yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgprov"));
        command.args(arguments).current_dir(self.dir.path()).env_clear().stdin(Stdio::null());
        command.env("HOME", self.dir.path()).env("PGPROV_STATE_DIR", self.path("state"));
        command.env("XDG_CACHE_HOME", self.path("cache")).env("XDG_RUNTIME_DIR", self.path("run"));
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LANG", "C.UTF-8").env("COLUMNS", "100");
        command.env("LIBVIRT_DEFAULT_URI", LIBVIRT);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs the program.
    pub fn run(&self, arguments: &[&str]) -> Run {
        let output = self.command(arguments).output().unwrap();
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).expect("everything printed is UTF-8");
            text.replace(&*self.dir.path().to_string_lossy(), "$HOME").replace(REPO, "$REPO")
        };
        Run {
            stdout: text(output.stdout),
            stderr: text(output.stderr),
            exit: output.status.code().expect("the program ends by itself"),
        }
    }
}

impl Run {
    /// The answer as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in:\n{self}"))
    }
}

/// What a snapshot shows: the exit status, and the streams that are not empty.
impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "exit {}", self.exit)?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            if !text.is_empty() {
                writeln!(f, "-- {name} --\n{}", text.trim_end())?;
            }
        }
        Ok(())
    }
}

/// A file of the repository.
pub fn repo(path: &str) -> PathBuf {
    Path::new(REPO).join(path)
}

/// The text of a file of the repository.
pub fn read(path: &str) -> String {
    fs::read_to_string(repo(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The paths of all files of the repository, relative to it: those that git knows, and new ones that it does not ignore.
pub fn files() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "-zco", "--exclude-standard"])
        .current_dir(REPO)
        .output()
        .expect("git runs");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let all = String::from_utf8(output.stdout).unwrap();
    let there = |path: &&str| !path.is_empty() && repo(path).is_file();
    let paths: Vec<String> = all.split('\0').filter(there).map(str::to_owned).collect();
    assert!(paths.len() > 100, "git knows {} files only", paths.len());
    paths
}
