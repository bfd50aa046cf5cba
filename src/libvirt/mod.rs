//! The adapter to libvirt: reads what exists into [`pgplan::observed`], and does single things to domains, networks and
//! volumes. It decides nothing; it only refuses to change what does not carry the mark of the lab it is asked for.
//!
//! libvirt's calls block, some without limit. Each one runs on a thread of its own and is given up (the thread is left
//! to its fate) when its limit passes, so a stuck libvirtd shows as an error that names the call. [`Libvirt`] is cheap
//! to clone and can be used from many threads at once.

mod connections;
mod domains;
mod error;
mod faults;
mod images;
mod memory;
mod networks;
mod observe;
mod pool;
mod port;
mod read;
mod remove;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use virt::connect::Connect;

use self::connections::Connections;

pub use error::Error;
pub use memory::{Header, hardware, unplugged};
pub use port::{Errand, Undone};
pub use remove::Removed;

/// Result of a call to libvirt.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;
type Raw<T> = std::result::Result<T, virt::error::Error>;

/// Limit of calls that read or change a definition.
const QUICK: Duration = Duration::from_secs(30);
/// Limit of calls that start, stop or save a machine, or that write a volume without telling how far they are.
const SLOW: Duration = Duration::from_secs(180);
/// The connection that is used unless the user says otherwise.
const DEFAULT_URI: &str = "qemu:///system";

/// A connection to a hypervisor.
#[derive(Clone)]
pub struct Libvirt {
    connections: Arc<Connections>,
    uri: String,
}

impl Libvirt {
    /// Connects to `uri`, or to what LIBVIRT_DEFAULT_URI says, or to the system's own libvirtd.
    ///
    /// # Errors
    /// [`Error::Connect`] with the remedy as its hint; [`Error::Timeout`].
    pub fn connect(uri: Option<&str>) -> Result<Self> {
        // Else libvirt prints every error on stderr by itself, also those that are expected here.
        virt::error::clear_error_callback();
        let wanted = match uri {
            Some(uri) => uri.to_owned(),
            None => std::env::var("LIBVIRT_DEFAULT_URI")
                .ok()
                .filter(|uri| !uri.is_empty())
                .unwrap_or_else(|| DEFAULT_URI.to_owned()),
        };
        let operation = format!("connect to libvirt at {wanted}");
        let target = wanted.clone();
        let opened = bounded(&operation, QUICK, move || Connect::open(Some(&target)))?;
        let first = opened.map_err(|error| Error::connect(&wanted, &error))?;
        Ok(Self { connections: Arc::new(Connections::new(&wanted, first)), uri: wanted })
    }

    /// The URI of the connection.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Whether the hypervisor is this machine, so that what the kernel says here holds for it.
    pub fn is_local(&self) -> bool {
        let after_scheme = self.uri.split_once("://").map_or("", |(_, rest)| rest);
        after_scheme.starts_with('/')
    }

    /// Runs `work` on a thread of its own, for at most `limit`. `operation` completes the sentence "cannot ...".
    fn call<T, F>(&self, operation: &str, limit: Duration, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Connect) -> Raw<T> + Send + 'static,
    {
        let connections = Arc::clone(&self.connections);
        bounded(operation, limit, move || work(&connections.take()?.connect))?
            .map_err(|error| Error::call(operation, &error))
    }
}

/// Runs `work` on a thread of its own, for at most `limit`.
fn bounded<T, F>(operation: &str, limit: Duration, work: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    watched(operation, limit, move |_| work(), |()| {})
}

/// Runs `work` on a thread of its own for as long as it sends a sign of progress, or its result, within `limit`.
/// `progress` runs on the caller's thread.
fn watched<T, S, F>(operation: &str, limit: Duration, work: F, mut progress: impl FnMut(S)) -> Result<T>
where
    T: Send + 'static,
    S: Send + 'static,
    F: FnOnce(&dyn Fn(S)) -> T + Send + 'static,
{
    enum Message<T, S> {
        Progress(S),
        Done(T),
    }
    let (sender, receiver) = sync_channel(16);
    let worker = move |sender: &SyncSender<Message<T, S>>| {
        // When nobody listens any more the limit has passed: nobody wants to know.
        let result = work(&|step| drop(sender.send(Message::Progress(step))));
        drop(sender.send(Message::Done(result)));
    };
    let spawned = thread::Builder::new().name("libvirt".to_owned()).spawn(move || worker(&sender));
    spawned.map_err(|error| Error::Call {
        operation: operation.to_owned(),
        message: format!("no thread for the call: {error}"),
        code: None,
    })?;
    loop {
        match receiver.recv_timeout(limit) {
            Ok(Message::Progress(step)) => progress(step),
            Ok(Message::Done(result)) => return Ok(result),
            Err(RecvTimeoutError::Timeout) => {
                return Err(Error::Timeout { operation: operation.to_owned(), limit });
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::Answer {
                    operation: operation.to_owned(),
                    message: "the thread of the call ended without a result".to_owned(),
                });
            }
        }
    }
}
