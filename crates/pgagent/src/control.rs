//! The socket for commands: one JSON object in, one out.

use std::{path::Path, time::Duration};

use pgagent_core::node::Command;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    time::timeout,
};

/// How long either side waits for the other.
const LIMIT: Duration = Duration::from_secs(5);

/// How long an agent that was told to rest does nothing that can wait. The time for which its machine is away does not count: a machine
/// that goes on with its memory has more to do in its first second than to ask whether all others are well.
pub const REST: Duration = Duration::from_secs(2);

/// What can be asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// Everything that is known.
    Status,
    /// The memory of this machine is about to be saved: what can wait is left alone for [`REST`].
    Rest,
    /// To a data host.
    Node(Command),
    /// To the arbiter: believe the one data host that answers.
    Adopt,
    /// To the arbiter: forget, and ask both data hosts.
    Replace,
}

/// An order and where its answer goes.
pub type Call = (Order, oneshot::Sender<Value>);

/// Takes orders.
pub fn listen(path: &Path, calls: mpsc::Sender<Call>) -> Result<(), String> {
    let _ = std::fs::remove_file(path);
    let listener =
        UnixListener::bind(path).map_err(|error| format!("cannot listen on {}: {error}", path.display()))?;
    // Whoever may write to it may move the primary.
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .map_err(|error| format!("cannot protect {}: {error}", path.display()))?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let calls = calls.clone();
            tokio::spawn(async move {
                let _ = timeout(LIMIT, serve(stream, calls)).await;
            });
        }
    });
    Ok(())
}

async fn serve(stream: UnixStream, calls: mpsc::Sender<Call>) -> Result<(), std::io::Error> {
    let (reading, mut writing) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reading.take(4096)).read_line(&mut line).await?;
    let answer = match serde_json::from_str::<Order>(&line) {
        Ok(order) => {
            let (sender, receiver) = oneshot::channel();
            let _ = calls.send((order, sender)).await;
            receiver.await.unwrap_or_else(|_| serde_json::json!({ "error": "the agent stops" }))
        }
        Err(error) => serde_json::json!({ "error": format!("cannot understand the order: {error}") }),
    };
    writing.write_all(format!("{answer}\n").as_bytes()).await
}

/// Gives an order to the agent of this host.
pub async fn call(path: &Path, order: &Order) -> Result<Value, String> {
    let talk = async {
        let mut stream = UnixStream::connect(path).await?;
        let line = serde_json::to_string(order)? + "\n";
        stream.write_all(line.as_bytes()).await?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).await?;
        Ok::<Value, std::io::Error>(serde_json::from_str(&answer)?)
    };
    timeout(LIMIT, talk)
        .await
        .map_err(|_| format!("the agent did not answer on {} within {} s", path.display(), LIMIT.as_secs()))?
        .map_err(|error| {
            format!("cannot reach the agent on {}: {error}; is pgagent running?", path.display())
        })
}
