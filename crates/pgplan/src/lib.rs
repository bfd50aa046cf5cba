//! The pure planner of pgprov: topology text -> checked topology -> plan -> rendered files.
//!
//! Nothing here sees a machine, a file, a clock or a random number: all of that comes in as an argument, so the
//! same input gives the same plan everywhere. The way through the crate is the way of a topology:
//!
//! 1. [`yaml`] reads text into a tree that knows the place of every node;
//! 2. [`schema`] checks the tree against the JSON Schema of the Rust types in [`topology`] and [`role`];
//! 3. [`check`] looks at what a schema cannot say, and collects every [`finding`];
//! 4. [`lab`] derives names, addresses and identities; [`machines`] has those of machines that are there already;
//! 5. [`render`] turns roles and templates into the files and tasks of each host;
//! 6. [`plan`] compares them with what was [`observed`] and lists the steps to take.

pub mod catalogue;
pub mod check;
pub mod cron;
pub mod diff;
pub mod digest;
pub mod excerpt;
pub mod fault;
pub mod finding;
pub mod host;
pub mod lab;
pub mod machine;
pub mod machines;
pub mod observed;
pub mod plan;
pub mod profile;
pub mod render;
pub mod role;
pub mod schema;
pub mod secrets;
pub mod size;
pub mod subnet;
pub mod suggest;
pub mod topology;
pub mod yaml;
