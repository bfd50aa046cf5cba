//! What a lab host and its hypervisor say to each other: see [`wire`]. The program of the same name is the host's side.

pub mod wire;
