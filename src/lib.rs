//! The imperative shell of pgprov: libvirt, SSH, files and the terminal around the pure planner in `pgplan`.

pub mod durable;
pub mod libvirt;
pub mod secrets;
pub mod ssh;
pub mod state;
