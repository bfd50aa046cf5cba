//! Any bytes as a message between agents: understood or refused, and what is understood is written and read the same.
//!
//! `cargo +nightly fuzz run agent_wire`
#![no_main]

#[path = "../../crates/pgagent/src/wire.rs"]
#[expect(dead_code, reason = "connections are not fuzzed")]
mod wire;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // What was understood can be said, unless escapes make it too long.
    if let Ok(envelope) = wire::decode(bytes)
        && let Ok(again) = wire::encode(&envelope)
    {
        assert_eq!(wire::decode(&again[4..]).expect("and understood again"), envelope);
    }
});
