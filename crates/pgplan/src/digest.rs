//! SHA-256 in hex, as `sha256sum` prints it.

use sha2::{Digest as _, Sha256};

/// The SHA-256 of `bytes`, 64 lower-case hex digits.
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
