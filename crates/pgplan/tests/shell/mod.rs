//! Runs the scripts that hosts run.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

/// Gives a script to an interpreter on its standard input, and tells whether it succeeded and what it wrote.
#[expect(clippy::disallowed_methods, reason = "a test may run the shell; the planner may not")]
pub fn run(interpreter: &[&str], script: &str) -> (bool, String) {
    let mut shell = Command::new(interpreter[0])
        .args(&interpreter[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    shell.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let output = shell.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}
