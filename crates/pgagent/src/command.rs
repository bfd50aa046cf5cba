//! The command line.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use pgagent_core::{Member, node::Command};
use serde_json::Value;

use crate::{
    agent,
    config::Config,
    control::{self, Order},
    gate,
};

const USAGE: &str = "\
pgagent [--config FILE] COMMAND

  run                            the agent itself
  check                          read the settings and say what is wrong with them
  table                          print the nftables table with the port closed
  status                         all that the agent knows, as JSON
  brief                          the main parts of it on a line
  explain                        one sentence: why nothing moves, and what to do
  switchover                     on the primary: let the standby take over, nothing is lost
  maintenance on|off             nobody is promoted and the primary goes on alone, until it is switched off
  promote --accept-data-loss     become primary although acknowledged commits may be lost
  rest                           for two seconds, ask nobody how they are: the memory of this machine is about to be saved
  rejoin                         on a standby: begin again with a fresh copy
  arbiter replace                on the arbiter: make the record anew from what both data hosts know
  arbiter adopt                  on an arbiter without memory: believe the one data host that answers

The settings are in /etc/pgagent/pgagent.toml if --config does not say otherwise.
";

/// Runs a command line.
pub async fn main(arguments: Vec<String>) -> ExitCode {
    let mut words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut path = PathBuf::from("/etc/pgagent/pgagent.toml");
    if words.first() == Some(&"--config") && words.len() > 1 {
        path = PathBuf::from(words[1]);
        words.drain(..2);
    }
    let done = match words.as_slice() {
        ["run"] => agent::run(&path).await,
        ["check"] => read(&path).map(|_| say(&format!("{} is fine\n", path.display()))),
        ["table"] => read(&path).map(|config| say(&gate::table(&config))),
        ["status"] => status(&path).await,
        ["brief"] => brief(&path).await,
        ["explain"] => explain(&path).await,
        ["rest"] => ask(&path, Order::Rest).await.map(drop),
        ["switchover"] => order(&path, Order::Node(Command::Switchover)).await,
        ["maintenance", "on"] => order(&path, Order::Node(Command::Maintenance(true))).await,
        ["maintenance", "off"] => order(&path, Order::Node(Command::Maintenance(false))).await,
        ["promote", "--accept-data-loss"] => order(&path, Order::Node(Command::Force)).await,
        ["rejoin"] => order(&path, Order::Node(Command::Rejoin)).await,
        ["arbiter", "replace"] => order(&path, Order::Replace).await,
        ["arbiter", "adopt"] => order(&path, Order::Adopt).await,
        ["--version"] => {
            say(&format!("pgagent {}, protocol {}\n", env!("CARGO_PKG_VERSION"), crate::wire::VERSION));
            Ok(())
        }
        ["promote"] => {
            Err("promote needs --accept-data-loss: the arbiter does not know that nothing is lost".to_owned())
        }
        _ => {
            complain(USAGE);
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

fn read(path: &Path) -> Result<Config, String> {
    Config::read(path).map_err(|error| error.to_string())
}

async fn ask(path: &Path, order: Order) -> Result<Value, String> {
    let config = read(path)?;
    let answer = control::call(&config.socket, &order).await?;
    match answer.get("error").and_then(Value::as_str) {
        Some(error) => Err(error.to_owned()),
        None => Ok(answer),
    }
}

async fn status(path: &Path) -> Result<(), String> {
    let answer = ask(path, Order::Status).await?;
    say(&(serde_json::to_string_pretty(&answer).map_err(|error| error.to_string())? + "\n"));
    Ok(())
}

/// What `pgprov status` shows of this host.
async fn brief(path: &Path) -> Result<(), String> {
    let answer = ask(path, Order::Status).await?;
    let record = |name: &str| answer.get("record").and_then(|record| record.get(name)).cloned();
    let mut parts = serde_json::Map::new();
    for name in ["phase", "open", "primary", "why"] {
        parts.extend(answer.get(name).map(|value| (name.to_owned(), value.clone())));
    }
    for name in ["epoch", "in_sync"] {
        parts.extend(record(name).map(|value| (name.to_owned(), value)));
    }
    say(&format!("{}\n", Value::Object(parts)));
    Ok(())
}

async fn explain(path: &Path) -> Result<(), String> {
    let answer = ask(path, Order::Status).await?;
    let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let next = text("next");
    let hint = if next.is_empty() { String::new() } else { format!("\nnext: {next}") };
    say(&format!("{} ({}) {}{hint}\n", text("me"), text("phase"), text("why")));
    Ok(())
}

async fn order(path: &Path, order: Order) -> Result<(), String> {
    let config = read(path)?;
    let arbiter = config.member() == Some(Member::Arbiter);
    if arbiter != matches!(order, Order::Adopt | Order::Replace) {
        let wanted = if arbiter { "data host" } else { "arbiter" };
        return Err(format!("this command is for a {wanted}; {} is none", config.me));
    }
    ask(path, order).await.map(|_| ())
}

/// The answer of a command.
fn say(text: &str) {
    // Whoever closed the pipe has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn complain(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
