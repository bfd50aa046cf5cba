//! `pgprov`: one topology YAML in, a running PostgreSQL lab out.

use std::process::ExitCode;

use clap::Parser as _;
use pgprov::{cli::Cli, commands, ui::Ui};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let ui = Ui::new(cli.global.output, cli.global.color, cli.global.quiet, no_color);
    ExitCode::from(commands::exit_code(&ui, || commands::run(cli, &ui)))
}
