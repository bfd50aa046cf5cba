//! What pgprov does without a hypervisor, and what the repository promises: one binary for all of it.
//!
//! The real program runs in an environment of its own (see [`runner`]); what it prints and its exit status are inline
//! snapshots. Labs on real VMs are in `tests/e2e`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod architecture;
mod dashboards;
mod docs;
mod init;
mod labs;
mod lessons;
mod markdown;
mod output;
mod plan;
mod render;
mod roles;
mod runner;
mod tidy;
mod usage;
mod validate;
