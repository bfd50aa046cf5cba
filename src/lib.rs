//! The imperative shell of pgprov: libvirt, SSH, files and the terminal around the pure planner in `pgplan`.

pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod commands;
pub mod connect;
pub mod dashboard;
pub mod durable;
pub mod error;
pub mod every;
pub mod execute;
pub mod fault;
pub mod files;
pub mod graph;
pub mod image;
pub mod lesson;
pub mod libvirt;
pub mod machines;
pub mod markup;
pub mod observe;
pub mod secrets;
pub mod snapshot;
pub mod ssh;
pub mod state;
pub mod ui;
