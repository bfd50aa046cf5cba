//! The time of day of this machine.

use std::time::{Duration, SystemTime};

/// The time since 1970; none at all on a machine whose clock is before that.
pub fn since_1970() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
