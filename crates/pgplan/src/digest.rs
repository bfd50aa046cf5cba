//! SHA-256 in hex, as `sha256sum` prints it.

use sha2::{Digest as _, Sha256};

/// The first 12 hex digits of the SHA-256 of the parts: enough to tell things of one machine apart.
pub fn short_hash(parts: &[&str]) -> String {
    let mut text = hex(parts.join("\0").as_bytes());
    text.truncate(12);
    text
}

/// The SHA-256 of `bytes`, 64 lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
