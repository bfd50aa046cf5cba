//! The only clock there is.

use pgagent_core::Time;
use rustix::time::{ClockId, clock_gettime};

/// Time since this host booted, suspended time included; nobody can set it.
pub fn now() -> Time {
    let time = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Time(seconds * 1_000 + u64::try_from(time.tv_nsec).unwrap_or(0) / 1_000_000)
}

/// How far the clock that people read is ahead of [`now`], in milliseconds: changes when it is set.
pub fn ahead() -> i64 {
    let time = clock_gettime(ClockId::Realtime);
    (time.tv_sec * 1_000 + time.tv_nsec / 1_000_000).saturating_sub_unsigned(now().0)
}

/// A random number from the kernel.
pub fn random() -> u64 {
    let mut bytes = [0; 8];
    match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
        Ok(8) => u64::from_ne_bytes(bytes),
        // Without random numbers a moment has to do: it only has to differ from that of an earlier run.
        _ => clock_gettime(ClockId::Realtime).tv_nsec.unsigned_abs() ^ now().0,
    }
}
