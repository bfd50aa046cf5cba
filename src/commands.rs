//! One file a verb. Each gets the terminal, the global options and its arguments; none decides what a plan holds.

pub mod backup;
pub mod checkpoint;
pub mod context;
pub mod dashboard;
pub mod destroy;
pub mod diff;
pub mod doctor;
mod draft;
pub mod exec;
pub mod fault;
pub mod graph;
pub mod ha;
pub mod image;
pub mod init;
pub mod lesson;
pub mod load;
pub mod logs;
pub mod plan;
pub mod psql;
pub mod render;
pub mod secrets;
pub mod ssh;
pub mod ssh_config;
pub mod status;
pub mod suspend;
pub mod up;
pub mod vagrant;
pub mod validate;
pub mod watch;

use std::panic::{self, AssertUnwindSafe};

use clap::CommandFactory as _;

use crate::{
    cli::{Cli, Command},
    error::{EXIT_BUG, EXIT_OK, Result},
    ui::Ui,
};

/// Runs `work`, tells how it failed, and answers with the exit code. A panic, which is a defect, has one of its own.
pub fn exit_code(ui: &Ui, work: impl FnOnce() -> Result) -> u8 {
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => EXIT_OK,
        Ok(Err(error)) => {
            ui.error(&error);
            error.exit_code()
        }
        Err(_) => {
            ui.bug();
            EXIT_BUG
        }
    }
}

/// Runs the command.
///
/// # Errors
/// Whatever the command fails with, for [`Ui::error`] and the exit code.
pub fn run(cli: Cli, ui: &Ui) -> Result {
    let global = &cli.global;
    match cli.command {
        Command::Init(args) => init::run(ui, &args),
        Command::VagrantHosts(args) => vagrant::run(ui, global, &args),
        Command::Validate(args) => validate::run(ui, global, &args),
        Command::Plan(args) => plan::run(ui, global, &args),
        Command::Diff(args) => diff::run(ui, global, &args),
        Command::Up(args) => up::run(ui, global, &args),
        Command::Status(args) => status::run(ui, global, &args),
        Command::Ssh(args) => ssh::run(global, &args),
        Command::Exec(args) => exec::run(ui, global, &args),
        Command::Psql(args) => psql::run(global, &args),
        Command::Logs(args) => logs::run(ui, global, &args),
        Command::Load(verb) => load::run(ui, global, &verb),
        Command::Render(args) => render::run(ui, global, &args),
        Command::Graph(args) => graph::run(ui, global, &args),
        Command::Watch(args) => watch::run(ui, global, &args),
        Command::SshConfig(args) => ssh_config::run(ui, global, &args),
        Command::Suspend(args) => suspend::suspend(ui, global, &args),
        Command::Resume(args) => suspend::resume(ui, global, &args),
        Command::Checkpoint(args) => checkpoint::run(ui, global, &args),
        Command::Reset(args) => checkpoint::reset(ui, global, &args),
        Command::Fault(verb) => fault::run(ui, global, &verb),
        Command::Ha(verb) => ha::run(ui, global, &verb),
        Command::Backup(verb) => backup::run(ui, global, &verb),
        Command::Dashboard(verb) => dashboard::run(ui, global, &verb),
        Command::Lesson(verb) => lesson::run(ui, global, &verb),
        Command::Destroy(args) => destroy::run(ui, global, &args),
        Command::Image(args) => image::run(ui, global, &args),
        Command::Doctor => doctor::run(ui, global),
        Command::Schema => {
            ui.out_json(&pgplan::check::schema());
            Ok(())
        }
        Command::Completion(args) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "pgprov", &mut script);
            ui.out(&String::from_utf8_lossy(&script));
            Ok(())
        }
    }
}
