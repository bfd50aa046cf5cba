//! What Prometheus reads, and `/role` for load balancers.

use std::{fmt::Write, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::watch,
    time::timeout,
};

/// The numbers, as text, and whether clients may write here.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    lines: String,
    /// The answer to `/role`.
    pub open: bool,
}

impl Numbers {
    /// Of a host on which clients may write, or not.
    pub fn of(open: bool) -> Numbers {
        Numbers { lines: String::new(), open }
    }

    /// Adds a number with its labels, `a="b"`.
    pub fn add(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(self.lines, "pgagent_{name}{labels} {value}");
    }
}

/// Serves what was last put into the channel.
pub fn listen(address: SocketAddr, numbers: watch::Receiver<Arc<Numbers>>) {
    tokio::spawn(async move {
        loop {
            let Ok(listener) = TcpListener::bind(address).await else {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            };
            while let Ok((mut stream, _)) = listener.accept().await {
                let numbers = numbers.borrow().clone();
                tokio::spawn(timeout(Duration::from_secs(2), async move {
                    let mut request = [0; 1024];
                    let length = stream.read(&mut request).await.unwrap_or(0);
                    let path = request[..length].split(|byte| *byte == b' ').nth(1).unwrap_or_default();
                    let (status, body) = match path {
                        b"/metrics" => ("200 OK", numbers.lines.as_str()),
                        b"/role" if numbers.open => ("200 OK", "primary\n"),
                        b"/role" => ("503 Service Unavailable", "not open for writes\n"),
                        _ => ("404 Not Found", "/metrics or /role\n"),
                    };
                    let head = format!(
                        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: {}\r\n\
                         Connection: close\r\n\r\n",
                        body.len()
                    );
                    let _ = stream.write_all((head + body).as_bytes()).await;
                }));
            }
        }
    });
}
