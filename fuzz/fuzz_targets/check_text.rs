//! Any bytes as a topology: never a panic, never out of time or memory, and what passes can be derived.
//!
//! `cargo +nightly fuzz run check_text fuzz/corpus topologies crates/pgplan/tests/bad -- -dict=fuzz/yaml.dict`
#![no_main]

#[path = "../../crates/pgplan/tests/hold/mod.rs"]
mod hold;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    match pgplan::yaml::decode(bytes) {
        Ok(text) => drop(hold::hold(text)),
        Err(finding) => assert!(finding.span.line >= 1 && finding.span.column >= 1),
    }
});
