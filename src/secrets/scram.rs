//! What PostgreSQL keeps of a password, by RFC 5802 and 7677.

use std::num::NonZeroU32;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pgplan::lab::REPLICATION_USER;
use ring::{
    digest, hmac, pbkdf2,
    rand::{SecureRandom, SystemRandom},
};

use super::Error;

/// How often a password is hashed. It makes guessing slow what people choose.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("not zero");
/// The same for [`REPLICATION_USER`], whose 192 random bits nobody guesses. Agents and standbys log in with it, and each time an
/// emulated host would spend an eighth of a second on hashing.
const ITERATIONS_OF_MACHINES: NonZeroU32 = NonZeroU32::new(16).expect("not zero");

/// The verifier of the password of `user`. As SASLprep leaves it: ours are ASCII.
pub(super) fn verifier(user: &str, password: &str) -> Result<String, Error> {
    let iterations = if user == REPLICATION_USER { ITERATIONS_OF_MACHINES } else { ITERATIONS };
    let mut salt = [0; 16];
    SystemRandom::new().fill(&mut salt).map_err(|_| Error::Random)?;
    let mut salted = [0; digest::SHA256_OUTPUT_LEN];
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, password.as_bytes(), &mut salted);
    let key = hmac::Key::new(hmac::HMAC_SHA256, &salted);
    let stored = digest::digest(&digest::SHA256, hmac::sign(&key, b"Client Key").as_ref());
    let server = hmac::sign(&key, b"Server Key");
    let [salt, stored, server] =
        [&salt[..], stored.as_ref(), server.as_ref()].map(|part| STANDARD.encode(part));
    Ok(format!("SCRAM-SHA-256${iterations}:{salt}${stored}:{server}"))
}
