//! pgload against a real PostgreSQL that each test program starts for itself.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod failures;
mod init;
mod run;
mod server;
mod tools;
