//! A student at an interactive lesson, who asks for hints and types what the last one says. `pgprov` and `pgprov ssh` are
//! all that is used, so what a lesson prints has to work by itself.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{Played, report_of};
use crate::{
    command::{Output, Running},
    suite::Lab,
};

/// What is said before the commands of a step.
const SOLUTION: &str = "a demonstration does this:\n";
/// How often the student asks for a hint.
const ASKS: Duration = Duration::from_secs(1);
/// Seconds that the student may take for a step.
const PATIENCE: &str = "240";

/// Something to type: on a host or, without one, on the student's own machine.
struct Command {
    host: Option<String>,
    text: String,
}

/// Plays a lesson to its end by doing what it says.
pub fn plays(lab: &Lab<'_>, lesson: &str, options: &[&str], seconds: u64) -> Result<Played> {
    let report = report_of(lab, lesson);
    let words = ["run", lesson, "--interactive", "--patience", PATIENCE, "--lab", lab.name];
    let program = lab.suite.pgprov(["lesson"]).args(words).args(options);
    let mut running =
        program.args(["--report".as_ref(), report.as_os_str()]).keyboard().limit(seconds).start()?;
    let (mut solved, mut typed) = (0, Vec::new());
    while running.runs()? {
        let asked = Instant::now();
        running.wait_until(|running| solutions(running) > solved || asked.elapsed() > ASKS)?;
        if solutions(&running) == solved {
            running.types("h");
            continue;
        }
        // The rest of what is said is on its way.
        thread::sleep(Duration::from_millis(300));
        solved += 1;
        let said = running.stderr();
        let solution = said.split(SOLUTION).nth(solved).context("expected commands")?;
        for command in commands(solution) {
            typed.push(perform(lab, &command)?);
        }
    }
    let output = running.wait()?;
    if output.code != Some(0) {
        let typed: String = typed.iter().map(Output::to_string).collect();
        bail!("expected the student to get to the end of\n{output}after typing\n{typed}");
    }
    Played::read(output, report)
}

fn solutions(running: &Running) -> usize {
    running.stderr().matches(SOLUTION).count()
}

/// Reads `host# command` and `$ command`, each with the lines that follow, up to the next thing that the lesson says.
fn commands(text: &str) -> Vec<Command> {
    let mut commands: Vec<Command> = Vec::new();
    let begins = |line: &str| {
        if let Some(text) = line.strip_prefix("$ ") {
            return Some(Command { host: None, text: text.to_owned() });
        }
        let (host, text) = line.split_once("# ")?;
        let is_host =
            !host.is_empty() && host.chars().all(|char| char.is_ascii_alphanumeric() || char == '-');
        is_host.then(|| Command { host: Some(host.to_owned()), text: text.to_owned() })
    };
    for line in text.lines() {
        if ["  ✓", "  ✗", "  hint:", "  …", "step "].iter().any(|end| line.starts_with(end)) {
            break;
        }
        match (begins(line), commands.last_mut()) {
            (Some(command), _) => commands.push(command),
            (None, Some(last)) => last.text.push_str(&format!("\n{line}")),
            (None, None) => {}
        }
    }
    commands
}

/// Types it. That it fails is for the lesson to judge: some have to.
fn perform(lab: &Lab<'_>, command: &Command) -> Result<Output> {
    let Some(host) = &command.host else {
        let words = shlex::split(&command.text).context("expected quotes to be closed")?;
        let (program, words) = words.split_first().context("expected a command")?;
        return if program == "pgprov" {
            lab.suite.pgprov(words).env("PGPROV_LAB", lab.name).limit(120).run()
        } else {
            crate::command::Program::new(program).args(words).run()
        };
    };
    // Commands of a shell are typed there; SQL is typed at the prompt of the psql before it.
    let (first, rest) = command.text.split_once('\n').unwrap_or((&command.text, ""));
    let ssh = lab.pgprov("ssh", [host.as_str()]).limit(180);
    if first.contains("psql ") && !first.contains(" -c ") && !rest.is_empty() {
        ssh.args([first]).input(format!("{rest}\n")).run()
    } else {
        ssh.args(["bash", "-s"]).input(format!("{}\n", command.text)).run()
    }
}
