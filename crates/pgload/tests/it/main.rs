//! pgload against a real PostgreSQL that each test program starts for itself.
#![expect(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test that cannot go on fails; one that cannot be run says so"
)]

mod failures;
mod init;
mod run;
mod server;
mod tls;
mod tools;
