//! One file a verb.

mod advise;
mod compare;
mod init;
mod optimise;
mod publish;
mod run;
mod sql;
mod verify;
mod workloads;

use crate::{
    assets::Assets,
    cli::{Cli, Command, Global},
    target::{Process, Target},
    ui::Ui,
};

/// What every command is given.
pub struct Context {
    /// The terminal.
    pub ui: Ui,
    /// SQL and workloads.
    pub assets: Assets,
    global: Global,
}

impl Context {
    /// Where to connect.
    ///
    /// # Errors
    /// The connection string cannot be understood.
    pub fn target(&self) -> anyhow::Result<Target> {
        Ok(Target::parse(self.global.dsn.as_deref(), &Process)?)
    }
}

/// How a command that did not fail ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All is well.
    Fine,
    /// It found what must not be.
    Bad,
}

/// Does what the command line says.
///
/// # Errors
/// Whatever went wrong, for people.
pub fn run(cli: Cli) -> anyhow::Result<Verdict> {
    let ui = Ui::new(&cli.global);
    let context = Context { ui, assets: Assets::new(cli.global.sql.as_deref())?, global: cli.global };
    match cli.command {
        Command::Init(arguments) => init::run(&context, &arguments),
        Command::Workloads(arguments) => workloads::run(&context, &arguments),
        Command::Run(arguments) => run::run(&context, &arguments),
        Command::Verify(arguments) => verify::run(&context, &arguments),
        Command::Compare(arguments) => compare::run(&context, &arguments),
        Command::Optimise(arguments) => optimise::run(&context, &arguments),
        Command::Advise(arguments) => advise::run(&context, &arguments),
        Command::Publish(arguments) => publish::run(&context, &arguments),
        Command::Sql(arguments) => sql::run(&context, &arguments),
    }
}
