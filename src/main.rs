//! `pgprov`: one topology YAML in, a running PostgreSQL lab out.

use std::process::ExitCode;

use clap::Parser as _;
use pgprov::{cli::Cli, commands, error::EXIT_OK, ui::Ui};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let ui = Ui::new(cli.global.output, cli.global.color, cli.global.quiet, no_color);
    match commands::run(cli, &ui) {
        Ok(()) => ExitCode::from(EXIT_OK),
        Err(error) => {
            ui.error(&error);
            ExitCode::from(error.exit_code())
        }
    }
}
