//! pgprov itself, run as a student would run it, so that a report shows the same lines and answers.

use std::{
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::super::context::this_program;
use crate::cli::Global;

/// How long going back to a checkpoint may take.
pub const RESET: Duration = Duration::from_secs(300);
/// How often it is asked whether it has ended.
const TURN: Duration = Duration::from_millis(50);

/// What it said.
pub struct Said {
    /// What it printed, errors last.
    pub output: String,
    /// Why it failed, if it did.
    pub error: Option<String>,
}

/// Runs pgprov with the words of `line`, for that lab.
///
/// # Errors
/// It cannot be started.
pub fn pgprov(global: &Global, lab: &str, line: &str, limit: Duration) -> anyhow::Result<Said> {
    let words = shlex::split(line).with_context(|| format!("quotes are not closed in: {line}"))?;
    let mut command = this_program(global)?;
    command.args(&words).env("PGPROV_LAB", lab).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run pgprov {line}"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    thread::scope(|scope| {
        let out = scope.spawn(move || text(stdout));
        let err = scope.spawn(move || text(stderr));
        let deadline = Instant::now() + limit;
        let ended = loop {
            match child.try_wait().with_context(|| format!("cannot wait for pgprov {line}"))? {
                Some(status) => break Some(status),
                None if Instant::now() >= deadline => {
                    // It may have ended by itself meanwhile, which is as well.
                    let _ = child.kill();
                    let _ = child.wait();
                    break None;
                }
                None => thread::sleep(TURN),
            }
        };
        let [out, err] = [out, err].map(|thread| thread.join().unwrap_or_default());
        let error = match ended {
            Some(status) if status.success() => None,
            Some(status) => Some(format!("it ended with {status}")),
            None => Some(format!("it did not end within {} s", limit.as_secs())),
        };
        Ok(Said { output: [out, err].concat(), error })
    })
}

fn text(stream: Option<impl std::io::Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(mut stream) = stream {
        // What was read up to an error is what there is.
        let _ = stream.read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
