//! The failover agent: `pgagent run` on each of the three hosts, and commands for the one of this host.

mod agent;
mod clock;
mod command;
mod config;
mod control;
mod gate;
mod link;
mod log;
mod metrics;
mod notify;
mod probe;
mod server;
mod store;
mod wire;

use std::process::ExitCode;

fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(command::main(std::env::args().skip(1).collect())),
        Err(error) => {
            log::line("error", "start", &[("error", &error.to_string())]);
            ExitCode::FAILURE
        }
    }
}
