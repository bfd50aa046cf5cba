//! The SQL files are built into the program: a new one must make Cargo build it again.

fn main() {
    println!("cargo::rerun-if-changed=../../sql");
}
