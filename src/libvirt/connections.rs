//! Connections to one hypervisor.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use virt::connect::Connect;

use super::Raw;

/// How many calls may be on their way at once where all go over one connection: libvirt answers no more than five of a connection at
/// a time, and one that asks for more may be closed in the middle of a stream.
const SHARED: usize = 4;

/// What calls go over. On this machine each has a connection of its own while it lasts, so that none waits for another: restoring the
/// memory of a machine takes a second. To another machine there is one for all, because it may be a login.
pub(super) struct Connections {
    uri: String,
    first: Connect,
    is_shared: bool,
    state: Mutex<State>,
    returned: Condvar,
}

#[derive(Default)]
struct State {
    free: Vec<Connect>,
    busy: usize,
}

/// A connection for one call.
pub(super) struct Taken<'a> {
    from: &'a Connections,
    pub(super) connect: Connect,
}

impl Connections {
    pub(super) fn new(uri: &str, first: Connect) -> Self {
        let is_here = ["qemu:///", "qemu+unix:///"].iter().any(|here| uri.starts_with(here));
        let state = State { free: if is_here { vec![first.clone()] } else { Vec::new() }, busy: 0 };
        Self {
            uri: uri.to_owned(),
            first,
            is_shared: !is_here,
            state: Mutex::new(state),
            returned: Condvar::new(),
        }
    }

    /// One that nobody else uses, or the one for all when it is not too busy.
    pub(super) fn take(&self) -> Raw<Taken<'_>> {
        let mut state = self.state();
        while self.is_shared && state.busy >= SHARED {
            state = self.returned.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.busy += 1;
        let free = if self.is_shared { Some(self.first.clone()) } else { state.free.pop() };
        drop(state);
        let opened = match free {
            Some(connect) => Ok(connect),
            None => Connect::open(Some(&self.uri)),
        };
        if opened.is_err() {
            self.state().busy -= 1;
        }
        Ok(Taken { from: self, connect: opened? })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut state = self.from.state();
        state.busy -= 1;
        // One that libvirt has closed is of no use to the next.
        if !self.from.is_shared && self.connect.is_alive().unwrap_or(false) {
            state.free.push(self.connect.clone());
        }
        self.from.returned.notify_one();
    }
}
