//! `pgprov exec`: one command on several hosts at once.

use std::time::{Duration, Instant};

use pgplan::lab::Host;
use serde_json::json;

use super::context::{CONNECT, OpenLab, target};
use crate::{
    cli::{Exec, Global},
    error::{Error, Result},
    every::every,
    ssh::{Exit, Session},
    ui::Ui,
};

/// What the command did on one host.
struct Outcome {
    host: String,
    result: anyhow::Result<(Exit, String, String)>,
}

/// Runs the command and prints what it wrote, host by host.
///
/// # Errors
/// There is no such lab or host; or the command failed somewhere.
pub fn run(ui: &Ui, global: &Global, args: &Exec) -> Result {
    let (open, _) = OpenLab::find(global, args.lab.lab.as_deref())?;
    let hosts: Vec<&Host> = match args.hosts.as_slice() {
        [] => open.lab.hosts.iter().collect(),
        names => names.iter().map(|name| open.host(name)).collect::<Result<_>>()?,
    };
    let command = args.command.join(" ");
    let limit = Duration::from_secs(args.timeout);
    let results = every(&hosts, |host| {
        let session = Session::connect(&target(&open.state, host)?, Instant::now() + CONNECT)?;
        let output = session.run(&command, b"", &mut |_| {}, limit)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        anyhow::Ok((output.exit.clone(), text(&output.stdout), text(&output.stderr)))
    });
    let outcome = |(host, result): (&&Host, _)| Outcome { host: host.name.clone(), result };
    let outcomes: Vec<Outcome> = hosts.iter().zip(results).map(outcome).collect();
    print(ui, &outcomes);
    let failed: Vec<&str> = outcomes
        .iter()
        .filter(|o| !matches!(&o.result, Ok((Exit::Status(0), ..))))
        .map(|o| o.host.as_str())
        .collect();
    if failed.is_empty() { Ok(()) } else { Err(Error::failed(format!("failed on {}", failed.join(", ")))) }
}

fn print(ui: &Ui, outcomes: &[Outcome]) {
    if ui.json() {
        let rows: Vec<_> = outcomes
            .iter()
            .map(|outcome| match &outcome.result {
                Ok((exit, stdout, stderr)) => {
                    let status = if let Exit::Status(status) = exit { Some(*status) } else { None };
                    json!({"host": outcome.host, "exit_status": status, "stdout": stdout, "stderr": stderr})
                }
                Err(error) => json!({"host": outcome.host, "error": format!("{error:#}")}),
            })
            .collect();
        ui.out_json(&json!(rows));
        return;
    }
    for outcome in outcomes {
        ui.out(&ui.style("1", &format!("== {}", outcome.host)));
        match &outcome.result {
            Ok((exit, stdout, stderr)) => {
                ui.out(stdout);
                ui.out(stderr);
                if !matches!(exit, Exit::Status(0)) {
                    ui.out(&format!("({exit:?})"));
                }
            }
            Err(error) => ui.out(&format!("{error:#}")),
        }
    }
}
