//! The end-to-end tests: real VMs, made and taken away by the `pgprov` program.
//!
//! `make test-e2e` runs them in a network namespace with a libvirtd of its own (`scripts/sandbox`). Cases run one after
//! the other, in the order of [`CASES`]; a lab that several of them use is brought up once, by the first one that
//! needs it. Words on the command line select the cases whose name contains one of them.

mod change;
mod command;
mod connect;
mod fresh;
mod harness;
mod suite;

use std::process::ExitCode;

use harness::Case;

/// All cases, in order: those that only look come first, those that break something last.
const CASES: &[Case] = &[
    Case::new("up-from-nothing", fresh::up_from_nothing),
    Case::new("status-as-json", fresh::status_as_json),
    Case::new("row-on-primary-is-read-on-standby", fresh::row_on_primary_is_read_on_standby),
    Case::new("standby-is-read-only", fresh::standby_is_read_only),
    Case::new("services-on-the-client", connect::services_on_the_client),
    Case::new("concurrent-transactions", connect::concurrent_transactions),
    Case::new("tls-and-scram-only", connect::tls_and_scram_only),
    Case::new("psql-on-the-hypervisor", connect::psql_on_the_hypervisor),
    Case::new("program-on-the-hypervisor", connect::program_on_the_hypervisor),
    Case::new("second-up-changes-nothing", change::second_up_changes_nothing),
];

fn main() -> ExitCode {
    harness::main(CASES)
}
