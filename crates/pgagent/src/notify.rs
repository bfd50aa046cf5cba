//! Tells systemd how the agent is.

use std::{os::unix::net::UnixDatagram, time::Duration};

use pgagent_core::Time;

/// How often systemd hears that the agent is alive: several times within the `WatchdogSec` of its unit, and not at every turn, because that
/// costs the host more than the turn itself.
const ALIVE: Duration = Duration::from_secs(5);

/// Sends `READY=1` and the like, when systemd wants to know.
pub fn systemd(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Ok(socket) = UnixDatagram::unbound() {
        let _ = socket.send_to(state.as_bytes(), path);
    }
}

/// When systemd last heard that the agent is alive.
#[derive(Default)]
pub struct Watchdog(Option<Time>);

impl Watchdog {
    /// Says so, if that is due.
    pub fn feed(&mut self, now: Time) {
        if self.0.is_none_or(|fed| now.past(fed, ALIVE)) {
            self.feed_now(now);
        }
    }

    /// Says so before it is due.
    pub fn feed_now(&mut self, now: Time) {
        self.0 = Some(now);
        systemd("WATCHDOG=1");
    }
}
