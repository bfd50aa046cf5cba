//! The only clock there is.

use std::{os::fd::OwnedFd, thread};

use pgagent_core::Time;
use rustix::{
    io::{Errno, read},
    time::{
        ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
        timerfd_create, timerfd_settime,
    },
};
use tokio::sync::mpsc::{self, error::TrySendError};

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

/// Says so whenever the clock that people read is set; never, if the kernel has no such timer.
pub fn settings() -> mpsc::Receiver<()> {
    let (says, heard) = mpsc::channel(1);
    // Waiting takes a thread: nothing reads such a timer safely in a runtime.
    thread::spawn(move || {
        let Ok(timer) = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC) else { return };
        while arm(&timer).is_ok() && read(&timer, &mut [0_u8; 8]) == Err(Errno::CANCELED) {
            // Who has not looked since the last time will hear of both at once.
            if let Err(TrySendError::Closed(())) = says.try_send(()) {
                return;
            }
        }
    });
    heard
}

/// A timer for the end of time, which the kernel cancels when the clock is set.
fn arm(timer: &OwnedFd) -> Result<(), Errno> {
    let never = Timespec { tv_sec: i64::MAX, tv_nsec: 0 };
    let once = Itimerspec { it_interval: Timespec::default(), it_value: never };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &once).map(drop)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// It is nobody's to set the clock here: that it is heard is seen on machines. A new timer is one that nobody has cancelled.
    #[test]
    fn the_kernel_takes_a_timer_for_the_end_of_time() {
        let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::NONBLOCK).unwrap();
        arm(&timer).unwrap();
        assert_eq!(read(&timer, &mut [0_u8; 8]), Err(Errno::AGAIN));
    }
}
