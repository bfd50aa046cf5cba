//! `/metrics` for Prometheus.

use std::{cell::RefCell, fmt::Write as _, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::record::{BUCKETS, Recorder};

/// Answers until it is aborted.
pub(super) async fn serve(listener: TcpListener, recorder: Rc<RefCell<Recorder>>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file descriptors, for example: that passes.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let recorder = recorder.clone();
        tokio::task::spawn_local(async move {
            let _ = timeout(Duration::from_secs(5), answer(stream, &recorder)).await;
        });
    }
}

async fn answer(mut stream: TcpStream, recorder: &RefCell<Recorder>) -> std::io::Result<()> {
    let mut request = Vec::new();
    let mut part = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < 8192 {
        match stream.read(&mut part).await? {
            0 => return Ok(()),
            read => request.extend(&part[..read]),
        }
    }
    let (status, body) = match request.starts_with(b"GET /metrics ") {
        true => ("200 OK", text(&recorder.borrow())),
        false => ("404 Not Found", "metrics are at /metrics\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// A label's value, escaped.
fn label(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// All metrics in Prometheus' text format.
pub(super) fn text(recorder: &Recorder) -> String {
    let mut out = String::new();
    let head = |name: &str, kind: &str, help: &str| format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
    out += &head("pgload_run_info", "gauge", "The run that is going on.");
    let labels: Vec<String> =
        recorder.info.iter().map(|(key, value)| format!("{key}=\"{}\"", label(value))).collect();
    let _ = writeln!(out, "pgload_run_info{{{}}} 1", labels.join(","));
    let stage = label(&recorder.info[2].1);

    out += &head(
        "pgload_response_time_seconds",
        "histogram",
        "Time from when a statement was due to its success, over all tries.",
    );
    for statement in &recorder.statements {
        let labels = format!("query=\"{}\",stage=\"{stage}\"", label(&statement.name));
        let mut sum = 0;
        for bucket in 0..BUCKETS {
            sum += statement.buckets[bucket];
            let bound = (100u64 << bucket) as f64 / 1e6;
            let _ = writeln!(out, "pgload_response_time_seconds_bucket{{{labels},le=\"{bound}\"}} {sum}");
        }
        let count = statement.total.good();
        let seconds = statement.sum_micros as f64 / 1e6;
        let _ = writeln!(out, "pgload_response_time_seconds_bucket{{{labels},le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "pgload_response_time_seconds_sum{{{labels}}} {seconds}");
        let _ = writeln!(out, "pgload_response_time_seconds_count{{{labels}}} {count}");
    }
    out += &head("pgload_ops_total", "counter", "Statements by how they ended.");
    for statement in &recorder.statements {
        let total = &statement.total;
        for (outcome, count) in [
            ("ok", total.ok),
            ("weak", total.weak),
            ("idle", total.idle),
            ("aborted", total.aborted),
            ("indeterminate", total.indeterminate),
        ] {
            let query = label(&statement.name);
            let _ = writeln!(
                out,
                "pgload_ops_total{{query=\"{query}\",stage=\"{stage}\",outcome=\"{outcome}\"}} {count}"
            );
        }
    }
    out +=
        &head("pgload_retries_total", "counter", "Tries after the first, by the SQLSTATE of the one before.");
    for (code, count) in &recorder.retries {
        let _ = writeln!(out, "pgload_retries_total{{sqlstate=\"{}\"}} {count}", label(code));
    }
    out += &head("pgload_connections", "gauge", "Open connections by host.");
    for (host, count) in recorder.hosts.iter().zip(&recorder.connected) {
        let _ = writeln!(out, "pgload_connections{{host=\"{}\"}} {count}", label(host));
    }
    out += &head(
        "pgload_schedule_lag_seconds",
        "gauge",
        "How late statements came into the queue in this second, at worst.",
    );
    let _ = writeln!(out, "pgload_schedule_lag_seconds {}", recorder.lag_now() as f64 / 1e6);
    out
}
