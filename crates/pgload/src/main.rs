//! pgload: see the library.

use std::process::ExitCode;

use clap::Parser as _;
use pgload::{
    cli::Cli,
    commands::{self, Verdict},
    ui::Ui,
};

fn main() -> ExitCode {
    match commands::run(Cli::parse()) {
        Ok(Verdict::Fine) => ExitCode::SUCCESS,
        Ok(Verdict::Bad) => ExitCode::from(3),
        Err(error) => {
            Ui::error(&error);
            ExitCode::FAILURE
        }
    }
}
