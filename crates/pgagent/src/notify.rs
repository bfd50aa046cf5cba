//! Tells systemd how the agent is.

use std::os::unix::net::UnixDatagram;

/// Sends `READY=1`, `WATCHDOG=1` and the like, when systemd wants to know.
pub fn systemd(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Ok(socket) = UnixDatagram::unbound() {
        let _ = socket.send_to(state.as_bytes(), path);
    }
}
