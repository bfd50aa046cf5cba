//! The gate: two sets of the kernel whose elements go by themselves.

mod netlink;

use std::{process::Stdio, time::Duration};

use pgagent_core::{Time, node::Gate};
use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

use crate::config::{Config, GateKind};

/// How long nft may take.
const LIMIT: Duration = Duration::from_secs(5);

/// The table, with both ports closed. It is loaded before the network comes up, and again when the agent starts; a table
/// that is there already keeps its elements.
pub fn table(config: &Config) -> String {
    let me = config.member();
    let own = me.map_or(5432, |member| config.host(member).postgres);
    let others: Vec<String> = [&config.hosts[0], &config.hosts[1], &config.arbiter]
        .into_iter()
        .filter(|host| host.name != config.me)
        .map(|host| host.address.to_string())
        .collect();
    let others = others.join(", ");
    let chain = |name: &str, port: &str, address: &str, interface: &str, first: &str, closed: &str| {
        format!(
            "add chain inet pgagent {name} {{ type filter hook {name} priority -10; policy accept; }}\n\
             flush chain inet pgagent {name}\n\
             add rule inet pgagent {name} {interface} lo accept\n\
             add rule inet pgagent {name} tcp {port} != {own} accept\n{first}\
             add rule inet pgagent {name} ip {address} {{ {others} }} tcp {port} @peers accept\n\
             add rule inet pgagent {name} tcp {port} @clients accept\n{closed}"
        )
    };
    let refuse = format!("add rule inet pgagent input tcp dport {own} reject with tcp reset\n");
    // The reset that refuses a client goes out through the same port.
    let reset = format!("add rule inet pgagent output tcp sport {own} tcp flags & rst == rst accept\n");
    // What a closed server still says, an acknowledgement even, must not get out. A connection of the others ends for the
    // server too, at the next word that it would say: else a child of the postmaster's that waits for the rest of a greeting
    // holds up a shutdown until authentication_timeout. A client's is only cut: it may live on if the gate opens again soon.
    let silence = format!(
        "add rule inet pgagent output ip daddr {{ {others} }} tcp sport {own} reject with tcp reset\n\
         add rule inet pgagent output tcp sport {own} drop\n"
    );
    format!(
        "add table inet pgagent\n\
         add set inet pgagent peers {{ type inet_service; flags timeout; }}\n\
         add set inet pgagent clients {{ type inet_service; flags timeout; }}\n{}{}",
        chain("input", "dport", "saddr", "iif", "", &refuse),
        chain("output", "sport", "daddr", "oif", &reset, &silence),
    )
}

/// The batch that sets both elements. An element that is there does not get a new timeout by `add` alone; one that is not
/// there cannot be deleted. All of it happens at once.
pub fn batch(port: u16, gate: &Gate, now: Time) -> String {
    let element = |set: &str, until: Option<Time>| {
        let clear = format!(
            "add element inet pgagent {set} {{ {port} }}\ndelete element inet pgagent {set} {{ {port} }}\n"
        );
        let left = until.map_or(0, |until| until.since(now).as_millis());
        if left == 0 {
            clear
        } else {
            format!("{clear}add element inet pgagent {set} {{ {port} timeout {left}ms }}\n")
        }
    };
    element("clients", gate.clients) + &element("peers", gate.peers)
}

/// Sets both elements. The kernel is asked directly; should it not understand, nft is asked to.
pub async fn refresh(config: &Config, port: u16, gate: &Gate, now: Time) -> Result<(), String> {
    if nothing(config) {
        return Ok(());
    }
    let left = |until: Option<Time>| {
        until.map(|until| until.since(now).as_millis()).filter(|ms| *ms > 0).map(|ms| ms as u64)
    };
    match netlink::replace(port, &[("clients", left(gate.clients)), ("peers", left(gate.peers))]) {
        Ok(()) => Ok(()),
        Err(first) => {
            let done = apply(config, &batch(port, gate, now)).await;
            done.map_err(|error| format!("{error}; the kernel itself said: {first}"))
        }
    }
}

fn nothing(config: &Config) -> bool {
    config.postgres.as_ref().is_none_or(|postgres| postgres.gate == GateKind::None)
}

/// Runs nft with a batch.
pub async fn apply(config: &Config, batch: &str) -> Result<(), String> {
    if nothing(config) {
        return Ok(());
    }
    let mut nft = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot run nft: {error}"))?;
    let work = async {
        if let Some(mut stdin) = nft.stdin.take() {
            stdin.write_all(batch.as_bytes()).await?;
        }
        nft.wait_with_output().await
    };
    let output = timeout(LIMIT, work)
        .await
        .map_err(|_| format!("nft took longer than {} s", LIMIT.as_secs()))?
        .map_err(|error| format!("cannot run nft: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("nft refused: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_is_replaced_in_one_batch() {
        let gate = Gate { peers: Some(Time(2_500)), clients: None };
        assert_eq!(
            batch(5432, &gate, Time(1_000)),
            "add element inet pgagent clients { 5432 }\n\
             delete element inet pgagent clients { 5432 }\n\
             add element inet pgagent peers { 5432 }\n\
             delete element inet pgagent peers { 5432 }\n\
             add element inet pgagent peers { 5432 timeout 1500ms }\n"
        );
    }

    #[test]
    fn a_lease_that_is_over_opens_nothing() {
        let gate = Gate { peers: Some(Time(999)), clients: Some(Time(1_000)) };
        assert!(!batch(5432, &gate, Time(1_000)).contains("timeout"));
    }
}
